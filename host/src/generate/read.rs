//! Reading sequences that are there already: the hidden rows that are wanted of each.

use std::ops::ControlFlow;

use super::batch::{Batch, Made, Start};
use super::{Progress, SequenceError, Settings};
use crate::model::backend::Backend;
use crate::model::forward::Engine;
use crate::model::weights::LoadedAdapter;

/// Takes the rows of a pass: which they are, and the batch that holds them.
pub(crate) type Rows<'a, 'e, B> =
    dyn FnMut(&Batch<'e, B>, &[Made]) -> Result<(), SequenceError> + 'a;

/// Reads every start to its last position and hands over the wanted rows of each pass. Of `settings`, the
/// size of the cache and of a pass are used.
///
/// A sequence ends with the row of its last position, so at least that one is wanted of each. `done` counts
/// what the caller has besides and needs no pass.
pub(crate) fn read<'e, B: Backend>(
    engine: &'e Engine<B>,
    adapter: Option<&'e LoadedAdapter<B>>,
    starts: &[Start<'_>],
    settings: &Settings,
    done: usize,
    rows: &mut Rows<'_, 'e, B>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), SequenceError> {
    let mut batch = Batch::new(engine, adapter, starts, settings)?;
    let mut state = Progress { done, total: done + starts.len(), tokens: 0 };
    let mut waiting = 0..starts.len();
    loop {
        batch.fill(&mut waiting, starts, settings.max_batch);
        if batch.len() == 0 {
            return Ok(());
        }
        let made = batch.pass()?;
        rows(&batch, &made)?;
        for Made { index, position } in made {
            state.tokens += 1;
            if position + 1 == starts[index].positions {
                batch.end(index);
                state.done += 1;
            }
        }
        if progress(state).is_break() {
            return Err(SequenceError::Cancelled);
        }
    }
}
