//! Reading sequences that are there already: the hidden rows that are wanted of each.

use std::ops::ControlFlow;

use super::batch::{Batch, Made, Start};
use super::{Progress, SequenceError, Settings, fewer_at_a_time};
use crate::model::backend::Backend;
use crate::model::forward::Engine;
use crate::model::weights::LoadedAdapter;

/// Takes the rows of a pass: which they are, and the batch that holds them.
pub(crate) type Rows<'a, 'e, B> =
    dyn FnMut(&Batch<'e, B>, &[Made]) -> Result<(), SequenceError> + 'a;

/// Takes the rows of a pass as [`Rows`] does, and says whether to stop.
type Note<'a, 'e, B> = dyn FnMut(&Batch<'e, B>, &[Made]) -> Result<bool, SequenceError> + 'a;

/// Reads every start to its last position and hands over the wanted rows of each pass. Of `settings`, the
/// size of the cache and of a pass are used.
///
/// A sequence ends with the row of its last position, so at least that one is wanted of each. `done` counts
/// what the caller has besides and needs no pass. Where the device's memory does not suffice, sequences that
/// have not ended begin again, fewer at a time: their rows are handed over again, from the first wanted one on.
pub(crate) fn read<'e, B: Backend>(
    engine: &'e Engine<B>,
    adapter: Option<&'e LoadedAdapter<B>>,
    starts: &[Start<'_>],
    settings: &Settings,
    done: usize,
    rows: &mut Rows<'_, 'e, B>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), SequenceError> {
    let mut state = Progress { done, total: done + starts.len(), tokens: 0 };
    fewer_at_a_time(&*engine.backend, settings, starts.len(), |left, settings, ended| {
        let open: Vec<Start> = left.iter().map(|&index| starts[index]).collect();
        let mut note = |batch: &Batch<'e, B>, made: &[Made]| {
            let made: Vec<Made> =
                made.iter().map(|made| Made { index: left[made.index], ..*made }).collect();
            rows(batch, &made)?;
            for Made { index, position } in made {
                state.tokens += 1;
                if position + 1 == starts[index].positions {
                    ended[index] = true;
                    state.done += 1;
                }
            }
            Ok(progress(state).is_break())
        };
        at_once(engine, adapter, &open, settings, &mut note)
    })
}

/// Reads every start, as many at a time as `settings` say; `note` takes the rows of a pass, and says whether to
/// stop.
fn at_once<'e, B: Backend>(
    engine: &'e Engine<B>,
    adapter: Option<&'e LoadedAdapter<B>>,
    starts: &[Start<'_>],
    settings: &Settings,
    note: &mut Note<'_, 'e, B>,
) -> Result<(), SequenceError> {
    let mut batch = Batch::new(engine, adapter, starts, settings)?;
    let mut waiting = 0..starts.len();
    loop {
        batch.fill(&mut waiting, starts, settings.max_batch);
        if batch.len() == 0 {
            return Ok(());
        }
        let made = batch.pass()?;
        if note(&batch, &made)? {
            return Err(SequenceError::Cancelled);
        }
        for Made { index, position } in made {
            if position + 1 == starts[index].positions {
                batch.end(index);
            }
        }
    }
}
