//! How varied a set of texts is.

use std::collections::HashSet;

/// Returns distinct-2, see [`distinct`].
pub fn distinct_2<'a>(texts: impl IntoIterator<Item = &'a str>) -> f64 {
    distinct(2, texts)
}

/// Returns distinct-n: distinct runs of `n` neighbouring words over all such runs, in [0, 1]
/// (Li et al. 2016, <https://arxiv.org/abs/1510.03055>). Words are split at white space and compared
/// in lower case. 0 where no text has so many words; `n` is at least 1.
pub fn distinct<'a>(n: usize, texts: impl IntoIterator<Item = &'a str>) -> f64 {
    let (mut all, mut distinct) = (0usize, HashSet::new());
    for text in texts {
        let words = words(text);
        for run in words.windows(n) {
            all += 1;
            distinct.insert(run.to_vec());
        }
    }
    if all == 0 { 0.0 } else { distinct.len() as f64 / all as f64 }
}

/// Returns the share of the runs of `n` neighbouring words that stand in the same text before, over all
/// texts, in [0, 1]. Words are split as for [`distinct`]. 0 where no text has so many words.
pub fn repeated<'a>(n: usize, texts: impl IntoIterator<Item = &'a str>) -> f64 {
    let (mut all, mut repeated) = (0usize, 0);
    for text in texts {
        let words = words(text);
        let mut seen = HashSet::new();
        for run in words.windows(n) {
            all += 1;
            repeated += usize::from(!seen.insert(run));
        }
    }
    if all == 0 { 0.0 } else { repeated as f64 / all as f64 }
}

/// Returns the words of a text, in lower case.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_lowercase).collect()
}

/// Returns the mean of some numbers, or `None` where there are none.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) =
        values.into_iter().fold((0.0, 0u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_2_counts_pairs_over_all_texts() {
        let check = |texts: &[&str], expected: f64| {
            assert_eq!(distinct_2(texts.iter().copied()), expected, "{texts:?}");
        };
        check(&[], 0.0);
        check(&["", "one"], 0.0);
        check(&["a b c"], 1.0);
        check(&["a b a b"], 2.0 / 3.0);
        check(&["a b", "A  B", "b a"], 2.0 / 3.0);
    }

    #[test]
    fn repetition_counts_within_a_text() {
        let check = |texts: &[&str], expected: f64| {
            assert_eq!(repeated(4, texts.iter().copied()), expected, "{texts:?}");
        };
        check(&[], 0.0);
        check(&["a b c"], 0.0);
        check(&["a b c d"], 0.0);
        check(&["a b c d a B c d"], 1.0 / 5.0);
        check(&["x x x x x x"], 2.0 / 3.0);
        check(&["a b c d", "a b c d"], 0.0);
    }

    #[test]
    fn runs_are_of_the_length_that_is_asked_for() {
        let texts = ["a b a b", "a b"];
        // a, b of six words; ab, ba of four pairs; aba, bab.
        assert_eq!(distinct(1, texts), 2.0 / 6.0);
        assert_eq!(distinct(2, texts), 2.0 / 4.0);
        assert_eq!(distinct(3, texts), 1.0);
        assert_eq!(distinct(5, texts), 0.0);
    }

    #[test]
    fn the_mean_of_nothing_is_nothing() {
        assert_eq!(mean([]), None);
        assert_eq!(mean([1.0, 2.0, 6.0]), Some(3.0));
    }
}
