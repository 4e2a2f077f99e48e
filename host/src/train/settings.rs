//! How to train, and on what: what the caller decides, checked once.

use serde::{Deserialize, Serialize};

use super::items::ItemProblem;
use crate::model::backend::AnyDevice;
use crate::model::spec::Spec;

/// One sequence to learn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Named in errors, and part of the key of its dropout draws.
    pub id: String,
    /// The whole sequence: prompt, completion and end of turn.
    pub tokens: Vec<u32>,
    /// As long as `tokens`. Where true, this token is a target, predicted from those before it.
    pub trained: Vec<bool>,
}

impl Example {
    /// Returns how many tokens are targets.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().filter(|&&trained| trained).count()
    }
}

/// Hyper-parameters of training, under Hugging Face's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// Peak of the schedule; positive.
    pub learning_rate: f64,
    /// How often each example is seen; positive, and may end within an epoch.
    pub num_train_epochs: f64,
    /// Examples in a batch; at least 1.
    pub per_device_train_batch_size: usize,
    /// Batches in an optimiser step; at least 1. Only the product with the batch size matters: the
    /// last step of an epoch takes what is left.
    pub gradient_accumulation_steps: usize,
    /// Part of the steps in which the learning rate rises from 0; in 0..=1.
    pub warmup_ratio: f64,
    /// How the learning rate falls afterwards.
    pub lr_scheduler_type: LrSchedulerType,
    /// Decoupled weight decay of AdamW, times the learning rate; not negative.
    pub weight_decay: f64,
    /// Decay of the first moment; in 0..1.
    pub adam_beta1: f64,
    /// Decay of the second moment; in 0..1.
    pub adam_beta2: f64,
    /// Added to the root of the second moment; positive.
    pub adam_epsilon: f64,
    /// Gradients with a longer global norm are scaled down to it; 0 turns this off.
    pub max_grad_norm: f64,
    /// Draws a new order for each epoch; otherwise the examples' own order is kept, as a curriculum
    /// needs.
    pub shuffle: bool,
    /// Seed of orders and dropout.
    pub seed: u64,
    /// Most tokens that go through the model at once; a longer example goes alone. Bounds memory, and
    /// changes the update by no more than rounding.
    pub micro_batch_tokens: usize,
    /// Keeps only the input of each block and computes the rest again in the backward pass: less
    /// memory, about a third more work, and the same result bit for bit.
    pub gradient_checkpointing: bool,
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedulerType {
    /// Along half a cosine, to 0.
    Cosine,
    /// Along a line, to 0.
    Linear,
    /// Not at all.
    Constant,
}

impl Default for TrainSettings {
    /// Hugging Face's defaults, but for a learning rate that suits adapters and a cosine.
    fn default() -> Self {
        TrainSettings {
            learning_rate: 1e-4,
            num_train_epochs: 1.0,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            warmup_ratio: 0.0,
            lr_scheduler_type: LrSchedulerType::Cosine,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            shuffle: false,
            seed: 0,
            micro_batch_tokens: 1024,
            gradient_checkpointing: false,
        }
    }
}

impl TrainSettings {
    /// Returns how many tokens go through the model at once on a device where nothing else is asked for: a GPU
    /// has too little to do with few.
    pub fn micro_batch_tokens_on(device: &AnyDevice) -> usize {
        if device.shares_memory() { 1024 } else { 4096 }
    }

    /// Checks every number's range; what holds for several together needs no check.
    pub fn check(&self) -> Result<(), SettingsError> {
        let decay = 0.0..1.0;
        let finite = |value: f64| value.is_finite();
        let checks: [(&'static str, f64, &'static str, bool); 11] = [
            ("learning_rate", self.learning_rate, "a positive number", self.learning_rate > 0.0),
            (
                "num_train_epochs",
                self.num_train_epochs,
                "a positive number",
                self.num_train_epochs > 0.0,
            ),
            (
                "per_device_train_batch_size",
                self.per_device_train_batch_size as f64,
                "at least 1",
                self.per_device_train_batch_size > 0,
            ),
            (
                "gradient_accumulation_steps",
                self.gradient_accumulation_steps as f64,
                "at least 1",
                self.gradient_accumulation_steps > 0,
            ),
            (
                "warmup_ratio",
                self.warmup_ratio,
                "a number from 0 to 1",
                (0.0..=1.0).contains(&self.warmup_ratio),
            ),
            ("weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0.0),
            (
                "adam_beta1",
                self.adam_beta1,
                "a number from 0 to below 1",
                decay.contains(&self.adam_beta1),
            ),
            (
                "adam_beta2",
                self.adam_beta2,
                "a number from 0 to below 1",
                decay.contains(&self.adam_beta2),
            ),
            ("adam_epsilon", self.adam_epsilon, "a positive number", self.adam_epsilon > 0.0),
            (
                "max_grad_norm",
                self.max_grad_norm,
                "0 (no clipping) or more",
                self.max_grad_norm >= 0.0,
            ),
            (
                "micro_batch_tokens",
                self.micro_batch_tokens as f64,
                "at least 1",
                self.micro_batch_tokens > 0,
            ),
        ];
        match checks.into_iter().find(|&(_, value, _, ok)| !ok || !finite(value)) {
            None => Ok(()),
            Some((name, value, expected, _)) => Err(SettingsError::Range { name, value, expected }),
        }
    }

    /// Returns how many examples an optimiser step takes.
    pub fn examples_per_step(&self) -> usize {
        self.per_device_train_batch_size.saturating_mul(self.gradient_accumulation_steps)
    }
}

/// Checks that a model of this shape can learn from every example.
pub fn check_examples(examples: &[Example], spec: &Spec) -> Result<(), SettingsError> {
    if examples.is_empty() {
        return Err(SettingsError::NoExamples);
    }
    for example in examples {
        let Example { id, tokens, trained } = example;
        let beyond = tokens.iter().find(|&&token| token as usize >= spec.vocab);
        let message = if tokens.len() != trained.len() {
            format!("has {} tokens and {} marks", tokens.len(), trained.len())
        } else if trained.first() == Some(&true) {
            "trains its first token, which nothing predicts".to_owned()
        } else if example.trained_tokens() == 0 {
            "has no token to train".to_owned()
        } else if tokens.len() > spec.context_length {
            format!("has {} tokens, the model reads {}", tokens.len(), spec.context_length)
        } else if let Some(token) = beyond {
            format!("holds token {token}, the model has {}", spec.vocab)
        } else {
            continue;
        };
        return Err(SettingsError::Example { id: id.clone(), message });
    }
    Ok(())
}

/// Why nothing can be trained so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// A number is out of its range.
    #[error("`{name}` is {value}, expected {expected}")]
    Range {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// There is nothing to learn from.
    #[error("there is no example to train on")]
    NoExamples,
    /// There is nothing to compare.
    #[error("there is no item to train on")]
    NoItems,
    /// An item cannot be learnt from.
    #[error("item `{id}`: {problem}")]
    Item {
        /// Its id.
        id: String,
        /// What is wrong with it.
        problem: ItemProblem,
    },
    /// There are more or fewer reference logprobs than items.
    #[error("there are reference logprobs for {found} items, and {expected} items")]
    References {
        /// For how many.
        found: usize,
        /// For how many there should be.
        expected: usize,
    },
    /// An example cannot be learnt from.
    #[error("example `{id}` {message}")]
    Example {
        /// Its id.
        id: String,
        /// What is wrong with it.
        message: String,
    },
}
