//! Two answers behind the letters A and B, shown in both orders: which one a model prefers by the
//! logprobs of the letters.

/// The logprobs of the letters in nats, in one order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letters {
    /// Of `A`.
    pub a: f64,
    /// Of `B`.
    pub b: f64,
}

/// What a model said of two answers: with the first one as A, and with it as B.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BothOrders {
    /// The first answer is A.
    pub straight: Letters,
    /// The first answer is B.
    pub swapped: Letters,
}

impl BothOrders {
    /// Returns by how many nats the first answer is preferred over both orders together; a liking for
    /// one of the letters cancels out.
    pub fn margin(&self) -> f64 {
        (self.straight.a + self.swapped.b) - (self.straight.b + self.swapped.a)
    }

    /// Returns how often out of two the letter A was preferred; equal logprobs count one half. Over many
    /// comparisons the mean is 1 where the letters alone do not matter.
    pub fn prefers_a(&self) -> f64 {
        [self.straight, self.swapped].iter().map(|letters| half_steps(letters.a, letters.b)).sum()
    }

    /// Returns 1 where both orders prefer the first answer, -1 where both prefer the second, and 0 where
    /// they disagree or an order prefers neither.
    pub fn agreed(&self) -> i8 {
        let straight = half_steps(self.straight.a, self.straight.b);
        let swapped = half_steps(self.swapped.b, self.swapped.a);
        match (straight, swapped) {
            (1.0, 1.0) => 1,
            (0.0, 0.0) => -1,
            _ => 0,
        }
    }
}

fn half_steps(ours: f64, theirs: f64) -> f64 {
    match ours.total_cmp(&theirs) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_agree_or_not() {
        let check = |straight: [f64; 2], swapped: [f64; 2], expected: (i8, f64, f64)| {
            let letters = |[a, b]: [f64; 2]| Letters { a, b };
            let both = BothOrders { straight: letters(straight), swapped: letters(swapped) };
            assert_eq!((both.agreed(), both.prefers_a(), both.margin()), expected);
        };
        check([-1.0, -2.0], [-3.0, -1.0], (1, 1.0, 3.0));
        check([-2.0, -1.0], [-1.0, -3.0], (-1, 1.0, -3.0));
        // A liking for A: the orders disagree, and the margin is what is left.
        check([-1.0, -3.0], [-1.0, -2.0], (0, 2.0, 1.0));
        check([-1.0, -1.0], [-2.0, -1.0], (0, 0.5, 1.0));
        check([-1.0, -1.0], [-1.0, -1.0], (0, 1.0, 0.0));
    }
}
