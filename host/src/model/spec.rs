//! The shape of a model: everything the engine must know besides the weights.

use super::backend::AttentionShape;

/// A decoder-only transformer of the Llama family: the shape, and what an architecture has beyond
/// Llama. How a file describes it is told in [`architecture`](super::architecture).
///
/// Rows of `q_proj` and `k_proj` are in Hugging Face's order: dimension `i` of a head is rotated
/// with dimension `i + head_dim / 2`. Loaders of formats that order them otherwise (GGUF) put them
/// into this order, so that weights, adapters and gradients look the same wherever they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// `q_proj`, `k_proj` and `v_proj` add a bias.
    pub attention_bias: bool,
    /// Each head of queries and keys goes through RMSNorm before it is rotated.
    pub qk_norm: bool,
    /// For each block how many positions a token attends to, its own and those just before it, or
    /// none where it attends to all. Empty where no block has a window.
    pub sliding_windows: Vec<Option<usize>>,
    /// The output head is the embedding.
    pub tied_embeddings: bool,
    /// The longest sequence that the model reads, in tokens.
    pub context_length: usize,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched, under Hugging Face's `rope_scaling` names.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// `linear`: every frequency divided by the factor.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// `llama3`: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Wavelengths over `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths under `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length before stretching, in tokens.
        original_max_position_embeddings: usize,
    },
}

impl Rope {
    /// Returns the angular frequency of each of the `head_dim / 2` pairs, in radians a position.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let plain = (0..head_dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64));
        match self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let original = original_max_position_embeddings as f64;
                plain
                    .map(|frequency| {
                        let wavelength = std::f64::consts::TAU / frequency;
                        if wavelength < original / high_freq_factor {
                            frequency
                        } else if wavelength > original / low_freq_factor {
                            frequency / factor
                        } else {
                            let smooth = (original / wavelength - low_freq_factor)
                                / (high_freq_factor - low_freq_factor);
                            (1.0 - smooth) * frequency / factor + smooth * frequency
                        }
                    })
                    .collect()
            }
        }
    }
}

/// A linear layer of a block, in checkpoint order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Linear {
    /// `self_attn.q_proj`
    Q,
    /// `self_attn.k_proj`
    K,
    /// `self_attn.v_proj`
    V,
    /// `self_attn.o_proj`
    O,
    /// `mlp.gate_proj`
    Gate,
    /// `mlp.up_proj`
    Up,
    /// `mlp.down_proj`
    Down,
}

impl Linear {
    /// All of them, in checkpoint order.
    pub const ALL: [Linear; 7] =
        [Linear::Q, Linear::K, Linear::V, Linear::O, Linear::Gate, Linear::Up, Linear::Down];

    /// Returns the module path within a block, for example `self_attn.q_proj`.
    pub fn path(self) -> &'static str {
        match self {
            Linear::Q => "self_attn.q_proj",
            Linear::K => "self_attn.k_proj",
            Linear::V => "self_attn.v_proj",
            Linear::O => "self_attn.o_proj",
            Linear::Gate => "mlp.gate_proj",
            Linear::Up => "mlp.up_proj",
            Linear::Down => "mlp.down_proj",
        }
    }

    /// Returns the last part of the path, as PEFT's `target_modules` has it.
    pub fn name(self) -> &'static str {
        self.path().rsplit('.').next().expect("a path has a last part")
    }
}

impl Spec {
    /// Returns the shape of a linear layer's weight: `(out, in)`.
    pub fn linear_shape(&self, linear: Linear) -> (usize, usize) {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        match linear {
            Linear::Q => (q, self.hidden),
            Linear::K | Linear::V => (kv, self.hidden),
            Linear::O => (self.hidden, q),
            Linear::Gate | Linear::Up => (self.intermediate, self.hidden),
            Linear::Down => (self.hidden, self.intermediate),
        }
    }

    /// Returns whether a linear layer adds a bias.
    pub fn has_bias(&self, linear: Linear) -> bool {
        self.attention_bias && matches!(linear, Linear::Q | Linear::K | Linear::V)
    }

    /// Returns the sizes of a block's attention, with its window.
    pub fn attention(&self, layer: usize) -> AttentionShape {
        AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            window: self.sliding_windows.get(layer).copied().flatten(),
        }
    }
}
