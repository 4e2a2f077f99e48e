//! Counts sentences as NLTK's English tokenizer does (Kiss and Strunk 2006, Unsupervised Multilingual
//! Sentence Boundary Detection, <https://aclanthology.org/J06-4003/>), with short lists of words in place
//! of its trained ones.

/// What ends in a point within a sentence, in small letters. NLTK's tokenizer learnt from newspapers; `etc`,
/// `e.g` and `i.e` are none of its abbreviations.
const ABBREVIATIONS: [&str; 40] = [
    "mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "messrs", "vs", "v", "inc", "ltd", "co",
    "corp", "bros", "gen", "col", "lt", "sen", "rep", "ave", "ft", "jan", "feb", "aug", "sept",
    "oct", "nov", "dec", "ph.d", "a.m", "p.m", "a.d", "u.s", "u.s.a", "u.k", "u.n", "n.y", "d.c",
];

/// Words that often begin a sentence, in small letters: behind an abbreviation, an initial or several
/// points only these begin one.
const STARTERS: &str = " the this that these those there then thus so such some as at in on for from with by to \
    of and but or if when while since after before although though because however yet still now here he she \
    it they we you i his her its their our your my what who where why how which a an all any both each many \
    most no not one other also even only is are was were be do does did can could will would should may might \
    let please ";

/// Returns the number of sentences; any text that is not blank has one.
///
/// A word can end one at its last `.`, `!` or `?` that ends the word or has a mark behind it that stands in
/// no word. Points do not after an abbreviation, an initial, or several of them, unless a word follows that
/// often begins a sentence, nor after a number before a small letter; the number of a list is a sentence,
/// as with NLTK. Closing quotation marks and brackets belong to the sentence before them.
pub(in super::super) fn sentences(text: &str) -> usize {
    let words: Vec<(bool, &str)> = text
        .split('\n')
        .flat_map(|line| line.split_whitespace().enumerate())
        .map(|(place, word)| (place == 0, word))
        .collect();
    let mut count = usize::from(!words.is_empty());
    for (at, &(first_in_line, word)) in words.iter().enumerate() {
        let after = words.get(at + 1..).unwrap_or(&[]);
        let Some(end) = last_end(word, !after.is_empty()) else { continue };
        let (sentence, behind) = word.split_at(end);
        let next = if behind.is_empty() { after[0].1 } else { behind };
        if !ends(sentence, first_in_line, next) {
            continue;
        }
        let rest = behind.trim_start_matches(is_closing);
        let goes_on = match behind {
            "" => after.iter().any(|(_, word)| !word.chars().all(is_closing)),
            _ => !rest.is_empty() || !after.is_empty(),
        };
        count += usize::from(goes_on);
    }
    count
}

/// Returns where the last mark ends that could end a sentence.
fn last_end(word: &str, has_next: bool) -> Option<usize> {
    let marks = word.char_indices().rev().filter(|(_, c)| matches!(c, '.' | '!' | '?'));
    let mut ends = marks.map(|(at, _)| at + 1);
    ends.find(|&end| match word[end..].chars().next() {
        None => has_next,
        Some(behind) => is_apart(behind),
    })
}

/// What stands in no word.
fn is_apart(c: char) -> bool {
    is_closing(c) || matches!(c, '!' | '?' | ';' | '*' | ':' | '@' | '(' | '{' | '[')
}

fn is_closing(c: char) -> bool {
    matches!(c, '"' | '\'' | ')' | ']' | '}' | '‘' | '’' | '“' | '”' | '«' | '»')
}

/// Returns whether a word that ends in a mark ends the sentence, given what follows it.
fn ends(word: &str, first_in_line: bool, next: &str) -> bool {
    if word.contains(['!', '?']) {
        return true;
    }
    let word = word.rsplit(is_apart).next().unwrap_or(word);
    let word = word.trim_start_matches([',', '-', '&', '#', '`']);
    let bare = word.strip_suffix('.').unwrap_or(word).to_lowercase();
    let starts = || {
        let next = next.split(|c: char| is_apart(c) || c == ',').next().unwrap_or("");
        let capital = next.starts_with(char::is_uppercase);
        capital && STARTERS.contains(&format!(" {} ", next.to_lowercase()))
    };
    if bare.is_empty() {
        return true;
    }
    if bare.ends_with('.') {
        return starts();
    }
    let is_number = bare.starts_with(|c: char| c.is_ascii_digit())
        && bare.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '.' | '-'));
    if is_number {
        return !next.starts_with(char::is_lowercase);
    }
    let mut letters = bare.chars();
    if letters.next().is_some_and(char::is_alphabetic) && letters.next().is_none() {
        // First in its line it is a label, elsewhere or before another one most often part of a name.
        let label = first_in_line && next.chars().nth(1) != Some('.');
        return match next.starts_with(char::is_uppercase) {
            true => label || starts(),
            false => !next.starts_with(char::is_lowercase),
        };
    }
    let last = bare.rsplit('-').next().unwrap_or(&bare);
    !ABBREVIATIONS.contains(&last) || starts()
}
