//! Why an adapter does not fit.

use super::PairConfig;

/// Why an adapter does not fit.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum AdapterError {
    /// No layer.
    #[error("an adapter needs at least one target module, and these match none of the model")]
    Empty,
    /// A rank of 0, or an `alpha` that is no number.
    #[error(
        "rank {r} and alpha {alpha} for `{path}` give no scale, expected a rank of at least 1 and a finite alpha"
    )]
    Rank {
        /// Path of the layer.
        path: String,
        /// Its rank.
        r: usize,
        /// Its `alpha`.
        alpha: f64,
    },
    /// A target module that the model does not have.
    #[error("no linear layer of the model's blocks is `{name}`, which `target_modules` names")]
    NoModule {
        /// As it was named.
        name: String,
    },
    /// A regular expression matches more than linear layers of blocks.
    #[error("`target_modules` `{pattern}` matches `{path}`, which cannot have a pair")]
    OtherModule {
        /// The expression.
        pattern: String,
        /// The first such module.
        path: String,
    },
    /// Not a regular expression, or one that takes too many steps.
    #[error("`{key}` `{pattern}` is no regular expression: {message}")]
    Pattern {
        /// Which setting.
        key: &'static str,
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        message: String,
    },
    /// A pattern for ranks or for `alpha` does nothing.
    #[error("`{key}` `{pattern}` matches no target module of the model")]
    UnusedPattern {
        /// Which setting.
        key: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// A pair has another rank or scale than the settings say.
    #[error("adapter tensor `{name}` has rank {} and scale {}, its settings say {r} and {scale}", found.r, found.scale)]
    Config {
        /// Name of the tensor.
        name: String,
        /// What the pair has.
        found: PairConfig,
        /// Rank by the settings.
        r: usize,
        /// Scale by the settings.
        scale: f64,
    },
    /// Not a probability below 1.
    #[error("dropout of an adapter is {dropout}, expected a number from 0 to below 1")]
    Dropout {
        /// What was given.
        dropout: f64,
    },
    /// A target module has no pair.
    #[error("adapter has no tensor `{name}`, which its target modules and the model ask for")]
    Missing {
        /// Name of the tensor.
        name: String,
    },
    /// A matrix has another size.
    #[error("adapter tensor `{name}` has {found} numbers, the model needs {expected}")]
    Length {
        /// Name of the tensor.
        name: String,
        /// How many numbers it has.
        found: usize,
        /// How many it should have.
        expected: usize,
    },
    /// A reward model, which was to become a model.
    #[error(
        "an adapter with the head of a reward model is no part of a model that writes: merged it would be a \
         sequence classifier\n\nhint: use it as it is, or merge it with PEFT under \
         `AutoModelForSequenceClassification`"
    )]
    Merged,
    /// A reward model, whose effect was to be another.
    #[error(
        "an adapter with the head of a reward model has one strength: its head was trained for that\n\n\
         hint: extrapolate the policy, or train the reward model for longer"
    )]
    Scaled,
    /// A number is too large once it is scaled.
    #[error("adapter tensor `{name}` times {factor:?} is no finite number at position {position}")]
    Overflow {
        /// Name of the tensor.
        name: String,
        /// What it was multiplied by.
        factor: f64,
        /// Index of the number in it, row-major.
        position: usize,
    },
    /// A pair stands beside a layer that the model has not, or that is no target module.
    #[error("adapter tensor `{name}` belongs to no target module of the model")]
    Stray {
        /// Name of the tensor.
        name: String,
    },
}
