//! The settings of a GGUF file that describe the model.

use std::path::Path;

use super::header::Header;
use super::{ROPE_FACTORS, numbers};
use crate::model::config;
use crate::model::error::ModelError;
use crate::model::spec::{Rope, RopeScaling, Spec};

/// The settings under the name of an architecture: `block_count` is `llama.block_count`.
pub(in crate::model) struct Settings<'a> {
    pub(in crate::model) path: &'a Path,
    pub(in crate::model) header: &'a Header,
    /// The whole file.
    pub(in crate::model) file: &'a [u8],
    /// The architecture.
    pub(in crate::model) name: &'a str,
}

impl Settings<'_> {
    /// Reads what all architectures of the Llama family write alike.
    pub(in crate::model) fn spec(&self) -> Result<Spec, ModelError> {
        if self.header.size("split.count").ok().flatten().is_some_and(|count| count > 1) {
            return Err(self.unsupported(
                "further files that hold the rest of it".to_owned(),
                "join them with `llama-gguf-split --merge`",
            ));
        }
        let experts = self.header.integer(&self.key("expert_count"));
        if experts.map_err(|what| self.malformed(what))?.unwrap_or(0) > 0 {
            return Err(self.unsupported("a mixture of experts".to_owned(), ""));
        }
        let mut spec = self.shape().map_err(|what| self.malformed(what))?;
        config::check(self.path, &spec)?;
        spec.rope.scaling = self.rope_scaling(&spec)?;
        Ok(spec)
    }

    /// Returns a size, where the setting is there.
    pub(in crate::model) fn size(&self, name: &str) -> Result<Option<usize>, ModelError> {
        self.header.size(&self.key(name)).map_err(|what| self.malformed(what))
    }

    /// Returns the whole name of a setting.
    pub(in crate::model) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    /// Returns an error about something that the engine does not do.
    pub(in crate::model) fn unsupported(&self, what: String, hint: &str) -> ModelError {
        ModelError::Unsupported { path: self.path.to_owned(), what, hint: hint.to_owned() }
    }

    fn malformed(&self, what: String) -> ModelError {
        ModelError::malformed(self.path, what)
    }

    fn shape(&self) -> Result<Spec, String> {
        let header = self.header;
        let needed = |name: &str| header.needed_size(&self.key(name));
        let hidden = needed("embedding_length")?;
        let heads = needed("attention.head_count")?;
        let head_dim = match header.size(&self.key("attention.key_length"))? {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(format!(
                    "has `{}` = {hidden}, which {heads} heads do not divide",
                    self.key("embedding_length")
                ));
            }
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            let key = self.key(name);
            if let Some(other) = header.size(&key)?
                && other != head_dim
            {
                return Err(format!("has `{key}` = {other}, and heads of width {head_dim}"));
            }
        }
        let vocab = header
            .tensors
            .get("token_embd.weight")
            .and_then(|info| info.shape.first().copied())
            .ok_or("has no tensor `token_embd.weight`")?;
        let eps = self.key("attention.layer_norm_rms_epsilon");
        Ok(Spec {
            layers: needed("block_count")?,
            hidden,
            heads,
            kv_heads: header.size(&self.key("attention.head_count_kv"))?.unwrap_or(heads),
            head_dim,
            intermediate: needed("feed_forward_length")?,
            vocab,
            rms_norm_eps: header.number(&eps)?.ok_or_else(|| format!("has no `{eps}`"))? as f32,
            rope: Rope {
                theta: header.number(&self.key("rope.freq_base"))?.unwrap_or(10000.0),
                scaling: RopeScaling::None,
            },
            attention_bias: false,
            qk_norm: false,
            sliding_windows: Vec::new(),
            tied_embeddings: !header.tensors.contains_key("output.weight"),
            context_length: needed("context_length")?,
        })
    }

    fn rope_scaling(&self, spec: &Spec) -> Result<RopeScaling, ModelError> {
        let kind = self.header.text(&self.key("rope.scaling.type"));
        match kind.map_err(|what| self.malformed(what))? {
            None | Some("none") => match self.header.tensors.get(ROPE_FACTORS) {
                None => Ok(RopeScaling::None),
                Some(info) => llama3_scaling(spec, &numbers(info, self.file).unwrap_or_default())
                    .ok_or_else(|| {
                        self.unsupported(
                            format!("the rope scaling of `{ROPE_FACTORS}`"),
                            "known are the factors of Llama 3.1, 3.2 and 3.3",
                        )
                    }),
            },
            Some("linear") => {
                let key = self.key("rope.scaling.factor");
                match self.header.number(&key).map_err(|what| self.malformed(what))? {
                    Some(factor) if factor > 0.0 && factor.is_finite() => {
                        Ok(RopeScaling::Linear { factor })
                    }
                    _ => Err(self.malformed(format!("has no positive `{key}`"))),
                }
            }
            Some(other) => Err(self.unsupported(
                format!("the rope scaling `{other}`"),
                "supported are `none`, `linear` and the factors of Llama 3",
            )),
        }
    }
}

/// Recognises the rope scaling of Llama 3, which GGUF files spell out as a divisor for each
/// frequency.
fn llama3_scaling(spec: &Spec, divisors: &[f32]) -> Option<RopeScaling> {
    let plain = spec.rope.frequencies(spec.head_dim);
    [8.0, 16.0, 32.0]
        .map(|factor| RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        })
        .into_iter()
        .find(|scaling| {
            let rope = Rope { theta: spec.rope.theta, scaling: scaling.clone() };
            let scaled = rope.frequencies(spec.head_dim);
            plain.len() == divisors.len()
                && plain.iter().zip(&scaled).zip(divisors).all(|((plain, scaled), &divisor)| {
                    (plain / scaled / f64::from(divisor) - 1.0).abs() < 1e-3
                })
        })
}
