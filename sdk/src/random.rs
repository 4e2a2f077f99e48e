/// A small generator of random numbers, equal on every machine and in every release: SplitMix64.
///
/// ```
/// use aligner_sdk::Rng;
///
/// let mut rng = Rng::new(17);
/// let mut cards = ["a", "b", "c", "d"];
/// rng.shuffle(&mut cards);
/// let two_of_five = rng.choose(2, 5);
/// assert_eq!(two_of_five.len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// Starts the sequence of `seed`. Equal seeds give equal sequences.
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed }
    }

    /// Returns 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in [0, 1), uniform over multiples of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Returns a number below `n`, each equally likely (to 2⁻³² for any `n` below 2³²); 0 where `n`
    /// is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Returns `k` different indices below `n` in random order, or all of them where `k` is larger.
    pub fn choose(&mut self, k: usize, n: usize) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..n).collect();
        let k = k.min(n);
        for i in 0..k {
            indices.swap(i, i + self.below(n - i));
        }
        indices.truncate(k);
        indices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_does_not_change_between_releases() {
        let mut rng = Rng::new(17);
        assert_eq!([rng.bits(), rng.bits()], [0x8084_75f0_2ee3_7363, 0x6434_ff62_b4e8_edd1]);
    }

    #[test]
    fn every_bit_of_a_seed_counts() {
        let mut rng = Rng::new(0xf123_4567_fedc_ba99);
        assert_eq!((rng.bits(), rng.below(1000)), (0xe554_70e7_6bfb_22e9, 764));
    }

    #[test]
    fn choices_are_distinct_and_uniform() {
        let mut rng = Rng::new(3);
        let mut counts = [0; 8];
        for _ in 0..8000 {
            let chosen = rng.choose(2, 8);
            assert_ne!(chosen[0], chosen[1]);
            chosen.iter().for_each(|&i| counts[i] += 1);
        }
        assert!(counts.iter().all(|count| (1850..2150).contains(count)), "{counts:?}");
        assert!(rng.choose(5, 0).is_empty());
        let mut all = rng.choose(9, 4);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::new(1).shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        Rng::new(1).shuffle::<u8>(&mut []);
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut rng = Rng::new(9);
        assert_eq!(rng.below(0), 0);
        assert!((0..1000).all(|_| rng.below(3) < 3 && (0.0..1.0).contains(&rng.uniform())));
    }
}
