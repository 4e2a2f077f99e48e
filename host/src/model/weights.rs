//! A model's weights on a device, and adapters beside them.

mod names;

pub use names::{BlockWeight, Weight, WeightMut, WeightName, WeightsCheckpoint};

use std::collections::BTreeMap;

use super::adapter::{Adapter, PairConfig};
use super::backend::{Backend, BackendError, Rotary, WeightType};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::layout;
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
    pub rotary: Rotary<B::Buffer>,
    /// In which numbers the matrices are kept.
    pub weight_type: WeightType,
    /// `[vocab, hidden]`; absent where embeddings are tied.
    separate_head: Option<B::Matrix>,
}

/// The weights of one block.
pub struct Block<B: Backend> {
    /// Weight of the norm before attention, `[hidden]`.
    pub input_norm: B::Buffer,
    /// Weight of the norm before the MLP, `[hidden]`.
    pub post_attention_norm: B::Buffer,
    /// Weights of the norms of each head of queries and keys, `[head_dim]`, where the model has
    /// them.
    pub query_key_norms: Option<[B::Buffer; 2]>,
    /// In the order of [`Linear::ALL`].
    linears: [B::Matrix; 7],
    /// In the same order, `[out]`; absent where a layer adds none.
    biases: [Option<B::Buffer>; 7],
}

impl<B: Backend> Block<B> {
    /// Returns the weight of a linear layer, `[out, in]`.
    pub fn linear(&self, linear: Linear) -> &B::Matrix {
        &self.linears[linear as usize]
    }

    /// Returns the bias of a linear layer, `[out]`, where it adds one.
    pub fn bias(&self, linear: Linear) -> Option<&B::Buffer> {
        self.biases[linear as usize].as_ref()
    }
}

impl<B: Backend> Weights<B> {
    /// Reads a checkpoint in f32, one tensor at a time; see [`load_as`](Weights::load_as).
    pub fn load(
        backend: &B,
        checkpoint: &dyn Checkpoint,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Weights<B>, WeightsError> {
        Weights::load_as(backend, checkpoint, WeightType::F32, progress)
    }

    /// Reads a checkpoint, one tensor at a time. Matrices are kept as `weight_type` says, norms and
    /// biases are f32.
    ///
    /// `progress` is called with how many tensors are loaded, and of how many.
    pub fn load_as(
        backend: &B,
        checkpoint: &dyn Checkpoint,
        weight_type: WeightType,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Weights<B>, WeightsError> {
        let spec = checkpoint.spec().clone();
        let (hidden, vocab) = (spec.hidden, spec.vocab);
        let total = layout::tensors(&spec).len();
        let mut done = 0;
        let mut finished = || {
            done += 1;
            progress(done, total);
        };
        let mut matrix = |pack: Pack<B>, name: &str, outputs: usize, inputs: usize| {
            let values = checkpoint.tensor(name, &[outputs, inputs])?;
            let matrix = pack(backend, &values, outputs, inputs, weight_type)?;
            finished();
            Ok::<_, WeightsError>(matrix)
        };
        let embedding = matrix(B::pack, "model.embed_tokens.weight", vocab, hidden)?;
        let separate_head = match spec.tied_embeddings {
            true => None,
            false => Some(matrix(B::pack, "lm_head.weight", vocab, hidden)?),
        };
        let mut linears = Vec::with_capacity(spec.layers);
        for layer in 0..spec.layers {
            let mut packed = Vec::with_capacity(Linear::ALL.len());
            for linear in Linear::ALL {
                let (outputs, inputs) = spec.linear_shape(linear);
                let name = format!("model.layers.{layer}.{}.weight", linear.path());
                packed.push(matrix(B::pack_layer, &name, outputs, inputs)?);
            }
            let Ok(packed) = <[B::Matrix; 7]>::try_from(packed) else {
                unreachable!("one matrix for each of the linears")
            };
            linears.push(packed);
        }
        let mut vector = |name: &str, width: usize| -> Result<_, WeightsError> {
            let buffer = backend.upload(&checkpoint.tensor(name, &[width])?)?;
            finished();
            Ok(buffer)
        };
        let mut blocks = Vec::with_capacity(spec.layers);
        for (layer, linears) in linears.into_iter().enumerate() {
            let mut norm =
                |name, width| vector(&format!("model.layers.{layer}.{name}.weight"), width);
            let input_norm = norm("input_layernorm", hidden)?;
            let post_attention_norm = norm("post_attention_layernorm", hidden)?;
            let query_key_norms = match spec.qk_norm {
                true => Some([
                    norm("self_attn.q_norm", spec.head_dim)?,
                    norm("self_attn.k_norm", spec.head_dim)?,
                ]),
                false => None,
            };
            let mut biases: [Option<B::Buffer>; 7] = Default::default();
            for linear in Linear::ALL.into_iter().filter(|&linear| spec.has_bias(linear)) {
                let name = format!("model.layers.{layer}.{}.bias", linear.path());
                biases[linear as usize] = Some(vector(&name, spec.linear_shape(linear).0)?);
            }
            blocks.push(Block {
                input_norm,
                post_attention_norm,
                query_key_norms,
                linears,
                biases,
            });
        }
        let norm = vector("model.norm.weight", hidden)?;
        let frequencies = spec.rope.frequencies(spec.head_dim);
        let rotary = Rotary::new(backend, &frequencies, spec.context_length)?;
        Ok(Weights { spec, embedding, blocks, norm, rotary, weight_type, separate_head })
    }

    /// Returns how many bytes the weights of a model take, tables of rotary embedding included.
    pub fn bytes(backend: &B, spec: &Spec, weight_type: WeightType) -> usize {
        let names = WeightName::all(spec).into_iter();
        let weights: usize = names.map(|name| name.bytes(backend, spec, weight_type)).sum();
        weights + size_of::<f32>() * Rotary::<B::Buffer>::len(spec.head_dim, spec.context_length)
    }

    /// Returns how many bytes [`load_as`](Weights::load_as) takes at its height: what is packed, and the tensor that
    /// is being read, which takes as much as `checkpoint` says.
    pub fn loading_bytes(
        backend: &B,
        checkpoint: &dyn Checkpoint,
        weight_type: WeightType,
    ) -> usize {
        let spec = checkpoint.spec();
        // As it goes: embedding and head first, vectors last; those are too small to count.
        let mut names = WeightName::all(spec);
        names.sort_by_key(|name| !matches!(name, WeightName::Embedding | WeightName::Head));
        let (mut packed, mut most) = (0, 0);
        for name in names {
            let shape = name.shape(spec);
            packed += name.bytes(backend, spec, weight_type);
            most = most.max(packed + checkpoint.reading_bytes(&name.to_string(), &shape));
        }
        most.max(Weights::bytes(backend, spec, weight_type))
    }

    /// Returns the output head, `[vocab, hidden]`.
    pub fn head(&self) -> &B::Matrix {
        self.separate_head.as_ref().unwrap_or(&self.embedding)
    }
}

/// Brings a weight, `[outputs, inputs]`, to a device: one of the ways that [`Backend`] has for it.
type Pack<B> =
    fn(&B, &[f32], usize, usize, WeightType) -> Result<<B as Backend>::Matrix, BackendError>;

/// An adapter packed for a device.
pub struct LoadedAdapter<B: Backend> {
    /// The largest rank of its pairs.
    pub rank: usize,
    /// For each block, in the order of [`Linear::ALL`].
    blocks: Vec<[Option<LoadedPair<B>>; 7]>,
    /// The head of a reward model, `[hidden]`; rewards are summed on the host ([`crate::reward`]).
    score: Option<Vec<f32>>,
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
    /// trained, 0 is off, beyond 1 extrapolates. The head of a reward model stays as it is.
    pub fn load(
        backend: &B,
        spec: &Spec,
        adapter: &Adapter,
        factor: f64,
    ) -> Result<LoadedAdapter<B>, WeightsError> {
        let mut blocks: Vec<[Option<LoadedPair<B>>; 7]> =
            (0..spec.layers).map(|_| std::array::from_fn(|_| None)).collect();
        for (&(layer, linear), pair) in &adapter.pairs {
            let (outputs, inputs) = spec.linear_shape(linear);
            let (r, scale) = (pair.r, factor * pair.scale);
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
                a: backend.pack(&pair.a, r, inputs, backend.adapter_type())?,
                b: backend.pack(&b, outputs, r, backend.adapter_type())?,
            });
        }
        let wanted = spec.hidden;
        if let Some(score) = adapter.score.as_ref().filter(|score| score.len() != wanted) {
            return Err(WeightsError::Score { found: score.len(), wanted });
        }
        Ok(LoadedAdapter { rank: adapter.rank(), blocks, score: adapter.score.clone() })
    }

    /// Returns the head of a reward model, `[hidden]`; none where the adapter is that of a policy.
    pub fn score(&self) -> Option<&[f32]> {
        self.score.as_deref()
    }

    /// Returns the pair beside a linear layer, where it has one.
    pub fn pair(&self, layer: usize, linear: Linear) -> Option<&LoadedPair<B>> {
        self.blocks[layer][linear as usize].as_ref()
    }

    /// Returns the rank of every pair; their scales are in `B`.
    pub fn pairs(&self, backend: &B) -> BTreeMap<(usize, Linear), PairConfig> {
        let mut pairs = BTreeMap::new();
        for (layer, block) in self.blocks.iter().enumerate() {
            for (linear, pair) in Linear::ALL.into_iter().zip(block) {
                if let Some(LoadedPair { a, .. }) = pair {
                    let (r, _) = backend.shape(a);
                    pairs.insert((layer, linear), PairConfig { r, scale: 1.0 });
                }
            }
        }
        pairs
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
    /// The head of a reward model does not fit the model.
    #[error("`score.weight` of the adapter has {found} numbers, but this model needs {wanted}")]
    Score {
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
