//! Perplexity of trusted answers.

use super::figure::Figure;

/// What a model says of one trusted answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Sum over the answer's tokens and the end of the turn, in nats.
    pub logprob: f64,
    /// How many tokens these are, over 0.
    pub tokens: usize,
}

/// Returns `exp` of the mean negative logprob of a token over all answers, so long answers weigh more:
/// what a round's `perplexity` says. The interval is the bootstrap's over answers.
pub fn figures(scored: &[Scored]) -> Vec<Figure> {
    let of = |cases: &[usize]| {
        let logprob: f64 = cases.iter().map(|&case| scored[case].logprob).sum();
        let tokens: usize = cases.iter().map(|&case| scored[case].tokens).sum();
        (-logprob / tokens as f64).exp()
    };
    let tokens = scored.iter().map(|one| one.tokens).sum::<usize>();
    vec![
        Figure::resampled("perplexity", scored.len(), of),
        Figure::plain("tokens", Some(tokens as f64), scored.len()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_weigh_more() {
        // Six tokens, 5.4 nats; their mean is 0.9.
        let scored = [Scored { logprob: -4.0, tokens: 4 }, Scored { logprob: -1.4, tokens: 2 }];
        let found = figures(&scored);
        assert!((found[0].value.unwrap() - 0.9f64.exp()).abs() < 1e-12);
        let interval = found[0].interval.unwrap();
        assert!((interval.low - 0.7f64.exp()).abs() < 1e-12);
        assert!((interval.high - 1.0f64.exp()).abs() < 1e-12);
        assert_eq!(found[1].value, Some(6.0));
    }

    #[test]
    fn there_is_none_without_an_answer_or_past_what_a_number_holds() {
        assert_eq!(figures(&[])[0].value, None);
        let collapsed = [Scored { logprob: -1e6, tokens: 1 }; 2];
        assert_eq!(figures(&collapsed)[0].value, None);
    }
}
