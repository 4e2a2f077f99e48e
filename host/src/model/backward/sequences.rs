//! What goes through the model in a training pass.

use crate::model::backend::Segment;

/// Sequences that go through the model together, without padding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequences {
    /// Of all sequences, one after the other; what one shares with another is there once.
    pub tokens: Vec<u32>,
    /// Where the tokens of each sequence are.
    pub segments: Vec<Segment>,
    /// Rows whose next token is scored, ascending; of a reward model, the last row of each sequence.
    pub rows: Vec<usize>,
    /// That next token, for each of `rows`; none of a reward model.
    pub targets: Vec<u32>,
    /// Each sequence's seed for dropout.
    pub seeds: Vec<u64>,
}

impl Sequences {
    /// Adds a sequence; token `t` is scored where `scored[t]`, which position 0 never is.
    pub fn push(&mut self, tokens: &[u32], scored: &[bool], seed: u64) {
        self.branch(tokens, scored, 0, seed);
    }

    /// Adds a sequence whose first `shared` tokens are those of the sequence before, which shares none: they go through
    /// the model once for both. Neither they nor the token after them is scored.
    pub fn branch(&mut self, tokens: &[u32], scored: &[bool], shared: usize, seed: u64) {
        let first = self.tokens.len();
        for (t, _) in scored.iter().enumerate().skip(1).filter(|&(_, &scored)| scored) {
            assert!(t > shared, "token {t} is scored by a row of the sequence before");
            self.rows.push(first + t - 1 - shared);
            self.targets.push(tokens[t]);
        }
        self.add(tokens, shared, seed);
    }

    /// Adds a sequence whose last row a reward model's head reads, and which shares tokens as in
    /// [`branch`](Sequences::branch), but not all.
    pub fn branch_rewarded(&mut self, tokens: &[u32], shared: usize, seed: u64) {
        self.rows.push(self.tokens.len() + tokens.len() - 1 - shared);
        self.add(tokens, shared, seed);
    }

    fn add(&mut self, tokens: &[u32], shared: usize, seed: u64) {
        let stem = (shared > 0).then(|| {
            let before = self.segments.last().filter(|before| before.position == 0);
            let before = before.map_or(0, |before| before.rows);
            assert!(before >= shared, "the sequence before has what is shared, and shares nothing");
            self.tokens.len() - before
        });
        let rows = tokens.len() - shared;
        self.tokens.extend_from_slice(&tokens[shared..]);
        self.segments.push(Segment { rows, position: shared, pages: Vec::new(), stem });
        self.seeds.push(seed);
    }
}
