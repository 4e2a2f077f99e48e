//! What a trainer moves: an adapter beside frozen weights, or the weights themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::startup::Seen;
use crate::model::activations::Activations;
use crate::model::adapter::{Adapter, LoraConfig, PairConfig};
use crate::model::backend::training::{AdamWStep, AdamWTensor};
use crate::model::backend::{Backend, BackendError, TrainingBackend};
use crate::model::backward::Pass;
use crate::model::spec::Linear;
use crate::model::trainable::{Gradients, Parameter, TrainableAdapter, Trained};
use crate::model::weights::{WeightMut, Weights};

/// What is trained, on the device.
pub(super) enum Subject<B: TrainingBackend> {
    /// An adapter, beside weights that others may use meanwhile.
    Adapter { weights: Arc<Weights<B>>, adapter: TrainableAdapter<B> },
    /// Every weight of a model.
    Weights { weights: Weights<B>, gradients: Gradients<B> },
}

/// The first and second moments of one tensor.
pub(super) type Moments<B> = [<B as Backend>::Buffer; 2];

impl<B: TrainingBackend> Subject<B> {
    pub(super) fn adapter(
        backend: &B,
        weights: Arc<Weights<B>>,
        start: &Adapter,
    ) -> Result<Self, BackendError> {
        let adapter = TrainableAdapter::new(backend, &weights.spec, start)?;
        Ok(Subject::Adapter { weights, adapter })
    }

    pub(super) fn weights(backend: &B, weights: Weights<B>) -> Result<Self, BackendError> {
        let gradients = Gradients::new(backend, &weights)?;
        Ok(Subject::Weights { weights, gradients })
    }

    /// Returns the weights of the model, trained or not.
    pub(super) fn model(&self) -> &Weights<B> {
        match self {
            Subject::Adapter { weights, .. } => weights,
            Subject::Weights { weights, .. } => weights,
        }
    }

    /// Returns the adapter's hyper-parameters, where one is trained.
    pub(super) fn lora(&self) -> Option<&LoraConfig> {
        match self {
            Subject::Adapter { adapter, .. } => Some(adapter.config()),
            Subject::Weights { .. } => None,
        }
    }

    /// Returns the adapter's pairs; none where the weights are trained.
    pub(super) fn pairs(&self) -> BTreeMap<(usize, Linear), PairConfig> {
        match self {
            Subject::Adapter { adapter, .. } => adapter.pairs(),
            Subject::Weights { .. } => BTreeMap::new(),
        }
    }

    /// Returns the names of all tensors that learn, in the order of their gradients.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Subject::Adapter { adapter, .. } => {
                adapter.parameters().map(|p| p.name.clone()).collect()
            }
            Subject::Weights { gradients, .. } => {
                gradients.iter().map(|(name, _)| name.to_string()).collect()
            }
        }
    }

    /// Returns the gradients, always in the same order.
    pub(super) fn gradients(&self) -> Vec<&B::Buffer> {
        match self {
            Subject::Adapter { adapter, .. } => adapter.parameters().map(|p| &p.gradient).collect(),
            Subject::Weights { gradients, .. } => gradients.iter().map(|(_, g)| g).collect(),
        }
    }

    /// Returns a pass that adds to the gradients.
    pub(super) fn pass<'a>(
        &'a mut self,
        backend: &'a B,
        activations: &'a mut Activations<B::Buffer>,
    ) -> Pass<'a, B> {
        let (weights, trained) = match self {
            Subject::Adapter { weights, adapter } => {
                (&**weights, Trained { adapter: Some(adapter), gradients: None })
            }
            Subject::Weights { weights, gradients } => {
                (&*weights, Trained { adapter: None, gradients: Some(gradients) })
            }
        };
        Pass { backend, weights, trained, activations }
    }

    /// Moves every tensor by one step of AdamW. Weight decay spares norms and biases, as in
    /// transformers' `Trainer`. Returns what that did to each tensor, where it is watched.
    pub(super) fn update(
        &mut self,
        backend: &B,
        moments: &mut [Moments<B>],
        step: &AdamWStep,
        watched: bool,
    ) -> Result<Vec<Seen>, BackendError> {
        match self {
            Subject::Adapter { adapter, .. } => {
                update_adapter(backend, adapter, moments, step, watched)
            }
            Subject::Weights { weights, gradients } => {
                update_weights(backend, weights, gradients, moments, step, watched)
            }
        }
    }
}

fn update_adapter<B: TrainingBackend>(
    backend: &B,
    adapter: &mut TrainableAdapter<B>,
    moments: &mut [Moments<B>],
    step: &AdamWStep,
    watched: bool,
) -> Result<Vec<Seen>, BackendError> {
    let before = if watched { Some(adapter.download(backend)?) } else { None };
    let tensor = |(parameter, moments)| {
        let Parameter { values: parameters, gradient, .. }: &mut Parameter<B> = parameter;
        let [first, second]: &mut Moments<B> = moments;
        AdamWTensor { parameters, gradient, first, second }
    };
    let mut tensors: Vec<_> = adapter.parameters_mut().zip(moments).map(tensor).collect();
    backend.adamw(&mut tensors, step);
    adapter.repack(backend);
    let mut seen = Vec::new();
    let Some(before) = before else { return Ok(seen) };
    // A head has none.
    let partners = before.pairs.values().flat_map(|pair| [zero(&pair.b), zero(&pair.a)]);
    let partners = partners.chain(before.score.iter().map(|_| false));
    for ((parameter, old), partner_is_zero) in
        adapter.parameters().zip(before.tensors()).zip(partners)
    {
        let len = parameter.len();
        seen.push(Seen {
            name: parameter.name.clone(),
            shape: parameter.shape.to_vec(),
            partner_is_zero,
            gradient_is_zero: zero(&backend.view(&parameter.gradient, 0..len)?),
            moved: *backend.view(&parameter.values, 0..len)? != *old.values,
        });
    }
    Ok(seen)
}

fn update_weights<B: TrainingBackend>(
    backend: &B,
    weights: &mut Weights<B>,
    gradients: &Gradients<B>,
    moments: &mut [Moments<B>],
    step: &AdamWStep,
    watched: bool,
) -> Result<Vec<Seen>, BackendError> {
    let mut seen = Vec::new();
    let spec = weights.spec.clone();
    for ((name, gradient), [first, second]) in gradients.iter().zip(moments) {
        // One tensor at a time: a copy of all would be as large as the model.
        let before = if watched { Some(weights.values(backend, name)?) } else { None };
        let weight_decay = if name.decays() { step.weight_decay } else { 0.0 };
        let step = AdamWStep { weight_decay, ..*step };
        let weight = weights.get_mut(name).expect("a gradient belongs to a weight");
        match weight {
            WeightMut::Matrix(matrix) => {
                backend.adamw_packed(matrix, gradient, first, second, &step);
            }
            WeightMut::Vector(buffer) => {
                let tensor = AdamWTensor { parameters: buffer, gradient, first, second };
                backend.adamw(&mut [tensor], &step);
            }
        }
        if let Some(before) = before {
            seen.push(Seen {
                name: name.to_string(),
                shape: name.shape(&spec),
                partner_is_zero: false,
                gradient_is_zero: zero(&backend.view(gradient, 0..backend.len(gradient))?),
                moved: weights.values(backend, name)? != before,
            });
        }
    }
    Ok(seen)
}

fn zero(values: &[f32]) -> bool {
    values.iter().all(|&x| x == 0.0)
}
