//! Which linear layers an adapter has pairs for, with which rank and scale, as PEFT decides it.
//!
//! Paths are those of PEFT, for example `model.layers.0.self_attn.q_proj`. Regular expressions are
//! Python's; look-around and back-references are understood, and every search has a step limit, for
//! an adapter folder may come from anybody.

use std::collections::BTreeMap;

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

use super::AdapterError;
use crate::model::spec::Linear;

/// The hyper-parameters of an adapter, under PEFT's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank where no pattern says otherwise.
    pub r: usize,
    /// Numerator of the scale where no pattern says otherwise.
    pub alpha: f64,
    /// Probability that an input of `A` is zeroed in training.
    pub dropout: f64,
    /// Which linear layers have a pair.
    pub target_modules: TargetModules,
    /// Scale by `alpha / sqrt(r)` instead of `alpha / r`.
    pub use_rslora: bool,
    /// Ranks of the layers whose path ends in a match of the pattern; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// The same for `alpha`.
    pub alpha_pattern: Vec<(String, f64)>,
}

/// The linear layers that an adapter has pairs for, over all blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// Names or ends of paths, such as `q_proj`, `mlp.up_proj` or
    /// `model.layers.0.self_attn.q_proj`.
    Names(Vec<String>),
    /// A regular expression that matches the whole path.
    Regex(String),
}

impl From<&[Linear]> for TargetModules {
    fn from(linears: &[Linear]) -> TargetModules {
        TargetModules::Names(linears.iter().map(|linear| linear.name().to_owned()).collect())
    }
}

/// Rank and scale of one pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairConfig {
    /// At least 1.
    pub r: usize,
    /// What `B·A·x` is multiplied by.
    pub scale: f64,
}

impl LoraConfig {
    /// Returns settings without dropout and patterns, scaled by `alpha / r`.
    pub fn new(r: usize, alpha: f64, target_modules: &[Linear]) -> LoraConfig {
        LoraConfig {
            r,
            alpha,
            dropout: 0.0,
            target_modules: target_modules.into(),
            use_rslora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
        }
    }

    /// Returns the pairs that a model of so many blocks gets.
    ///
    /// Fails where a target names no linear layer of a block, where there are none at all, where a
    /// rank is 0, and where a pattern is no regular expression.
    pub fn pairs(
        &self,
        layers: usize,
    ) -> Result<BTreeMap<(usize, Linear), PairConfig>, AdapterError> {
        let targets = Targets::new(&self.target_modules)?;
        let ranks = Patterns::new("rank_pattern", &self.rank_pattern)?;
        let alphas = Patterns::new("alpha_pattern", &self.alpha_pattern)?;
        let mut pairs = BTreeMap::new();
        let mut named = vec![false; targets.names().len()];
        for layer in 0..layers {
            for linear in Linear::ALL {
                let path = module_path(layer, linear);
                if !targets.contain(&path, &mut named)? {
                    continue;
                }
                let r = ranks.find(&path)?.unwrap_or(self.r);
                let alpha = alphas.find(&path)?.unwrap_or(self.alpha);
                let scale = match self.use_rslora {
                    true => alpha / (r as f64).sqrt(),
                    false => alpha / r as f64,
                };
                if r == 0 || !scale.is_finite() {
                    return Err(AdapterError::Rank { path, r, alpha });
                }
                pairs.insert((layer, linear), PairConfig { r, scale });
            }
        }
        if let Some(i) = named.iter().position(|&named| !named) {
            return Err(AdapterError::NoModule { name: targets.names()[i].clone() });
        }
        if pairs.is_empty() {
            return Err(AdapterError::Empty);
        }
        targets.refuse_others(layers)?;
        Ok(pairs)
    }

    /// Fails where a pattern for ranks or for `alpha` matches no layer that has a pair: PEFT takes
    /// such a pattern without a word, but somebody who wrote it meant something.
    pub fn check_patterns(&self, layers: usize) -> Result<(), AdapterError> {
        let paths: Vec<String> =
            self.pairs(layers)?.keys().map(|&(layer, linear)| module_path(layer, linear)).collect();
        let ranks = self.rank_pattern.iter().map(|(pattern, _)| ("rank_pattern", pattern));
        let alphas = self.alpha_pattern.iter().map(|(pattern, _)| ("alpha_pattern", pattern));
        for (key, pattern) in ranks.chain(alphas) {
            let alone = [(pattern.clone(), ())];
            let alone = Patterns::new(key, &alone)?;
            let mut used = false;
            for path in &paths {
                used = used || alone.find(path)?.is_some();
            }
            if !used {
                return Err(AdapterError::UnusedPattern { key, pattern: pattern.clone() });
            }
        }
        Ok(())
    }
}

/// Returns the path of a linear layer, for example `model.layers.0.self_attn.q_proj`.
pub fn module_path(layer: usize, linear: Linear) -> String {
    format!("model.layers.{layer}.{}", linear.path())
}

/// Returns whether a name can stand for a linear layer of some block: `q_proj`,
/// `self_attn.q_proj`, `3.self_attn.q_proj` and so on up to the whole path.
pub fn names_a_linear(name: &str) -> bool {
    Linear::ALL.into_iter().any(|linear| {
        let Some(before) = name.strip_suffix(linear.name()) else { return false };
        let (block, _) = linear.path().split_once('.').expect("a path has two parts");
        let mut before = before.split('.').rev();
        if before.next() != Some("") {
            return false;
        }
        let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let expected: [&dyn Fn(&str) -> bool; 4] =
            [&|part| part == block, &number, &|part| part == "layers", &|part| part == "model"];
        let mut expected = expected.iter();
        before.all(|part| expected.next().is_some_and(|fits| fits(part)))
    })
}

/// Fails where a pattern of [`LoraConfig::rank_pattern`] or of `alpha_pattern` is no regular
/// expression.
pub fn check_pattern(key: &'static str, pattern: &str) -> Result<(), AdapterError> {
    Patterns::new(key, &[(pattern.to_owned(), ())]).map(drop)
}

/// Fails where `target_modules` is no regular expression.
pub fn check_regex(regex: &str) -> Result<(), AdapterError> {
    Targets::new(&TargetModules::Regex(regex.to_owned())).map(drop)
}

/// `target_modules`, ready to be asked.
enum Targets<'a> {
    Names(&'a [String]),
    Regex(&'a str, Regex),
}

impl<'a> Targets<'a> {
    fn new(targets: &'a TargetModules) -> Result<Targets<'a>, AdapterError> {
        Ok(match targets {
            TargetModules::Names(names) => Targets::Names(names),
            TargetModules::Regex(text) => {
                Targets::Regex(text, compile("target_modules", text, format!("^(?:{text})$"))?)
            }
        })
    }

    fn names(&self) -> &'a [String] {
        match self {
            Targets::Names(names) => names,
            Targets::Regex(..) => &[],
        }
    }

    /// Notes in `named` every name that stands for the path.
    fn contain(&self, path: &str, named: &mut [bool]) -> Result<bool, AdapterError> {
        match self {
            Targets::Names(names) => {
                let ends = |name: &str| {
                    let before = path.strip_suffix(name);
                    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
                };
                let mut found = false;
                for (name, named) in names.iter().zip(named) {
                    let fits = ends(name);
                    *named |= fits;
                    found |= fits;
                }
                Ok(found)
            }
            Targets::Regex(text, regex) => matches("target_modules", text, regex, path),
        }
    }

    /// Fails where the expression also matches a module that has no pair here, but would in PEFT,
    /// or would make PEFT fail.
    fn refuse_others(&self, layers: usize) -> Result<(), AdapterError> {
        let Targets::Regex(text, regex) = self else { return Ok(()) };
        let mut others = ["lm_head", "model", "model.embed_tokens", "model.layers", "model.norm"]
            .map(str::to_owned)
            .to_vec();
        for layer in 0..layers {
            let block = format!("model.layers.{layer}");
            for part in
                ["self_attn", "mlp", "input_layernorm", "post_attention_layernorm", "mlp.act_fn"]
            {
                others.push(format!("{block}.{part}"));
            }
            others.push(block);
        }
        for path in others {
            if matches("target_modules", text, regex, &path)? {
                return Err(AdapterError::OtherModule { pattern: (*text).to_owned(), path });
            }
        }
        Ok(())
    }
}

/// `rank_pattern` or `alpha_pattern`, ready to be asked.
struct Patterns<'a, T> {
    key: &'static str,
    patterns: Vec<(&'a str, Regex, T)>,
}

impl<'a, T: Copy> Patterns<'a, T> {
    fn new(key: &'static str, patterns: &'a [(String, T)]) -> Result<Self, AdapterError> {
        let compiled = patterns.iter().map(|(text, value)| {
            // The groups are PEFT's, so that a back-reference means the same.
            Ok((text.as_str(), compile(key, text, format!(r"^(.*\.)?({text})$"))?, *value))
        });
        Ok(Patterns { key, patterns: compiled.collect::<Result<_, _>>()? })
    }

    /// Returns the value of the first pattern that matches.
    fn find(&self, path: &str) -> Result<Option<T>, AdapterError> {
        for (text, regex, value) in &self.patterns {
            if matches(self.key, text, regex, path)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

fn compile(key: &'static str, text: &str, whole: String) -> Result<Regex, AdapterError> {
    Regex::new(&whole).map_err(|error| bad_pattern(key, text, &error))
}

fn matches(key: &'static str, text: &str, regex: &Regex, path: &str) -> Result<bool, AdapterError> {
    regex.is_match(path).map_err(|error| bad_pattern(key, text, &error))
}

fn bad_pattern(key: &'static str, text: &str, error: &fancy_regex::Error) -> AdapterError {
    // The last part says what; those before it count letters of an expression that nobody typed.
    let message = error.to_string();
    let message = message.rsplit(": ").next().unwrap_or_default();
    let mut letters = message.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    let message = first.into_iter().chain(letters).collect();
    AdapterError::Pattern { key, pattern: text.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(targets: TargetModules) -> LoraConfig {
        LoraConfig { target_modules: targets, ..LoraConfig::new(4, 8.0, &[]) }
    }

    fn names(names: &[&str]) -> TargetModules {
        TargetModules::Names(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn regex(text: &str) -> TargetModules {
        TargetModules::Regex(text.to_owned())
    }

    #[test]
    fn targets_are_chosen_as_peft_chooses_them() {
        use Linear::{Down, Q, Up, V};
        let check = |targets: TargetModules, expected: &[(usize, Linear)]| {
            let pairs = config(targets).pairs(2).unwrap();
            assert_eq!(pairs.into_keys().collect::<Vec<_>>(), expected);
        };
        check(names(&["v_proj", "q_proj"]), &[(0, Q), (0, V), (1, Q), (1, V)]);
        check(names(&["self_attn.q_proj", "1.mlp.up_proj"]), &[(0, Q), (1, Q), (1, Up)]);
        check(names(&["model.layers.1.mlp.down_proj"]), &[(1, Down)]);
        check(names(&["layers.0.self_attn.q_proj"]), &[(0, Q)]);
        check(regex(r".*\.(q_proj|v_proj)"), &[(0, Q), (0, V), (1, Q), (1, V)]);
        check(regex(r".*layers\.(?!0\.).*\.(up|down)_proj"), &[(1, Up), (1, Down)]);
        check(regex(r"model\.layers\.0\.mlp\.up_proj|.*1.*down_proj"), &[(0, Up), (1, Down)]);
        assert_eq!(config(Linear::ALL[..].into()).pairs(3).unwrap().len(), 21);
    }

    #[test]
    fn targets_that_mean_nothing_or_too_much_are_refused() {
        let check = |targets: TargetModules, expected: &str| {
            let message = config(targets).pairs(2).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        };
        check(names(&[]), "an adapter needs at least one target module");
        check(regex("q_proj"), "an adapter needs at least one target module");
        check(names(&["q_proj", "proj"]), "no linear layer of the model's blocks is `proj`");
        check(names(&["q_proj", "lm_head"]), "no linear layer of the model's blocks is `lm_head`");
        check(names(&["layers.2.mlp.up_proj"]), "no linear layer of the model's blocks is");
        check(regex(".*"), "`target_modules` `.*` matches `lm_head`, which cannot have a pair");
        check(regex(".*(q_proj|self_attn)"), "`target_modules` `.*(q_proj|self_attn)` matches");
        check(regex("(q_proj"), "`target_modules` `(q_proj` is no regular expression:");
        check(regex(r"(.*)*(?!x)(.*)*\1\2y"), "`target_modules` `(.*)*(?!x)(.*)*\\1\\2y` is no");
    }

    #[test]
    fn patterns_give_ranks_and_scales() {
        let rank = |pattern: &str, r| (pattern.to_owned(), r);
        let mut config = config(names(&["q_proj", "up_proj", "down_proj"]));
        config.rank_pattern = vec![rank("layers.1.*up_proj", 2), rank("up_proj|q_proj", 16)];
        config.alpha_pattern = vec![
            ("^model.layers.0.self_attn.q_proj".to_owned(), 5.0),
            ("own_proj".to_owned(), 3.0),
        ];
        let check = |config: &LoraConfig, layer, linear, r, scale| {
            let pairs = config.pairs(2).unwrap();
            assert_eq!(pairs[&(layer, linear)], PairConfig { r, scale });
        };
        check(&config, 0, Linear::Up, 16, 0.5);
        check(&config, 1, Linear::Up, 2, 4.0);
        check(&config, 0, Linear::Q, 16, 5.0 / 16.0);
        check(&config, 1, Linear::Q, 16, 0.5);
        // A pattern begins at a dot, or anywhere after `.*`.
        check(&config, 1, Linear::Down, 4, 2.0);
        config.use_rslora = true;
        check(&config, 0, Linear::Up, 16, 2.0);
        check(&config, 1, Linear::Up, 2, 8.0 / 2f64.sqrt());

        let message = config.check_patterns(2).unwrap_err().to_string();
        assert_eq!(message, "`alpha_pattern` `own_proj` matches no target module of the model");
        config.alpha_pattern.pop();
        assert_eq!(config.check_patterns(2), Ok(()));
        config.rank_pattern.push(rank("q_proj", 0));
        assert_eq!(config.check_patterns(2), Ok(()), "an earlier pattern hides it");
        config.rank_pattern = vec![rank("q_proj", 0)];
        let message = config.pairs(2).unwrap_err().to_string();
        assert!(message.starts_with("rank 0 and alpha 5"), "{message}");
        config.rank_pattern = vec![rank("q_proj)", 2)];
        let message = config.pairs(2).unwrap_err().to_string();
        assert!(message.starts_with("`rank_pattern` `q_proj)` is no regular"), "{message}");
    }

    #[test]
    fn names_are_ends_of_paths() {
        for good in ["q_proj", "mlp.up_proj", "0.mlp.up_proj", "model.layers.31.self_attn.o_proj"] {
            assert!(names_a_linear(good), "{good}");
        }
        for bad in ["", "proj", "xq_proj", ".q_proj", "mlp.q_proj", "lm_head", "x.mlp.up_proj"] {
            assert!(!names_a_linear(bad), "{bad}");
        }
        assert!(!names_a_linear("base.model.layers.0.mlp.up_proj"));
    }
}
