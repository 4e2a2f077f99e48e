use super::*;
use crate::model::tiny::{self, TinyCheckpoint};

fn pair() -> [Arc<TinyCheckpoint>; 2] {
    [1, 2].map(|seed| {
        let mut checkpoint = tiny::checkpoint(tiny::spec(8, true), seed);
        // A zero has a sign that a sum would lose.
        checkpoint.tensors.get_mut("model.norm.weight").unwrap()[..2].copy_from_slice(&[-0.0, 0.0]);
        Arc::new(checkpoint)
    })
}

fn at(alpha: f64, [initial, aligned]: &[Arc<TinyCheckpoint>; 2]) -> Extrapolated {
    Extrapolated::new(initial.clone(), aligned.clone(), alpha)
}

fn bits(checkpoint: &dyn Checkpoint) -> Vec<Vec<u32>> {
    let tensors = layout::tensors(checkpoint.spec()).into_iter();
    let values = tensors.map(|(name, shape)| checkpoint.tensor(&name, &shape).unwrap());
    values.map(|values| values.into_iter().map(f32::to_bits).collect()).collect()
}

#[test]
fn the_ends_of_the_line_are_the_two_models_and_the_middle_is_their_mean() {
    let pair = pair();
    assert!(bits(&at(0.0, &pair)) == bits(&*pair[1]));
    assert!(bits(&at(-0.0, &pair)) == bits(&*pair[1]));
    assert!(bits(&at(-1.0, &pair)) == bits(&*pair[0]));
    let middle = at(-0.5, &pair);
    for (name, shape) in layout::tensors(middle.spec()) {
        let [a, b] = [&pair[0], &pair[1]].map(|one| one.tensor(&name, &shape).unwrap());
        let mean = a.iter().zip(&b).map(|(&a, &b)| ((f64::from(a) + f64::from(b)) / 2.0) as f32);
        assert!(mean.eq(middle.tensor(&name, &shape).unwrap()), "{name}");
    }
}

#[test]
fn golden_values() {
    let check = |initial: f32, aligned: f32, alpha: f64, expected: f32| {
        let of = |value| {
            let mut one = tiny::checkpoint(tiny::spec(8, true), 1);
            one.tensors.get_mut("model.norm.weight").unwrap().fill(value);
            Arc::new(one)
        };
        let line = at(alpha, &[of(initial), of(aligned)]);
        let found = line.tensor("model.norm.weight", &[48]).unwrap();
        assert!(found.iter().all(|value| (value - expected).abs() < 1e-6), "{found:?}");
    };
    check(1.2, 1.5, 0.3, 1.59);
    check(-0.01, -0.02, 8.0, -0.10);
}

#[test]
fn what_is_too_large_is_named() {
    let error = at(1e40, &pair()).tensor("model.norm.weight", &[48]).unwrap_err();
    assert!(error.message.contains("alpha 1e40 ") && error.message.contains("`model.norm.weight`"));
    assert!(error.message.ends_with("and a weight must be finite"), "{}", error.message);
}

#[test]
fn the_change_is_noted_once_for_each_tensor() {
    let pair = pair();
    let noting = Noting::new(at(0.3, &pair));
    assert!(bits(&noting) == bits(&at(0.3, &pair)));
    let (mut largest, mut delta, mut norm) = (0f64, 0.0, 0.0);
    for (name, shape) in layout::tensors(noting.spec()) {
        let [a, b] = [&pair[0], &pair[1]].map(|one| one.tensor(&name, &shape).unwrap());
        for (a, b) in a.into_iter().zip(b) {
            let difference = f64::from(b) - f64::from(a);
            largest = largest.max(difference.abs());
            delta += difference * difference;
            norm += f64::from(a) * f64::from(a);
        }
    }
    let change = noting.change();
    assert_eq!(change.largest, largest);
    assert_eq!(change.tensor, "model.embed_tokens.weight");
    assert!((change.relative_norm() - (delta / norm).sqrt()).abs() < 1e-12);

    let same = Noting::new(at(0.3, &[pair[0].clone(), pair[0].clone()]));
    assert!(bits(&same).len() > 10);
    let change = same.change();
    assert_eq!((change.largest, change.relative_norm(), change.tensor.as_str()), (0.0, 0.0, ""));
}

#[test]
fn models_that_differ_are_told_apart_by_the_first_difference() {
    let check = |change: &dyn Fn(&mut Spec), expected: &str| {
        let (first, mut second) = (tiny::spec(8, true), tiny::spec(8, true));
        change(&mut second);
        let found = tensors(&first, &second).or_else(|| settings(&first, &second));
        assert_eq!(found.as_deref().unwrap_or(""), expected);
    };
    check(&|_| (), "");
    check(&|spec| spec.context_length = 9, "");
    check(
        &|spec| spec.vocab = 301,
        "`model.embed_tokens.weight` has shape [300, 48] in the first and [301, 48] in the second",
    );
    check(
        &|spec| spec.tied_embeddings = false,
        "only the second has a tensor `lm_head.weight` [300, 48]",
    );
    check(
        &|spec| spec.layers = 1,
        "only the first has a tensor `model.layers.1.input_layernorm.weight` [48]",
    );
    check(
        &|spec| spec.rope.theta = 5e5,
        "the base of the rotary frequencies: 10000.0 in the first and 500000.0 in the second",
    );
    check(
        &|spec| (spec.heads, spec.kv_heads, spec.head_dim) = (2, 1, 16),
        "the number of heads: 4 in the first and 2 in the second",
    );
}
