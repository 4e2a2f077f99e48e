//! An adapter added to the weights it stands beside.

use std::path::Path;

use rayon::prelude::*;

use super::adapter::{Adapter, AdapterError, LoraPair, module_path};
use super::backend::{Backend, BackendError, PAGE, Segment, Write};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::forward::{Engine, Workspace};
use super::spec::Spec;
use super::weights::LoadedAdapter;

/// A checkpoint with an adapter in its weights: `W + scale · B·A`, each sum over the rank in f64 and
/// rounded to f32 once.
pub struct Merged<'a> {
    base: &'a dyn Checkpoint,
    adapter: &'a Adapter,
    folder: &'a Path,
}

impl<'a> Merged<'a> {
    /// Fails where the adapter does not fit the model, or is a reward model. `folder` is where it comes
    /// from, for messages.
    pub fn new(
        base: &'a dyn Checkpoint,
        adapter: &'a Adapter,
        folder: &'a Path,
    ) -> Result<Self, AdapterError> {
        adapter.check(base.spec())?;
        if adapter.is_reward_model() {
            return Err(AdapterError::Merged);
        }
        Ok(Merged { base, adapter, folder })
    }
}

impl Checkpoint for Merged<'_> {
    fn spec(&self) -> &Spec {
        self.base.spec()
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let mut values = self.base.tensor(name, shape)?;
        let path = name.strip_suffix(".weight");
        let pair = self.adapter.pairs.iter().find(|((layer, linear), _)| {
            path.is_some_and(|path| path == module_path(*layer, *linear))
        });
        if let (Some((_, pair)), &[_, inputs]) = (pair, shape) {
            add(&mut values, inputs, pair);
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let (folder, value) = (self.folder.display(), values[at]);
                let message = format!(
                    "the numbers of the adapter `{folder}` are too large: with it `{name}` would hold \
                     {value} at position {at}, and a weight must be finite"
                );
                return Err(CheckpointError { message });
            }
        }
        Ok(values)
    }
}

/// Returns `scale · B·A`, `[out, in]`: what a pair adds to the weight it stands beside.
pub fn delta(pair: &LoraPair) -> Vec<f32> {
    let (inputs, outputs) = (pair.a.len() / pair.r, pair.b.len() / pair.r);
    let mut delta = vec![0.0; outputs * inputs];
    add(&mut delta, inputs, pair);
    delta
}

/// Adds `scale · B·A` to `weight`, `[out, inputs]`.
fn add(weight: &mut [f32], inputs: usize, pair: &LoraPair) {
    let LoraPair { r, scale, a, b } = pair;
    let rows = weight.par_chunks_exact_mut(inputs).zip(b.par_chunks_exact(*r));
    rows.for_each_init(
        || vec![0f64; inputs],
        |sum, (weight, b)| {
            sum.fill(0.0);
            for (&b, a) in b.iter().zip(a.chunks_exact(inputs)) {
                let factor = scale * f64::from(b);
                for (sum, &a) in sum.iter_mut().zip(a) {
                    *sum += factor * f64::from(a);
                }
            }
            for (weight, sum) in weight.iter_mut().zip(sum) {
                *weight = (f64::from(*weight) + *sum) as f32;
            }
        },
    );
}

/// Returns the logits of every position of some sequences, one after the other.
///
/// The sequences are not empty, and no longer than the model's context.
pub fn logits<B: Backend>(
    engine: &Engine<B>,
    adapter: Option<&LoadedAdapter<B>>,
    sequences: &[Vec<u32>],
) -> Result<Vec<f32>, BackendError> {
    let (backend, weights) = (&*engine.backend, &*engine.weights);
    let mut workspace = Workspace::new(backend)?;
    let mut all = Vec::new();
    for tokens in sequences {
        let (rows, pages) = (tokens.len(), tokens.len().div_ceil(PAGE));
        let mut cache = backend.cache(engine.cache_shape(pages))?;
        let segments = [Segment::cached(rows, 0, (0..pages as u32).collect())];
        let wanted: Vec<usize> = (0..rows).collect();
        let mut logits = backend.zeros(rows * weights.spec.vocab)?;
        backend.enter(|| {
            engine.forward(adapter, &mut workspace, &mut cache, tokens, &segments, &wanted)?;
            backend.linear(workspace.hidden(), rows, weights.head(), &mut logits, Write::Set);
            Ok(())
        })?;
        all.extend_from_slice(&backend.view(&logits, 0..rows * weights.spec.vocab)?);
    }
    Ok(all)
}

/// How far two models' logits for the same tokens are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The largest difference of a logit.
    pub largest: f32,
    /// The largest logit of the first model, without its sign.
    pub magnitude: f32,
    /// How many tokens were read.
    pub positions: usize,
    /// After how many of them both models think the same token most likely.
    pub agreeing: usize,
}

impl Difference {
    /// Compares logits of the same length, `vocab` for each token. What is not a number is as far
    /// away as can be.
    pub fn of(before: &[f32], after: &[f32], vocab: usize) -> Difference {
        assert_eq!(before.len(), after.len(), "the same tokens of models of one shape");
        let distances = before.iter().zip(after).map(|(a, b)| (a - b).abs());
        let number = |x: f32| if x.is_nan() { f32::INFINITY } else { x };
        let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        let rows = before.chunks_exact(vocab).zip(after.chunks_exact(vocab));
        Difference {
            largest: distances.map(number).fold(0.0, f32::max),
            magnitude: before.iter().map(|x| x.abs()).fold(0.0, f32::max),
            positions: rows.len(),
            agreeing: rows.filter(|(before, after)| best(before) == best(after)).count(),
        }
    }
}
