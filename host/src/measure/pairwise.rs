//! Answers of two sides, compared by a judge in both orders.

use super::figure::Figure;
use super::letters::BothOrders;

/// One comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// What the judge said; the first answer is the model's.
    pub both: BothOrders,
    /// Words of the model's answer.
    pub words: usize,
    /// Words of the answer that it is compared with.
    pub other_words: usize,
}

/// Returns what a judge is asked, with the request and the two answers in the places that they are
/// shown in.
pub fn judge_prompt(request: &str, a: &str, b: &str) -> String {
    format!(
        "Two assistants answered the same request. Say which answer serves the person who asked \
         better: it does what was asked, what it says is right, and it is clear and harmless. Being \
         longer makes an answer neither better nor worse, and neither does its place.\n\n\
         === Request ===\n{request}\n\n=== Answer A ===\n{a}\n\n=== Answer B ===\n{b}\n\n\
         === End ===\n\nWhich answer is better? Reply with one letter, A or B."
    )
}

impl Compared {
    /// Returns 1 for a win, 0.5 for a tie and 0 for a loss. Orders that disagree are a tie.
    pub fn score(&self) -> f64 {
        f64::from(self.both.agreed() + 1) / 2.0
    }

    /// Returns `win`, `tie` or `loss`.
    pub fn verdict(&self) -> &'static str {
        match self.both.agreed() {
            1 => "win",
            0 => "tie",
            _ => "loss",
        }
    }

    /// Returns whether neither answer has more than `ratio` times the words of the other one.
    fn matched(&self, ratio: f64) -> bool {
        let (less, more) = (self.words.min(self.other_words), self.words.max(self.other_words));
        more as f64 <= ratio * less as f64
    }
}

/// Returns wins, ties and losses; the win rate, in which a tie is half a win, over all and over those
/// whose lengths match within `ratio`; how often the letter A is preferred (0.5 where its place does not
/// matter) and how often the two orders disagree; and how often the longer answer wins where one does.
pub fn figures(compared: &[Compared], ratio: f64) -> Vec<Figure> {
    let count = |verdict: i8| compared.iter().filter(|one| one.both.agreed() == verdict).count();
    let scores = |of: &dyn Fn(&&Compared) -> bool| {
        compared.iter().filter(of).map(Compared::score).collect::<Vec<f64>>()
    };
    let prefers_a: Vec<f64> = compared.iter().map(|one| one.both.prefers_a() / 2.0).collect();
    let decided: Vec<&Compared> = compared
        .iter()
        .filter(|one| one.both.agreed() != 0 && one.words != one.other_words)
        .collect();
    let longer = |one: &&&Compared| (one.words > one.other_words) == (one.both.agreed() > 0);
    let n = compared.len();
    vec![
        Figure::share("win", count(1), n),
        Figure::share("tie", count(0), n),
        Figure::share("loss", count(-1), n),
        Figure::mean_share("win-rate", &scores(&|_| true)),
        Figure::mean_share("length-matched", &scores(&|one| one.matched(ratio))),
        Figure::mean_share("prefers-a", &prefers_a),
        Figure::share("longer-wins", decided.iter().filter(longer).count(), decided.len()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::letters::Letters;
    use super::*;

    fn compared(verdict: i8, words: usize, other_words: usize) -> Compared {
        let for_a = Letters { a: -1.0, b: -2.0 };
        let for_b = Letters { a: -2.0, b: -1.0 };
        let both = match verdict {
            1 => BothOrders { straight: for_a, swapped: for_b },
            -1 => BothOrders { straight: for_b, swapped: for_a },
            _ => BothOrders { straight: for_a, swapped: for_a },
        };
        Compared { both, words, other_words }
    }

    #[test]
    fn verdicts_are_counted() {
        let all = [
            compared(1, 100, 10),
            compared(1, 11, 10),
            compared(0, 10, 10),
            compared(-1, 10, 12),
            compared(-1, 30, 10),
        ];
        assert_eq!(all.map(|one| one.verdict()), ["win", "win", "tie", "loss", "loss"]);
        let found = figures(&all, 1.25);
        let value = |name: &str| {
            let figure = found.iter().find(|figure| figure.name == name).unwrap();
            (figure.value.unwrap(), figure.n)
        };
        assert_eq!(value("win"), (0.4, 5));
        assert_eq!(value("tie"), (0.2, 5));
        assert_eq!(value("loss"), (0.4, 5));
        assert_eq!(value("win-rate"), (0.5, 5));
        // 11 and 10, 10 and 10, 10 and 12: a win, a tie, a loss.
        assert_eq!(value("length-matched"), (0.5, 3));
        // One of two is A but for the tie, where both are.
        assert_eq!(value("prefers-a"), (0.6, 5));
        // The longer one won in 100:10, 11:10 and 10:12; not in 30:10.
        assert_eq!(value("longer-wins"), (0.75, 4));
        assert!(figures(&[], 1.25).iter().all(|figure| figure.value.is_none()));
    }

    #[test]
    fn empty_answers_match_empty_ones() {
        assert!(compared(0, 0, 0).matched(1.25));
        assert!(!compared(0, 1, 0).matched(1.25));
        assert!(compared(0, 5, 4).matched(1.25));
    }

    #[test]
    fn prompts_show_what_stands_where() {
        let prompt = judge_prompt("why?", "x1", "y2");
        let parts = ["why?", "Answer A", "x1", "Answer B", "y2", "one letter"];
        assert!(parts.map(|part| prompt.find(part).unwrap()).is_sorted(), "{prompt}");
    }
}
