//! Which tensors a checkpoint must hold, by name and shape.

use std::collections::BTreeMap;
use std::path::Path;

use super::checkpoint::CheckpointError;
use super::spec::{Linear, Spec};

/// Returns every tensor that a model of this shape has, with its Hugging Face name, in checkpoint
/// order. The head is absent where it is the embedding.
pub fn tensors(spec: &Spec) -> Vec<(String, Vec<usize>)> {
    let mut list = vec![("model.embed_tokens.weight".to_owned(), vec![spec.vocab, spec.hidden])];
    for layer in 0..spec.layers {
        let block = format!("model.layers.{layer}");
        list.push((format!("{block}.input_layernorm.weight"), vec![spec.hidden]));
        for linear in Linear::ALL {
            if linear == Linear::Gate {
                list.push((format!("{block}.post_attention_layernorm.weight"), vec![spec.hidden]));
            }
            let (outputs, inputs) = spec.linear_shape(linear);
            list.push((format!("{block}.{}.weight", linear.path()), vec![outputs, inputs]));
            if spec.has_bias(linear) {
                list.push((format!("{block}.{}.bias", linear.path()), vec![outputs]));
            }
            if spec.qk_norm && linear == Linear::O {
                for norm in ["q_norm", "k_norm"] {
                    let name = format!("{block}.self_attn.{norm}.weight");
                    list.push((name, vec![spec.head_dim]));
                }
            }
        }
    }
    list.push(("model.norm.weight".to_owned(), vec![spec.hidden]));
    if !spec.tied_embeddings {
        list.push(("lm_head.weight".to_owned(), vec![spec.vocab, spec.hidden]));
    }
    list
}

/// Checks that a file holds exactly the tensors that a model of this shape has.
///
/// `found` maps Hugging Face names to shapes. Two kinds of tensors may stand beside them: rotary
/// frequencies, which follow from the configuration, and a head where it is tied to the embedding.
pub(super) fn check(
    path: &Path,
    spec: &Spec,
    found: &BTreeMap<String, Vec<usize>>,
) -> Result<(), CheckpointError> {
    let fail =
        |what: String| Err(CheckpointError { message: format!("`{}` {what}", path.display()) });
    // At least nine tensors a block: a configuration that promises more blocks than that is answered here,
    // before anything is sized by it.
    if spec.layers > found.len() {
        return fail(format!(
            "holds {} tensors, too few for the {} blocks of the configuration",
            found.len(),
            spec.layers
        ));
    }
    let expected: BTreeMap<String, Vec<usize>> = tensors(spec).into_iter().collect();
    let missing: Vec<&String> = expected.keys().filter(|name| !found.contains_key(*name)).collect();
    if let Some(first) = missing.first() {
        let shape = &expected[*first];
        return fail(match missing.len() {
            1 => format!("has no tensor `{first}` {shape:?}"),
            count => format!("lacks {count} of its tensors, the first is `{first}` {shape:?}"),
        });
    }
    for (name, shape) in &expected {
        if &found[name] != shape {
            return fail(format!(
                "holds `{name}` with shape {:?}, and the configuration asks for {shape:?}",
                found[name]
            ));
        }
    }
    let allowed = |name: &str| {
        name.ends_with(".rotary_emb.inv_freq") || (spec.tied_embeddings && name == "lm_head.weight")
    };
    match found.keys().find(|name| !expected.contains_key(*name) && !allowed(name)) {
        None => Ok(()),
        Some(extra) => fail(format!(
            "holds a tensor `{extra}` {:?} that a model of this architecture does not have",
            found[extra]
        )),
    }
}

/// Says how a request for one tensor differs from what the file holds.
pub(super) fn mismatch(
    path: &Path,
    name: &str,
    found: Option<&[usize]>,
    expected: &[usize],
) -> CheckpointError {
    let path = path.display();
    CheckpointError {
        message: match found {
            Some(found) => format!(
                "`{path}` holds `{name}` with shape {found:?}, and the model needs {expected:?}"
            ),
            None => format!("`{path}` has no tensor `{name}` {expected:?}"),
        },
    }
}

/// Checks that every number is finite.
pub(super) fn check_finite(path: &Path, name: &str, data: &[f32]) -> Result<(), CheckpointError> {
    match data.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => Err(CheckpointError {
            message: format!(
                "`{}`: tensor `{name}` holds {} at position {at}; a weight must be finite",
                path.display(),
                data[at]
            ),
        }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::spec::{Rope, RopeScaling};

    /// Returns a shape that takes no time.
    pub(in crate::model) fn small() -> Spec {
        Spec {
            layers: 2,
            hidden: 8,
            heads: 4,
            kv_heads: 2,
            head_dim: 2,
            intermediate: 12,
            vocab: 10,
            rms_norm_eps: 1e-5,
            rope: Rope { theta: 10000.0, scaling: RopeScaling::None },
            attention_bias: false,
            qk_norm: false,
            sliding_windows: Vec::new(),
            tied_embeddings: true,
            context_length: 64,
        }
    }

    fn check_list(change: impl Fn(&mut BTreeMap<String, Vec<usize>>), expected: &str) {
        check_list_of(small(), change, expected);
    }

    fn check_list_of(
        spec: Spec,
        change: impl Fn(&mut BTreeMap<String, Vec<usize>>),
        expected: &str,
    ) {
        let mut found: BTreeMap<_, _> = tensors(&spec).into_iter().collect();
        change(&mut found);
        let message =
            check(Path::new("m"), &spec, &found).err().map_or(String::new(), |error| error.message);
        assert_eq!(message, expected);
    }

    #[test]
    fn names_and_shapes() {
        let list = tensors(&small());
        assert_eq!(list.len(), 1 + 2 * 9 + 1);
        assert_eq!(list[3].0, "model.layers.0.self_attn.k_proj.weight");
        assert_eq!(list[3].1, [4, 8]);
        let untied = Spec { tied_embeddings: false, ..small() };
        assert_eq!(tensors(&untied).last().unwrap().0, "lm_head.weight");
        let biased = tensors(&Spec { attention_bias: true, ..small() });
        assert_eq!(biased.len(), list.len() + 2 * 3);
        assert_eq!(biased[5], ("model.layers.0.self_attn.k_proj.bias".to_owned(), vec![4]));
        let normed = tensors(&Spec { qk_norm: true, ..small() });
        assert_eq!(normed.len(), list.len() + 2 * 2);
        assert!(normed.contains(&("model.layers.1.self_attn.q_norm.weight".to_owned(), vec![2])));
    }

    #[test]
    fn the_list_must_fit() {
        check_list(|_| (), "");
        check_list(|list| drop(list.insert("lm_head.weight".into(), vec![10, 8])), "");
        check_list(
            |list| {
                drop(list.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![1]))
            },
            "",
        );
        check_list(
            |list| drop(list.remove("model.norm.weight")),
            "`m` has no tensor `model.norm.weight` [8]",
        );
        check_list(
            |list| list.retain(|name, _| !name.contains("layers.1")),
            "`m` lacks 9 of its tensors, the first is `model.layers.1.input_layernorm.weight` [8]",
        );
        check_list(
            |list| drop(list.insert("model.norm.weight".into(), vec![9])),
            "`m` holds `model.norm.weight` with shape [9], and the configuration asks for [8]",
        );
        check_list(
            |list| drop(list.insert("model.layers.0.self_attn.q_proj.bias".into(), vec![8])),
            "`m` holds a tensor `model.layers.0.self_attn.q_proj.bias` [8] that a model of this \
             architecture does not have",
        );
        let biased = || Spec { attention_bias: true, ..small() };
        check_list_of(
            biased(),
            |list| drop(list.remove("model.layers.1.self_attn.v_proj.bias")),
            "`m` has no tensor `model.layers.1.self_attn.v_proj.bias` [4]",
        );
        check_list_of(
            biased(),
            |list| drop(list.insert("model.layers.0.self_attn.q_proj.bias".into(), vec![9])),
            "`m` holds `model.layers.0.self_attn.q_proj.bias` with shape [9], and the \
             configuration asks for [8]",
        );
        check_list_of(
            biased(),
            |list| drop(list.insert("model.layers.0.self_attn.o_proj.bias".into(), vec![8])),
            "`m` holds a tensor `model.layers.0.self_attn.o_proj.bias` [8] that a model of this \
             architecture does not have",
        );
        check_list_of(
            Spec { qk_norm: true, ..small() },
            |list| drop(list.insert("model.layers.0.self_attn.k_norm.weight".into(), vec![4])),
            "`m` holds `model.layers.0.self_attn.k_norm.weight` with shape [4], and the \
             configuration asks for [2]",
        );
        check_list(
            |list| drop(list.insert("model.layers.0.self_attn.k_norm.weight".into(), vec![2])),
            "`m` holds a tensor `model.layers.0.self_attn.k_norm.weight` [2] that a model of this \
             architecture does not have",
        );
        check_list(
            |list| list.clear(),
            "`m` holds 0 tensors, too few for the 2 blocks of the configuration",
        );
    }
}
