//! One round, from the prompt pool to the next policy.

mod anchors;
mod ask;
mod assess;
pub mod budget;
mod cluster;
pub mod diversity;
mod error;
mod evaluate;
mod external;
mod extrapolate;
mod generate;
mod given;
mod learn;
mod lessons;
mod measure;
mod method;
mod models;
mod needs;
mod pair;
mod pool;
mod reference;
pub mod rows;
mod sample;
mod signals;
pub mod stage;
mod summary;
mod write;

pub use ask::Asker;
pub use assess::{Assessors, DIFFICULTY, JUDGE, Measurer, UNPARSABLE, abide, filter_stage};
pub use error::RunError;
pub use evaluate::held_out;
pub use external::{STATEMENT, Statement, abandon, check_base, check_trainers};
pub use extrapolate::{EXTRAPOLATED_MODEL, FOLDER as EXTRAPOLATED};
pub use given::variants as given_variants;
pub use learn::{forget, tokens_at_once};
pub use measure::{of_plugin as needs_of, scored};
pub use method::{ADAPTER, MODEL, result_name};
pub use models::{
    Aligned, EXCHANGE, Job, Kind as ModelKind, Loaded, Made, Models, Opened, Policy, Probe,
    ScoreJob, Served, Undone, row, row_ending,
};
pub use needs::{GRAMMAR, Need, Number, What, variant as variant_of};
pub use pair::{check_reward, pair_of};
pub use pool::Pool;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::data::{GivenPair, HeldOut};
use crate::memory::{Budget, TRAINING};
use crate::plugin_set::{After, PluginSet, Scope};
use crate::progress::Progress;
use crate::record::{Completion, Decoding, Exemplar, Record};
use crate::report::{NothingKept, RoundSummary};
use rows::Trained;
use stage::{Notebook, Place};

/// All that the rounds of a run work with.
pub struct Workshop<'a> {
    /// What is to be done.
    pub set: &'a PluginSet,
    /// The loaded plugins, by their place in the set.
    pub plugins: &'a crate::run::plugins::Plugins,
    /// The loaded models.
    pub models: &'a Models,
    /// The exemplars that the principle plugin publishes, by id.
    pub catalogue: &'a [Exemplar],
    /// The pairs to learn from, by id; empty where the policy writes.
    pub given: &'a BTreeMap<String, GivenPair>,
    /// What stands in for all that rounds would train, where it is given.
    pub aligned: Option<&'a Aligned>,
    /// Prompts with trusted answers.
    pub held_out: &'a [HeldOut],
    /// Digest of these.
    pub held_out_digest: &'a str,
    /// Pairs whose better completion is known.
    pub anchors: &'a [GivenPair],
    /// Digest of these.
    pub anchors_digest: &'a str,
    /// What each stage takes in memory, and how much there is.
    pub memory: &'a Budget<'a>,
    /// Where progress is shown.
    pub progress: &'a Progress,
    /// Set when the user wants to stop.
    pub cancel: &'a AtomicBool,
}

/// What a round leaves to the next.
pub struct Outcome {
    /// The trained policy, or the reward model.
    pub policy: Policy,
    /// The row of the report.
    pub summary: RoundSummary,
    /// What it trained on.
    pub trained: Vec<Trained>,
}

/// The records on their way through a round.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Those still in the round, in working order.
    pub records: Vec<Record>,
    /// How many were dropped for which reason.
    pub drops: BTreeMap<String, u64>,
    /// What the sampler changed of `[generate]`, by record id.
    pub decoding: BTreeMap<String, Decoding>,
    /// Stands for all of this in the keys of later stages.
    pub digest: String,
}

impl Flow {
    /// Counts a dropped record.
    pub fn note_drop(&mut self, reason: &str) {
        *self.drops.entry(reason.to_owned()).or_default() += 1;
    }

    /// Returns how many records were dropped for a reason.
    fn dropped_as(&self, reason: &str) -> u64 {
        self.drops.get(reason).copied().unwrap_or(0)
    }

    /// Counts records that were dropped before there was a flow.
    fn note_drops(&mut self, drops: &BTreeMap<String, u64>) {
        for (reason, count) in drops {
            *self.drops.entry(reason.clone()).or_default() += count;
        }
    }
}

/// Does one round: the policy that enters completes the prompts, and what the plugins keep of that
/// trains the policy that leaves. Prompts that it writes itself have passed the filters over prompts by
/// the time they are in the pool.
///
/// `earlier` holds what earlier rounds trained on, for `data = "all"`.
pub fn round(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    pool: &mut Pool,
    entering: &Policy,
    earlier: &[Trained],
) -> Result<Outcome, RunError> {
    if let Some(aligned) = shop.aligned {
        return extrapolate::given(shop, book, round, entering, aligned);
    }
    let written = write::write(shop, book, round, pool, entering)?;
    let digest = written.as_ref().map(|written| written.digest.as_str());
    let mut sampled = sample::select(shop, book, round, pool, digest)?;
    match &written {
        Some(written) => sampled.note_drops(&written.drops),
        None => sampled = assess::filter(shop, book, round, After::Sample, sampled, entering)?,
    }
    let ids: Vec<String> = sampled.records.iter().map(|record| record.id().to_owned()).collect();

    let generated = complete(shop, book, round, sampled, entering)?;
    let completions: Vec<Completion> = completions(&generated);
    let measured = measure::measure(shop, book, round, "measure-generate", generated, entering)?;
    let kept = assess::filter(shop, book, round, After::Generate, measured, entering)?;

    let measured = measure::measure(shop, book, round, "measure-judge", kept, entering)?;
    let before = (measured.records.len(), measured.dropped_as(assess::UNPARSABLE));
    let judged = assess::judge(shop, book, round, measured, entering)?;
    let unparsable = judged.dropped_as(assess::UNPARSABLE) - before.1;
    let mut signals = signals::during(shop, round, &completions, (unparsable, before.0));
    let judged = assess::filter(shop, book, round, After::Judge, judged, entering)?;
    let paired = pair::pair(shop, book, round, judged)?;
    let paired = measure::measure(shop, book, round, "measure-pair", paired, entering)?;
    let paired = assess::filter(shop, book, round, After::Pair, paired, entering)?;

    let scored = match &shop.set.difficulty {
        Some(difficulty) if difficulty.scope == Scope::Round => {
            let paired =
                measure::measure(shop, book, round, "measure-difficulty", paired, entering)?;
            let scored = assess::difficulty(shop, book, round, paired, entering)?;
            assess::order(shop, round, scored)
        }
        _ => paired,
    };

    if scored.records.is_empty() {
        let (records, dropped) = (ids.len() as u64, scored.drops);
        let nothing = NothingKept { round, records, dropped, signals };
        return Err(RunError::NothingKept { path: book.directory.path().to_owned(), nothing });
    }
    let learned = match learn::train(shop, book, round, &scored, entering, earlier) {
        Err(RunError::NothingKept { path, nothing }) => {
            return Err(RunError::NothingKept {
                path,
                nothing: NothingKept { signals, ..nothing },
            });
        }
        learned => learned?,
    };
    let trained = learned.policy.clone();
    let (policy, extrapolated) = extrapolate::extrapolate(shop, book, round, entering, trained)?;
    let held_out = evaluate::held_out(shop, book, round, &policy)?;
    signals.extend(signals::after(shop, &held_out));

    let sources = summary::Sources {
        round,
        written: written.map(|written| written.found),
        prompts: ids.len() as u64,
        completions: &completions,
        kept: &scored,
        learned: &learned,
        signals,
        extrapolated,
        held_out,
    };
    let summary = summary::summary(sources, pool, &ids);
    Ok(Outcome { policy, summary, trained: learned.rows })
}

/// Completes prompts: by a model, or with what is given.
fn complete(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    sampled: Flow,
    policy: &Policy,
) -> Result<Flow, RunError> {
    match shop.given.is_empty() {
        true => generate::complete(shop, book, round, sampled, policy),
        false => given::complete(shop, book, round, sampled, policy),
    }
}

/// Returns every completion of a round.
fn completions(flow: &Flow) -> Vec<Completion> {
    let variants = flow.records.iter().flat_map(|record| &record.variants);
    variants.filter_map(|variant| variant.completion.clone()).collect()
}

/// Prepares the pool: scores every prompt with the initial model, as round 1 would complete it, and
/// puts the pool into order. Returns how many prompts could not be scored, for which reason.
pub fn pool(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    pool: &mut Pool,
    initial: &Policy,
) -> Result<BTreeMap<String, u64>, RunError> {
    let Some(difficulty) = &shop.set.difficulty else { return Ok(BTreeMap::new()) };
    if difficulty.scope != Scope::Pool || shop.aligned.is_some() {
        return Ok(BTreeMap::new());
    }
    let sampled = sample::everything(shop, book, pool)?;
    let generated = complete(shop, book, 0, sampled, initial)?;
    let generated = measure::measure(shop, book, 0, "measure-difficulty", generated, initial)?;
    let scored = assess::difficulty(shop, book, 0, generated, initial)?;
    let difficulties = scored.records.iter().filter_map(|record| {
        record.difficulty.map(|difficulty| (record.id().to_owned(), difficulty))
    });
    pool.arrange(difficulties.collect(), difficulty.order, assess::order_seed(shop, 0));
    Ok(scored.drops)
}

impl Workshop<'_> {
    /// Fails where the user has asked to stop.
    pub fn check_cancel(&self, book: &Notebook) -> Result<(), RunError> {
        if self.cancel.load(Ordering::Relaxed) {
            let path = book.directory.path().to_owned();
            return Err(RunError::Interrupted { path });
        }
        Ok(())
    }

    /// Fails where there is less memory than training takes: what there was when the run began may be
    /// somebody else's by now.
    pub fn check_memory(&self, book: &Notebook, round: u32) -> Result<(), RunError> {
        self.memory.check(TRAINING).map_err(|shortage| {
            let path = book.directory.path().to_owned();
            RunError::Memory { path, round, shortage }
        })
    }

    /// Returns a place as the plugin runtime takes it; `position` tells the plugins of a chain apart.
    pub fn plugin_place<'p>(&self, place: Place<'p>, position: usize) -> crate::plugin::Place<'p> {
        place.of_plugin(self.set, position)
    }

    /// Returns the plugins that form opinions in a round.
    pub fn assessors(&self, round: u32) -> Assessors<'_> {
        Assessors { set: self.set, plugins: self.plugins, round }
    }

    /// Returns what the answers of models depend on besides the policy: the decoding that requests
    /// fall back on, and what rounds before this have saved.
    pub fn asking_key(&self, place: Place<'_>) -> serde_json::Value {
        let decoding = self.set.generate(place.seed_round()).decoding();
        let saved = self.set.models.saved.iter().filter(|(_, round)| **round < place.round);
        let saved: BTreeMap<&String, Option<String>> =
            saved.map(|(name, _)| (name, self.models.saved_state(name))).collect();
        match saved.is_empty() {
            true => serde_json::json!(decoding),
            false => serde_json::json!([decoding, saved]),
        }
    }

    /// Returns the seed of a place in the run.
    pub fn seed(&self, place: Place<'_>) -> u64 {
        crate::run::seed::of([
            self.set.run.seed.into(),
            place.seed_round().into(),
            place.stage.into(),
        ])
    }
}
