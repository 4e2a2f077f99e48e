//! Whether an answer repeats the in-context examples that stood in its prompt.

use std::collections::BTreeSet;

use crate::text;

/// Words that more than one of the shipped texts use, sorted, one a line: they leak nothing.
const COMMON: &str = include_str!("../data/common-words.txt");

/// The words of a text.
pub(crate) struct Said {
    words: Vec<String>,
}

impl Said {
    pub(crate) fn new(text: &str) -> Said {
        Said { words: text::words(text) }
    }

    /// Says whether `least` different rare words of an example occur here that were not asked
    /// about. 0 is never.
    pub(crate) fn repeats_words(&self, shown: &[Said], asked: &Said, least: usize) -> bool {
        if least == 0 {
            return false;
        }
        let asked: BTreeSet<&str> = asked.rare().collect();
        let shown: BTreeSet<&str> = shown.iter().flat_map(Said::rare).collect();
        let here: BTreeSet<&str> = self.rare().filter(|word| !asked.contains(word)).collect();
        here.intersection(&shown).take(least).count() == least
    }

    /// Says whether `length` words of an example occur here in a row. 0 is never.
    pub(crate) fn repeats_a_run(&self, shown: &[Said], length: usize) -> bool {
        if length == 0 {
            return false;
        }
        let shown: BTreeSet<&[String]> =
            shown.iter().flat_map(|text| text.words.windows(length)).collect();
        self.words.windows(length).any(|run| shown.contains(run))
    }

    /// Returns the words that carry content: long and not common.
    fn rare(&self) -> impl Iterator<Item = &str> {
        let rare = |word: &&str| is_content(word) && !is_common(word);
        self.words.iter().map(String::as_str).filter(rare)
    }
}

/// Returns the parts of an example that an answer must not repeat: what the user says and what the
/// assistant answers. The thoughts between them are the format's.
pub(crate) fn shown<'a>(exemplar: &'a str, thoughts: &str, answer: &str) -> Vec<&'a str> {
    match (exemplar.find(thoughts), exemplar.find(answer)) {
        (Some(from), Some(to)) if from < to => {
            vec![&exemplar[..from], &exemplar[to + answer.len()..]]
        }
        _ => vec![exemplar],
    }
}

fn is_content(word: &str) -> bool {
    word.chars().count() >= 5 && word.contains(char::is_alphabetic)
}

fn is_common(word: &str) -> bool {
    let mut rest = COMMON;
    // A binary search over lines, without a list of them: an instance lives for one batch.
    while !rest.is_empty() {
        let middle = rest[..rest.len() / 2].rfind('\n').map_or(0, |at| at + 1);
        let (line, after) = rest[middle..].split_once('\n').unwrap_or((&rest[middle..], ""));
        match word.cmp(line) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => rest = &rest[..middle],
            std::cmp::Ordering::Greater => rest = after,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn check_words(answer: &str, example: &str, question: &str, least: usize, expected: bool) {
        let shown = [Said::new(example)];
        let leaks = Said::new(answer).repeats_words(&shown, &Said::new(question), least);
        assert_eq!(leaks, expected, "{answer}");
    }

    #[test]
    fn rare_words_of_an_example_leak() {
        let example = "A crescent moon wanes while penguins and glaciers glisten.";
        check_words("Penguins glisten on glaciers.", example, "", 3, true);
        check_words("Penguins glisten.", example, "", 3, false);
        check_words("Penguins, penguins, penguins!", example, "", 3, false);
        check_words("Penguins glisten on glaciers.", example, "Tell me of penguins", 3, false);
        check_words("Penguins glisten on glaciers.", example, "", 0, false);
        check_words("a the of in on while", example, "", 1, false);
    }

    #[test]
    fn runs_of_words_leak() {
        let check = |answer: &str, length: usize, expected: bool| {
            let shown = [Said::new("I have no live feed, so I can't follow a game.")];
            assert_eq!(Said::new(answer).repeats_a_run(&shown, length), expected, "{answer}");
        };
        check("Well: I have no live feed so I stop.", 6, true);
        check("I have no live radio, so I can't follow.", 6, false);
        check("I have no live feed so I stop.", 0, false);
        check("", 6, false);
        check("I have", 6, false);
    }

    #[test]
    fn thoughts_are_no_leak() {
        let parts = |text| shown(text, "Thoughts:", "\n\nAssistant:");
        assert_eq!(parts("User: q\n\nThoughts: t\n\nAssistant: a"), ["User: q\n\n", " a"]);
        assert_eq!(parts("another format"), ["another format"]);
        assert_eq!(parts("\n\nAssistant: a Thoughts: t"), ["\n\nAssistant: a Thoughts: t"]);
    }

    #[test]
    fn every_common_word_is_found() {
        let lines: Vec<&str> = COMMON.lines().collect();
        assert!(lines.len() > 200, "{}", lines.len());
        assert!(lines.is_sorted());
        for line in &lines {
            assert!(is_common(line), "{line}");
        }
        for word in ["", "a", "aardvarks", "zzz", "penguins"] {
            assert!(!is_common(word), "{word}");
        }
    }

    /// The list is derived, so that a change of the shipped texts cannot leave it behind. With
    /// `BLESS=1` this test writes it.
    #[test]
    fn the_list_of_common_words_fits_the_shipped_texts() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let mut texts = BTreeMap::<String, u32>::new();
        let mut count = 0;
        for file in [
            "plugins/self-align/data/exemplars.jsonl",
            "examples/data/prompts-240.jsonl",
            "examples/data/trusted-40.jsonl",
        ] {
            for line in std::fs::read_to_string(format!("{root}/{file}")).unwrap().lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| line[key].as_str().unwrap_or("").to_owned();
                let words = text::words(&format!("{} {}", text("prompt"), text("answer")));
                for word in
                    words.into_iter().filter(|word| is_content(word)).collect::<BTreeSet<_>>()
                {
                    *texts.entry(word).or_default() += 1;
                }
                count += 1;
            }
        }
        assert_eq!(count, 48 + 240 + 40);
        let common: String = texts
            .iter()
            .filter(|(_, texts)| **texts > 1)
            .map(|(word, _)| format!("{word}\n"))
            .collect();
        if std::env::var_os("BLESS").is_some() {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/common-words.txt");
            std::fs::write(file, &common).unwrap();
        }
        assert!(common == COMMON, "data/common-words.txt is stale; run this test with BLESS=1");
    }
}
