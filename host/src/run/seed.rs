//! Where every random number comes from.
//!
//! A number is a pure function of a key and an index: the run's seed, the round, the stage, the
//! record and the sample make the key, so neither batch size nor thread count nor a resumed run
//! changes a draw. Nothing else in the program makes random numbers.

use sha2::{Digest, Sha256};

/// A part of a key. Parts are hashed with their lengths, so `("a", "bc")` and `("ab", "c")` differ.
pub enum Part<'a> {
    /// A number such as the round.
    Number(u64),
    /// A name such as the stage or a record's id.
    Name(&'a str),
}

impl From<u64> for Part<'_> {
    fn from(number: u64) -> Self {
        Part::Number(number)
    }
}

impl From<u32> for Part<'_> {
    fn from(number: u32) -> Self {
        Part::Number(number.into())
    }
}

impl<'a> From<&'a str> for Part<'a> {
    fn from(name: &'a str) -> Self {
        Part::Name(name)
    }
}

/// Returns the seed for a place in the run, for example
/// `seed::of([run_seed.into(), round.into(), "generate".into(), record_id.into()])`.
pub fn of<'a>(parts: impl IntoIterator<Item = Part<'a>>) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        match part {
            Part::Number(number) => {
                hash.update([0]);
                hash.update(number.to_le_bytes());
            }
            Part::Name(name) => {
                hash.update([1]);
                hash.update((name.len() as u64).to_le_bytes());
                hash.update(name.as_bytes());
            }
        }
    }
    let digest = hash.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// Returns 64 random bits for draw number `index` under `seed` (SplitMix64's output function over a
/// Weyl sequence: equidistributed, and any index can be had without the ones before it).
pub fn bits(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns a number in [0, 1), uniform over multiples of 2⁻⁵³.
pub fn uniform(seed: u64, index: u64) -> f64 {
    (bits(seed, index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Returns a number of the standard normal distribution (Box and Muller: of two uniform ones, so numbers of
/// different indices share none).
pub fn normal(seed: u64, index: u64) -> f64 {
    let index = 2 * index;
    // The logarithm of 0 would be none.
    let length = (-2.0 * (1.0 - uniform(seed, index)).ln()).sqrt();
    length * (std::f64::consts::TAU * uniform(seed, index + 1)).cos()
}

/// Puts `items` in a random order (Fisher–Yates, from the end).
pub fn shuffle<T>(seed: u64, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        // The product of a 64-bit draw and a length below 2³² has a bias under 2⁻³².
        let j = ((bits(seed, i as u64) as u128 * (i as u128 + 1)) >> 64) as usize;
        items.swap(i, j);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_places_apart() {
        let seed = |parts: [&str; 2]| of(parts.map(Part::from));
        assert_ne!(seed(["a", "bc"]), seed(["ab", "c"]));
        assert_ne!(of([1u64.into(), 2u64.into()]), of([2u64.into(), 1u64.into()]));
        assert_eq!(seed(["a", "b"]), seed(["a", "b"]));
    }

    #[test]
    fn draws_do_not_change_between_releases() {
        // A change here changes every run: raise the run format's version with it.
        assert_eq!(bits(17, 0), 0x8084_75f0_2ee3_7363);
        assert!((0..1000).all(|i| (0.0..1.0).contains(&uniform(17, i))));
    }

    #[test]
    fn uniform_draws_are_uniform() {
        let mean = (0..100_000).map(|i| uniform(3, i)).sum::<f64>() / 100_000.0;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_depends_on_the_seed() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..50).collect();
            shuffle(seed, &mut items);
            items
        };
        let mut sorted = shuffled(1);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_ne!(shuffled(1), shuffled(2));
    }
}
