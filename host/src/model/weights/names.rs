//! The weights of a model one by one, under their names in a checkpoint.

use std::collections::BTreeMap;
use std::fmt;

use super::{Block, Weights};
use crate::model::backend::{Backend, BackendError, TrainingBackend, WeightType};
use crate::model::checkpoint::{Checkpoint, CheckpointError};
use crate::model::spec::{Linear, Spec};

/// Names one weight of a model; shown as a checkpoint has it, for example
/// `model.layers.0.self_attn.q_proj.weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightName {
    /// `model.embed_tokens.weight`, which is the head too where embeddings are tied.
    Embedding,
    /// A weight of the block with this number.
    Block(usize, BlockWeight),
    /// `model.norm.weight`
    Norm,
    /// `lm_head.weight`, where it is not the embedding.
    Head,
}

/// Names one weight of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockWeight {
    /// `input_layernorm.weight`
    InputNorm,
    /// `post_attention_layernorm.weight`
    PostAttentionNorm,
    /// `self_attn.q_norm.weight`, where queries are normalised.
    QueryNorm,
    /// `self_attn.k_norm.weight`, where keys are normalised.
    KeyNorm,
    /// The weight of a linear layer.
    Linear(Linear),
    /// The bias of a linear layer, where it adds one.
    Bias(Linear),
}

impl fmt::Display for WeightName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightName::Embedding => f.write_str("model.embed_tokens.weight"),
            WeightName::Norm => f.write_str("model.norm.weight"),
            WeightName::Head => f.write_str("lm_head.weight"),
            WeightName::Block(layer, weight) => {
                let (path, kind) = match weight {
                    BlockWeight::InputNorm => ("input_layernorm", "weight"),
                    BlockWeight::PostAttentionNorm => ("post_attention_layernorm", "weight"),
                    BlockWeight::QueryNorm => ("self_attn.q_norm", "weight"),
                    BlockWeight::KeyNorm => ("self_attn.k_norm", "weight"),
                    BlockWeight::Linear(linear) => (linear.path(), "weight"),
                    BlockWeight::Bias(linear) => (linear.path(), "bias"),
                };
                write!(f, "model.layers.{layer}.{path}.{kind}")
            }
        }
    }
}

impl WeightName {
    /// Returns the names of all weights of a model, ascending.
    pub fn all(spec: &Spec) -> Vec<WeightName> {
        let mut names = vec![WeightName::Embedding];
        for layer in 0..spec.layers {
            let mut push = |weight| names.push(WeightName::Block(layer, weight));
            push(BlockWeight::InputNorm);
            push(BlockWeight::PostAttentionNorm);
            if spec.qk_norm {
                push(BlockWeight::QueryNorm);
                push(BlockWeight::KeyNorm);
            }
            Linear::ALL.into_iter().for_each(|linear| push(BlockWeight::Linear(linear)));
            let biased = Linear::ALL.into_iter().filter(|&linear| spec.has_bias(linear));
            biased.for_each(|linear| push(BlockWeight::Bias(linear)));
        }
        names.push(WeightName::Norm);
        if !spec.tied_embeddings {
            names.push(WeightName::Head);
        }
        names
    }

    /// Returns the shape: `[out, in]`, or `[width]` of a vector.
    pub fn shape(self, spec: &Spec) -> Vec<usize> {
        match self {
            WeightName::Embedding | WeightName::Head => vec![spec.vocab, spec.hidden],
            WeightName::Block(_, BlockWeight::Linear(linear)) => {
                let (outputs, inputs) = spec.linear_shape(linear);
                vec![outputs, inputs]
            }
            WeightName::Block(_, BlockWeight::Bias(linear)) => vec![spec.linear_shape(linear).0],
            WeightName::Block(_, BlockWeight::QueryNorm | BlockWeight::KeyNorm) => {
                vec![spec.head_dim]
            }
            WeightName::Norm
            | WeightName::Block(_, BlockWeight::InputNorm | BlockWeight::PostAttentionNorm) => {
                vec![spec.hidden]
            }
        }
    }

    /// Returns how many numbers it has on a device, padding included.
    pub fn len<B: TrainingBackend>(self, backend: &B, spec: &Spec) -> usize {
        match self.shape(spec)[..] {
            [outputs, inputs] => backend.packed_len(outputs, inputs),
            ref vector => vector.iter().product(),
        }
    }

    /// Returns how many bytes it takes on a device where matrices are kept as `weight_type` says.
    pub fn bytes<B: Backend>(self, backend: &B, spec: &Spec, weight_type: WeightType) -> usize {
        match self.shape(spec)[..] {
            [outputs, inputs] if matches!(self, WeightName::Block(..)) => {
                backend.layer_bytes(outputs, inputs, weight_type)
            }
            [outputs, inputs] => backend.matrix_bytes(outputs, inputs, weight_type),
            ref vector => size_of::<f32>() * vector.iter().product::<usize>(),
        }
    }

    /// Returns whether weight decay moves it: matrices, the embedding among them, but neither norms
    /// nor biases, as transformers' `Trainer` has it.
    pub fn decays(self) -> bool {
        match self {
            WeightName::Embedding | WeightName::Head => true,
            WeightName::Norm => false,
            WeightName::Block(_, weight) => matches!(weight, BlockWeight::Linear(_)),
        }
    }
}

/// A weight on a device, borrowed.
pub enum Weight<'a, B: Backend> {
    /// `[out, in]`, packed.
    Matrix(&'a B::Matrix),
    /// `[width]`
    Vector(&'a B::Buffer),
}

/// A weight on a device, borrowed to change it.
pub enum WeightMut<'a, B: Backend> {
    /// `[out, in]`, packed.
    Matrix(&'a mut B::Matrix),
    /// `[width]`
    Vector(&'a mut B::Buffer),
}

impl<B: TrainingBackend> Weights<B> {
    /// Returns the numbers of a weight on the host, row-major; none where the model has none of this
    /// name.
    pub fn values(&self, backend: &B, name: WeightName) -> Result<Vec<f32>, BackendError> {
        match self.get(name) {
            Some(Weight::Matrix(matrix)) => backend.unpack(matrix),
            Some(Weight::Vector(buffer)) => {
                Ok(backend.view(buffer, 0..backend.len(buffer))?.into_owned())
            }
            None => Ok(Vec::new()),
        }
    }
}

/// The weights of a model on a device, to be read as any other checkpoint is.
pub struct WeightsCheckpoint<'a, B: TrainingBackend> {
    backend: &'a B,
    weights: &'a Weights<B>,
    names: BTreeMap<String, WeightName>,
}

impl<'a, B: TrainingBackend> WeightsCheckpoint<'a, B> {
    /// Returns the weights as they are now.
    pub fn new(backend: &'a B, weights: &'a Weights<B>) -> Self {
        let names = WeightName::all(&weights.spec).into_iter().map(|name| (name.to_string(), name));
        WeightsCheckpoint { backend, weights, names: names.collect() }
    }
}

impl<B: TrainingBackend> Checkpoint for WeightsCheckpoint<'_, B> {
    fn spec(&self) -> &Spec {
        &self.weights.spec
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let fail = |what: String| CheckpointError { message: format!("`{name}` {what}") };
        let Some(&weight) = self.names.get(name) else {
            return Err(fail("is no weight of the model".to_owned()));
        };
        let found = weight.shape(self.spec());
        if found != shape {
            return Err(fail(format!("has shape {found:?}, expected {shape:?}")));
        }
        self.weights.values(self.backend, weight).map_err(|error| fail(error.to_string()))
    }
}

impl<B: Backend> Weights<B> {
    /// Returns a weight; none where the model has none of this name.
    pub fn get(&self, name: WeightName) -> Option<Weight<'_, B>> {
        Some(match name {
            WeightName::Embedding => Weight::Matrix(&self.embedding),
            WeightName::Head => Weight::Matrix(self.separate_head.as_ref()?),
            WeightName::Norm => Weight::Vector(&self.norm),
            WeightName::Block(layer, weight) => {
                let block = self.blocks.get(layer)?;
                let norms = block.query_key_norms.as_ref();
                match weight {
                    BlockWeight::InputNorm => Weight::Vector(&block.input_norm),
                    BlockWeight::PostAttentionNorm => Weight::Vector(&block.post_attention_norm),
                    BlockWeight::QueryNorm => Weight::Vector(&norms?[0]),
                    BlockWeight::KeyNorm => Weight::Vector(&norms?[1]),
                    BlockWeight::Linear(linear) => Weight::Matrix(block.linear(linear)),
                    BlockWeight::Bias(linear) => Weight::Vector(block.bias(linear)?),
                }
            }
        })
    }

    /// Returns a weight to change; none where the model has none of this name.
    pub fn get_mut(&mut self, name: WeightName) -> Option<WeightMut<'_, B>> {
        Some(match name {
            WeightName::Embedding => WeightMut::Matrix(&mut self.embedding),
            WeightName::Head => WeightMut::Matrix(self.separate_head.as_mut()?),
            WeightName::Norm => WeightMut::Vector(&mut self.norm),
            WeightName::Block(layer, weight) => {
                let Block { input_norm, post_attention_norm, query_key_norms, linears, biases } =
                    self.blocks.get_mut(layer)?;
                let norms = query_key_norms.as_mut();
                match weight {
                    BlockWeight::InputNorm => WeightMut::Vector(input_norm),
                    BlockWeight::PostAttentionNorm => WeightMut::Vector(post_attention_norm),
                    BlockWeight::QueryNorm => WeightMut::Vector(&mut norms?[0]),
                    BlockWeight::KeyNorm => WeightMut::Vector(&mut norms?[1]),
                    BlockWeight::Linear(linear) => WeightMut::Matrix(&mut linears[linear as usize]),
                    BlockWeight::Bias(linear) => {
                        WeightMut::Vector(biases[linear as usize].as_mut()?)
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{layout, tiny};

    /// A model with everything that an architecture may have.
    fn whole() -> Spec {
        Spec { attention_bias: true, qk_norm: true, ..tiny::spec(16, false) }
    }

    #[test]
    fn names_and_shapes_are_those_of_checkpoints() {
        let biased = Spec { attention_bias: true, ..tiny::spec(16, true) };
        for spec in [tiny::spec(16, true), tiny::spec(16, false), biased, whole()] {
            let mut expected = layout::tensors(&spec);
            let named = |name: WeightName| (name.to_string(), name.shape(&spec));
            let mut found: Vec<_> = WeightName::all(&spec).into_iter().map(named).collect();
            assert!(WeightName::all(&spec).is_sorted());
            expected.sort();
            found.sort();
            assert_eq!(found, expected);
        }
    }

    /// The rule of transformers: `bias`, `layernorm`, `rmsnorm`, `norm` and `_norm` do not decay.
    #[test]
    fn norms_and_biases_do_not_decay() {
        for name in WeightName::all(&whole()) {
            let text = name.to_string();
            let spared = text.contains("norm") || text.ends_with(".bias");
            assert_eq!(name.decays(), !spared, "{text}");
        }
    }
}
