//! Self-Instruct's deduplication: drops a prompt whose ROUGE-L with another that stands is over a
//! threshold (Wang et al., 2022, <https://arxiv.org/abs/2212.10560>).
//!
//! What the host shows before the first record that is to be decided on stands: at
//! `after = "sample"` the seed prompts and all accepted ones. Of the others, those stand that were
//! kept, so of two near ones the first remains.
//!
//! Words are runs of a–z and 0–9 in lower case, without stemming, as in the published program. So a
//! text in another script has no words and is near nothing.
//!
//! The default limits are enough: 10,000 new prompts of 10 to 25 words against 10,000 that stand took
//! 4.1·10⁹ fuel over 121 calls and half a second, and 100,000 that stand fitted too.

mod index;
mod lcs;

use std::collections::BTreeMap;

use aligner_sdk::{Context, Error, Plugin, Record, SetFilter, Verdict, export_set_filter};
use serde::Deserialize;

use crate::index::Index;

/// What stands under `config` of the filter.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// ROUGE-L's F, 0 to 1, over which a prompt is dropped.
    threshold: f64,
    /// What is compared.
    of: Of,
}

impl Default for Config {
    fn default() -> Self {
        Config { threshold: 0.7, of: Of::Instruction }
    }
}

/// What is compared.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Of {
    /// The instruction without its input: what stands before the first blank line.
    Instruction,
    /// The whole prompt.
    Prompt,
}

/// The plugin.
pub struct RougeL {
    config: Config,
    /// The number of each word.
    vocabulary: BTreeMap<String, u32>,
    /// What was observed, as numbers of words, until the first decision.
    observed: Vec<Vec<u32>>,
    /// In which place each record was observed.
    places: BTreeMap<String, usize>,
    /// From the first decision on.
    index: Option<Index>,
}

impl Plugin for RougeL {
    type Config = Config;
    const NAME: &'static str = "rouge-l";
    const SUMMARY: &'static str =
        "Drops prompts that are nearly the same as one that stands already.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"threshold": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.7},
"of": {"enum": ["instruction", "prompt"], "default": "instruction"}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&config.threshold) {
            let threshold = config.threshold;
            return Err(Error::Config(format!("`threshold` is {threshold}, expected 0 to 1")));
        }
        Ok(RougeL {
            config,
            vocabulary: BTreeMap::new(),
            observed: Vec::new(),
            places: BTreeMap::new(),
            index: None,
        })
    }
}

impl SetFilter for RougeL {
    fn observe(&mut self, _: &Context, record: &Record) -> Result<(), Error> {
        let text = match self.config.of {
            Of::Instruction => record.prompt.text.instruction_and_input().0,
            Of::Prompt => record.prompt.text.gist(),
        };
        let mut words = Vec::new();
        for word in self::words(text) {
            let next = self.vocabulary.len() as u32;
            words.push(*self.vocabulary.entry(word).or_insert(next));
        }
        self.places.insert(record.prompt.id.clone(), self.observed.len());
        self.observed.push(words);
        Ok(())
    }

    fn decide(&mut self, _: &Context, record: &Record) -> Result<Verdict, Error> {
        let place = *self
            .places
            .get(&record.prompt.id)
            .ok_or_else(|| Error::Input("it was not observed before it was decided on".into()))?;
        let index = self.index.get_or_insert_with(|| {
            let observed = std::mem::take(&mut self.observed);
            let mut index = Index::new(observed, self.vocabulary.len(), self.config.threshold);
            (0..place).for_each(|standing| index.stand(standing));
            index
        });
        if index.is_near(place) {
            return Ok(Verdict::Drop("near-duplicate".into()));
        }
        index.stand(place);
        Ok(Verdict::Keep)
    }
}

export_set_filter!(RougeL);

/// Returns a text's words as ROUGE counts them.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use aligner_sdk::{Rng, testing};

    use super::*;
    use crate::lcs::Pattern;

    fn plugin(config: &str) -> RougeL {
        testing::plugin(config).unwrap()
    }

    fn records(prefix: &str, prompts: &[&str]) -> Vec<Record> {
        let record = |(i, prompt): (usize, &&str)| testing::record(&format!("{prefix}{i}"), prompt);
        prompts.iter().enumerate().map(record).collect()
    }

    /// Returns for each of the new prompts whether it is kept.
    fn kept(config: &str, standing: &[&str], new: &[&str]) -> Vec<bool> {
        let (standing, new) = (records("s-", standing), records("w-", new));
        let verdicts = testing::decide(&mut plugin(config), &standing, &new).unwrap();
        let dropped = Verdict::Drop("near-duplicate".into());
        verdicts.iter().map(|verdict| *verdict != dropped).collect()
    }

    /// Returns F of two texts.
    fn f(a: &str, b: &str) -> f64 {
        let mut vocabulary = BTreeMap::new();
        let mut numbers = |text: &str| -> Vec<u32> {
            words(text)
                .map(|word| {
                    let next = vocabulary.len() as u32;
                    *vocabulary.entry(word).or_insert(next)
                })
                .collect()
        };
        let (a, b) = (numbers(a), numbers(b));
        let mut pattern = Pattern::new(vocabulary.len());
        pattern.set(&a);
        2.0 * pattern.common(&b) as f64 / (a.len() + b.len()) as f64
    }

    #[test]
    fn f_has_the_values_of_the_reference() {
        let check = |a: &str, b: &str, expected: f64| {
            assert!((f(a, b) - expected).abs() < 1e-6, "{a} {b}: {}", f(a, b));
            assert!((f(b, a) - expected).abs() < 1e-6, "{b} {a}: {}", f(b, a));
        };
        check(
            "Translate the following sentence into French.",
            "Translate the following sentence into Spanish.",
            0.833333,
        );
        check("Write a poem about the sea.", "Compose a short story about a dragon.", 0.307692);
        check("What's the capital of France?", "What is the capital of France?", 0.833333);
    }

    #[test]
    fn words_are_runs_of_ascii_letters_and_digits() {
        assert_eq!(
            words("What's up, Dr. No-1?").collect::<Vec<_>>(),
            ["what", "s", "up", "dr", "no", "1"]
        );
        assert_eq!(words("Café über 漢字").collect::<Vec<_>>(), ["caf", "ber"]);
        assert_eq!(words(" … ").count(), 0);
    }

    #[test]
    fn new_prompts_are_compared_with_what_stands_and_with_kept_ones() {
        let french = "Translate the following sentence into French.";
        let spanish = "Translate the following sentence into Spanish.";
        assert_eq!(kept("{}", &[french], &[spanish, "Who are you?"]), [false, true]);
        assert_eq!(kept("{}", &[], &[french, spanish, french]), [true, false, false]);
        assert_eq!(kept(r#"{"threshold": 0.9}"#, &[french], &[spanish, french]), [true, false]);
        assert_eq!(kept(r#"{"threshold": 1.0}"#, &[french], &[french]), [true]);
        assert_eq!(kept(r#"{"threshold": 0}"#, &[french], &["The end", "No way"]), [false, true]);
    }

    #[test]
    fn a_dropped_prompt_does_not_stand() {
        // Each is near its neighbours alone.
        let chain = ["a b c d e f g h", "a b c d e f x y", "a b c d z w x y"];
        assert_eq!(kept("{}", &[chain[0]], &chain[1..]), [false, true]);
        assert_eq!(kept("{}", &[], &[chain[1], chain[2]]), [true, false]);
    }

    #[test]
    fn the_input_counts_where_the_whole_prompt_is_compared() {
        let [one, two] = ["one two three four", "five six seven eight"]
            .map(|input| format!("Count the letters.\n\n{input}"));
        assert_eq!(kept("{}", &[&one], &[&two]), [false]);
        assert_eq!(kept(r#"{"of": "prompt"}"#, &[&one], &[&two]), [true]);
    }

    #[test]
    fn texts_without_words_are_near_nothing() {
        assert_eq!(kept("{}", &["", "漢字"], &["", "漢字", "?"]), [true, true, true]);
    }

    #[test]
    fn where_every_record_is_decided_on_nothing_stands_before() {
        let mut plugin = plugin("{}");
        let records = records("p-", &["Who are you?", "Who are you?"]);
        for record in &records {
            plugin.observe(&testing::context(), record).unwrap();
        }
        let mut decide = |i: usize| plugin.decide(&testing::context(), &records[i]).unwrap();
        assert_eq!(decide(0), Verdict::Keep);
        assert_ne!(decide(1), Verdict::Keep);
    }

    #[test]
    fn a_record_that_was_not_observed_is_an_error() {
        let decided = plugin("{}").decide(&testing::context(), &testing::record("p-1", "Why?"));
        assert!(matches!(decided, Err(Error::Input(text)) if text.contains("not observed")));
        let failed = testing::plugin::<RougeL>(r#"{"threshold": 70}"#).err();
        assert_eq!(failed, Some(Error::Config("`threshold` is 70, expected 0 to 1".into())));
    }

    #[test]
    fn awkward_records_get_a_verdict() {
        let awkward = testing::awkward();
        let verdicts = testing::decide(&mut plugin("{}"), &[], &awkward).unwrap();
        let dropped = verdicts.iter().filter(|verdict| **verdict != Verdict::Keep).count();
        // Two ask "Who are you?".
        assert_eq!((verdicts.len(), dropped), (awkward.len(), 1));
    }

    #[test]
    fn thousands_are_compared_with_thousands() {
        let mut rng = Rng::new(1);
        let mut prompts = |prefix: &str| -> Vec<Record> {
            let mut prompt = |i: usize| {
                let words = (0..10 + rng.below(16)).map(|_| {
                    // Zipf's law: the number of a word grows with the chance of a rarer one.
                    format!("w{}", (10_000f64.powf(rng.uniform())) as usize)
                });
                testing::record(&format!("{prefix}{i}"), &words.collect::<Vec<_>>().join(" "))
            };
            (0..2000).map(&mut prompt).collect()
        };
        let (standing, mut new) = (prompts("s-"), prompts("w-"));
        new[1999].prompt.text = standing[1000].prompt.text.clone();
        let verdicts = testing::decide(&mut plugin("{}"), &standing, &new).unwrap();
        assert_ne!(verdicts[1999], Verdict::Keep);
        assert!(verdicts.iter().filter(|verdict| **verdict == Verdict::Keep).count() > 1900);
    }
}
