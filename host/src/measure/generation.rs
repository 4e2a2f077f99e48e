//! What answers look like, whatever they say: length, variety, loops.

use std::collections::HashMap;

use super::figure::{Figure, below};
use crate::round::diversity::{distinct, mean, repeated, words};
use crate::run::seed;

/// An answer to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<'a> {
    /// Without the end of the turn.
    pub text: &'a str,
    /// With it.
    pub tokens: usize,
    /// Whether the model ended its turn, rather than being cut.
    pub ended: bool,
}

/// Returns mean lengths, diversity over all answers, and loops within them.
///
/// `self-bleu-4` is the mean BLEU-4 of an answer against another one, over `pairs` pairs drawn under
/// `seed`, or over all where these are fewer: 1 where all answers are the same.
pub fn figures(answers: &[Answer<'_>], pairs: usize, seed: u64) -> Vec<Figure> {
    let each = |of: &dyn Fn(&Answer<'_>) -> f64| answers.iter().map(of).collect::<Vec<f64>>();
    let texts = || answers.iter().map(|answer| answer.text);
    let n = answers.len();
    let variety = |length| (n > 0).then(|| distinct(length, texts()));
    let ended = answers.iter().filter(|answer| answer.ended).count();
    let words: Vec<Vec<String>> = texts().map(words).collect();
    let bleu: Vec<f64> =
        drawn_pairs(n, pairs, seed).iter().map(|&(a, b)| bleu_4(&words[a], &words[b])).collect();
    vec![
        Figure::mean("tokens", &each(&|answer| answer.tokens as f64)),
        Figure::mean("words", &each(&|answer| answer.text.split_whitespace().count() as f64)),
        Figure::plain("distinct-1", variety(1), n),
        Figure::plain("distinct-2", variety(2), n),
        Figure::plain("distinct-3", variety(3), n),
        Figure::plain("self-bleu-4", mean(bleu.iter().copied()), bleu.len()),
        Figure::share("ended", ended, n),
        Figure::mean_share("repeated-4-grams", &each(&|answer| repeated(4, [answer.text]))),
    ]
}

/// Returns pairs of two different places below `n`: all ordered ones, or `most` that are drawn.
fn drawn_pairs(n: usize, most: usize, seed: u64) -> Vec<(usize, usize)> {
    let all = n.saturating_mul(n.saturating_sub(1));
    let pair = |index: usize| {
        let (a, b) = (index / (n - 1), index % (n - 1));
        (a, if b < a { b } else { b + 1 })
    };
    if all <= most {
        return (0..all).map(pair).collect();
    }
    let seed = seed::of([seed.into(), "self-bleu".into()]);
    (0..most).map(|draw| pair(below(seed, draw as u64, all))).collect()
}

/// Returns BLEU-4 of one list of words against another, in [0, 1]: the geometric mean of the clipped
/// precisions of runs of 1 to 4 words, and the brevity penalty (Papineni et al. 2002). Beyond single
/// words, 1 is added to hits and runs, so that a short answer is not 0 for want of a run (Lin and Och
/// 2004).
pub fn bleu_4(candidate: &[String], reference: &[String]) -> f64 {
    if candidate.is_empty() || reference.is_empty() {
        return f64::from(u8::from(candidate == reference));
    }
    let mut log = 0.0;
    for n in 1..=4 {
        let mut left: HashMap<&[String], usize> = HashMap::new();
        for run in reference.windows(n) {
            *left.entry(run).or_default() += 1;
        }
        let hit = |run: &&[String]| match left.get_mut(*run) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        };
        let hits = candidate.windows(n).filter(hit).count();
        let added = usize::from(n > 1);
        let runs = candidate.windows(n).count();
        log += ((hits + added) as f64 / (runs + added) as f64).ln() / 4.0;
    }
    let (ours, theirs) = (candidate.len() as f64, reference.len() as f64);
    let brevity = if ours < theirs { (1.0 - theirs / ours).exp() } else { 1.0 };
    brevity * log.exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bleu_is_what_it_is_by_hand() {
        let check = |candidate: &str, reference: &str, expected: f64| {
            let found = bleu_4(&words(candidate), &words(reference));
            assert!((found - expected).abs() < 1e-9, "{candidate} | {reference}: {found}");
        };
        check("a b c d e", "A b c d e", 1.0);
        check("a b", "c d", 0.0);
        // Precisions 3/4, (2+1)/(3+1), (1+1)/(2+1), (0+1)/(1+1).
        check("a b c x", "a b c d", (0.75f64 * 0.75 * (2.0 / 3.0) * 0.5).powf(0.25));
        // Half as long as the reference, all of it there.
        check("a b", "a b c d", (-1.0f64).exp());
        // A word counts as often as the reference has it: 1/3, (0+1)/(2+1), (0+1)/(1+1), 1.
        check("a a a", "a b c", (1.0f64 / 3.0 * (1.0 / 3.0) * 0.5).powf(0.25));
        check("", "", 1.0);
        check("", "a", 0.0);
    }

    #[test]
    fn loops_are_runs_that_stood_before() {
        assert_eq!(repeated(4, ["a b c d"]), 0.0);
        assert_eq!(repeated(4, ["a b c"]), 0.0);
        // abab, baba, abab, baba, abab: three of five stood before.
        assert_eq!(repeated(4, ["a b A b a b a b"]), 3.0 / 5.0);
    }

    #[test]
    fn pairs_are_all_or_so_many() {
        assert_eq!(drawn_pairs(3, 10, 0), [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(drawn_pairs(1, 10, 0), []);
        assert_eq!(drawn_pairs(0, 10, 0), []);
        let some = drawn_pairs(100, 50, 7);
        assert_eq!(some.len(), 50);
        assert!(some.iter().all(|&(a, b)| a != b && a < 100 && b < 100));
        assert_eq!(some, drawn_pairs(100, 50, 7));
        assert_ne!(some, drawn_pairs(100, 50, 8));
    }

    #[test]
    fn figures_count_over_all_answers() {
        let answer = |text, tokens, ended| Answer { text, tokens, ended };
        let answers = [answer("a b c d", 5, true), answer("a b", 2, false)];
        let value = |name: &str| {
            let figures = figures(&answers, 100, 0);
            figures.iter().find(|figure| figure.name == name).unwrap().value.unwrap()
        };
        assert_eq!(value("tokens"), 3.5);
        assert_eq!(value("words"), 3.0);
        assert_eq!(value("distinct-1"), 4.0 / 6.0);
        assert_eq!(value("distinct-2"), 3.0 / 4.0);
        assert_eq!(value("distinct-3"), 1.0);
        assert_eq!(value("ended"), 0.5);
        assert_eq!(value("repeated-4-grams"), 0.0);
        // "a b c d" for "a b": 2/4, 2/4, 1/3, 1/2; the other way by its brevity alone.
        let long = (0.5f64 * 0.5 * (1.0 / 3.0) * 0.5).powf(0.25);
        assert!((value("self-bleu-4") - (long + (-1.0f64).exp()) / 2.0).abs() < 1e-9);
        assert!(figures(&[], 10, 0).iter().all(|figure| figure.value.is_none()));
    }
}
