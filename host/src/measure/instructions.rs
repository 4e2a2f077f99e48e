//! Instructions whose following a program can check, in IFEval's format
//! (Zhou et al. 2023, <https://arxiv.org/abs/2311.07911>).
//!
//! What counts is what IFEval's checker counts, with these deviations (`docs/eval.md` has numbers):
//!
//! 1. Keywords are texts, not regular expressions.
//! 2. Sentences are found by the rules of NLTK's tokenizer with short lists of words in place of its
//!    trained ones (`text::sentences`), and languages by a detector of our own (`language`), where IFEval
//!    uses langdetect.
//! 3. A setting that is absent or out of range is an error, and any letter is counted; IFEval draws
//!    another at random.
//! 4. `NaN` and `Infinity` are no JSON.

mod language;
mod parse;
mod text;

use language::Language;

pub use parse::{Row, row};

use super::figure::Figure;

/// An instruction with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// As in the file, for example `length_constraints:number_words`.
    pub id: String,
    check: Check,
}

/// How often something is to be there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bound {
    /// Else less than.
    at_least: bool,
    count: usize,
}

impl Bound {
    fn holds(self, found: usize) -> bool {
        (found >= self.count) == self.at_least
    }
}

/// What is checked.
#[derive(Clone, Debug, PartialEq)]
enum Check {
    Keywords(Vec<String>),
    KeywordFrequency(String, Bound),
    ForbiddenWords(Vec<String>),
    LetterFrequency(char, Bound),
    ResponseLanguage(Language),
    Sentences(Bound),
    Words(Bound),
    Paragraphs(usize),
    NthParagraph { paragraphs: usize, nth: usize, first_word: String },
    Placeholders(usize),
    Postscript(String),
    BulletLists(usize),
    ConstrainedResponse,
    HighlightedSections(usize),
    Sections { marker: String, count: usize },
    Json,
    Title,
    TwoResponses,
    RepeatPrompt(String),
    End(String),
    Quotation,
    CapitalWords(Bound),
    EnglishCapital,
    EnglishLowercase,
    NoComma,
}

impl Instruction {
    /// Returns whether an answer follows the instruction as it stands; an empty one never does.
    pub fn strict(&self, answer: &str) -> bool {
        !answer.trim().is_empty() && self.check.holds(answer)
    }

    /// Returns whether one of eight forms of the answer follows the instruction: as it stands, without
    /// its first line, without its last, without both, and each of these without asterisks. So a
    /// greeting or markdown around what was asked does no harm.
    pub fn loose(&self, answer: &str) -> bool {
        let lines: Vec<&str> = answer.split('\n').collect();
        let part = |from: usize, to: usize| match lines.get(from..to) {
            Some(lines) => lines.join("\n").trim().to_owned(),
            None => String::new(),
        };
        let n = lines.len();
        let parts = [answer.to_owned(), part(1, n), part(0, n - 1), part(1, n.max(2) - 1)];
        parts.iter().any(|part| self.strict(part) || self.strict(&part.replace('*', "")))
    }
}

/// What became of a prompt's instructions, each followed or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Followed {
    /// Of the answer as it stands.
    pub strict: Vec<bool>,
    /// Of one of its eight forms.
    pub loose: Vec<bool>,
}

impl Followed {
    /// Checks an answer.
    pub fn of(row: &Row, answer: &str) -> Followed {
        let each = |of: &dyn Fn(&Instruction) -> bool| row.instructions.iter().map(of).collect();
        Followed {
            strict: each(&|instruction| instruction.strict(answer)),
            loose: each(&|instruction| instruction.loose(answer)),
        }
    }
}

/// Returns the shares of prompts of which every instruction is followed, and of instructions that are,
/// strictly and loosely.
pub fn figures(followed: &[Followed]) -> Vec<Figure> {
    let share = |name: &str, of: &dyn Fn(&Followed) -> Vec<bool>| {
        let all: Vec<bool> = followed.iter().flat_map(of).collect();
        Figure::share(name, all.iter().filter(|followed| **followed).count(), all.len())
    };
    let all = |each: &[bool]| vec![each.iter().all(|followed| *followed)];
    vec![
        share("prompt-strict", &|one| all(&one.strict)),
        share("instruction-strict", &|one| one.strict.clone()),
        share("prompt-loose", &|one| all(&one.loose)),
        share("instruction-loose", &|one| one.loose.clone()),
    ]
}

/// Returns, for each id of an instruction in the order of the alphabet, the share that is strictly
/// followed.
pub fn by_instruction(rows: &[(&Row, &Followed)]) -> Vec<Figure> {
    let mut counts = std::collections::BTreeMap::<&str, (usize, usize)>::new();
    for (row, followed) in rows {
        for (instruction, followed) in row.instructions.iter().zip(&followed.strict) {
            let (hits, n) = counts.entry(&instruction.id).or_default();
            *hits += usize::from(*followed);
            *n += 1;
        }
    }
    counts.into_iter().map(|(id, (hits, n))| Figure::share(id, hits, n)).collect()
}

/// What IFEval's `constrained_response` may answer.
const CONSTRAINED: [&str; 3] = ["My answer is yes.", "My answer is no.", "My answer is maybe."];

impl Check {
    fn holds(&self, answer: &str) -> bool {
        let lower = || answer.to_lowercase();
        match self {
            Check::Keywords(words) => {
                let lower = lower();
                words.iter().all(|word| lower.contains(&word.to_lowercase()))
            }
            Check::KeywordFrequency(word, bound) => {
                bound.holds(lower().matches(&word.to_lowercase()).count())
            }
            Check::ForbiddenWords(words) => {
                let lower = lower();
                !words.iter().any(|word| text::has_word(&lower, &word.to_lowercase()))
            }
            Check::LetterFrequency(letter, bound) => {
                bound.holds(lower().chars().filter(|c| c == letter).count())
            }
            Check::ResponseLanguage(language) => is_in(answer, *language),
            Check::Sentences(bound) => bound.holds(text::sentences(answer)),
            Check::Words(bound) => bound.holds(text::words(answer)),
            Check::Paragraphs(count) => parts_between(answer, "***") == Some(*count),
            Check::NthParagraph { paragraphs, nth, first_word } => {
                let parts: Vec<&str> = answer.split("\n\n").collect();
                let filled = parts.iter().filter(|part| !part.trim().is_empty()).count();
                let found = parts.get(nth - 1).map(|part| text::first_word(part));
                filled == *paragraphs && found.is_some_and(|found| found == *first_word)
            }
            Check::Placeholders(least) => text::placeholders(answer) >= *least,
            Check::Postscript(marker) => text::has_postscript(&lower(), marker),
            Check::BulletLists(count) => text::bullets(answer) == *count,
            Check::ConstrainedResponse => CONSTRAINED.iter().any(|one| answer.contains(one)),
            Check::HighlightedSections(least) => text::highlights(answer) >= *least,
            Check::Sections { marker, count } => text::sections(answer, marker) >= *count,
            Check::Json => text::is_json(answer),
            Check::Title => text::has_title(answer),
            Check::TwoResponses => {
                let filled = answer.split("******").map(str::trim).filter(|part| !part.is_empty());
                let filled: Vec<&str> = filled.collect();
                parts_between(answer, "******") == Some(2) && filled[0] != filled[1]
            }
            Check::RepeatPrompt(prompt) => {
                lower().trim().starts_with(prompt.trim().to_lowercase().as_str())
            }
            Check::End(phrase) => {
                let lower = lower();
                lower.trim().trim_matches('"').ends_with(phrase.trim().to_lowercase().as_str())
            }
            Check::Quotation => {
                let trimmed = answer.trim();
                trimmed.len() > 1 && trimmed.starts_with('"') && trimmed.ends_with('"')
            }
            Check::CapitalWords(bound) => bound.holds(text::capital_words(answer)),
            Check::EnglishCapital => text::is_upper(answer) && is_in(answer, language::ENGLISH),
            Check::EnglishLowercase => text::is_lower(answer) && is_in(answer, language::ENGLISH),
            Check::NoComma => !answer.contains(','),
        }
    }
}

/// Returns how many parts with text a divider makes; an empty part may stand first or last, and there is
/// no number where one stands between others.
fn parts_between(answer: &str, divider: &str) -> Option<usize> {
    let parts: Vec<bool> = answer.split(divider).map(|part| !part.trim().is_empty()).collect();
    let inner = parts.get(1..parts.len() - 1).unwrap_or(&[]);
    inner.iter().all(|filled| *filled).then(|| parts.iter().filter(|filled| **filled).count())
}

/// What has no letters is in every language, as with IFEval.
fn is_in(answer: &str, language: Language) -> bool {
    match language::detect(answer) {
        language::Found::NoLetters => true,
        language::Found::Unknown => false,
        language::Found::Language(found) => found == language,
    }
}

#[cfg(test)]
mod tests;
