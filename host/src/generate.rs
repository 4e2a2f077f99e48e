//! Batched decoding over token ids.
//!
//! Sequences run together in passes of the model: each takes one new token from every running
//! sequence and, beside them, prompts that wait. A finished sequence leaves and the next job takes
//! its place. Prompts that begin alike share the pages of the cache in which they agree.
//!
//! None of this shows in the result: a job's completion depends on its prompt, its settings, its
//! seed and the model, not on the other jobs, the batch or the threads.

use std::ops::ControlFlow;

use crate::model::backend::cpu;
use crate::model::backend::{AnyDevice, Backend, BackendError, TokenDraw, TokenLogprob, Write};
use crate::model::forward::Engine;
use crate::model::spec::Spec;
use crate::model::weights::LoadedAdapter;
use crate::run::seed;

pub(crate) mod batch;
mod check;
mod memory;
pub(crate) mod prefix;
pub(crate) mod read;
#[cfg(test)]
mod room_tests;
mod sample;
#[cfg(test)]
mod tests;

pub use check::{SequenceError, Unfit};
pub(crate) use check::{check_policy, check_tokens};
pub use memory::DecodeMemory;

use batch::{Batch, Made, Start};
use check::check_sampling;

/// A prompt to complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// At least one token.
    pub prompt: Vec<u32>,
    /// How to draw.
    pub sampling: Sampling,
    /// Seed of this job's draws: token `i` is drawn with `seed::uniform(seed, i)`.
    pub seed: u64,
}

/// How tokens are drawn, with the names and meanings of Hugging Face's `generate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// In (0, 1].
    pub top_p: f64,
    /// 0 keeps every token.
    pub top_k: u32,
    /// Over 0; 1 is none. Counts tokens of prompt and completion.
    pub repetition_penalty: f64,
    /// At least 1.
    pub max_new_tokens: usize,
}

impl Sampling {
    /// Returns settings under which the likeliest token is always taken.
    pub const fn greedy(max_new_tokens: usize) -> Sampling {
        let (temperature, top_p, top_k, repetition_penalty) = (0.0, 1.0, 0, 1.0);
        Sampling { temperature, top_p, top_k, repetition_penalty, max_new_tokens }
    }
}

/// A completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The tokens drawn, the end token included.
    pub tokens: Vec<u32>,
    /// Sum over these tokens of log p in nats, at temperature 1 and without top-p, top-k or
    /// penalties.
    pub logprob: f64,
    /// Mean over the drawn tokens of the entropy of the distribution at temperature 1, in nats.
    pub entropy: f64,
    /// Whether it ended by itself, rather than at `max_new_tokens`.
    pub ended: bool,
}

/// Rows of a pass on a GPU, at most.
const PASS_ROWS: usize = 2048;

/// What holds for all jobs of a call; none of it changes a completion but `end_tokens`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Tokens that end a completion.
    pub end_tokens: Vec<u32>,
    /// Sequences that run at the same time, at most.
    pub max_batch: usize,
    /// Bytes of keys and values, at most; a sequence that needs more by itself has as much as it
    /// needs.
    pub cache_bytes: usize,
    /// Rows of prompts in a pass, at most.
    pub prefill_rows: usize,
}

impl Settings {
    /// Returns what suits a device. A GPU has memory of its own, of which keys and values may have half of what
    /// is free, and gains more from many sequences. A pass has 2048 rows there at most, so that no bit of a
    /// result depends on them (`backend/cuda/product.rs`).
    pub fn on(device: &AnyDevice) -> Settings {
        match device.available_memory() {
            None => Settings::default(),
            Some(free) => {
                let cache_bytes = usize::try_from(free / 2).unwrap_or(usize::MAX);
                Settings { max_batch: 256, cache_bytes, prefill_rows: 1024, end_tokens: vec![] }
            }
        }
    }

    /// Has this many sequences at a time, but no more than passes of a GPU have room for.
    pub fn set_batch(&mut self, device: &AnyDevice, batch: usize) {
        let most = device.available_memory().map(|_| PASS_ROWS - self.prefill_rows);
        self.max_batch = batch.min(most.unwrap_or(usize::MAX));
    }

    /// Takes half as much at a time where `error` says that memory did not suffice; returns whether there was
    /// something to halve.
    fn halve_after(&mut self, error: &SequenceError) -> bool {
        /// A pass of fewer rows takes hardly less.
        const FEWEST_ROWS: usize = 32;
        let Settings { max_batch, cache_bytes, prefill_rows, .. } = self;
        let SequenceError::Backend(error @ BackendError::OutOfMemory { .. }) = error else {
            return false;
        };
        if *max_batch == 1 && *prefill_rows <= FEWEST_ROWS {
            return false;
        }
        *max_batch = max_batch.div_ceil(2);
        *cache_bytes /= 2;
        *prefill_rows = (*prefill_rows / 2).max(FEWEST_ROWS);
        tracing::warn!("{error}: going on with {max_batch} sequences at a time");
        true
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings { end_tokens: vec![], max_batch: 32, cache_bytes: 2 << 30, prefill_rows: 512 }
    }
}

/// What a caller of [`generate`] wants to say or hear while it runs.
pub struct Hooks<'a> {
    /// Whether a completion, given by its job and its tokens so far, is at its end; for stop
    /// strings.
    pub stop: &'a (dyn Fn(usize, &[u32]) -> bool + Sync),
    /// Gets each completion, with its job's index, as soon as it is done.
    pub on_done: &'a mut dyn FnMut(usize, Output) -> ControlFlow<()>,
    /// Is called after each pass.
    pub progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Jobs or rows that are done.
    pub done: usize,
    /// All jobs or rows.
    pub total: usize,
    /// Tokens drawn or scored.
    pub tokens: usize,
}

/// Completes every job, and gives each completion to `hooks.on_done` as soon as it is done.
///
/// `adapter` is the policy's, or none for the initial model. All jobs are checked before the first
/// pass; an error about one names its index, so that the caller can drop it. Where the device's memory
/// does not suffice, those that are not done begin again, fewer at a time.
pub fn generate<B: Backend>(
    engine: &Engine<B>,
    adapter: Option<&LoadedAdapter<B>>,
    jobs: &[Job],
    settings: &Settings,
    hooks: Hooks<'_>,
) -> Result<(), SequenceError> {
    for (index, job) in jobs.iter().enumerate() {
        check_sampling(&job.sampling)
            .and_then(|()| check_tokens(engine, &job.prompt, job.sampling.max_new_tokens))
            .map_err(SequenceError::of(index))?;
    }
    check_policy(adapter)?;
    // Tokens of sequences that began again count twice.
    let mut drawn = 0;
    fewer_at_a_time(&*engine.backend, settings, jobs.len(), |left, settings, done| {
        let open: Vec<&Job> = left.iter().map(|&index| &jobs[index]).collect();
        let (before, drawn_before) = (jobs.len() - open.len(), drawn);
        let own = Hooks {
            stop: &|place, tokens| (hooks.stop)(left[place], tokens),
            on_done: &mut |place, output| {
                done[left[place]] = true;
                (hooks.on_done)(left[place], output)
            },
            progress: &mut |state| {
                drawn = drawn_before + state.tokens;
                let (done, total) = (before + state.done, before + state.total);
                (hooks.progress)(Progress { done, total, tokens: drawn })
            },
        };
        at_once(engine, adapter, &open, settings, own).map_err(|error| match error {
            SequenceError::Sequence { index, problem } => SequenceError::of(left[index])(problem),
            error => error,
        })
    })
}

/// Lets `work` do what is left of `count` sequences, and again with less at a time as long as the device's memory
/// does not suffice; it marks those that are done.
fn fewer_at_a_time<B: Backend>(
    backend: &B,
    settings: &Settings,
    count: usize,
    mut work: impl FnMut(&[usize], &Settings, &mut [bool]) -> Result<(), SequenceError>,
) -> Result<(), SequenceError> {
    let mut settings = settings.clone();
    let mut left: Vec<usize> = (0..count).collect();
    let mut done = vec![false; count];
    loop {
        let result = work(&left, &settings, &mut done);
        backend.end_repeating();
        match result {
            Err(error) if settings.halve_after(&error) => left.retain(|&index| !done[index]),
            result => return result,
        }
    }
}

/// Completes every job, as many at a time as `settings` say.
fn at_once<B: Backend>(
    engine: &Engine<B>,
    adapter: Option<&LoadedAdapter<B>>,
    jobs: &[&Job],
    settings: &Settings,
    hooks: Hooks<'_>,
) -> Result<(), SequenceError> {
    let starts: Vec<Start> = jobs
        .iter()
        .map(|job| Start::completing(&job.prompt, job.sampling.max_new_tokens))
        .collect();
    let mut batch = Batch::new(engine, adapter, &starts, settings)?;
    let mut logits = Logits { buffer: engine.backend.zeros(0)?, chunk: engine.backend.zeros(0)? };
    let mut outputs: Vec<Output> = vec![];
    outputs.resize_with(jobs.len(), || Output {
        tokens: vec![],
        logprob: 0.0,
        entropy: 0.0,
        ended: false,
    });
    let mut progress = Progress { total: jobs.len(), ..Progress::default() };
    let mut waiting = 0..jobs.len();
    loop {
        batch.fill(&mut waiting, &starts, settings.max_batch);
        if batch.len() == 0 {
            return Ok(());
        }
        let made = batch.pass()?;
        let draws = logits.draw(engine, &batch, &made, jobs, &outputs)?;
        for (made, (token, said)) in made.into_iter().zip(draws) {
            let Made { index, position } = made;
            if !said.logprob.is_finite() {
                return Err(SequenceError::of(index)(Unfit::NotFinite { position }));
            }
            let output = &mut outputs[index];
            output.tokens.push(token);
            output.logprob += said.logprob as f64;
            output.entropy += said.entropy as f64;
            output.ended =
                settings.end_tokens.contains(&token) || (hooks.stop)(index, &output.tokens);
            progress.tokens += 1;
            if !output.ended && output.tokens.len() < jobs[index].sampling.max_new_tokens {
                batch.push(index, token);
                continue;
            }
            batch.end(index);
            progress.done += 1;
            let mut output = Output { tokens: std::mem::take(&mut output.tokens), ..*output };
            output.entropy /= output.tokens.len() as f64;
            if (hooks.on_done)(index, output).is_break() {
                return Err(SequenceError::Cancelled);
            }
        }
        if (hooks.progress)(progress).is_break() {
            return Err(SequenceError::Cancelled);
        }
    }
}

/// Room for the logits of some rows.
struct Logits<B: Backend> {
    /// `[draw_rows, vocab]`
    buffer: B::Buffer,
    /// `[draw_rows, hidden]`, where a pass made more rows than that.
    chunk: B::Buffer,
}

impl<B: Backend> Logits<B> {
    /// Returns how many bytes it takes to draw a token for each of so many rows: the logits, and what
    /// each thread makes of a row of them.
    fn bytes(backend: &B, rows: usize, spec: &Spec) -> usize {
        let held = rows.min(backend.draw_rows());
        let drawing = held.min(rayon::current_num_threads());
        size_of::<f32>() * (held * (spec.vocab + spec.hidden) + drawing * spec.vocab)
    }

    /// Draws a token for each row that a pass made.
    fn draw(
        &mut self,
        engine: &Engine<B>,
        batch: &Batch<'_, B>,
        made: &[Made],
        jobs: &[&Job],
        outputs: &[Output],
    ) -> Result<Vec<(u32, TokenLogprob)>, BackendError> {
        let (backend, head) = (&*engine.backend, engine.weights.head());
        let (vocab, hidden) = backend.shape(head);
        let held = backend.draw_rows();
        let most = made.len().min(held);
        if backend.len(&self.buffer) < most * vocab {
            // What is too short goes first, since both may lie in the same memory.
            (self.buffer, self.chunk) = (backend.zeros(0)?, backend.zeros(0)?);
            self.buffer = backend.zeros(most * vocab)?;
        }
        if made.len() > held && backend.len(&self.chunk) < held * hidden {
            self.chunk = backend.zeros(held * hidden)?;
        }
        let mut draws = Vec::with_capacity(made.len());
        for (i, made) in made.chunks(held).enumerate() {
            draws.extend(backend.enter(|| {
                // The first rows are where a product takes them from.
                let rows = match i {
                    0 => batch.hidden(),
                    _ => {
                        let rows: Vec<usize> = (i * held..i * held + made.len()).collect();
                        backend.gather(batch.hidden(), hidden, &rows, &mut self.chunk);
                        &self.chunk
                    }
                };
                backend.linear(rows, made.len(), head, &mut self.buffer, Write::Set);
                self.drawn(backend, vocab, batch, made, jobs, outputs)
            })?);
        }
        Ok(draws)
    }

    /// Draws a token from each row of logits, on the device where it does that, else here; with what the head says of it.
    fn drawn(
        &self,
        backend: &B,
        vocab: usize,
        batch: &Batch<'_, B>,
        made: &[Made],
        jobs: &[&Job],
        outputs: &[Output],
    ) -> Result<Vec<(u32, TokenLogprob)>, BackendError> {
        let uniform = |made: &Made| {
            let drawn = outputs[made.index].tokens.len() as u64;
            seed::uniform(jobs[made.index].seed, drawn)
        };
        let rules = made.iter().map(|made| {
            let Sampling { temperature, top_p, top_k, .. } = jobs[made.index].sampling;
            TokenDraw { temperature, top_p, top_k, uniform: uniform(made) }
        });
        // A penalty counts what a sequence has had, which the device does not know. Who draws a token
        // depends on its own job alone.
        let penalised = |made: &Made| jobs[made.index].sampling.repetition_penalty != 1.0;
        let of_device = match made.iter().all(penalised) {
            true => None,
            false => backend.draw(&self.buffer, vocab, &rules.collect::<Vec<_>>())?,
        };
        let mut tokens: Vec<u32> = match of_device {
            Some(drawn) if !made.iter().any(penalised) => return Ok(drawn),
            Some(ref drawn) => drawn.iter().map(|&(token, _)| token).collect(),
            None => vec![0; made.len()],
        };
        let logits = backend.view(&self.buffer, 0..made.len() * vocab)?;
        cpu::over_parts(&mut tokens, 1, |row, token| {
            let made = &made[row];
            if of_device.is_none() || penalised(made) {
                let logits = &logits[row * vocab..][..vocab];
                let (sampling, context) = (&jobs[made.index].sampling, batch.tokens(made.index));
                token[0] = sample::draw(logits, sampling, context, uniform(made));
            }
        });
        let said = backend.logprobs_of_logits(&self.buffer, vocab, &tokens)?;
        Ok(tokens.into_iter().zip(said).collect())
    }
}
