//! Running sequences, and the passes that move them on.

use std::collections::VecDeque;
use std::ops::Range;

use super::Settings;
use super::prefix::{Lease, Pages};
use crate::model::backend::{Backend, BackendError, PAGE, Segment};
use crate::model::forward::{Engine, Workspace};
use crate::model::weights::LoadedAdapter;

/// What a sequence is at the start: its tokens, and from where on it is the caller's business.
#[derive(Clone, Copy)]
pub(crate) struct Start<'a> {
    /// The tokens known at the start.
    pub(crate) tokens: &'a [u32],
    /// The first position whose hidden row is wanted; what is before may come from shared pages.
    pub(crate) wanted_from: usize,
    /// Positions that the sequence may come to have, those of `tokens` included.
    pub(crate) positions: usize,
}

impl<'a> Start<'a> {
    /// Returns the start of a sequence that completes a prompt with at most so many tokens.
    pub(crate) fn completing(prompt: &'a [u32], max_new_tokens: usize) -> Start<'a> {
        let last = prompt.len() - 1;
        // The last token is drawn, but never read.
        Start { tokens: prompt, wanted_from: last, positions: last + max_new_tokens }
    }
}

/// Returns how many pages a cache for `starts` has: as many as are in use at a time where sequences run
/// in their order and the first to begin is the first to end, within what the settings allow; as many as
/// the longest needs in any case. Where they end in another order and it is short, one waits.
pub(crate) fn page_count(starts: &[Start<'_>], settings: &Settings, page_bytes: usize) -> usize {
    let all: usize = starts.iter().map(|start| start.positions.div_ceil(PAGE)).sum();
    let longest = starts.iter().map(|start| start.positions.div_ceil(PAGE)).max().unwrap_or(0);
    let count = all.min((settings.cache_bytes / page_bytes).max(longest));
    let mut pages = Pages::new(count, starts.iter().map(|s| (s.tokens, s.wanted_from)));
    let mut running = VecDeque::new();
    let mut used = 0;
    for (index, start) in starts.iter().enumerate() {
        if running.len() == settings.max_batch.max(1) {
            running.pop_front().into_iter().for_each(|lease| pages.release(lease));
        }
        let lease = loop {
            if let Some(lease) = pages.lease(index, start.positions) {
                break lease;
            }
            pages.release(running.pop_front().expect("by itself, each has room"));
        };
        let last = lease.pages.iter().max().map_or(0, |&page| page as usize + 1);
        used = used.max(last);
        running.push_back(lease);
    }
    used
}

/// Sequences that share a cache.
pub(crate) struct Batch<'e, B: Backend> {
    engine: &'e Engine<B>,
    adapter: Option<&'e LoadedAdapter<B>>,
    cache: B::Cache,
    workspace: Workspace<B>,
    pages: Pages,
    /// Rows of prompts that one pass takes at most.
    chunk: usize,
    /// In the order of the starts.
    running: Vec<Sequence>,
}

/// A running sequence.
struct Sequence {
    /// Its place among the starts.
    index: usize,
    tokens: Vec<u32>,
    wanted_from: usize,
    /// How many tokens are in the cache.
    computed: usize,
    lease: Lease,
}

/// A hidden row that a pass made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// The sequence's place among the starts.
    pub(crate) index: usize,
    /// The position of the row; it predicts the token after it.
    pub(crate) position: usize,
}

impl<'e, B: Backend> Batch<'e, B> {
    /// Returns a batch in which nothing runs yet, with a cache for `starts`.
    pub(crate) fn new(
        engine: &'e Engine<B>,
        adapter: Option<&'e LoadedAdapter<B>>,
        starts: &[Start<'_>],
        settings: &Settings,
    ) -> Result<Batch<'e, B>, BackendError> {
        let page_bytes = engine.backend.cache_bytes(engine.cache_shape(1));
        let count = page_count(starts, settings, page_bytes);
        let cache = engine.backend.cache(engine.cache_shape(count))?;
        let workspace = Workspace::new(&*engine.backend)?;
        let pages = Pages::new(count, starts.iter().map(|s| (s.tokens, s.wanted_from)));
        let (chunk, running) = (settings.prefill_rows.max(1), Vec::new());
        Ok(Batch { engine, adapter, cache, workspace, pages, chunk, running })
    }

    /// Returns how many sequences are running.
    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    /// Starts a sequence, which is after those that run; `false` where there are not enough free pages yet.
    fn start(&mut self, index: usize, start: &Start<'_>) -> bool {
        let Some(lease) = self.pages.lease(index, start.positions) else { return false };
        let (tokens, wanted_from) = (start.tokens.to_vec(), start.wanted_from);
        let computed = lease.found * PAGE;
        self.running.push(Sequence { index, tokens, wanted_from, computed, lease });
        true
    }

    /// Starts sequences in their order, as far as `most` may run at a time and pages are free. `waiting`
    /// has those that have not started.
    pub(crate) fn fill(&mut self, waiting: &mut Range<usize>, starts: &[Start<'_>], most: usize) {
        while self.len() < most.max(1)
            && waiting.start < waiting.end
            && self.start(waiting.start, &starts[waiting.start])
        {
            waiting.start += 1;
        }
    }

    /// Returns where a running sequence is.
    fn place(&self, index: usize) -> usize {
        let found = self.running.binary_search_by_key(&index, |sequence| sequence.index);
        found.expect("the sequence is running")
    }

    /// Returns a running sequence's tokens.
    pub(crate) fn tokens(&self, index: usize) -> &[u32] {
        &self.running[self.place(index)].tokens
    }

    /// Adds a token to a running sequence.
    pub(crate) fn push(&mut self, index: usize, token: u32) {
        let place = self.place(index);
        self.running[place].tokens.push(token);
    }

    /// Ends a sequence and frees its pages.
    pub(crate) fn end(&mut self, index: usize) {
        let place = self.place(index);
        let sequence = self.running.remove(place);
        self.pages.release(sequence.lease);
    }

    /// Returns the hidden rows that the last pass made, `[rows, hidden]`.
    pub(crate) fn hidden(&self) -> &B::Buffer {
        self.workspace.hidden()
    }

    /// Makes one pass over tokens that are not in the cache yet, and returns which of the wanted
    /// hidden rows it made.
    ///
    /// Sequences with one new token always take part; the others share `chunk` rows in the order in
    /// which they were started.
    pub(crate) fn pass(&mut self) -> Result<Vec<Made>, BackendError> {
        let (mut tokens, mut segments, mut wanted, mut made) = (vec![], vec![], vec![], vec![]);
        let mut room = self.chunk;
        for sequence in &mut self.running {
            let pending = sequence.tokens.len() - sequence.computed;
            let rows = if pending == 1 { 1 } else { pending.min(room) };
            if rows == 0 || !self.pages.is_ready(&sequence.lease) {
                continue;
            }
            if pending > 1 {
                room -= rows;
            }
            let (first, end) = (sequence.computed, sequence.computed + rows);
            for position in first.max(sequence.wanted_from)..end {
                wanted.push(tokens.len() + position - first);
                made.push(Made { index: sequence.index, position });
            }
            tokens.extend_from_slice(&sequence.tokens[first..end]);
            let pages = sequence.lease.pages[..end.div_ceil(PAGE)].to_vec();
            segments.push(Segment::cached(rows, first, pages));
            sequence.computed = end;
            self.pages.computed(&sequence.lease, end);
        }
        let Batch { engine, adapter, cache, workspace, .. } = self;
        engine.backend.enter(move || {
            engine.forward(*adapter, workspace, cache, &tokens, &segments, &wanted)
        })?;
        Ok(made)
    }
}
