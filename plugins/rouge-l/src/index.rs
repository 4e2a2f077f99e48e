//! Which texts can be near one at all, without comparing it with each.
//!
//! ROUGE-L's F is 2·L / (m + n) for lists of m and n words with a common subsequence of L. The
//! subsequence is at most as long as the two bags of words have in common. So a text of m words is
//! near another only where they share more than t·m / (2 − t) words; then they share one of the
//! rarest of each already, as many of them as that leaves over (prefix filtering; Chaudhuri and
//! others, 2006). Rare words stand in few texts, so few are ever compared.

use crate::lcs::Pattern;

/// Texts that stand, found by their rarest words.
pub(crate) struct Index {
    threshold: f64,
    /// Every text as the numbers of its words, in order.
    texts: Vec<Vec<u32>>,
    /// How rare a word is among all texts, by its number: 0 is the rarest.
    ranks: Vec<u32>,
    /// For each word the standing texts with it among their rarest.
    holders: Vec<Vec<u32>>,
    pattern: Pattern,
    /// For each text the number of the last search that met it.
    met: Vec<u32>,
    searches: u32,
}

impl Index {
    /// Takes every text there will be, none of which stands yet. `vocabulary` is how many words
    /// there are; every number is below it.
    pub(crate) fn new(texts: Vec<Vec<u32>>, vocabulary: usize, threshold: f64) -> Index {
        let mut counts = vec![0u32; vocabulary];
        texts.iter().flatten().for_each(|&word| counts[word as usize] += 1);
        let mut words: Vec<u32> = (0..vocabulary as u32).collect();
        words.sort_by_key(|&word| (counts[word as usize], word));
        let mut ranks = vec![0; vocabulary];
        (0..).zip(words).for_each(|(rank, word)| ranks[word as usize] = rank);
        Index {
            threshold,
            met: vec![0; texts.len()],
            texts,
            ranks,
            holders: vec![Vec::new(); vocabulary],
            pattern: Pattern::new(vocabulary),
            searches: 0,
        }
    }

    /// Lets a text stand, by its number.
    pub(crate) fn stand(&mut self, text: usize) {
        for word in self.rarest(text) {
            self.holders[word as usize].push(text as u32);
        }
    }

    /// Says whether a text is nearer than the threshold to one that stands.
    pub(crate) fn is_near(&mut self, text: usize) -> bool {
        self.searches += 1;
        let words = &self.texts[text];
        let mut pattern_is_set = false;
        for word in self.rarest(text) {
            for &other in &self.holders[word as usize] {
                if std::mem::replace(&mut self.met[other as usize], self.searches) == self.searches
                {
                    continue;
                }
                let others = &self.texts[other as usize];
                let total = words.len() + others.len();
                if !exceeds(words.len().min(others.len()), total, self.threshold) {
                    continue;
                }
                if !std::mem::replace(&mut pattern_is_set, true) {
                    self.pattern.set(words);
                }
                if exceeds(self.pattern.common(others), total, self.threshold) {
                    return true;
                }
            }
        }
        false
    }

    /// Returns the words of a text of which it must share one with any other that is near, each
    /// once.
    fn rarest(&self, text: usize) -> Vec<u32> {
        let mut words = self.texts[text].clone();
        words.sort_unstable_by_key(|&word| self.ranks[word as usize]);
        let bound = self.threshold * words.len() as f64 / (2.0 - self.threshold);
        // Rounding may only make it one word less.
        let shared = (bound - 1e-6).floor().max(0.0) as usize + 1;
        words.truncate((words.len() + 1).saturating_sub(shared));
        words.dedup();
        words
    }
}

/// Says whether F is over the threshold, for `common` words of lists with `total` together.
pub(crate) fn exceeds(common: usize, total: usize, threshold: f64) -> bool {
    common > 0 && (2 * common) as f64 / total as f64 > threshold
}

#[cfg(test)]
mod tests {
    use aligner_sdk::Rng;

    use super::*;

    /// Near texts come from changing some words of an earlier one.
    fn texts(rng: &mut Rng, n: usize) -> Vec<Vec<u32>> {
        let mut texts: Vec<Vec<u32>> = Vec::new();
        for i in 0..n {
            let length = rng.below(20);
            let mut text: Vec<u32> = match i % 2 {
                1 => texts[rng.below(i)].clone(),
                _ => (0..length).map(|_| (30.0 * rng.uniform().powi(3)) as u32).collect(),
            };
            for _ in 0..rng.below(6) {
                match (rng.below(3), text.len()) {
                    (0, _) | (_, 0) => text.push(rng.below(30) as u32),
                    (1, n) => text[rng.below(n)] = rng.below(30) as u32,
                    (_, n) => _ = text.remove(rng.below(n)),
                }
            }
            texts.push(text);
        }
        texts
    }

    #[test]
    fn nothing_near_is_passed_over() {
        let mut found = 0;
        for seed in 0..20 {
            let texts = texts(&mut Rng::new(seed), 120);
            for threshold in [0.0, 0.3, 0.5, 0.7, 0.9, 1.0] {
                let mut index = Index::new(texts.clone(), 30, threshold);
                (0..60).for_each(|text| index.stand(text));
                for text in 60..120 {
                    let mut pattern = Pattern::new(30);
                    pattern.set(&texts[text]);
                    let near = texts[..60].iter().any(|other| {
                        let total = texts[text].len() + other.len();
                        exceeds(pattern.common(other), total, threshold)
                    });
                    assert_eq!(index.is_near(text), near, "{seed} {threshold} {text}");
                    found += usize::from(near);
                }
            }
        }
        assert!((1000..6000).contains(&found), "{found}");
    }

    #[test]
    fn the_threshold_itself_is_not_near() {
        assert!(!exceeds(7, 20, 0.7));
        assert!(!exceeds(49, 140, 0.7));
        assert!(exceeds(8, 22, 0.7));
        assert!(!exceeds(0, 0, 0.0));
        assert!(exceeds(1, 40, 0.0));
        assert!(!exceeds(5, 10, 1.0));
    }
}
