//! What is trained, on the device: an adapter beside frozen weights, or the weights themselves.
//!
//! Passes form the gradients that there is a buffer for, and no others.

use std::collections::BTreeMap;

use super::adapter::{Adapter, LoraConfig, LoraPair, Matrix, PairConfig, SCORE, tensor_name};
use super::backend::{BackendError, TrainingBackend};
use super::spec::{Linear, Spec};
use super::weights::{WeightName, Weights};

/// The gradients of weights that are trained themselves.
///
/// A matrix's has the layout of the packed weight in f32, a vector's is `[width]`. With the weights and both
/// moments, full training holds four times the model, in f32; a device that rounds has a copy of the weights in bf16.
pub struct Gradients<B: TrainingBackend> {
    of: BTreeMap<WeightName, B::Buffer>,
}

impl<B: TrainingBackend> Gradients<B> {
    /// Makes room for the gradients of all weights of a model.
    pub fn new(backend: &B, weights: &Weights<B>) -> Result<Self, BackendError> {
        let spec = &weights.spec;
        let zeros = |name: WeightName| Ok((name, backend.zeros(name.len(backend, spec))?));
        let of =
            WeightName::all(spec).into_iter().map(zeros).collect::<Result<_, BackendError>>()?;
        Ok(Gradients { of })
    }

    /// Returns where the gradient of a weight is added; none where it is frozen.
    pub fn get_mut(&mut self, name: WeightName) -> Option<&mut B::Buffer> {
        self.of.get_mut(&name)
    }

    /// Walks over all gradients, always in the same order.
    pub fn iter(&self) -> impl Iterator<Item = (WeightName, &B::Buffer)> {
        self.of.iter().map(|(&name, gradient)| (name, gradient))
    }

    /// Sets every gradient to zero.
    pub fn clear(&mut self, backend: &B) {
        self.of.values_mut().for_each(|gradient| backend.clear(gradient));
    }
}

/// What a pass forms gradients for; what is absent is frozen.
pub struct Trained<'a, B: TrainingBackend> {
    /// The adapter beside the weights, which takes part in the pass.
    pub adapter: Option<&'a mut TrainableAdapter<B>>,
    /// The gradients of the weights.
    pub gradients: Option<&'a mut Gradients<B>>,
}

impl<B: TrainingBackend> Trained<'_, B> {
    /// Returns where the gradient of a weight is added; none where it is frozen.
    pub(super) fn gradient(&mut self, name: WeightName) -> Option<&mut B::Buffer> {
        self.gradients.as_deref_mut().and_then(|gradients| gradients.get_mut(name))
    }

    /// Returns whether something before the linear layers of this block learns, so that their input
    /// needs a gradient.
    pub(super) fn learns_before(&self, layer: usize) -> bool {
        layer > 0 || self.gradients.is_some()
    }
}

/// What an adapter takes on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterLen {
    /// Numbers of its matrices, of 4 bytes. Gradients take as much, and so does each moment.
    pub values: usize,
    /// Bytes of the matrices as the kernels want them.
    pub packed: usize,
}

impl AdapterLen {
    /// Returns the bytes of the matrices, both ways.
    pub fn bytes(&self) -> usize {
        size_of::<f32>() * self.values + self.packed
    }
}

/// A matrix of the adapter on the device, with its gradient.
pub struct Parameter<B: TrainingBackend> {
    /// For example `model.layers.0.self_attn.q_proj.lora_A.weight`, or [`SCORE`].
    pub name: String,
    /// `[r, in]`, `[out, r]`, or `[1, hidden]` of the head.
    pub shape: [usize; 2],
    /// Row-major.
    pub values: B::Buffer,
    /// Of the same shape; passes add to it.
    pub gradient: B::Buffer,
}

impl<B: TrainingBackend> Parameter<B> {
    fn new(
        backend: &B,
        name: String,
        shape: [usize; 2],
        values: &[f32],
    ) -> Result<Self, BackendError> {
        let gradient = backend.zeros(values.len())?;
        Ok(Parameter { name, shape, values: backend.upload(values)?, gradient })
    }

    /// Returns how many numbers it has.
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Returns whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The two matrices beside one linear layer.
pub(super) struct Pair<B: TrainingBackend> {
    pub(super) a: Parameter<B>,
    pub(super) b: Parameter<B>,
    /// `a`, packed.
    pub(super) packed_a: B::Matrix,
    /// `b` times the pair's scale, packed.
    pub(super) packed_b: B::Matrix,
    pub(super) scale: f64,
}

/// An adapter on the device that can be trained.
pub struct TrainableAdapter<B: TrainingBackend> {
    config: LoraConfig,
    /// For each block, in the order of [`Linear::ALL`].
    blocks: Vec<[Option<Pair<B>>; 7]>,
    /// The head of a reward model.
    score: Option<Parameter<B>>,
}

impl<B: TrainingBackend> TrainableAdapter<B> {
    /// Brings an adapter that fits the model ([`Adapter::check`]) to the device.
    pub fn new(backend: &B, spec: &Spec, adapter: &Adapter) -> Result<Self, BackendError> {
        let config = adapter.config.clone();
        let mut blocks: Vec<[Option<Pair<B>>; 7]> =
            (0..spec.layers).map(|_| Default::default()).collect();
        for (&(layer, linear), pair) in &adapter.pairs {
            let (outputs, inputs) = spec.linear_shape(linear);
            let LoraPair { r, scale, .. } = *pair;
            let parameter = |matrix, shape, values| {
                Parameter::new(backend, tensor_name(layer, linear, matrix), shape, values)
            };
            let a = parameter(Matrix::A, [r, inputs], &pair.a)?;
            let b = parameter(Matrix::B, [outputs, r], &pair.b)?;
            let kept = backend.adapter_type();
            let packed_b = backend.pack(&vec![0.0; b.len()], outputs, r, kept)?;
            let packed_a = backend.pack(&vec![0.0; a.len()], r, inputs, kept)?;
            blocks[layer][linear as usize] = Some(Pair { a, b, packed_a, packed_b, scale });
        }
        let score = |values: &Vec<f32>| {
            Parameter::new(backend, SCORE.to_owned(), [1, values.len()], values)
        };
        let score = adapter.score.as_ref().map(score).transpose()?;
        let mut adapter = TrainableAdapter { config, blocks, score };
        adapter.repack(backend);
        Ok(adapter)
    }

    /// Returns its hyper-parameters.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Returns the pair beside a linear layer, where it has one.
    pub(super) fn pair(&self, layer: usize, linear: Linear) -> Option<&Pair<B>> {
        self.blocks[layer][linear as usize].as_ref()
    }

    /// Returns the pair beside a linear layer, where it has one.
    pub(super) fn pair_mut(&mut self, layer: usize, linear: Linear) -> Option<&mut Pair<B>> {
        self.blocks[layer][linear as usize].as_mut()
    }

    /// Returns whether it has the head of a reward model.
    pub fn has_score(&self) -> bool {
        self.score.is_some()
    }

    /// Returns the head of a reward model, where it has one.
    pub(in crate::model) fn score_mut(&mut self) -> Option<&mut Parameter<B>> {
        self.score.as_mut()
    }

    /// Returns rank and scale of every pair.
    pub fn pairs(&self) -> BTreeMap<(usize, Linear), PairConfig> {
        let mut pairs = BTreeMap::new();
        for (layer, block) in self.blocks.iter().enumerate() {
            for (linear, pair) in Linear::ALL.into_iter().zip(block) {
                if let Some(Pair { a, scale, .. }) = pair {
                    pairs.insert((layer, linear), PairConfig { r: a.shape[0], scale: *scale });
                }
            }
        }
        pairs
    }

    /// Returns what an adapter with these pairs takes on the device; with a reward model's head
    /// where `scores`.
    pub fn len(
        backend: &B,
        spec: &Spec,
        pairs: &BTreeMap<(usize, Linear), PairConfig>,
        scores: bool,
    ) -> AdapterLen {
        let mut len = AdapterLen { values: if scores { spec.hidden } else { 0 }, packed: 0 };
        for (&(_, linear), &PairConfig { r, .. }) in pairs {
            let (outputs, inputs) = spec.linear_shape(linear);
            len.values += r * (outputs + inputs);
            let packed =
                |outputs, inputs| backend.matrix_bytes(outputs, inputs, backend.adapter_type());
            len.packed += packed(r, inputs) + packed(outputs, r);
        }
        len
    }

    /// Returns a copy on the host.
    pub fn download(&self, backend: &B) -> Result<Adapter, BackendError> {
        let values = |p: &Parameter<B>| Ok(backend.view(&p.values, 0..p.len())?.into_owned());
        let (config, pairs) = (self.config.clone(), Default::default());
        let score = self.score.as_ref().map(values).transpose()?;
        let mut adapter = Adapter { config, pairs, score };
        for (layer, block) in self.blocks.iter().enumerate() {
            for (linear, pair) in Linear::ALL.into_iter().zip(block) {
                if let Some(Pair { a, b, scale, .. }) = pair {
                    let (r, scale) = (a.shape[0], *scale);
                    let pair = LoraPair { r, scale, a: values(a)?, b: values(b)? };
                    adapter.pairs.insert((layer, linear), pair);
                }
            }
        }
        Ok(adapter)
    }

    /// Walks over all matrices in the order of [`Adapter::tensors`].
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter<B>> {
        let pairs = self.blocks.iter().flatten().flatten().flat_map(|pair| [&pair.a, &pair.b]);
        pairs.chain(&self.score)
    }

    /// Walks over all matrices in the order of [`Adapter::tensors`].
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter<B>> {
        let pairs = self.blocks.iter_mut().flatten().flatten();
        pairs.flat_map(|pair| [&mut pair.a, &mut pair.b]).chain(&mut self.score)
    }

    /// Sets every gradient to zero.
    pub fn clear_gradients(&mut self, backend: &B) {
        let gradients = self.parameters_mut().map(|parameter| &mut parameter.gradient);
        backend.clear_each(&mut gradients.collect::<Vec<_>>());
    }

    /// Makes passes use the values as they are now.
    pub fn repack(&mut self, backend: &B) {
        let mut matrices = Vec::new();
        for pair in self.blocks.iter_mut().flatten().flatten() {
            let Pair { a, b, packed_a, packed_b, scale } = pair;
            matrices.push((&a.values, 1.0, packed_a));
            matrices.push((&b.values, *scale as f32, packed_b));
        }
        backend.repack_each(&mut matrices);
    }
}
