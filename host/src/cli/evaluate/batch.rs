//! The records of a chunk, as filters and judges see them: neither ids, names, roles nor places tell
//! which completion is labelled how.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::{
    data::{Labelled, LabelledPair, LabelledRows},
    record::{Completion, Finish, Prompt, Record, Text, Variant, VariantRole},
    run::seed,
};

/// Variant of the completion that is shown first.
pub const FIRST: &str = "good";
/// Variant of the completion that is shown second.
pub const SECOND: &str = "bad";

/// What is known of a completion by itself.
pub struct Single {
    pub row: usize,
    pub good: bool,
    /// The file's number for it.
    pub score: Option<f64>,
    /// Its length.
    pub characters: usize,
    pub slices: Vec<(String, String)>,
}

/// Two completions of one row by their places among the batch's, of which one is better.
pub struct Match {
    pub better: usize,
    pub worse: usize,
}

/// What is known of a pair.
pub struct Double {
    pub row: usize,
    /// The labelled completion's length against the other's, in characters.
    pub length: Ordering,
    pub characters: usize,
    pub slices: Vec<(String, String)>,
}

/// The records of a chunk.
#[derive(Default)]
pub struct Batch {
    /// How many rows the chunk has.
    pub rows: usize,
    /// How many completions among them are good.
    pub good: usize,
    /// How many are bad.
    pub bad: usize,
    /// A record for each completion, with one variant, `plain`; those of a row follow each other.
    pub records: Vec<Record>,
    /// What is known of these.
    pub singles: Vec<Single>,
    /// Every two of these of which one is known to be better; those of a row follow each other.
    pub matches: Vec<Match>,
    /// A record for each pair, where the rows are some: the labelled completion is its first variant.
    pub fronts: Vec<Record>,
    /// The same with the other one first.
    pub backs: Vec<Record>,
    /// What is known of these.
    pub doubles: Vec<Double>,
}

/// What plugins of a kind need of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    pub singles: bool,
    pub doubles: bool,
}

impl Batch {
    /// Makes the records of a chunk.
    pub fn new(rows: LabelledRows, needs: Needs) -> Batch {
        let mut batch = Batch::default();
        match rows {
            LabelledRows::Completions(rows) => {
                batch.rows = rows.len();
                batch.good = rows.iter().filter(|row| row.good).count();
                batch.bad = batch.rows - batch.good;
                let made: Vec<_> = rows.into_par_iter().map(single).collect();
                (batch.records, batch.singles) = made.into_iter().unzip();
            }
            LabelledRows::Pairs(rows) => {
                batch.rows = rows.len();
                batch.good = rows.iter().map(|row| row.chosen.len()).sum();
                batch.bad = rows.iter().map(|row| row.rejected.len()).sum();
                if needs.singles {
                    let made: Vec<_> = rows.par_iter().map(apart).collect();
                    for (mut completions, matches) in made {
                        let first = batch.records.len();
                        batch.matches.extend(matches.into_iter().map(|Match { better, worse }| {
                            Match { better: first + better, worse: first + worse }
                        }));
                        for (record, single) in completions.drain(..) {
                            batch.records.push(record);
                            batch.singles.push(single);
                        }
                    }
                }
                if needs.doubles {
                    for (front, back, double) in rows.iter().flat_map(doubles) {
                        batch.fronts.push(front);
                        batch.backs.push(back);
                        batch.doubles.push(double);
                    }
                }
            }
        }
        batch
    }
}

/// Returns a variant with a completion.
pub fn variant(
    name: &str,
    role: VariantRole,
    prompt: &Text,
    text: &str,
    finish: Finish,
) -> Variant {
    let tokens = u32::try_from(words(text)).unwrap_or(u32::MAX).max(1);
    let completion = Completion::unmeasured_of(text, tokens, finish);
    Variant { name: name.to_owned(), role, prompt: prompt.clone(), completion: Some(completion) }
}

/// Returns how many words a text has. Most texts are ASCII, of which bytes are counted: several times as
/// fast.
fn words(text: &str) -> usize {
    if !text.is_ascii() {
        return text.split_whitespace().count();
    }
    let is_blank = |byte: u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let mut before = true;
    let begins = |byte: u8| {
        let blank = is_blank(byte);
        let begins = before && !blank;
        before = blank;
        begins
    };
    text.bytes().map(begins).filter(|&begins| begins).count()
}

/// Returns a record with one completion.
pub fn record_of_one(id: String, prompt: Text, text: &str, finish: Finish) -> Record {
    let variant = variant("plain", VariantRole::Plain, &prompt, text, finish);
    let prompt = Prompt { id, text: prompt, tags: Vec::new() };
    Record { variants: vec![variant], ..Record::new(prompt) }
}

/// Returns a record with two completions.
pub fn record_of_two(id: String, prompt: Text, first: &str, second: &str) -> Record {
    let one = variant(FIRST, VariantRole::Good, &prompt, first, Finish::Stop);
    let two = variant(SECOND, VariantRole::Bad, &prompt, second, Finish::Stop);
    let prompt = Prompt { id, text: prompt, tags: Vec::new() };
    Record { variants: vec![one, two], ..Record::new(prompt) }
}

fn single(row: Labelled) -> (Record, Single) {
    let Labelled { line, prompt, completion, finish, good, score, slices } = row;
    let slices = with_script(slices, &completion);
    let characters = completion.chars().count();
    let record = record_of_one(format!("row-{line}"), prompt, &completion, finish);
    (record, Single { row: line, good, score, characters, slices })
}

/// The completions of a row, in an order that is drawn from its line, and which of them is better than
/// which.
fn apart(row: &LabelledPair) -> (Vec<(Record, Single)>, Vec<Match>) {
    let texts = row.chosen.iter().chain(&row.rejected);
    let mut drawn: Vec<(usize, &String)> = texts.enumerate().collect();
    drawn.sort_by_key(|(number, _)| {
        seed::of(["evaluate".into(), (row.line as u64).into(), (*number as u64).into()])
    });
    let one = |(place, (number, text)): (usize, &(usize, &String))| {
        let id = format!("row-{}-{}", row.line, place + 1);
        let record = record_of_one(id, row.prompt.clone(), text, Finish::Stop);
        let slices = with_script(row.slices.clone(), text);
        let (good, characters) = (*number < row.chosen.len(), text.chars().count());
        (record, Single { row: row.line, good, score: None, characters, slices })
    };
    let completions: Vec<_> = drawn.iter().enumerate().map(one).collect();
    let is_good = |place: &usize| completions[*place].1.good;
    let (better, worse): (Vec<usize>, Vec<usize>) = (0..drawn.len()).partition(is_good);
    let pairs = better.iter().flat_map(|&better| worse.iter().map(move |&worse| (better, worse)));
    let matches = pairs.map(|(better, worse)| Match { better, worse }).collect();
    (completions, matches)
}

/// Every pair of a row, in both orders.
fn doubles(row: &LabelledPair) -> Vec<(Record, Record, Double)> {
    let LabelledPair { line, prompt, chosen, rejected, slices } = row;
    let only = chosen.len() == 1 && rejected.len() == 1;
    let pairs = chosen.iter().flat_map(|chosen| rejected.iter().map(move |it| (chosen, it)));
    let double = |(number, (chosen, rejected)): (usize, (&String, &String))| {
        let (long, short) = (chosen.chars().count(), rejected.chars().count());
        let record = |first: &str, second: &str| {
            let id =
                if only { format!("row-{line}") } else { format!("row-{line}-{}", number + 1) };
            record_of_two(id, prompt.clone(), first, second)
        };
        let double = Double {
            row: *line,
            length: long.cmp(&short),
            characters: long + short,
            slices: with_script(slices.clone(), chosen),
        };
        (record(chosen, rejected), record(rejected, chosen), double)
    };
    pairs.enumerate().map(double).collect()
}

/// Adds the script of a text, where the row does not say its language.
fn with_script(mut slices: Vec<(String, String)>, text: &str) -> Vec<(String, String)> {
    if !slices.iter().any(|(name, _)| name == "language") {
        slices.push(("script".to_owned(), script(text).to_owned()));
    }
    slices
}

/// Returns the script of most letters at the beginning of a text.
fn script(text: &str) -> &'static str {
    const SCRIPTS: [(&str, &[(char, char)]); 8] = [
        ("Latin", &[('a', 'z'), ('A', 'Z'), ('\u{c0}', '\u{24f}')]),
        ("Cyrillic", &[('\u{400}', '\u{52f}')]),
        ("Greek", &[('\u{370}', '\u{3ff}')]),
        ("Arabic", &[('\u{600}', '\u{6ff}')]),
        ("Devanagari", &[('\u{900}', '\u{97f}')]),
        ("Han", &[('\u{3400}', '\u{9fff}')]),
        ("kana", &[('\u{3040}', '\u{30ff}')]),
        ("Hangul", &[('\u{1100}', '\u{11ff}'), ('\u{ac00}', '\u{d7af}')]),
    ];
    let mut counts = [0_usize; SCRIPTS.len()];
    let mut letters = 0;
    for letter in text.chars().take(400).filter(|c| c.is_alphabetic()) {
        letters += 1;
        let has = |(_, ranges): &(&str, &[(char, char)])| {
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&letter))
        };
        if let Some(place) = SCRIPTS.iter().position(has) {
            counts[place] += 1;
        }
    }
    let most = counts.iter().enumerate().find(|(_, count)| 2 * **count > letters);
    match (letters, most) {
        (0, _) => "no letters",
        (_, Some((place, _))) => SCRIPTS[place].0,
        (_, None) => "other or mixed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_between_blanks() {
        let texts = ["", " ", "a", " a  b\tc\nd\u{b}e\u{c}f\rg ", "a\u{1f}b c", "a\u{a0}b ä"];
        for text in texts {
            assert_eq!(words(text), text.split_whitespace().count(), "{text:?}");
        }
    }

    #[test]
    fn scripts_are_told_by_most_letters() {
        for (text, expected) in [
            ("", "no letters"),
            ("1 + 1 = 2", "no letters"),
            ("Straße und Café", "Latin"),
            ("Привет, world", "Cyrillic"),
            ("你好", "Han"),
            ("ab вг 你好", "other or mixed"),
        ] {
            assert_eq!(script(text), expected, "{text}");
        }
    }

    #[test]
    fn places_and_ids_do_not_tell_the_label() {
        let pairs: Vec<LabelledPair> = (1..=200)
            .map(|line| LabelledPair {
                line,
                prompt: Text::user("?"),
                chosen: vec!["chosen".into()],
                rejected: vec!["no".into()],
                slices: Vec::new(),
            })
            .collect();
        let needs = Needs { singles: true, doubles: true };
        let batch = Batch::new(LabelledRows::Pairs(pairs), needs);
        let first_good = batch.singles.chunks(2).filter(|two| two[0].good).count();
        assert!((70..130).contains(&first_good), "{first_good}");
        assert_eq!((batch.rows, batch.good, batch.records.len()), (200, 200, 400));
        assert!(batch.singles.chunks(2).all(|two| two[0].good != two[1].good));
        let Double { length, characters, .. } = &batch.doubles[0];
        let shown = |record: &Record| {
            let text = |it: &Variant| it.completion.as_ref().unwrap().text.clone();
            (record.id().to_owned(), record.variants.iter().map(text).collect::<Vec<_>>())
        };
        assert_eq!(shown(&batch.fronts[0]), ("row-1".into(), vec!["chosen".into(), "no".into()]));
        assert_eq!(shown(&batch.backs[0]), ("row-1".into(), vec!["no".into(), "chosen".into()]));
        assert_eq!((*length, *characters), (Ordering::Greater, 8));
    }

    #[test]
    fn rows_of_several_completions_make_every_pair() {
        let row = LabelledPair {
            line: 3,
            prompt: Text::user("?"),
            chosen: vec!["a".into(), "b".into()],
            rejected: vec!["x".into(), "y".into(), "zz".into()],
            slices: Vec::new(),
        };
        let needs = Needs { singles: true, doubles: true };
        let batch = Batch::new(LabelledRows::Pairs(vec![row.clone(), row]), needs);
        assert_eq!((batch.rows, batch.good, batch.bad), (2, 4, 6));
        assert_eq!((batch.records.len(), batch.matches.len(), batch.doubles.len()), (10, 12, 12));
        let good = |place: usize| batch.singles[place].good;
        assert!(batch.matches.iter().all(|it| good(it.better) && !good(it.worse)));
        let same_row = |it: &Match| it.better / 5 == it.worse / 5;
        assert!(batch.matches.iter().all(same_row));
        let ids: std::collections::BTreeSet<&str> =
            batch.records[..5].iter().map(Record::id).collect();
        assert_eq!(ids.len(), 5);
        assert_eq!(batch.fronts[5].id(), "row-3-6");
    }
}
