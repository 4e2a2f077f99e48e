//! LoRA adapters as data: they can be on, off or scaled, and never touch the weights under them.

use std::collections::BTreeMap;

use super::spec::{Linear, Spec};

/// The hyper-parameters of an adapter, under PEFT's names.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Probability that an input of `A` is zeroed in training.
    pub dropout: f64,
    /// Which linear layers of each block have a pair, in checkpoint order.
    pub target_modules: Vec<Linear>,
    /// Scale by `alpha / sqrt(r)` instead of `alpha / r`.
    pub use_rslora: bool,
}

impl LoraConfig {
    /// Returns what `B·A·x` is multiplied by.
    pub fn scale(&self) -> f64 {
        if self.use_rslora {
            self.alpha / (self.r as f64).sqrt()
        } else {
            self.alpha / self.r as f64
        }
    }
}

/// The two matrices beside one linear layer: `y = W·x + scale · B·(A·x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// `[r, in]`, row-major.
    pub a: Vec<f32>,
    /// `[out, r]`, row-major; rows in Hugging Face's order.
    pub b: Vec<f32>,
}

/// A LoRA adapter over every block of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Its hyper-parameters.
    pub config: LoraConfig,
    /// Keyed by block and layer, so every walk over it has the same order.
    pub pairs: BTreeMap<(usize, Linear), LoraPair>,
}

impl Adapter {
    /// Returns an adapter whose matrices are all zero, with the shapes that `spec` asks for.
    pub fn zeros(spec: &Spec, config: LoraConfig) -> Adapter {
        let mut pairs = BTreeMap::new();
        for layer in 0..spec.layers {
            for &linear in &config.target_modules {
                let (outputs, inputs) = spec.linear_shape(linear);
                let pair =
                    LoraPair { a: vec![0.0; config.r * inputs], b: vec![0.0; outputs * config.r] };
                pairs.insert((layer, linear), pair);
            }
        }
        Adapter { config, pairs }
    }
}
