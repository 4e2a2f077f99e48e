//! The operations that only training needs: backward passes and the optimiser.
//!
//! Gradients have the shape of what they are the gradient of, with a `d` before its name. What
//! [`super`] says about rows, buffers and the order of additions holds here too, with one
//! exception: a gradient of a weight is a sum over all rows.

use super::{AttentionShape, Backend, BackendError, Linking, TokenLogprob, Write};

/// A device that can train.
pub trait TrainingBackend: Linking {
    /// Returns how many bytes [`attention_backward`](TrainingBackend::attention_backward) works in.
    fn attention_gradient_bytes(&self, _shape: AttentionShape, _rows: usize) -> usize {
        0
    }

    /// Sets a buffer to zero.
    fn clear(&self, buffer: &mut Self::Buffer);

    /// [`clear`](TrainingBackend::clear) of each.
    fn clear_each(&self, buffers: &mut [&mut Self::Buffer]) {
        buffers.iter_mut().for_each(|buffer| self.clear(buffer));
    }

    /// [`repack`](Backend::repack) of each weight, with its values and their scale.
    fn repack_each(&self, weights: &mut [(&Self::Buffer, f32, &mut Self::Matrix)]) {
        for (values, scale, weight) in weights {
            self.repack(values, *scale, weight);
        }
    }

    /// `y` += `x` for each pair, of one length.
    fn add_each(&self, pairs: &mut [(&Self::Buffer, &mut Self::Buffer)]) {
        for (x, y) in pairs {
            self.add_scaled(x, 1.0, self.len(x), y, Write::Add);
        }
    }

    /// `y` = or += `scale` · `x` for the first `len` numbers.
    fn add_scaled(
        &self,
        x: &Self::Buffer,
        scale: f32,
        len: usize,
        y: &mut Self::Buffer,
        write: Write,
    );

    /// `y` `[rows, outputs]` = `before + W·x + bias + B·low` of a layer, each where it is given.
    fn layer(
        &self,
        x: &Self::Buffer,
        rows: usize,
        layer: &Layer<'_, Self>,
        before: Option<&Self::Buffer>,
        y: &mut Self::Buffer,
    ) {
        let Layer { weight, bias, beside } = *layer;
        let (outputs, _) = self.shape(weight);
        let write = match before {
            None => Write::Set,
            Some(before) => {
                self.add_scaled(before, 1.0, rows * outputs, y, Write::Set);
                Write::Add
            }
        };
        self.linear(x, rows, weight, y, write);
        if let Some(bias) = bias {
            self.add_bias(bias, rows, y);
        }
        if let Some((low, b)) = beside {
            self.linear(low, rows, b, y, Write::Add);
        }
    }

    /// `dx` `[rows, inputs]` = or += `dy·W + dlow·A`, the gradient of a layer with respect to its input; `beside` are
    /// the gradient of `A·x`, `[rows, r]`, and `A`.
    fn layer_backward(
        &self,
        dy: &Self::Buffer,
        rows: usize,
        weight: &Self::Matrix,
        beside: Option<(&Self::Buffer, &Self::Matrix)>,
        dx: &mut Self::Buffer,
        write: Write,
    ) {
        self.linear_backward(dy, rows, weight, dx, write);
        if let Some((dlow, a)) = beside {
            self.linear_backward(dlow, rows, a, dx, Write::Add);
        }
    }

    /// `y` = or += `x` with some numbers zeroed and the others divided by `1 - rate`.
    ///
    /// Rows of `width` numbers belong to the draws one after the other. Within a draw's rows, number
    /// `i` is kept where `seed::uniform(draw.seed, i) >= rate`, so what else is in the pass does not
    /// matter. The same call on the gradient is the backward pass. `rate` is in [0, 1).
    fn dropout(
        &self,
        x: &Self::Buffer,
        width: usize,
        draws: &[Draw],
        rate: f64,
        y: &mut Self::Buffer,
        write: Write,
    );

    /// Zeroes the first `total` rows of `y`, then sets row `rows[i]` to row `i` of `x`: the gradient
    /// of [`Backend::gather`] for rows that are named once.
    fn scatter(
        &self,
        x: &Self::Buffer,
        width: usize,
        rows: &[usize],
        total: usize,
        y: &mut Self::Buffer,
    );

    /// `dw` `[outputs, inputs]` += `scale` · `dy` `[rows, outputs]`ᵀ · `x` `[rows, inputs]`: the
    /// gradient of [`Backend::linear`] with respect to its weight. Rows are added in order.
    #[expect(clippy::too_many_arguments, reason = "two operands, their shape and the result")]
    fn weight_gradient(
        &self,
        dy: &Self::Buffer,
        x: &Self::Buffer,
        rows: usize,
        outputs: usize,
        inputs: usize,
        scale: f32,
        dw: &mut Self::Buffer,
    );

    /// Returns how many numbers a packed weight `[outputs, inputs]` in f32 has, padding included.
    ///
    /// The gradient of a weight that is trained itself, and its moments, are buffers of this length
    /// in the layout of the weight, so AdamW runs over all four as they lie. Padding stays 0.
    fn packed_len(&self, outputs: usize, inputs: usize) -> usize;

    /// The same as [`weight_gradient`](TrainingBackend::weight_gradient) with a scale of 1, into the
    /// layout of the packed weight.
    fn packed_weight_gradient(
        &self,
        dy: &Self::Buffer,
        x: &Self::Buffer,
        rows: usize,
        weight: &Self::Matrix,
        dw: &mut Self::Buffer,
    );

    /// Returns a packed weight's numbers, of whatever type, `[outputs, inputs]` row-major.
    fn unpack(&self, weight: &Self::Matrix) -> Result<Vec<f32>, BackendError>;

    /// Returns, `[outputs, inputs]` row-major, what a buffer holds in the layout of a packed weight.
    fn unpack_buffer(
        &self,
        packed: &Self::Buffer,
        outputs: usize,
        inputs: usize,
    ) -> Result<Vec<f32>, BackendError>;

    /// Returns a buffer that holds `values`, `[outputs, inputs]` row-major, in the layout of a packed
    /// weight.
    fn pack_buffer(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
    ) -> Result<Self::Buffer, BackendError>;

    /// Adds each row `i` of `dy` `[tokens, inputs]` to row `tokens[i]` of `dw`, which has the layout
    /// of the packed embedding: the gradient of [`Backend::embed`]. Rows are added in order.
    fn embed_backward(
        &self,
        dy: &Self::Buffer,
        tokens: &[u32],
        embedding: &Self::Matrix,
        dw: &mut Self::Buffer,
    );

    /// `db` `[width]` += the sum of the rows of `dy` `[rows, width]`: the gradient of a bias.
    fn bias_gradient(&self, dy: &Self::Buffer, rows: usize, width: usize, db: &mut Self::Buffer);

    /// `dw` `[width]` += the gradient of [`Backend::rms_norm`] with respect to its weight.
    fn rms_norm_weight_gradient(
        &self,
        dy: &Self::Buffer,
        x: &Self::Buffer,
        rows: usize,
        width: usize,
        eps: f32,
        dw: &mut Self::Buffer,
    );

    /// `dx` = or += the gradient of [`Backend::rms_norm`] with respect to `x`.
    #[expect(clippy::too_many_arguments, reason = "the arguments of the forward pass and two more")]
    fn rms_norm_backward(
        &self,
        dy: &Self::Buffer,
        x: &Self::Buffer,
        rows: usize,
        weight: &Self::Buffer,
        eps: f32,
        dx: &mut Self::Buffer,
        write: Write,
    );

    /// Sets `dgate` and `dup` to the gradients of [`Backend::swiglu`], over `len` numbers.
    fn swiglu_backward(
        &self,
        dy: &Self::Buffer,
        gate: &Self::Buffer,
        up: &Self::Buffer,
        len: usize,
        dgate: &mut Self::Buffer,
        dup: &mut Self::Buffer,
    );

    /// Causal attention of each segment of the plan over its own rows and those of its stem, within the shape's window.
    ///
    /// `queries` and `y` are `[rows, heads, head_dim]`, `keys` and `values`
    /// `[rows, kv_heads, head_dim]`, after [`Backend::rope`]. `log_sums` `[rows, heads]` gets the
    /// log of the sum of the exponentials of each row's scaled scores.
    #[expect(clippy::too_many_arguments, reason = "three operands, their shape and two results")]
    fn attention(
        &self,
        queries: &Self::Buffer,
        keys: &Self::Buffer,
        values: &Self::Buffer,
        shape: AttentionShape,
        plan: &Self::Plan,
        y: &mut Self::Buffer,
        log_sums: &mut Self::Buffer,
    );

    /// Sets `gradients` to those of [`attention`](TrainingBackend::attention), from what it was
    /// given and what it returned.
    fn attention_backward(
        &self,
        dy: &Self::Buffer,
        saved: AttentionSaved<'_, Self::Buffer>,
        shape: AttentionShape,
        plan: &Self::Plan,
        gradients: AttentionGradients<'_, Self::Buffer>,
    );

    /// Returns what [`logprobs_backward`](TrainingBackend::logprobs_backward) would, where there is nothing to go back
    /// to: where it rounds otherwise than [`Backend::logprobs`], so does this.
    fn logprobs_in_training(
        &self,
        hidden: &Self::Buffer,
        head: &Self::Matrix,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        self.logprobs(hidden, head, targets)
    }

    /// Sets `dhidden` `[rows, inputs]` to the gradient of the sum of `weights[i] * logprob[i]` over
    /// the rows of [`Backend::logprobs`], and returns what that would: the logits are formed anyway.
    ///
    /// Adds the gradient of the head, in its packed layout, to `dhead` where it is given. So an
    /// objective whose weights do not depend on the logprobs needs this call alone. Logits are held
    /// for a few rows at a time, never for all.
    fn logprobs_backward(
        &self,
        hidden: &Self::Buffer,
        head: &Self::Matrix,
        targets: &[u32],
        weights: &[f32],
        dhidden: &mut Self::Buffer,
        dhead: Option<&mut Self::Buffer>,
    ) -> Result<Vec<TokenLogprob>, BackendError>;

    /// Multiplies row `i` of `x`, `[factors.len(), width]`, by `factors[i]`.
    ///
    /// The rows of `dhidden` of [`logprobs_backward`](TrainingBackend::logprobs_backward) are
    /// proportional to its weights, so an objective whose weights do depend on the logprobs gives
    /// weights of 1 and then factors, rather than asking for the logits twice. The gradient of the
    /// head, a sum over rows, cannot be had so.
    fn scale_rows(&self, x: &mut Self::Buffer, width: usize, factors: &[f32]);

    /// Returns how many logits [`logprobs_backward`](TrainingBackend::logprobs_backward) holds at a
    /// time.
    fn held_logits(&self, targets: usize, vocab: usize) -> usize;

    /// Returns the sum of the squares of all numbers of some buffers, added in f64: those of each
    /// buffer, and then these sums in order.
    fn squared_norm(&self, buffers: &[&Self::Buffer]) -> Result<f64, BackendError>;

    /// Moves tensors by one step of AdamW, in place. Gradients are multiplied by
    /// `step.gradient_scale` first.
    fn adamw(&self, tensors: &mut [AdamWTensor<'_, Self::Buffer>], step: &AdamWStep);

    /// The same for a packed weight in f32, whose gradient and moments have its layout.
    fn adamw_packed(
        &self,
        weight: &mut Self::Matrix,
        gradient: &Self::Buffer,
        first: &mut Self::Buffer,
        second: &mut Self::Buffer,
        step: &AdamWStep,
    );
}

/// A linear layer in a training pass.
pub struct Layer<'a, B: Backend> {
    /// `W`, `[outputs, inputs]`.
    pub weight: &'a B::Matrix,
    /// `[outputs]`
    pub bias: Option<&'a B::Buffer>,
    /// Of the adapter: `low` = `A·x` `[rows, r]` of the same rows, and `B`, `[outputs, r]`, times its scale.
    pub beside: Option<(&'a B::Buffer, &'a B::Matrix)>,
}

/// The draws of some rows in [`TrainingBackend::dropout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Number of rows.
    pub rows: usize,
    /// Their seed.
    pub seed: u64,
}

/// What [`TrainingBackend::attention`] was given and returned.
pub struct AttentionSaved<'a, T> {
    /// `[rows, heads, head_dim]`
    pub queries: &'a T,
    /// `[rows, kv_heads, head_dim]`
    pub keys: &'a T,
    /// `[rows, kv_heads, head_dim]`
    pub values: &'a T,
    /// `[rows, heads, head_dim]`
    pub y: &'a T,
    /// `[rows, heads]`
    pub log_sums: &'a T,
}

/// Where [`TrainingBackend::attention_backward`] writes.
pub struct AttentionGradients<'a, T> {
    /// `[rows, heads, head_dim]`
    pub dqueries: &'a mut T,
    /// `[rows, kv_heads, head_dim]`
    pub dkeys: &'a mut T,
    /// `[rows, kv_heads, head_dim]`
    pub dvalues: &'a mut T,
}

/// A tensor that AdamW moves; all four have as many numbers.
pub struct AdamWTensor<'a, T> {
    /// Its values.
    pub parameters: &'a mut T,
    /// Their gradient.
    pub gradient: &'a T,
    /// The first moments.
    pub first: &'a mut T,
    /// The second moments.
    pub second: &'a mut T,
}

/// One step of AdamW with decoupled weight decay, as PyTorch computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Number of the step, from 1, for the bias correction.
    pub step: u64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
    /// What the gradient is multiplied by first: below 1 where it is clipped.
    pub gradient_scale: f64,
}

/// What a step of AdamW applies to each parameter: formed in f64 and applied in f32, in PyTorch's
/// order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamWFactors {
    /// What the gradient is multiplied by first.
    pub(crate) scale: f32,
    /// Part of the gradient in the first moment.
    pub(crate) rest1: f32,
    /// Part of the second moment that stays.
    pub(crate) beta2: f32,
    /// Part of the squared gradient in the second moment.
    pub(crate) rest2: f32,
    /// Part of the parameter that stays.
    pub(crate) decay: f32,
    /// Size of the step.
    pub(crate) size: f32,
    /// Root of the second moment's bias correction.
    pub(crate) root: f32,
    /// Added to the root of the second moment.
    pub(crate) eps: f32,
}

impl AdamWStep {
    /// Returns the factors of this step: `g` = `scale · gradient`, `first += rest1 · (g - first)`,
    /// `second = beta2 · second + rest2 · g · g`, and
    /// `parameter = decay · parameter - size · first / (sqrt(second) / root + eps)`.
    pub(crate) fn factors(&self) -> AdamWFactors {
        let AdamWStep { step, learning_rate, beta1, beta2, eps, weight_decay, gradient_scale } =
            *self;
        let correction = |beta: f64| 1.0 - beta.powi(step.min(i32::MAX as u64) as i32);
        AdamWFactors {
            scale: gradient_scale as f32,
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            decay: (1.0 - learning_rate * weight_decay) as f32,
            size: (learning_rate / correction(beta1)) as f32,
            root: correction(beta2).sqrt() as f32,
            eps: eps as f32,
        }
    }
}
