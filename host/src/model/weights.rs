//! A model's weights on a device, and adapters beside them.

mod names;

pub use names::{BlockWeight, Weight, WeightMut, WeightName};

use super::adapter::Adapter;
use super::backend::{Backend, BackendError, Rotary};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::spec::{Linear, Spec};

/// The weights of a model, packed for a device. Only a trainer that owns them changes them.
pub struct Weights<B: Backend> {
    /// The shape of the model.
    pub spec: Spec,
    /// `[vocab, hidden]`; also the head where embeddings are tied.
    pub embedding: B::Matrix,
    /// The blocks, first to last.
    pub blocks: Vec<Block<B>>,
    /// Weight of the last norm, `[hidden]`.
    pub norm: B::Buffer,
    /// Tables for every position up to the context length.
    pub rotary: Rotary<B>,
    /// `[vocab, hidden]`; absent where embeddings are tied.
    separate_head: Option<B::Matrix>,
}

/// The weights of one block.
pub struct Block<B: Backend> {
    /// Weight of the norm before attention, `[hidden]`.
    pub input_norm: B::Buffer,
    /// Weight of the norm before the MLP, `[hidden]`.
    pub post_attention_norm: B::Buffer,
    /// In the order of [`Linear::ALL`].
    linears: [B::Matrix; 7],
}

impl<B: Backend> Block<B> {
    /// Returns the weight of a linear layer, `[out, in]`.
    pub fn linear(&self, linear: Linear) -> &B::Matrix {
        &self.linears[linear as usize]
    }
}

impl<B: Backend> Weights<B> {
    /// Reads a checkpoint, one tensor at a time.
    ///
    /// `progress` is called with how many tensors are loaded, and of how many.
    pub fn load(
        backend: &B,
        checkpoint: &dyn Checkpoint,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Weights<B>, WeightsError> {
        let spec = checkpoint.spec().clone();
        let (hidden, vocab) = (spec.hidden, spec.vocab);
        let total = 2 + usize::from(!spec.tied_embeddings) + spec.layers * (2 + Linear::ALL.len());
        let mut done = 0;
        let mut finished = || {
            done += 1;
            progress(done, total);
        };
        let mut matrix = |name: &str, outputs: usize, inputs: usize| -> Result<_, WeightsError> {
            let values = checkpoint.tensor(name, &[outputs, inputs])?;
            let matrix = backend.pack(&values, outputs, inputs)?;
            finished();
            Ok(matrix)
        };
        let embedding = matrix("model.embed_tokens.weight", vocab, hidden)?;
        let separate_head = match spec.tied_embeddings {
            true => None,
            false => Some(matrix("lm_head.weight", vocab, hidden)?),
        };
        let mut linears = Vec::with_capacity(spec.layers);
        for layer in 0..spec.layers {
            let mut packed = Vec::with_capacity(Linear::ALL.len());
            for linear in Linear::ALL {
                let (outputs, inputs) = spec.linear_shape(linear);
                let name = format!("model.layers.{layer}.{}.weight", linear.path());
                packed.push(matrix(&name, outputs, inputs)?);
            }
            let Ok(packed) = <[B::Matrix; 7]>::try_from(packed) else {
                unreachable!("one matrix for each of the linears")
            };
            linears.push(packed);
        }
        let mut vector = |name: &str| -> Result<_, WeightsError> {
            let buffer = backend.upload(&checkpoint.tensor(name, &[hidden])?)?;
            finished();
            Ok(buffer)
        };
        let mut blocks = Vec::with_capacity(spec.layers);
        for (layer, linears) in linears.into_iter().enumerate() {
            let norm = |name| format!("model.layers.{layer}.{name}.weight");
            blocks.push(Block {
                input_norm: vector(&norm("input_layernorm"))?,
                post_attention_norm: vector(&norm("post_attention_layernorm"))?,
                linears,
            });
        }
        let norm = vector("model.norm.weight")?;
        let frequencies = spec.rope.frequencies(spec.head_dim);
        let rotary = Rotary::new(backend, &frequencies, spec.context_length)?;
        Ok(Weights { spec, embedding, blocks, norm, rotary, separate_head })
    }

    /// Returns the output head, `[vocab, hidden]`.
    pub fn head(&self) -> &B::Matrix {
        self.separate_head.as_ref().unwrap_or(&self.embedding)
    }
}

/// An adapter packed for a device.
pub struct LoadedAdapter<B: Backend> {
    /// Rank.
    pub rank: usize,
    /// For each block, in the order of [`Linear::ALL`].
    blocks: Vec<[Option<LoadedPair<B>>; 7]>,
}

/// The two matrices beside one linear layer: `y = W·x + B·(A·x)`.
pub struct LoadedPair<B: Backend> {
    /// `[r, in]`
    pub a: B::Matrix,
    /// `[out, r]`, already multiplied by the adapter's scale.
    pub b: B::Matrix,
}

impl<B: Backend> LoadedAdapter<B> {
    /// Packs an adapter, its effect multiplied by `factor` on top of its own scale: 1 is as
    /// trained, 0 is off, beyond 1 extrapolates.
    pub fn load(
        backend: &B,
        spec: &Spec,
        adapter: &Adapter,
        factor: f64,
    ) -> Result<LoadedAdapter<B>, WeightsError> {
        let (r, scale) = (adapter.config.r, factor * adapter.config.scale());
        let mut blocks: Vec<[Option<LoadedPair<B>>; 7]> =
            (0..spec.layers).map(|_| std::array::from_fn(|_| None)).collect();
        for (&(layer, linear), pair) in &adapter.pairs {
            let (outputs, inputs) = spec.linear_shape(linear);
            let mismatch = |side, found, wanted| WeightsError::Adapter {
                layer,
                linear: linear.path(),
                side,
                found,
                wanted,
            };
            if pair.a.len() != r * inputs {
                return Err(mismatch('A', pair.a.len(), r * inputs));
            }
            if pair.b.len() != outputs * r {
                return Err(mismatch('B', pair.b.len(), outputs * r));
            }
            let block = blocks
                .get_mut(layer)
                .ok_or(WeightsError::AdapterLayer { layer, layers: spec.layers })?;
            let b: Vec<f32> = pair.b.iter().map(|&b| (scale * b as f64) as f32).collect();
            block[linear as usize] = Some(LoadedPair {
                a: backend.pack(&pair.a, r, inputs)?,
                b: backend.pack(&b, outputs, r)?,
            });
        }
        Ok(LoadedAdapter { rank: r, blocks })
    }

    /// Returns the pair beside a linear layer, where it has one.
    pub fn pair(&self, layer: usize, linear: Linear) -> Option<&LoadedPair<B>> {
        self.blocks[layer][linear as usize].as_ref()
    }
}

/// Why weights or an adapter could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A tensor is missing or wrong.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device has no room.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A matrix of the adapter does not fit the model.
    #[error(
        "`model.layers.{layer}.{linear}.lora_{side}.weight` of the adapter has {found} numbers, but this model needs {wanted}"
    )]
    Adapter {
        /// Its block.
        layer: usize,
        /// Path of the linear layer.
        linear: &'static str,
        /// `A` or `B`.
        side: char,
        /// How many numbers it has.
        found: usize,
        /// How many the model needs.
        wanted: usize,
    },
    /// The adapter has more blocks than the model.
    #[error("the adapter has a pair for block {layer}, but this model has {layers} blocks")]
    AdapterLayer {
        /// The block that the model lacks.
        layer: usize,
        /// How many the model has.
        layers: usize,
    },
}
