//! Means over seeds with their spread, and whether a direction is the paper's.

use super::experiment::Side;

/// A mean over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Sample standard deviation; none of a single seed.
    pub spread: Option<f64>,
    /// Seeds.
    pub seeds: usize,
}

impl Mean {
    /// Returns the mean of the values; none of nothing.
    pub fn of(values: &[f64]) -> Option<Mean> {
        let seeds = values.len();
        if seeds == 0 {
            return None;
        }
        let value = values.iter().sum::<f64>() / seeds as f64;
        let spread = (seeds > 1).then(|| {
            let squares: f64 = values.iter().map(|x| (x - value).powi(2)).sum();
            (squares / (seeds - 1) as f64).sqrt()
        });
        Some(Mean { value, spread, seeds })
    }

    /// Shows it with so many digits behind the point.
    pub fn shown(self, digits: usize) -> String {
        match self.spread {
            Some(spread) => format!("{:.digits$} ± {spread:.digits$}", self.value),
            None => format!("{:.digits$}", self.value),
        }
    }
}

/// What is to be said of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the paper's.
    Agrees,
    /// It is the other one.
    Disagrees,
    /// The difference is too small to mean anything.
    TooSmall,
    /// The seeds differ too much among themselves.
    Noise,
    /// A row of it trained nothing, and so is the initial model.
    Untrained,
    /// A row of it is not finished.
    Unfinished,
}

/// A verdict with the difference that it rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// What is to be said.
    pub verdict: Verdict,
    /// The row less what it is compared with, over the seeds that have both.
    pub difference: Option<Mean>,
}

/// Compares a row with another, seed by seed.
///
/// `pairs` has both numbers of each seed that has finished both; `tells` is what a difference must be
/// over to mean anything. With several seeds it must also be over the half-width of the 95 % interval of
/// the paired differences; of a single seed that cannot be known.
pub fn compare(pairs: &[(f64, f64)], is: Side, tells: f64) -> Told {
    let differences: Vec<f64> = pairs.iter().map(|(row, than)| row - than).collect();
    let Some(mean) = Mean::of(&differences) else {
        return Told { verdict: Verdict::Unfinished, difference: None };
    };
    let towards = match is {
        Side::Lower => -mean.value,
        Side::Higher => mean.value,
    };
    let half_width = mean
        .spread
        .map_or(0.0, |spread| student(mean.seeds - 1) * spread / (mean.seeds as f64).sqrt());
    let verdict = if mean.value.abs() <= tells {
        Verdict::TooSmall
    } else if mean.value.abs() <= half_width {
        Verdict::Noise
    } else if towards > 0.0 {
        Verdict::Agrees
    } else {
        Verdict::Disagrees
    };
    Told { verdict, difference: Some(mean) }
}

/// Student's t that 95 % lie within, by degrees of freedom; from ten on that of ten, which is wider.
fn student(freedom: usize) -> f64 {
    const T: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    T[freedom.clamp(1, T.len()) - 1]
}
