//! What plugins need measured: the names of measurements, and what they mean.

use crate::record::{Record, Variant, VariantRole};

/// How a measurement is written, for messages.
pub const GRAMMAR: &str = "a measurement is `alogp(COMPLETION | PROMPT)`, `perplexity(COMPLETION)` or \
    `entropy(COMPLETION)`, all perhaps with `; initial` at the end of the brackets, or `cluster(COMPLETION)`, where \
    COMPLETION and PROMPT are names of variants, or `plain`, `good` or `bad` for the first of that role";

/// A measurement that a plugin needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// As the plugin writes it; records carry the measurement under this name.
    pub name: String,
    /// What is measured.
    pub what: What,
}

/// What is measured of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// What a model makes of the completion of one variant under the prompt of another.
    Scored {
        /// Whose completion.
        completion: String,
        /// Whose prompt.
        prompt: String,
        /// By the initial model rather than by the policy that enters the round.
        initial: bool,
        /// Which number of it.
        number: Number,
    },
    /// Which cluster the completion lies in, among those of all records.
    Cluster {
        /// Whose completion.
        completion: String,
    },
}

/// A number of a completion that was scored; each is a mean over its tokens, in nats or of nats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// The mean logprob.
    Logprob,
    /// `exp` of minus the mean logprob.
    Perplexity,
    /// The mean entropy.
    Entropy,
}

impl Need {
    /// Reads the name of a measurement; none where it is no such name.
    pub fn parse(name: &str) -> Option<Need> {
        let (kind, inside) = name.trim().strip_suffix(')')?.split_once('(')?;
        let (inside, initial) = match inside.split_once(';') {
            None => (inside, false),
            Some((inside, of)) if of.trim() == "initial" => (inside, true),
            Some(_) => return None,
        };
        let (completion, prompt) = match inside.split_once('|') {
            None => (inside.trim(), None),
            Some((completion, prompt)) => (completion.trim(), Some(prompt.trim())),
        };
        if completion.is_empty() || prompt.is_some_and(str::is_empty) {
            return None;
        }
        let scored = |prompt: &str, number| What::Scored {
            completion: completion.to_owned(),
            prompt: prompt.to_owned(),
            initial,
            number,
        };
        let what = match (kind.trim(), prompt) {
            ("alogp", Some(prompt)) => scored(prompt, Number::Logprob),
            ("perplexity", None) => scored(completion, Number::Perplexity),
            ("entropy", None) => scored(completion, Number::Entropy),
            ("cluster", None) if !initial => What::Cluster { completion: completion.to_owned() },
            _ => return None,
        };
        Some(Need { name: name.to_owned(), what })
    }

    /// Returns whether a record carries it.
    pub fn is_met(&self, record: &Record) -> bool {
        record.measurements.iter().any(|measurement| measurement.name == self.name)
    }
}

/// Returns the variant of that name, or else the first of the role of that name.
pub fn variant<'a>(record: &'a Record, name: &str) -> Option<&'a Variant> {
    let role = match name {
        "plain" => Some(VariantRole::Plain),
        "good" => Some(VariantRole::Good),
        "bad" => Some(VariantRole::Bad),
        _ => None,
    };
    let mut variants = record.variants.iter();
    let named = variants.clone().find(|variant| variant.name == name);
    named.or_else(|| variants.find(|variant| role == Some(variant.role)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Prompt, Text};

    #[test]
    fn names_of_measurements_are_read() {
        let check = |name: &str, expected: Option<What>| {
            assert_eq!(Need::parse(name).map(|need| need.what), expected, "{name}");
        };
        let scored = |completion: &str, prompt: &str, initial, number| {
            let (completion, prompt) = (completion.to_owned(), prompt.to_owned());
            Some(What::Scored { completion, prompt, initial, number })
        };
        check("alogp(chosen | good)", scored("chosen", "good", false, Number::Logprob));
        check("alogp(a|b;initial)", scored("a", "b", true, Number::Logprob));
        check(
            " alogp ( a | few-shot 2 ; initial ) ",
            scored("a", "few-shot 2", true, Number::Logprob),
        );
        check("perplexity(few-shot)", scored("few-shot", "few-shot", false, Number::Perplexity));
        check("perplexity(plain; initial)", scored("plain", "plain", true, Number::Perplexity));
        check("entropy(a)", scored("a", "a", false, Number::Entropy));
        check("entropy(a; initial)", scored("a", "a", true, Number::Entropy));
        check("cluster(plain)", Some(What::Cluster { completion: "plain".into() }));
        for name in [
            "",
            "alogp",
            "alogp()",
            "alogp(a)",
            "alogp(a | )",
            "alogp( | b)",
            "alogp(a | b",
            "alogp(a | b; final)",
            "perplexity()",
            "perplexity(a | b)",
            "entropy(a | b)",
            "cluster(a; initial)",
            "rouge-l(a)",
            "(a)",
            ")(",
        ] {
            check(name, None);
        }
    }

    #[test]
    fn variants_are_found_by_name_before_role() {
        let prompt = Prompt { id: "p".into(), text: Text::user("?"), tags: vec![] };
        let mut record = Record::new(prompt);
        for (name, role) in [
            ("x", VariantRole::Good),
            ("good", VariantRole::Bad),
            ("y", VariantRole::Bad),
            ("z", VariantRole::Plain),
        ] {
            let (name, prompt) = (name.to_owned(), Text::user("?"));
            record.variants.push(Variant { name, role, prompt, completion: None });
        }
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(variant(&record, name).map(|v| v.name.as_str()), expected, "{name}");
        };
        check("x", Some("x"));
        check("good", Some("good"));
        check("bad", Some("good"));
        check("plain", Some("z"));
        check("w", None);
    }
}
