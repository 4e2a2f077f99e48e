//! Weights on the device.

use std::sync::Mutex;

use super::argument::Argument;
use super::buffer::{Rows, margin};
use super::driver::Memory;
use super::product::Number;
use super::{Cuda, arguments};
use crate::model::backend::{Backend, BackendError, WeightType};

/// A weight on the device, row-major.
pub struct Matrix {
    pub(super) memory: Memory,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) number: Number,
    /// The same in bf16 for products, where they round and the weight itself is f32.
    pub(super) rounded: Option<Memory>,
    /// Columns beside it, and rows below, for an adapter's matrices.
    pub(super) margin: usize,
    /// Stamps of the matrices that lie in the columns, and in the rows.
    pub(super) beside: Mutex<[u64; 2]>,
    /// Changes with its contents, and no two matrices ever have the same.
    pub(super) stamp: u64,
}

impl Matrix {
    /// Returns what products read.
    pub(super) fn operand(&self) -> Rows {
        let (memory, number) = match &self.rounded {
            Some(rounded) => (rounded, Number::Bf16),
            None => (&self.memory, self.number),
        };
        Rows { address: memory.address(), number, width: self.inputs, margin: self.margin }
    }
}

impl Cuda {
    /// Returns the margin of a layer's weight, beside which an adapter may go.
    pub(super) fn layer_margin(
        &self,
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
    ) -> usize {
        match Number::of(weight_type) {
            Number::Bf16 if self.rounds => margin(&[outputs, inputs]),
            _ => 0,
        }
    }

    /// Brings a weight to the device, with a margin.
    pub(super) fn pack_with(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
        margin: usize,
    ) -> Result<Matrix, BackendError> {
        self.device.check()?;
        if weight_type == WeightType::Int8 {
            let message = "weights in int8 are for the processor; take bf16".into();
            return Err(self.device.failed(message));
        }
        let number = Number::of(weight_type);
        assert!(margin == 0 || number == Number::Bf16, "adapters go beside weights in bf16");
        let len = (outputs + margin) * (inputs + margin);
        let room = |number: Number| Memory::new(&self.device, number.bytes() * len);
        let rounded = match self.rounds && number == Number::F32 {
            true => Some(room(Number::Bf16)?),
            false => None,
        };
        let (memory, beside) = (room(number)?, Mutex::default());
        let mut matrix =
            Matrix { memory, outputs, inputs, number, rounded, margin, beside, stamp: 0 };
        self.repack(&self.upload(&values[..outputs * inputs])?, 1.0, &mut matrix);
        Ok(matrix)
    }

    /// Rounds a weight again after it changed, where products read it in bf16.
    pub(super) fn round_weight(&self, weight: &Matrix) {
        if let Some(rounded) = &weight.rounded {
            let (from, len) = (weight.memory.address(), weight.outputs * weight.inputs);
            self.device.each("to_bf16", len, arguments![from, 1f32, len, rounded.address()]);
        }
    }
}
