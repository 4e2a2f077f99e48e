//! Preference pairs: how often a model holds the chosen answer for the better one.

use super::figure::Figure;

/// What a model says of a pair: rewards, or logprobs in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Valued {
    /// Of the chosen answer.
    pub chosen: f64,
    /// Of the rejected one.
    pub rejected: f64,
    /// Words of the chosen answer.
    pub chosen_words: usize,
    /// Words of the rejected one.
    pub rejected_words: usize,
}

impl Valued {
    /// Returns by how much more the chosen answer is worth.
    pub fn margin(&self) -> f64 {
        self.chosen - self.rejected
    }
}

/// Returns the accuracy, in which equal values are a miss, as in TRL's `RewardTrainer`; the mean margin;
/// and how often the longer answer is worth more, of pairs whose lengths in words differ: beside the share
/// of these in which it was chosen, that shows a liking for length.
pub fn figures(valued: &[Valued]) -> Vec<Figure> {
    let margins: Vec<f64> = valued.iter().map(Valued::margin).collect();
    let right = margins.iter().filter(|margin| **margin > 0.0).count();
    let apart: Vec<&Valued> =
        valued.iter().filter(|one| one.chosen_words != one.rejected_words).collect();
    let longer_chosen = |one: &&&Valued| one.chosen_words > one.rejected_words;
    let prefers_longer = |one: &&&Valued| match longer_chosen(one) {
        true => one.margin() > 0.0,
        false => one.margin() < 0.0,
    };
    let share = |name, of: &dyn Fn(&&&Valued) -> bool| {
        Figure::share(name, apart.iter().filter(of).count(), apart.len())
    };
    vec![
        Figure::share("accuracy", right, valued.len()),
        Figure::mean("margin", &margins),
        share("prefers-longer", &prefers_longer),
        share("longer-chosen", &longer_chosen),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_counted() {
        let pair = |chosen, rejected, chosen_words, rejected_words| Valued {
            chosen,
            rejected,
            chosen_words,
            rejected_words,
        };
        let all = [
            pair(2.0, 1.0, 9, 5),
            pair(-1.0, 1.0, 4, 5),
            pair(0.5, 0.5, 7, 5),
            pair(0.0, -3.0, 5, 5),
            pair(1.0, 0.0, 3, 5),
        ];
        let found = figures(&all);
        let value = |name: &str| {
            let figure = found.iter().find(|figure| figure.name == name).unwrap();
            (figure.value.unwrap(), figure.n)
        };
        assert_eq!(value("accuracy"), (0.6, 5));
        assert_eq!(value("margin"), (0.6, 5));
        // The first and the second; neither of the third is worth more, and the last likes it short.
        assert_eq!(value("prefers-longer"), (0.5, 4));
        assert_eq!(value("longer-chosen"), (0.5, 4));
        assert!(figures(&[]).iter().all(|figure| figure.value.is_none()));
    }
}
