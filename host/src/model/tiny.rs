//! For tests: a small random model, and the same model as everybody writes it in candle.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor};

use super::adapter::{Adapter, LoraConfig};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::spec::{Linear, Rope, RopeScaling, Spec};
use crate::run::seed;

/// A checkpoint in memory.
pub(crate) struct TinyCheckpoint {
    pub(crate) spec: Spec,
    pub(crate) tensors: BTreeMap<String, Vec<f32>>,
}

impl Checkpoint for TinyCheckpoint {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let found = self.tensors.get(name).filter(|t| t.len() == shape.iter().product::<usize>());
        found.cloned().ok_or_else(|| CheckpointError { message: format!("no `{name}` {shape:?}") })
    }
}

/// Numbers of a normal distribution with deviation `scale`, from Box and Muller's transform.
pub(crate) fn normal(seed: u64, len: usize, scale: f64) -> Vec<f32> {
    let number = |i: usize| {
        let (u, v) = (seed::uniform(seed, 2 * i as u64), seed::uniform(seed, 2 * i as u64 + 1));
        let radius = (-2.0 * (1.0 - u).ln()).sqrt();
        (scale * radius * (std::f64::consts::TAU * v).cos()) as f32
    };
    (0..len).map(number).collect()
}

/// A Llama with 2 blocks, 4 query heads over 2 key and value heads, and 300 tokens.
pub(crate) fn spec(head_dim: usize, tied_embeddings: bool) -> Spec {
    Spec {
        layers: 2,
        hidden: 48,
        heads: 4,
        kv_heads: 2,
        head_dim,
        intermediate: 88,
        vocab: 300,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        attention_bias: false,
        qk_norm: false,
        sliding_windows: Vec::new(),
        tied_embeddings,
        context_length: 512,
    }
}

pub(crate) fn checkpoint(spec: Spec, seed: u64) -> TinyCheckpoint {
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, len: usize, scale: f64, mean: f32| {
        let seed = seed::of([seed.into(), name.as_str().into()]);
        let values = normal(seed, len, scale).into_iter().map(|x| x + mean).collect();
        tensors.insert(name, values);
    };
    let Spec { hidden, vocab, layers, .. } = spec;
    add("model.embed_tokens.weight".into(), vocab * hidden, 0.5, 0.0);
    if !spec.tied_embeddings {
        add("lm_head.weight".into(), vocab * hidden, 0.3, 0.0);
    }
    add("model.norm.weight".into(), hidden, 0.1, 1.0);
    for layer in 0..layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("model.layers.{layer}.{norm}.weight"), hidden, 0.1, 1.0);
        }
        for linear in Linear::ALL {
            let (outputs, inputs) = spec.linear_shape(linear);
            let name = format!("model.layers.{layer}.{}.weight", linear.path());
            add(name, outputs * inputs, 1.0 / (inputs as f64).sqrt(), 0.0);
            if spec.has_bias(linear) {
                add(format!("model.layers.{layer}.{}.bias", linear.path()), outputs, 0.5, 0.0);
            }
        }
        for norm in ["q_norm", "k_norm"].into_iter().filter(|_| spec.qk_norm) {
            let name = format!("model.layers.{layer}.self_attn.{norm}.weight");
            add(name, spec.head_dim, 0.1, 1.0);
        }
    }
    TinyCheckpoint { spec, tensors }
}

/// An adapter over all linear layers with random matrices of rank 4.
pub(crate) fn adapter(spec: &Spec, seed: u64) -> Adapter {
    adapter_with(spec, LoraConfig::new(4, 8.0, &Linear::ALL), seed)
}

pub(crate) fn adapter_with(spec: &Spec, config: LoraConfig, seed: u64) -> Adapter {
    let mut adapter = Adapter::zeros(spec, config).expect("every model has these layers");
    for (i, pair) in adapter.pairs.values_mut().enumerate() {
        pair.a = normal(seed + 2 * i as u64, pair.a.len(), 0.2);
        pair.b = normal(seed + 2 * i as u64 + 1, pair.b.len(), 0.2);
    }
    adapter
}

/// Logits `[T, V]` of one sequence, from candle's operations in f32.
pub(crate) fn oracle(
    checkpoint: &TinyCheckpoint,
    adapter: Option<&Adapter>,
    tokens: &[u32],
) -> Vec<f32> {
    logits(checkpoint, adapter, tokens).expect("candle runs on the processor")
}

fn logits(
    checkpoint: &TinyCheckpoint,
    adapter: Option<&Adapter>,
    tokens: &[u32],
) -> candle_core::Result<Vec<f32>> {
    let spec = &checkpoint.spec;
    let (device, t, d) = (&Device::Cpu, tokens.len(), spec.head_dim);
    let get = |name: &str, shape: &[usize]| {
        let values = checkpoint.tensor(name, shape).expect("the checkpoint is complete");
        Tensor::from_vec(values, shape, device)
    };
    let norm = |x: &Tensor, name: &str| -> candle_core::Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(mean + spec.rms_norm_eps as f64)?.sqrt()?)?;
        x.broadcast_mul(&get(name, &[x.dim(D::Minus1)?])?)
    };
    let linear = |x: &Tensor, layer: usize, linear: Linear| -> candle_core::Result<Tensor> {
        let (outputs, inputs) = spec.linear_shape(linear);
        let name = format!("model.layers.{layer}.{}.weight", linear.path());
        let mut y = x.matmul(&get(&name, &[outputs, inputs])?.t()?)?;
        if spec.has_bias(linear) {
            let name = format!("model.layers.{layer}.{}.bias", linear.path());
            y = y.broadcast_add(&get(&name, &[outputs])?)?;
        }
        let Some(adapter) = adapter else { return Ok(y) };
        let pair = &adapter.pairs[&(layer, linear)];
        let a = Tensor::from_slice(&pair.a, (pair.r, inputs), device)?;
        let b = Tensor::from_slice(&pair.b, (outputs, pair.r), device)?;
        y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * pair.scale)?
    };
    let angles: Vec<f64> = (0..t)
        .flat_map(|p| spec.rope.frequencies(d).into_iter().map(move |w| p as f64 * w))
        .collect();
    let angles = Tensor::from_vec(angles, (t, d / 2), device)?;
    let (cos, sin) = (angles.cos()?.to_dtype(DType::F32)?, angles.sin()?.to_dtype(DType::F32)?);
    let mask = |layer: usize| {
        let window = spec.sliding_windows.get(layer).copied().flatten().unwrap_or(t);
        let hidden = |query: usize, key: usize| key > query || query >= key + window;
        let mask: Vec<f32> = (0..t * t)
            .map(|i| if hidden(i / t, i % t) { f32::NEG_INFINITY } else { 0.0 })
            .collect();
        Tensor::from_vec(mask, (t, t), device)
    };
    // [T, heads * D] -> [heads, T, D]
    let split = |x: Tensor, heads: usize| x.reshape((t, heads, d))?.transpose(0, 1)?.contiguous();
    let rotate = |x: Tensor| -> candle_core::Result<Tensor> {
        let (a, b) = (x.narrow(2, 0, d / 2)?, x.narrow(2, d / 2, d / 2)?);
        let low = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let high = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[low, high], 2)
    };
    // [kv_heads, T, D] -> [heads, T, D]
    let repeat = |x: Tensor| {
        let group = spec.heads / spec.kv_heads;
        x.unsqueeze(1)?.broadcast_as((spec.kv_heads, group, t, d))?.reshape((spec.heads, t, d))
    };

    let embedding = get("model.embed_tokens.weight", &[spec.vocab, spec.hidden])?;
    let mut x = embedding.index_select(&Tensor::new(tokens, device)?, 0)?; // [T, hidden]
    for layer in 0..spec.layers {
        let h = norm(&x, &format!("model.layers.{layer}.input_layernorm.weight"))?;
        let mut q = split(linear(&h, layer, Linear::Q)?, spec.heads)?;
        let mut k = split(linear(&h, layer, Linear::K)?, spec.kv_heads)?;
        if spec.qk_norm {
            q = norm(&q, &format!("model.layers.{layer}.self_attn.q_norm.weight"))?;
            k = norm(&k, &format!("model.layers.{layer}.self_attn.k_norm.weight"))?;
        }
        let (q, k) = (rotate(q)?, repeat(rotate(k)?)?);
        let v = repeat(split(linear(&h, layer, Linear::V)?, spec.kv_heads)?)?;
        let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? / (d as f64).sqrt())?;
        let p = candle_nn::ops::softmax(&scores.broadcast_add(&mask(layer)?)?, D::Minus1)?;
        let y = p.matmul(&v)?.transpose(0, 1)?.reshape((t, spec.heads * d))?; // [T, heads * D]
        x = (x + linear(&y, layer, Linear::O)?)?;
        let h = norm(&x, &format!("model.layers.{layer}.post_attention_layernorm.weight"))?;
        let gate = candle_nn::ops::silu(&linear(&h, layer, Linear::Gate)?)?;
        let y = (gate * linear(&h, layer, Linear::Up)?)?;
        x = (x + linear(&y, layer, Linear::Down)?)?;
    }
    let head = match spec.tied_embeddings {
        true => embedding,
        false => get("lm_head.weight", &[spec.vocab, spec.hidden])?,
    };
    norm(&x, "model.norm.weight")?.matmul(&head.t()?)?.flatten_all()?.to_vec1()
}
