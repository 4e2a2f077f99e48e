//! From `config.json` to the shape of the model; what the engine does not do is refused by name.
//!
//! Here is what all architectures write alike; what each has of its own is in
//! [`architecture`](super::architecture).

use std::path::Path;

use serde_json::{Map, Value, json};

use super::architecture;
use super::error::ModelError;
use super::spec::{Rope, RopeScaling, Spec};

/// Reads the shape of a model out of a Hugging Face `config.json`.
pub fn from_hugging_face(path: &Path, config: &Value) -> Result<Spec, ModelError> {
    let Some(map) = config.as_object() else {
        return Err(ModelError::malformed(path, "does not hold a JSON object"));
    };
    architecture::from_config(&Fields { path, map, within: "" })
}

/// Reads what all architectures of the Llama family write alike.
///
/// `context` is how many tokens a model of the architecture reads where the file does not say, and
/// `head_dim` how wide its heads are then; none: `hidden_size` over their number.
pub(super) fn spec(
    fields: &Fields,
    context: usize,
    head_dim: Option<usize>,
) -> Result<Spec, ModelError> {
    match fields.text("hidden_act")? {
        None | Some("silu" | "swish") => {}
        Some(other) => {
            return Err(fields.unsupported(
                format!("`hidden_act = \"{other}\"`"),
                "models of the Llama family use `silu`",
            ));
        }
    }
    if fields.get("quantization_config").is_some() {
        return Err(fields.unsupported(
            "`quantization_config`".to_owned(),
            "use the unquantised safetensors of this model, or a GGUF file of it",
        ));
    }
    let hidden = fields.size("hidden_size")?;
    let heads = fields.size("num_attention_heads")?;
    let head_dim = match fields.optional_size("head_dim")?.or(head_dim) {
        Some(head_dim) => head_dim,
        None if hidden % heads == 0 => hidden / heads,
        None => {
            return Err(ModelError::malformed(
                fields.path,
                format!("has `hidden_size = {hidden}`, which {heads} heads do not divide"),
            ));
        }
    };
    let spec = Spec {
        layers: fields.size("num_hidden_layers")?,
        hidden,
        heads,
        kv_heads: fields.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        intermediate: fields.size("intermediate_size")?,
        vocab: fields.size("vocab_size")?,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope: rope(fields)?,
        attention_bias: false,
        qk_norm: false,
        sliding_windows: Vec::new(),
        tied_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        context_length: fields.optional_size("max_position_embeddings")?.unwrap_or(context),
    };
    check(fields.path, &spec)?;
    Ok(spec)
}

/// Refuses flags that give biases to layers that have none here.
pub(super) fn no_biases(fields: &Fields, flags: &[&str]) -> Result<(), ModelError> {
    for name in flags {
        if fields.flag(name)? == Some(true) {
            return Err(fields.unsupported(
                format!("`{name} = true`"),
                "models of this architecture are used without these biases",
            ));
        }
    }
    Ok(())
}

/// Returns a `config.json` for a model of this shape, without the type of its weights and the ids of
/// its tokens. [`from_hugging_face`] reads the same shape out of it.
pub fn to_hugging_face(spec: &Spec) -> Map<String, Value> {
    let Spec { rope, .. } = spec;
    let (architecture, model_type) = architecture::names(spec);
    let scaling = match rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    // As people write it: the shortest decimal that is this number.
    let eps: f64 = spec.rms_norm_eps.to_string().parse().unwrap_or(spec.rms_norm_eps.into());
    let config = json!({
        "architectures": [architecture],
        "attention_bias": false,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "hidden_size": spec.hidden,
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": spec.context_length,
        "mlp_bias": false,
        "model_type": model_type,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "num_key_value_heads": spec.kv_heads,
        "rms_norm_eps": eps,
        "rope_scaling": scaling,
        "rope_theta": rope.theta,
        "sliding_window": spec.sliding_windows.iter().flatten().next(),
        "tie_word_embeddings": spec.tied_embeddings,
        "use_cache": true,
        "vocab_size": spec.vocab,
    });
    match config {
        Value::Object(config) => config,
        _ => unreachable!("an object was written"),
    }
}

/// Checks that the numbers of a shape fit each other and an ordinary machine.
pub(super) fn check(path: &Path, spec: &Spec) -> Result<(), ModelError> {
    let bad = |message: String| Err(ModelError::malformed(path, message));
    let limits = [
        ("blocks", spec.layers, 4096),
        ("hidden width", spec.hidden, 1 << 18),
        ("heads", spec.heads, 4096),
        ("key and value heads", spec.kv_heads, 4096),
        ("head width", spec.head_dim, 1 << 14),
        ("MLP width", spec.intermediate, 1 << 20),
        ("vocabulary", spec.vocab, 1 << 22),
        ("context", spec.context_length, 1 << 26),
    ];
    for (what, value, limit) in limits {
        if value == 0 || value > limit {
            return bad(format!("gives {value} for the {what}, expected 1 to {limit}"));
        }
    }
    if !spec.heads.is_multiple_of(spec.kv_heads) {
        return bad(format!(
            "has {} heads, which {} key and value heads do not divide",
            spec.heads, spec.kv_heads
        ));
    }
    if !spec.head_dim.is_multiple_of(2) {
        return bad(format!("has heads of width {}; rotation needs an even one", spec.head_dim));
    }
    if !(spec.rms_norm_eps.is_finite() && spec.rms_norm_eps > 0.0) {
        return bad(format!("gives {} for `rms_norm_eps`", spec.rms_norm_eps));
    }
    if !(spec.rope.theta.is_finite() && spec.rope.theta > 1.0) {
        return bad(format!("gives {} for the base of the rotation", spec.rope.theta));
    }
    Ok(())
}

/// Newer files have `rope_parameters`, older ones `rope_theta` beside `rope_scaling`. A file with both
/// has to mean one thing by them.
fn rope(fields: &Fields) -> Result<Rope, ModelError> {
    let (newer, older) = (fields.group("rope_parameters")?, fields.group("rope_scaling")?);
    if let (Some(newer), Some(older)) = (&newer, &older)
        && newer.map != older.map
    {
        return Err(ModelError::malformed(
            fields.path,
            "has `rope_parameters` and a `rope_scaling` that says something else; one of them must go",
        ));
    }
    let part = newer.or(older);
    let outer = fields.number("rope_theta")?;
    let Some(part) = part else {
        return Ok(Rope { theta: outer.unwrap_or(10000.0), scaling: RopeScaling::None });
    };
    if let Some((name, _)) = part.map.iter().find(|(_, value)| value.is_object()) {
        return Err(part.unsupported(
            format!("rotary embeddings of their own for `{name}`"),
            "all blocks have the same here",
        ));
    }
    let theta = part.number("rope_theta")?.or(outer).unwrap_or(10000.0);
    for holder in [fields, &part] {
        if let Some(share) = holder.number("partial_rotary_factor")?
            && share != 1.0
        {
            return Err(holder.unsupported(
                format!("`partial_rotary_factor = {share}`"),
                "every dimension of a head is rotated",
            ));
        }
    }
    let kind = match part.text("rope_type")? {
        Some(kind) => Some(kind),
        None => part.text("type")?,
    };
    let scaling = match kind {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: part.factor("factor")? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: part.factor("factor")?,
            low_freq_factor: part.factor("low_freq_factor")?,
            high_freq_factor: part.factor("high_freq_factor")?,
            original_max_position_embeddings: part.size("original_max_position_embeddings")?,
        },
        Some(other) => {
            return Err(part.unsupported(
                format!("the rope scaling `{other}`"),
                "supported are `default`, `linear` and `llama3`",
            ));
        }
    };
    if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. } = scaling
        && low_freq_factor >= high_freq_factor
    {
        return Err(ModelError::malformed(
            fields.path,
            "has a `low_freq_factor` that is not below its `high_freq_factor`",
        ));
    }
    Ok(Rope { theta, scaling })
}

/// The fields of a JSON object, read with errors that name file and field.
pub(super) struct Fields<'a> {
    /// The file.
    pub(super) path: &'a Path,
    map: &'a Map<String, Value>,
    within: &'a str,
}

impl<'a> Fields<'a> {
    /// Returns a field; one that is null counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn optional_size(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64().and_then(|value| usize::try_from(value).ok()) {
            Some(value) if value > 0 => Ok(Some(value)),
            _ => Err(self.wrong(name, "a positive whole number")),
        }
    }

    /// Returns a size, or `default` where the field is absent, or none where it is null.
    pub(super) fn size_or(&self, name: &str, default: usize) -> Result<Option<usize>, ModelError> {
        match self.map.contains_key(name) {
            true => self.optional_size(name),
            false => Ok(Some(default)),
        }
    }

    /// Returns a list of texts, where the field is there.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let texts = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        texts.map(Some).ok_or_else(|| self.wrong(name, "a list of names"))
    }

    pub(super) fn size(&self, name: &str) -> Result<usize, ModelError> {
        self.optional_size(name)?.ok_or_else(|| self.absent(name))
    }

    /// Returns a whole number from 0, where the field is there.
    pub(super) fn count(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let count = value.as_u64().and_then(|value| usize::try_from(value).ok());
        count.map(Some).ok_or_else(|| self.wrong(name, "a whole number from 0"))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(name, "a number"))
    }

    fn factor(&self, name: &str) -> Result<f64, ModelError> {
        match self.number(name)? {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(_) => Err(self.wrong(name, "a positive number")),
            None => Err(self.absent(name)),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, "`true` or `false`"))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, "a text"))
    }

    fn group(&self, name: &'a str) -> Result<Option<Fields<'a>>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(name, "an object"))?;
        Ok(Some(Fields { path: self.path, map, within: name }))
    }

    fn place(&self, name: &str) -> String {
        match self.within {
            "" => format!("`{name}`"),
            within => format!("`{within}.{name}`"),
        }
    }

    fn absent(&self, name: &str) -> ModelError {
        ModelError::malformed(self.path, format!("has no {}", self.place(name)))
    }

    pub(super) fn wrong(&self, name: &str, expected: &str) -> ModelError {
        let found = self.map.get(name).unwrap_or(&Value::Null);
        ModelError::malformed(
            self.path,
            format!("has {} = {found}, expected {expected}", self.place(name)),
        )
    }

    pub(super) fn unsupported(&self, what: String, hint: &str) -> ModelError {
        ModelError::Unsupported { path: self.path.to_owned(), what, hint: hint.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama(changes: Value) -> Value {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 50000.0,
            "hidden_act": "silu", "tie_word_embeddings": true,
        });
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        config
    }

    fn read(changes: Value) -> Result<Spec, String> {
        from_hugging_face(Path::new("config.json"), &llama(changes)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_plain_llama() {
        let spec = read(json!({})).unwrap();
        assert_eq!((spec.layers, spec.heads, spec.kv_heads, spec.head_dim), (3, 4, 2, 16));
        assert_eq!((spec.vocab, spec.context_length, spec.intermediate), (100, 256, 128));
        assert_eq!(spec.rope, Rope { theta: 50000.0, scaling: RopeScaling::None });
        assert!(spec.tied_embeddings);
    }

    #[test]
    fn a_shape_comes_back_from_what_is_written() {
        let mut spec = read(json!({ "rms_norm_eps": 9.999999747378752e-06 })).unwrap();
        let llama3 = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 128,
        };
        for scaling in [RopeScaling::None, RopeScaling::Linear { factor: 2.5 }, llama3] {
            spec.rope.scaling = scaling;
            spec.tied_embeddings = !spec.tied_embeddings;
            spec.head_dim = 24;
            // Each turn an architecture with one feature more.
            spec.attention_bias = matches!(spec.rope.scaling, RopeScaling::Linear { .. });
            spec.qk_norm = matches!(spec.rope.scaling, RopeScaling::Llama3 { .. });
            let written = to_hugging_face(&spec);
            assert_eq!(written["rms_norm_eps"], json!(1e-5));
            let back = from_hugging_face(Path::new("c"), &Value::Object(written)).unwrap();
            assert_eq!(back, spec);
        }
    }

    #[test]
    fn both_spellings_of_rope() {
        let llama3 = json!({
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let old = read(json!({"rope_scaling": llama3.clone()})).unwrap();
        assert_eq!(old.rope, Rope { theta: 50000.0, scaling: scaling.clone() });
        let mut parameters = llama3;
        parameters["rope_theta"] = json!(500000.0);
        let new = read(json!({"rope_parameters": parameters, "rope_theta": null})).unwrap();
        assert_eq!(new.rope, Rope { theta: 500000.0, scaling });
        let linear = read(json!({"rope_scaling": {"type": "linear", "factor": 2}})).unwrap();
        assert_eq!(linear.rope.scaling, RopeScaling::Linear { factor: 2.0 });
    }

    fn check(changes: Value, expected: &str) {
        assert_eq!(read(changes).unwrap_err(), format!("`config.json` {expected}"));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let no = |what: &str| format!("asks for {what}, which is not supported");
        check(
            json!({"architectures": ["GemmaForCausalLM"]}),
            &no("the architecture `GemmaForCausalLM`"),
        );
        check(json!({"architectures": null, "model_type": "gpt2"}), &no("the model type `gpt2`"));
        check(json!({"attention_bias": true}), &no("`attention_bias = true`"));
        check(json!({"mlp_bias": true}), &no("`mlp_bias = true`"));
        check(json!({"hidden_act": "gelu"}), &no("`hidden_act = \"gelu\"`"));
        check(json!({"quantization_config": {}}), &no("`quantization_config`"));
        check(
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            &no("the rope scaling `yarn`"),
        );
        check(
            json!({"partial_rotary_factor": 0.5, "rope_parameters": {}}),
            &no("`partial_rotary_factor = 0.5`"),
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        check(json!({"hidden_size": null}), "has no `hidden_size`");
        check(
            json!({"hidden_size": "64"}),
            "has `hidden_size` = \"64\", expected a positive whole number",
        );
        check(
            json!({"num_hidden_layers": -1}),
            "has `num_hidden_layers` = -1, expected a positive whole number",
        );
        check(
            json!({"num_hidden_layers": 1_000_000_000}),
            "gives 1000000000 for the blocks, expected 1 to 4096",
        );
        check(
            json!({"num_key_value_heads": 3}),
            "has 4 heads, which 3 key and value heads do not divide",
        );
        check(
            json!({"num_attention_heads": 5}),
            "has `hidden_size = 64`, which 5 heads do not divide",
        );
        check(json!({"head_dim": 15}), "has heads of width 15; rotation needs an even one");
        check(json!({"rms_norm_eps": 0}), "gives 0 for `rms_norm_eps`");
        check(json!({"rope_scaling": {"type": "linear"}}), "has no `rope_scaling.factor`");
        check(
            json!({
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
                "rope_scaling": {"type": "yarn", "factor": 4.0},
            }),
            "has `rope_parameters` and a `rope_scaling` that says something else; one of them must go",
        );
        check(json!({"architectures": null}), "names neither `architectures` nor `model_type`");
    }
}
