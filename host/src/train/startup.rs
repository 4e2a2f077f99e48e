//! The proof, at the start of training, that every tensor learns.
//!
//! An operation without a backward pass cuts gradients silently; what is behind the cut would stay as
//! it is while the loss falls a little. So the first steps look at every tensor.

use serde::{Deserialize, Serialize};

/// What is still to be proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Startup {
    /// Updates so far that could have moved every tensor but for the zeros it started with.
    updates: u32,
    /// Those of them with about the whole learning rate.
    #[serde(default)]
    whole_updates: u32,
    /// Names of the tensors that no gradient has moved yet.
    unmoved: Vec<String>,
}

/// What one step did to one tensor.
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Whether it is of a pair whose other matrix is all zero, so that its gradient must be.
    pub(super) partner_is_zero: bool,
    pub(super) gradient_is_zero: bool,
    pub(super) moved: bool,
}

/// Updates after which everything must have moved: `B` by the first, `A` by the second, as its
/// gradient is zero for as long as `B` is.
const UPDATES: u32 = 2;

/// The learning rate of a step. The first of a long warm-up are so small that in f32 a number of 1 stays
/// what it is, which says nothing of whether it learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rate {
    /// Nothing moves.
    Zero,
    /// Less than half of the peak.
    Part,
    /// At least half of it.
    Whole,
}

impl Rate {
    pub(super) fn of(rate: f64, peak: f64) -> Rate {
        match rate {
            rate if rate <= 0.0 => Rate::Zero,
            rate if rate < 0.5 * peak => Rate::Part,
            _ => Rate::Whole,
        }
    }
}

impl Startup {
    pub(super) fn new(names: Vec<String>) -> Startup {
        Startup { updates: 0, whole_updates: 0, unmoved: names }
    }

    /// Returns whether all is proved.
    pub(super) fn is_done(&self) -> bool {
        self.unmoved.is_empty()
    }

    /// Returns whether a step at this rate would prove something more. In a long warm-up what has not
    /// moved in the first updates is left alone until its end: looking costs a copy of every tensor.
    pub(super) fn wants(&self, rate: Rate) -> bool {
        !self.is_done() && (rate == Rate::Whole || self.updates < UPDATES)
    }

    /// Takes note of a step, counted from 1.
    pub(super) fn observe(
        &mut self,
        step: u64,
        rate: Rate,
        seen: &[Seen],
    ) -> Result<(), StartupError> {
        let cut: Vec<&Seen> =
            seen.iter().filter(|s| s.gradient_is_zero && !s.partner_is_zero).collect();
        if let Some(first) = cut.first() {
            let (name, shape) = (first.name.clone(), first.shape.clone());
            return Err(StartupError::NoGradient {
                count: cut.len(),
                all: seen.len(),
                step,
                name,
                shape,
            });
        }
        if rate == Rate::Zero {
            return Ok(());
        }
        self.updates += 1;
        self.whole_updates += u32::from(rate == Rate::Whole);
        let moved =
            |name: &String| seen.iter().any(|s| s.name == *name && s.moved && !s.gradient_is_zero);
        self.unmoved.retain(|name| !moved(name));
        match self.unmoved.first().and_then(|name| seen.iter().find(|s| s.name == *name)) {
            Some(first) if self.whole_updates >= UPDATES => Err(StartupError::Unmoved {
                count: self.unmoved.len(),
                all: seen.len(),
                updates: self.whole_updates,
                name: first.name.clone(),
                shape: first.shape.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// Something does not learn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The loss does not reach some tensors.
    #[error(
        "{count} of {all} trainable tensors got no gradient in step {step}\n  \
         the first is `{name}` {shape:?}\n\n\
         hint: a weight between these tensors and the loss is zero, or an operation there has no \
         backward pass"
    )]
    NoGradient {
        /// How many.
        count: usize,
        /// Of how many.
        all: usize,
        /// In which step, from 1.
        step: u64,
        /// Name of the first.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Updates leave some tensors as they were.
    #[error(
        "{count} of {all} trainable tensors did not move in {updates} updates at the whole rate\n  \
         the first is `{name}` {shape:?}\n\n\
         hint: `learning_rate` may be too small to change a number in f32"
    )]
    Unmoved {
        /// How many.
        count: usize,
        /// Of how many.
        all: usize,
        /// How many updates there were.
        updates: u32,
        /// Name of the first.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
}
