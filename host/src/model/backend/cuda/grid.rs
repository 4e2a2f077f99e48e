//! How rows are spread over the blocks of a launch.

use super::Cuda;
use super::argument::Argument;
use super::buffer::Rows;

impl Cuda {
    /// Lets a warp or a block have each row; what it is depends on the width alone.
    pub(super) fn rows(
        &self,
        name: &'static str,
        rows: usize,
        width: usize,
        arguments: &mut [Argument],
    ) {
        match narrow(width) {
            true => self.device.launch(name, [rows.div_ceil(4), 1, 1], 128, 0, arguments),
            false => self.device.launch(name, [rows, 1, 1], 256, 0, arguments),
        }
    }

    /// The same where a thread has four numbers at a time, and more of them where rows are wide.
    pub(super) fn rows_by_four(
        &self,
        name: &'static str,
        rows: usize,
        width: usize,
        arguments: &mut [Argument],
    ) {
        if narrow(width) {
            return self.rows(name, rows, width, arguments);
        }
        let block = width.div_ceil(4).next_multiple_of(32).min(512);
        self.device.launch(name, [rows, 1, 1], block, 0, arguments);
    }

    /// Lets a block have each row that is written where they have a margin, else all share `len` numbers.
    pub(super) fn over_rows(
        &self,
        name: &'static str,
        len: usize,
        to: Rows,
        arguments: &mut [Argument],
    ) {
        match to.margin {
            0 => self.device.each(name, len, arguments),
            _ => self.device.launch(name, [len / to.width, 1, 1], 256, 0, arguments),
        }
    }
}

/// Returns whether rows are so narrow that a warp has one.
pub(super) fn narrow(width: usize) -> bool {
    width <= 256
}
