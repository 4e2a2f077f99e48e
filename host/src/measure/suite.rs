//! A suite: which measures are taken, on which data, with which settings. One TOML file.

use std::path::{Path, PathBuf};

use super::choice::Score;
use crate::plugin_set::{
    PluginSetError,
    problem::{Problem, list},
    section::Section,
    typed::{self, Node},
};

/// A checked suite.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    /// At least one, under different names.
    pub measures: Vec<Measure>,
}

/// A `[[measure]]` of a suite.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// Letters, digits, `-`, `_` and `.`; the name of the file of its rows.
    pub name: String,
    /// The file of its data.
    pub data: PathBuf,
    /// Rows that are read from the top; absent: all.
    pub limit: Option<usize>,
    /// What prompts are to the model.
    pub format: Format,
    /// What is measured.
    pub kind: Kind,
}

/// What prompts are to the model that is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Messages of the user, under the model's chat template.
    #[default]
    Chat,
    /// Text as it stands, for models without a chat template.
    Raw,
}

/// What is measured, with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Instructions that a program checks.
    VerifiableInstructions(Decoding),
    /// Which answer is held for true.
    MultipleChoice {
        /// What the model is asked.
        by: By,
        /// What counts of an answer's logprobs, where it is asked for completions.
        score: Score,
        /// The column whose values are counted by themselves.
        group: Option<String>,
    },
    /// Perplexity of trusted answers.
    Perplexity,
    /// Length, variety and loops of answers.
    Generation {
        /// How answers are made.
        decoding: Decoding,
        /// Pairs that self-BLEU is the mean of, at most.
        pairs: usize,
    },
    /// How often the chosen answer of a pair is worth more: by a reward model, or by its logprob.
    Preferences {
        /// What counts of an answer's logprobs, where the model is no reward model.
        score: Score,
    },
    /// Answers against other answers, before a judge.
    Pairwise {
        /// How answers are made.
        decoding: Decoding,
        /// The model that judges.
        judge: String,
        /// The model whose answers are compared with; absent: the data has them.
        against: Option<String>,
        /// Answers match in length up to so many times the words of the shorter one; at least 1.
        length_ratio: f64,
    },
}

/// What a model is asked that is to choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// The logprob of each answer after the question.
    #[default]
    Completion,
    /// The logprobs of the letters A and B, in both orders.
    Letters,
}

/// How answers are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    /// From 0 to 10; 0 is greedy.
    pub temperature: f64,
    /// In (0, 1].
    pub top_p: f64,
    /// At least 1.
    pub max_new_tokens: usize,
    /// Keys every draw, with the measure's name and the row's id.
    pub seed: u64,
}

impl Kind {
    /// Returns the kind's name in a suite.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::VerifiableInstructions(_) => "verifiable-instructions",
            Kind::MultipleChoice { .. } => "multiple-choice",
            Kind::Perplexity => "perplexity",
            Kind::Generation { .. } => "generation",
            Kind::Preferences { .. } => "preferences",
            Kind::Pairwise { .. } => "pairwise",
        }
    }
}

type Checked<T> = Result<T, Problem>;

const COMMON: [&str; 5] = ["kind", "name", "data", "limit", "format"];
const DECODING: [&str; 4] = ["temperature", "top_p", "max_new_tokens", "seed"];

/// The kinds with the keys that each has besides the common ones.
const KINDS: [(&str, &[&[&str]]); 6] = [
    ("verifiable-instructions", &[&DECODING]),
    ("multiple-choice", &[&["by", "score", "group"]]),
    ("perplexity", &[]),
    ("generation", &[&DECODING, &["pairs"]]),
    ("preferences", &[&["score"]]),
    ("pairwise", &[&DECODING, &["judge", "against", "length_ratio"]]),
];

/// Checks the `text` of a suite that messages call `name`; relative paths in it are relative to `folder`.
pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Suite, PluginSetError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let checked = || suite(&typed::parse(text)?, folder);
    checked().map_err(|problem: Problem| problem.locate(name, text, &[]))
}

fn suite(root: &Node, folder: &Path) -> Checked<Suite> {
    let root = Section::free(root, "a suite")?;
    known(&root, "a suite", &[&["measure"]])?;
    let Some(node) = root.node("measure") else {
        return Err(Problem::new("the suite has no measure", root.place())
            .label("expected tables that begin with `[[measure]]`"));
    };
    let typed::Kind::Array(items) = &node.kind else {
        return Err(Problem::new(format!("`measure` is {}", node.kind_name()), &node.place)
            .label("expected tables that begin with `[[measure]]`"));
    };
    let mut measures = Vec::<Measure>::with_capacity(items.len());
    for item in items {
        let section = Section::free(item, "`[[measure]]`")?;
        let measure = measure(&section, folder)?;
        if measures.iter().any(|before| before.name == measure.name) {
            let is = format!("`{}`, which another measure is called", measure.name);
            return Err(match section.has("name") {
                true => section.wrong("name", &format!("is {is}")),
                false => Problem::new(format!("the measure is {is}"), section.place())
                    .label("expected a `name` of its own"),
            });
        }
        measures.push(measure);
    }
    match measures.is_empty() {
        true => Err(Problem::new("the suite has no measure", &node.place)),
        false => Ok(Suite { measures }),
    }
}

/// Sees that a table has no other keys.
fn known(section: &Section<'_>, name: &str, keys: &[&[&str]]) -> Checked<()> {
    let keys: Vec<&str> = keys.iter().flat_map(|keys| keys.iter().copied()).collect();
    let is_known = |key: &str| keys.contains(&key);
    let Some(entry) = section.entries().iter().find(|entry| !is_known(&entry.key)) else {
        return Ok(());
    };
    let key = entry.key.as_str();
    let problem = Problem::new(format!("unknown key `{key}` in {name}"), &entry.place)
        .label(match keys[..] {
            [only] => format!("expected `{only}`"),
            _ => format!("expected one of {}", list(&keys)),
        })
        .suggest(key, keys.iter().copied());
    let homes: Vec<&str> = KINDS
        .iter()
        .filter(|(_, own)| own.iter().any(|own| own.contains(&key)))
        .map(|(kind, _)| *kind)
        .collect();
    Err(match homes.is_empty() || problem.has_hint() {
        true => problem,
        false => problem.hint(format!("`{key}` is a setting of {}", list(&homes))),
    })
}

fn measure(section: &Section<'_>, folder: &Path) -> Checked<Measure> {
    let choices = KINDS.map(|(kind, own)| (kind, (kind, own)));
    let names = KINDS.map(|(kind, _)| kind);
    let Some((kind, own)) = section.choice("kind", &choices)? else {
        return Err(section.missing("kind", &format!("one of {}", list(&names))));
    };
    let keys: Vec<&[&str]> = [&COMMON[..]].into_iter().chain(own.iter().copied()).collect();
    known(section, &format!("a measure of kind `{kind}`"), &keys)?;
    let name = section.text("name")?.unwrap_or_else(|| kind.to_owned());
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(fits) {
        return Err(section
            .wrong("name", &format!("is `{name}`"))
            .label("expected letters, digits, `-`, `_` and `.`, 64 at most: it names a file"));
    }
    let data = section.required_text("data", "the file of its rows, relative to this one")?;
    let format = section.choice("format", &[("chat", Format::Chat), ("raw", Format::Raw)])?;
    Ok(Measure {
        name,
        data: folder.join(data),
        limit: section.integer("limit", 1, u32::MAX.into())?.map(|limit| limit as usize),
        format: format.unwrap_or_default(),
        kind: settings(section, kind)?,
    })
}

fn settings(section: &Section<'_>, kind: &str) -> Checked<Kind> {
    Ok(match kind {
        "verifiable-instructions" => Kind::VerifiableInstructions(decoding(section, 1024)?),
        "multiple-choice" => {
            let by = section
                .choice("by", &[("completion", By::Completion), ("letters", By::Letters)])?;
            let by = by.unwrap_or_default();
            if by == By::Letters && section.has("score") {
                return Err(section
                    .wrong("score", "has no meaning with `by = \"letters\"`")
                    .label("expected only with `by = \"completion\"`"));
            }
            let group = section.text("group")?;
            Kind::MultipleChoice { by, score: score(section)?.unwrap_or_default(), group }
        }
        "perplexity" => Kind::Perplexity,
        "generation" => Kind::Generation {
            decoding: decoding(section, 256)?,
            pairs: section.integer("pairs", 1, 1_000_000)?.unwrap_or(1000) as usize,
        },
        "preferences" => Kind::Preferences { score: score(section)?.unwrap_or(Score::Mean) },
        _ => Kind::Pairwise {
            decoding: decoding(section, 512)?,
            judge: section.required_text(
                "judge",
                "the model that judges, another one than the one that is measured",
            )?,
            against: section.text("against")?,
            length_ratio: section
                .number("length_ratio", "a number, 1 or more", |ratio| ratio >= 1.0)?
                .unwrap_or(1.25),
        },
    })
}

fn score(section: &Section<'_>) -> Checked<Option<Score>> {
    section.choice("score", &[("sum", Score::Sum), ("mean", Score::Mean)])
}

fn decoding(section: &Section<'_>, max_new_tokens: usize) -> Checked<Decoding> {
    let temperature =
        section.number("temperature", "a number from 0 to 10", |t| (0.0..=10.0).contains(&t))?;
    let top_p = section.number("top_p", "a number over 0, at most 1", |p| p > 0.0 && p <= 1.0)?;
    let most = section.integer("max_new_tokens", 1, 1 << 20)?;
    Ok(Decoding {
        temperature: temperature.unwrap_or(0.0),
        top_p: top_p.unwrap_or(1.0),
        max_new_tokens: most.map_or(max_new_tokens, |most| most as usize),
        seed: section.large("seed", i64::MAX as u64)?.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Suite, String> {
        parse("s.toml", text, Path::new("/d")).map_err(|error| {
            let hint = error.hint().map_or(String::new(), |hint| format!(" | {hint}"));
            let text = error.to_string();
            let place = text.lines().nth(1).unwrap_or("").trim().to_owned();
            format!("{} {place}{hint}", text.lines().next().unwrap_or(""))
        })
    }

    #[test]
    fn settings_have_defaults() {
        let suite = read(
            "[[measure]]\nkind = 'verifiable-instructions'\ndata = 'a.jsonl'\n\
             [[measure]]\nkind = 'multiple-choice'\nname = 'hhh'\ndata = '/b.csv'\nby = 'letters'\n\
             limit = 3\ngroup = 'subset'\n\
             [[measure]]\nkind = 'perplexity'\ndata = 'c'\nformat = 'raw'\n\
             [[measure]]\nkind = 'generation'\ndata = 'd'\ntemperature = 1\nseed = 5\n\
             [[measure]]\nkind = 'preferences'\ndata = 'p'\n\
             [[measure]]\nkind = 'pairwise'\ndata = 'e'\njudge = 'm'\nmax_new_tokens = 9\n",
        )
        .unwrap();
        let decoding = |temperature, max_new_tokens, seed| Decoding {
            temperature,
            top_p: 1.0,
            max_new_tokens,
            seed,
        };
        let kinds: Vec<Kind> = suite.measures.iter().map(|measure| measure.kind.clone()).collect();
        assert_eq!(
            kinds,
            [
                Kind::VerifiableInstructions(decoding(0.0, 1024, 0)),
                Kind::MultipleChoice {
                    by: By::Letters,
                    score: Score::Sum,
                    group: Some("subset".into())
                },
                Kind::Perplexity,
                Kind::Generation { decoding: decoding(1.0, 256, 5), pairs: 1000 },
                Kind::Preferences { score: Score::Mean },
                Kind::Pairwise {
                    decoding: decoding(0.0, 9, 0),
                    judge: "m".into(),
                    against: None,
                    length_ratio: 1.25
                },
            ]
        );
        let names: Vec<&str> = suite.measures.iter().map(|measure| measure.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "verifiable-instructions",
                "hhh",
                "perplexity",
                "generation",
                "preferences",
                "pairwise"
            ]
        );
        assert_eq!(suite.measures[0].data, Path::new("/d/a.jsonl"));
        assert_eq!(suite.measures[1].data, Path::new("/b.csv"));
        assert_eq!(suite.measures[1].limit, Some(3));
        assert_eq!(suite.measures[2].format, Format::Raw);
        for (measure, (name, _)) in suite.measures.iter().zip(KINDS) {
            assert_eq!(measure.kind.name(), name);
        }
    }

    #[test]
    fn what_is_wrong_is_shown_where_it_stands() {
        let check = |text: &str, expected: &str| {
            assert_eq!(read(text).unwrap_err(), expected, "{text}");
        };
        check("", "the suite has no measure --> s.toml:1:1");
        check("measure = []", "the suite has no measure --> s.toml:1:11");
        check("measure = 1", "`measure` is an integer --> s.toml:1:11");
        check(
            "[[measures]]",
            "unknown key `measures` in a suite --> s.toml:1:3 | did you mean `measure`?",
        );
        check("[[measure]]\nname = 'x'", "missing key `kind` in `[[measure]]` --> s.toml:1:1");
        check(
            "[[measure]]\nkind = 'perplexty'",
            "`kind` in `[[measure]]` is `perplexty` --> s.toml:2:8 | did you mean `perplexity`?",
        );
        check(
            "[[measure]]\nkind = 'perplexity'",
            "missing key `data` in `[[measure]]` --> s.toml:1:1",
        );
        check(
            "[[measure]]\nkind = 'generation'\ndata = 'x'\ntemperatur = 1",
            "unknown key `temperatur` in a measure of kind `generation` --> s.toml:4:1 | did you mean `temperature`?",
        );
        check(
            "[[measure]]\nkind = 'perplexity'\ndata = 'x'\njudge = 'm'",
            "unknown key `judge` in a measure of kind `perplexity` --> s.toml:4:1 | `judge` is a setting of `pairwise`",
        );
        check(
            "[[measure]]\nkind = 'pairwise'\ndata = 'x'",
            "missing key `judge` in `[[measure]]` --> s.toml:1:1",
        );
        check(
            "[[measure]]\nkind = 'generation'\ndata = 'x'\ntemperature = -1",
            "`temperature` in `[[measure]]` is out of range --> s.toml:4:15",
        );
        check(
            "[[measure]]\nkind = 'perplexity'\ndata = 'x'\nname = '../x'",
            "`name` in `[[measure]]` is `../x` --> s.toml:4:8",
        );
        check(
            "[[measure]]\nkind = 'multiple-choice'\ndata = 'x'\nby = 'letters'\nscore = 'mean'",
            "`score` in `[[measure]]` has no meaning with `by = \"letters\"` --> s.toml:5:9",
        );
        let twice = "[[measure]]\nkind = 'perplexity'\ndata = 'x'\n";
        check(
            &twice.repeat(2),
            "the measure is `perplexity`, which another measure is called --> s.toml:4:1",
        );
        check(
            &format!("{twice}{twice}name = 'perplexity'"),
            "`name` in `[[measure]]` is `perplexity`, which another measure is called --> s.toml:7:8",
        );
        assert!(read("[[measure]").unwrap_err().starts_with("not TOML: "));
    }
}
