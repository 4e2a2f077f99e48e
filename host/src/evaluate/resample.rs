//! The bootstrap over counts: rows that are alike are drawn together, so its cost does not grow with
//! the rows.

use crate::measure::figure::Interval;
use crate::run::seed;

/// Samples that are drawn.
const RESAMPLES: u64 = 1000;

/// Returns the 95 % percentile interval of each of several numbers that are computed from counts of
/// rows; the same in every run. A sample in which a number is not finite says nothing of it; where that
/// are half of them or more, or there are fewer than two rows, the number has no interval.
pub fn intervals<const N: usize, const M: usize>(
    counts: &[u64; N],
    of: impl Fn(&[u64; N]) -> [f64; M],
) -> [Option<Interval>; M] {
    let n: u64 = counts.iter().sum();
    if n < 2 {
        return [None; M];
    }
    let mut values: [Vec<f64>; M] = std::array::from_fn(|_| Vec::new());
    let mut draws = Draws { seed: seed::of(["counts".into(), n.into()]), index: 0 };
    for _ in 0..RESAMPLES {
        for (values, value) in values.iter_mut().zip(of(&draws.multinomial(counts))) {
            if value.is_finite() {
                values.push(value);
            }
        }
    }
    values.map(|mut values| {
        if 2 * values.len() <= RESAMPLES as usize {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[(share * (values.len() - 1) as f64).round() as usize];
        Some(Interval { low: at(0.025), high: at(0.975) })
    })
}

/// Random numbers, one after the other.
struct Draws {
    seed: u64,
    index: u64,
}

impl Draws {
    fn next(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    /// Draws as many rows as there are, each as likely of a kind as its count says.
    fn multinomial<const N: usize>(&mut self, counts: &[u64; N]) -> [u64; N] {
        let (mut rows, mut left) = (counts.iter().sum::<u64>(), counts.iter().sum::<u64>());
        let draw = |&count: &u64| {
            let drawn = match left {
                0 => 0,
                left => self.binomial(rows, count as f64 / left as f64),
            };
            rows -= drawn;
            left -= count;
            drawn
        };
        let drawn: Vec<u64> = counts.iter().map(draw).collect();
        std::array::from_fn(|kind| drawn[kind])
    }

    /// Draws how many of `n` tries succeed. Where the normal distribution is near enough, by that one;
    /// else by the waiting times between successes.
    fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        if n == 0 || p <= 0.0 {
            return 0;
        }
        let variance = n as f64 * p * (1.0 - p);
        if variance > 100.0 {
            let drawn = n as f64 * p + variance.sqrt() * seed::normal(self.seed, self.next());
            return drawn.round().clamp(0.0, n as f64) as u64;
        }
        let scale = (-p).ln_1p();
        let (mut place, mut successes) = (0.0, 0);
        loop {
            let uniform = 1.0 - seed::uniform(self.seed, self.next());
            place += (uniform.ln() / scale).floor() + 1.0;
            if place > n as f64 {
                return successes;
            }
            successes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::figure;

    #[test]
    fn shares_have_about_wilsons_interval() {
        for counts in [[30, 70], [300, 700], [2, 998], [50_000, 50_000]] {
            let [found] = intervals(&counts, |c| [c[0] as f64 / (c[0] + c[1]) as f64]);
            let n = (counts[0] + counts[1]) as usize;
            let (found, wilson) = (found.unwrap(), figure::wilson(counts[0] as usize, n).unwrap());
            let room = 0.35 * (wilson.high - wilson.low);
            assert!((found.low - wilson.low).abs() < room, "{counts:?} {found:?} {wilson:?}");
            assert!((found.high - wilson.high).abs() < room, "{counts:?} {found:?} {wilson:?}");
        }
    }

    #[test]
    fn draws_have_the_mean_and_the_spread_of_their_distribution() {
        for (n, p) in [(10, 0.3), (50, 0.9), (400, 0.02), (100_000, 0.4)] {
            let mut draws = Draws { seed: 7, index: 0 };
            let drawn: Vec<f64> = (0..4000).map(|_| draws.binomial(n, p) as f64).collect();
            let mean = drawn.iter().sum::<f64>() / 4000.0;
            let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 3999.0;
            let expected = n as f64 * p * (1.0 - p);
            assert!((mean - n as f64 * p).abs() < 0.08 * expected.sqrt(), "{n} {p}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.12, "{n} {p}: {variance} {expected}");
        }
    }

    #[test]
    fn samples_have_as_many_rows() {
        let mut draws = Draws { seed: 1, index: 0 };
        for counts in [[0, 0, 0], [5, 0, 0], [1, 2, 3], [1000, 1, 70_000]] {
            let drawn = draws.multinomial(&counts);
            assert_eq!(drawn.iter().sum::<u64>(), counts.iter().sum::<u64>());
            assert!(drawn.iter().zip(counts).all(|(&drawn, count)| count > 0 || drawn == 0));
        }
    }

    #[test]
    fn what_is_mostly_undefined_has_no_interval() {
        assert_eq!(intervals(&[1, 0], |_| [1.0]), [None]);
        assert_eq!(intervals(&[5, 5], |_| [f64::NAN, 1.0]).map(|it| it.is_some()), [false, true]);
    }
}
