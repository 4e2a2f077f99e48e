//! Extrapolation: weights beyond an aligned model, on the line that leads to it from the model it was
//! trained from (ExPO, <https://arxiv.org/abs/2404.16792>, section 3).
//!
//! ```text
//! θ₂ = θ₁ + α (θ₁ − θ₀)
//! ```
//!
//! Where this differs from the authors' program:
//!
//! 1. It subtracts in bf16, in which a change of a millionth is gone. Here each number is computed in
//!    f64 from f32, and rounded to f32 once.
//! 2. Alpha may be negative: −1 is the initial model, −0.5 the middle.
//! 3. An adapter is scaled by 1 + α, which is the same and leaves the weights under it alone
//!    ([`Adapter::scaled`](crate::model::adapter::Adapter::scaled)).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::model::checkpoint::{Checkpoint, CheckpointError};
use crate::model::layout;
use crate::model::spec::Spec;
use crate::model::text::Model;

/// A checkpoint on the line through two others. Tensors are computed as they are asked for, so the
/// memory is that of two tensors.
pub struct Extrapolated {
    initial: Arc<dyn Checkpoint>,
    aligned: Arc<dyn Checkpoint>,
    alpha: f64,
}

impl Extrapolated {
    /// Returns `aligned + alpha (aligned - initial)`. The two have the same tensors ([`check`]); `alpha`
    /// is finite. Where it is 0 or −1, every tensor is one of the two's, bit for bit.
    pub fn new(
        initial: Arc<dyn Checkpoint>,
        aligned: Arc<dyn Checkpoint>,
        alpha: f64,
    ) -> Extrapolated {
        Extrapolated { initial, aligned, alpha }
    }

    fn step(
        &self,
        name: &str,
        initial: Vec<f32>,
        mut aligned: Vec<f32>,
    ) -> Result<Vec<f32>, CheckpointError> {
        if self.alpha == -1.0 {
            return Ok(initial);
        }
        if self.alpha != 0.0 {
            for (aligned, &initial) in aligned.iter_mut().zip(&initial) {
                let to = f64::from(*aligned);
                *aligned = (to + self.alpha * (to - f64::from(initial))) as f32;
            }
        }
        match aligned.iter().position(|value| !value.is_finite()) {
            None => Ok(aligned),
            Some(at) => {
                let (alpha, value) = (self.alpha, aligned[at]);
                let message = format!(
                    "alpha {alpha:?} is too large: with it `{name}` would hold {value} at position {at}, \
                     and a weight must be finite"
                );
                Err(CheckpointError { message })
            }
        }
    }
}

impl Checkpoint for Extrapolated {
    fn spec(&self) -> &Spec {
        self.aligned.spec()
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        // What is not needed is not read.
        if self.alpha == 0.0 {
            return self.aligned.tensor(name, shape);
        }
        let initial = self.initial.tensor(name, shape)?;
        self.step(name, initial, self.aligned.tensor(name, shape)?)
    }

    fn reading_bytes(&self, name: &str, shape: &[usize]) -> usize {
        let result = size_of::<f32>() * shape.iter().product::<usize>();
        let [initial, aligned] =
            [&self.initial, &self.aligned].map(|one| one.reading_bytes(name, shape));
        initial.max(result + aligned)
    }

    fn mapped_bytes(&self) -> usize {
        self.initial.mapped_bytes() + self.aligned.mapped_bytes()
    }
}

/// The same checkpoint, which notes how far the two are apart while tensors are asked for, each once.
pub struct Noting {
    extrapolated: Extrapolated,
    change: Mutex<Change>,
}

impl Noting {
    /// Nothing is noted yet.
    pub fn new(extrapolated: Extrapolated) -> Noting {
        Noting { extrapolated, change: Mutex::default() }
    }

    /// Returns what was noted.
    pub fn change(&self) -> Change {
        self.change.lock().expect("nothing panics while it is held").clone()
    }
}

impl Checkpoint for Noting {
    fn spec(&self) -> &Spec {
        self.extrapolated.spec()
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let of = &self.extrapolated;
        let (initial, aligned) = (of.initial.tensor(name, shape)?, of.aligned.tensor(name, shape)?);
        let delta =
            aligned.iter().zip(&initial).map(|(&to, &from)| f64::from(to) - f64::from(from));
        let mut change = self.change.lock().expect("nothing panics while it is held");
        change.note_delta(name, delta);
        change.note_initial(&initial);
        drop(change);
        of.step(name, initial, aligned)
    }
}

/// How far an aligned model is from the one it was trained from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// The largest change of a weight, without its sign.
    pub largest: f64,
    /// The tensor that it is in; empty where nothing changed.
    pub tensor: String,
    delta_squares: f64,
    initial_squares: f64,
}

impl Change {
    /// Adds the differences of a tensor.
    pub fn note_delta(&mut self, name: &str, delta: impl IntoIterator<Item = f64>) {
        for delta in delta {
            self.delta_squares += delta * delta;
            if delta.abs() > self.largest {
                self.largest = delta.abs();
                name.clone_into(&mut self.tensor);
            }
        }
    }

    /// Adds a tensor of the initial model.
    pub fn note_initial(&mut self, values: &[f32]) {
        self.initial_squares += values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    }

    /// Returns the Frobenius norm of the difference over that of the initial model, all tensors taken
    /// together. 0 where nothing changed.
    pub fn relative_norm(&self) -> f64 {
        match self.delta_squares {
            0.0 => 0.0,
            squares => (squares / self.initial_squares).sqrt(),
        }
    }
}

/// Two models of which one is not the other, trained on.
#[derive(Debug, thiserror::Error)]
#[error("`{}` and `{}` are not two states of one model: {what}", initial.display(), aligned.display())]
pub struct Unlike {
    /// Where the initial model is.
    pub initial: PathBuf,
    /// Where the aligned one is.
    pub aligned: PathBuf,
    /// The first thing that differs: a tensor, a setting or a token.
    pub what: String,
}

impl Unlike {
    /// Returns the way out.
    pub fn hint(&self) -> String {
        "extrapolation needs the very model that training began with".to_owned()
    }
}

/// Fails where two models differ in a tensor's name or shape, in their architecture, or in a token.
pub fn check(initial: &Model, aligned: &Model) -> Result<(), Unlike> {
    let difference = tensors(&initial.spec, &aligned.spec)
        .or_else(|| settings(&initial.spec, &aligned.spec))
        .or_else(|| tokens(initial, aligned));
    match difference {
        None => Ok(()),
        Some(what) => {
            Err(Unlike { initial: initial.path.clone(), aligned: aligned.path.clone(), what })
        }
    }
}

fn tensors(initial: &Spec, aligned: &Spec) -> Option<String> {
    let all = |spec| layout::tensors(spec).into_iter().collect::<BTreeMap<_, _>>();
    let (first, second) = (all(initial), all(aligned));
    for (name, shape) in &first {
        match second.get(name) {
            Some(other) if other == shape => {}
            Some(other) => {
                return Some(format!(
                    "`{name}` has shape {shape:?} in the first and {other:?} in the second"
                ));
            }
            None => return Some(format!("only the first has a tensor `{name}` {shape:?}")),
        }
    }
    let extra = second.iter().find(|(name, _)| !first.contains_key(*name));
    extra.map(|(name, shape)| format!("only the second has a tensor `{name}` {shape:?}"))
}

/// What shapes do not tell. How long a context may be changes no weight's meaning.
fn settings(initial: &Spec, aligned: &Spec) -> Option<String> {
    let of = |spec: &Spec| {
        [
            ("the number of heads", format!("{}", spec.heads)),
            ("the number of key heads", format!("{}", spec.kv_heads)),
            ("`rms_norm_eps`", format!("{:?}", spec.rms_norm_eps)),
            ("the base of the rotary frequencies", format!("{:?}", spec.rope.theta)),
            ("`rope_scaling`", format!("{:?}", spec.rope.scaling)),
            ("the windows of attention", format!("{:?}", spec.sliding_windows)),
        ]
    };
    of(initial).into_iter().zip(of(aligned)).find(|(first, second)| first != second).map(
        |((name, first), (_, second))| {
            format!("{name}: {first} in the first and {second} in the second")
        },
    )
}

fn tokens(initial: &Model, aligned: &Model) -> Option<String> {
    let (first, second) = (&initial.tokenizer, &aligned.tokenizer);
    (0..first.len().max(second.len()) as u32).find_map(|id| {
        let (one, other) = (first.token(id), second.token(id));
        let shown = |token: Option<String>| match token {
            Some(token) => format!("{token:?}"),
            None => "absent".to_owned(),
        };
        (one != other).then(|| {
            format!("token {id} is {} in the first and {} in the second", shown(one), shown(other))
        })
    })
}

#[cfg(test)]
mod tests;
