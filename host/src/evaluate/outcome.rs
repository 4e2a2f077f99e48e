//! What plugins said, as far as it is counted, and what is known of the rows.

/// A row that a plugin was called for, without its texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Which row of the file it is of: what is paired of one row comes one after the other.
    pub row: usize,
    /// Columns by which rows are told apart, with their values.
    pub slices: &'a [(String, String)],
    /// Characters of the completion, or of both completions of a pair.
    pub characters: usize,
    /// What an example of the row shows.
    pub shown: &'a str,
    /// How good the completion is, where the file has a number for it.
    pub score: Option<f64>,
}

/// What a filter said of a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sifted {
    /// It stays.
    Kept,
    /// It stays, with other words.
    Revised,
    /// It goes, for this reason.
    Dropped(String),
    /// The plugin failed; says how.
    Failed(String),
}

/// What a judge said of the two completions of a pair.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// The labelled one is better, by this much where there are rewards.
    Right(Option<f64>),
    /// The other one is, by this much.
    Wrong(Option<f64>),
    /// Neither is.
    Tie,
    /// The model's words gave no opinion; says what could not be read.
    Unparsable(String),
    /// The plugin failed; says how.
    Failed(String),
}

/// A pair, as it was shown to a judge.
#[derive(Clone, Debug, PartialEq)]
pub enum Judged {
    /// Both completions at once, in both orders: first with the labelled one in front.
    Together(Choice, Choice),
    /// Each completion by itself.
    Apart(Choice),
}

/// What a judge said of one completion by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Scored {
    /// The mean of its rewards.
    Reward(f64),
    /// The model's words gave no opinion.
    Unparsable(String),
    /// The plugin failed, or gave no reward; says how.
    Failed(String),
}

/// The most characters of an example.
const SHOWN: usize = 160;

/// Returns the beginning of a text, on one line.
pub fn beginning(text: &str) -> String {
    let mut words = text.split_whitespace().flat_map(|word| [" ", word]).skip(1);
    let mut line = String::new();
    for part in &mut words {
        line.push_str(part);
        if let Some((end, _)) = line.char_indices().nth(SHOWN) {
            line.truncate(end);
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_one_short_line() {
        assert_eq!(beginning(" a\n\nb\t c "), "a b c");
        assert_eq!(beginning(""), "");
        let long = beginning(&"é".repeat(5000));
        assert_eq!(long.chars().count(), SHOWN + 1);
    }
}
