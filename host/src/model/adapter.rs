//! LoRA adapters as data: they can be on, off or scaled, and never touch the weights under them.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::spec::{Linear, Spec};
use crate::run::seed;

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

    /// Returns a fresh adapter as PEFT starts one: it changes nothing yet, because every `B` is zero,
    /// and every `A` is uniform in ±1/√in (Kaiming with a = √5).
    ///
    /// Each matrix draws from `seed` and its own name, so the same layer starts equally whichever
    /// other layers are trained.
    pub fn init(spec: &Spec, config: LoraConfig, seed: u64) -> Adapter {
        let mut adapter = Adapter::zeros(spec, config);
        for (&(layer, linear), pair) in &mut adapter.pairs {
            let (_, inputs) = spec.linear_shape(linear);
            let bound = 1.0 / (inputs as f64).sqrt();
            let name = tensor_name(layer, linear, Matrix::A);
            let key = seed::of([seed.into(), "adapter".into(), name.as_str().into()]);
            for (i, value) in pair.a.iter_mut().enumerate() {
                *value = ((2.0 * seed::uniform(key, i as u64) - 1.0) * bound) as f32;
            }
        }
        adapter
    }

    /// Walks over the matrices in the order of their keys, `A` before `B`.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        let r = self.config.r;
        self.pairs.iter().flat_map(move |(&(layer, linear), pair)| {
            [(Matrix::A, &pair.a), (Matrix::B, &pair.b)].map(|(matrix, values)| {
                let shape = match matrix {
                    Matrix::A => [r, values.len() / r],
                    Matrix::B => [values.len() / r, r],
                };
                Tensor { name: tensor_name(layer, linear, matrix), shape, values }
            })
        })
    }

    /// Returns a digest of hyper-parameters, names, shapes and every bit of the matrices, as
    /// 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        let LoraConfig { r, alpha, dropout, target_modules: _, use_rslora } = &self.config;
        let mut hash = Sha256::new();
        hash.update((*r as u64).to_le_bytes());
        hash.update(alpha.to_le_bytes());
        hash.update(dropout.to_le_bytes());
        hash.update([u8::from(*use_rslora)]);
        for Tensor { name, shape, values } in self.tensors() {
            hash.update(format!("{name} {shape:?}\n"));
            for value in values {
                hash.update(value.to_le_bytes());
            }
        }
        format!("{:x}", hash.finalize())
    }

    /// Checks that the adapter has a pair for each of its target modules in each block of `spec`,
    /// and none besides, all of the right shape.
    pub fn check(&self, spec: &Spec) -> Result<(), AdapterError> {
        let LoraConfig { r, dropout, target_modules, .. } = &self.config;
        if *r == 0 || target_modules.is_empty() {
            return Err(AdapterError::Empty);
        }
        if !(0.0..1.0).contains(dropout) {
            return Err(AdapterError::Dropout { dropout: *dropout });
        }
        for layer in 0..spec.layers {
            for &linear in target_modules {
                let (outputs, inputs) = spec.linear_shape(linear);
                let name = |matrix| tensor_name(layer, linear, matrix);
                let Some(pair) = self.pairs.get(&(layer, linear)) else {
                    return Err(AdapterError::Missing { name: name(Matrix::A) });
                };
                for (matrix, values, expected) in
                    [(Matrix::A, &pair.a, r * inputs), (Matrix::B, &pair.b, outputs * r)]
                {
                    if values.len() != expected {
                        let (name, found) = (name(matrix), values.len());
                        return Err(AdapterError::Length { name, found, expected });
                    }
                }
            }
        }
        let stray = |&&(layer, linear): &&(usize, Linear)| {
            layer >= spec.layers || !target_modules.contains(&linear)
        };
        match self.pairs.keys().find(stray) {
            Some(&(layer, linear)) => {
                Err(AdapterError::Stray { name: tensor_name(layer, linear, Matrix::A) })
            }
            None => Ok(()),
        }
    }
}

/// One matrix of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// For example `model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// `[r, in]` or `[out, r]`.
    pub shape: [usize; 2],
    /// Row-major.
    pub values: &'a [f32],
}

/// Which matrix of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Matrix {
    /// `[r, in]`
    A,
    /// `[out, r]`
    B,
}

/// Returns a matrix's name, for example `model.layers.0.self_attn.q_proj.lora_A.weight`.
pub fn tensor_name(layer: usize, linear: Linear, matrix: Matrix) -> String {
    let letter = match matrix {
        Matrix::A => 'A',
        Matrix::B => 'B',
    };
    format!("model.layers.{layer}.{}.lora_{letter}.weight", linear.path())
}

/// Why an adapter does not fit.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum AdapterError {
    /// Rank 0, or no layer.
    #[error("an adapter needs a rank of at least 1 and at least one target module")]
    Empty,
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
    /// A pair stands beside a layer that the model has not, or that is no target module.
    #[error("adapter tensor `{name}` belongs to no target module of the model")]
    Stray {
        /// Name of the tensor.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::{Rope, RopeScaling};

    fn spec() -> Spec {
        Spec {
            layers: 2,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            intermediate: 96,
            vocab: 256,
            rms_norm_eps: 1e-5,
            rope: Rope { theta: 1e4, scaling: RopeScaling::None },
            attention_bias: false,
            qk_norm: false,
            sliding_windows: Vec::new(),
            tied_embeddings: true,
            context_length: 128,
        }
    }

    fn config(target_modules: &[Linear]) -> LoraConfig {
        let target_modules = target_modules.to_vec();
        LoraConfig { r: 4, alpha: 8.0, dropout: 0.0, target_modules, use_rslora: false }
    }

    #[test]
    fn a_fresh_adapter_changes_nothing_and_fills_its_bound() {
        let adapter = Adapter::init(&spec(), config(&Linear::ALL), 17);
        assert_eq!(adapter.check(&spec()), Ok(()));
        assert_eq!(adapter.tensors().count(), 2 * 7 * 2);
        for (&(_, linear), pair) in &adapter.pairs {
            let bound = 1.0 / (spec().linear_shape(linear).1 as f32).sqrt();
            let largest = pair.a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert!((0.9 * bound..=bound).contains(&largest), "{linear:?} {largest}");
            let rms = (pair.a.iter().map(|x| x * x).sum::<f32>() / pair.a.len() as f32).sqrt();
            assert!((rms * 3f32.sqrt() / bound - 1.0).abs() < 0.15, "{linear:?} {rms}");
            assert!(pair.b.iter().all(|&x| x == 0.0));
        }
    }

    #[test]
    fn a_layer_starts_the_same_whatever_else_is_trained() {
        let all = Adapter::init(&spec(), config(&Linear::ALL), 17);
        let few = Adapter::init(&spec(), config(&[Linear::V]), 17);
        assert!(few.pairs.iter().all(|(key, pair)| all.pairs[key] == *pair));
        assert_ne!(few.digest(), Adapter::init(&spec(), config(&[Linear::V]), 18).digest());
    }

    #[test]
    fn the_digest_sees_every_part() {
        let adapter = Adapter::init(&spec(), config(&[Linear::Q]), 1);
        let changed = |change: fn(&mut Adapter)| {
            let mut other = adapter.clone();
            change(&mut other);
            assert_ne!(other.digest(), adapter.digest());
        };
        changed(|a| a.config.alpha = 9.0);
        changed(|a| a.config.use_rslora = true);
        changed(|a| a.config.dropout = 0.1);
        // Minus zero equals zero as a number, but not as bits.
        changed(|a| a.pairs.get_mut(&(1, Linear::Q)).unwrap().b[3] = -0.0);
        assert_eq!(adapter.digest(), adapter.clone().digest());
    }

    #[test]
    fn what_does_not_fit_the_model_is_named() {
        let check = |change: fn(&mut Adapter), expected: &str| {
            let mut adapter = Adapter::init(&spec(), config(&[Linear::Q]), 1);
            change(&mut adapter);
            assert_eq!(adapter.check(&spec()).unwrap_err().to_string(), expected);
        };
        check(
            |a| drop(a.pairs.remove(&(1, Linear::Q))),
            "adapter has no tensor `model.layers.1.self_attn.q_proj.lora_A.weight`, which its \
             target modules and the model ask for",
        );
        check(
            |a| a.pairs.get_mut(&(0, Linear::Q)).unwrap().b.truncate(5),
            "adapter tensor `model.layers.0.self_attn.q_proj.lora_B.weight` has 5 numbers, the \
             model needs 256",
        );
        check(
            |a| drop(a.pairs.insert((2, Linear::Q), LoraPair { a: vec![], b: vec![] })),
            "adapter tensor `model.layers.2.self_attn.q_proj.lora_A.weight` belongs to no target \
             module of the model",
        );
        check(
            |a| a.config.dropout = 1.0,
            "dropout of an adapter is 1, expected a number from 0 to below 1",
        );
    }
}
