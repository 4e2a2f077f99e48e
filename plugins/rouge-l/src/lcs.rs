//! The longest common subsequence, 64 places at a time (Hyyrö, 2004, after Crochemore and others,
//! 2001).

/// One list of words, laid out for being compared with many.
///
/// Where in the list a word stands is a row of bits. A comparison goes over the other list once and
/// does a few operations for each word and each 64 places of this one.
pub(crate) struct Pattern {
    length: usize,
    /// For each word of the vocabulary its row in `places`, from 1; 0 where it does not occur.
    rows: Vec<u32>,
    /// The words with a row.
    occurring: Vec<u32>,
    /// Rows of `blocks` times 64 bits; the first is empty.
    places: Vec<u64>,
    blocks: usize,
    /// What a comparison works in.
    state: Vec<u64>,
}

impl Pattern {
    /// Makes an empty pattern for words below `vocabulary`.
    pub(crate) fn new(vocabulary: usize) -> Pattern {
        Pattern {
            length: 0,
            rows: vec![0; vocabulary],
            occurring: Vec::new(),
            places: Vec::new(),
            blocks: 0,
            state: Vec::new(),
        }
    }

    /// Takes another list. Every word is below the vocabulary.
    pub(crate) fn set(&mut self, words: &[u32]) {
        for word in self.occurring.drain(..) {
            self.rows[word as usize] = 0;
        }
        self.length = words.len();
        self.blocks = words.len().div_ceil(64);
        self.places.clear();
        self.places.resize(self.blocks, 0);
        for (place, &word) in words.iter().enumerate() {
            let row = &mut self.rows[word as usize];
            if *row == 0 {
                self.occurring.push(word);
                *row = self.occurring.len() as u32;
                self.places.resize(self.places.len() + self.blocks, 0);
            }
            self.places[*row as usize * self.blocks + place / 64] |= 1 << (place % 64);
        }
    }

    /// Returns how many words the longest common subsequence with another list has.
    pub(crate) fn common(&mut self, words: &[u32]) -> usize {
        match self.blocks {
            0 => 0,
            1 => self.common_in_one_block(words),
            _ => self.common_in_blocks(words),
        }
    }

    /// A place's bit falls to 0 where the subsequence grows.
    fn common_in_one_block(&self, words: &[u32]) -> usize {
        let mut state = u64::MAX;
        for &word in words {
            let places = self.places[self.rows[word as usize] as usize];
            state = state.wrapping_add(state & places) | (state & !places);
        }
        // Places beyond the list never match, but a carry may pass through them.
        let unused = 64 - self.length;
        ((!state) << unused).count_ones() as usize
    }

    fn common_in_blocks(&mut self, words: &[u32]) -> usize {
        self.state.clear();
        self.state.resize(self.blocks, u64::MAX);
        for &word in words {
            let row = self.rows[word as usize] as usize;
            if row == 0 {
                continue;
            }
            let places = &self.places[row * self.blocks..(row + 1) * self.blocks];
            let mut carry = false;
            for (state, &places) in self.state.iter_mut().zip(places) {
                let (sum, first) = state.overflowing_add(*state & places);
                let (sum, second) = sum.overflowing_add(u64::from(carry));
                carry = first || second;
                *state = sum | (*state & !places);
            }
        }
        let unused = self.blocks * 64 - self.length;
        let last = self.blocks - 1;
        let whole: u32 = self.state[..last].iter().map(|state| state.count_zeros()).sum();
        (whole + ((!self.state[last]) << unused).count_ones()) as usize
    }
}

#[cfg(test)]
mod tests {
    use aligner_sdk::Rng;

    use super::*;

    /// The textbook's table.
    fn table(a: &[u32], b: &[u32]) -> usize {
        let mut row = vec![0; b.len() + 1];
        for x in a {
            let mut diagonal = 0;
            for (j, y) in b.iter().enumerate() {
                let above = row[j + 1];
                row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
                diagonal = above;
            }
        }
        row[b.len()]
    }

    #[test]
    fn it_agrees_with_the_table_at_every_length() {
        let mut rng = Rng::new(5);
        let mut pattern = Pattern::new(300);
        for length in (0..70).chain([127, 128, 129, 192, 300]) {
            for vocabulary in [1, 2, 5, 40, 300] {
                let mut list = |length: usize| -> Vec<u32> {
                    (0..length).map(|_| rng.below(vocabulary) as u32).collect()
                };
                let a = list(length);
                pattern.set(&a);
                for b in [list(0), list(1), list(17), list(64), list(150), a.clone()] {
                    assert_eq!(pattern.common(&b), table(&a, &b), "{a:?} {b:?}");
                }
            }
        }
    }
}
