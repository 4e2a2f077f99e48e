use serde::de::DeserializeOwned;

use crate::{
    Ask, Candidate, Card, Context, Decoding, Equipment, Error, Exemplar, Opinion, Prompt, Record,
    Slot, Variant, Verdict,
};

/// What every plugin says of itself. The version is that of the author's crate.
pub trait Plugin: Sized + 'static {
    /// What stands under `config` in the plugin set; `()` where there is nothing to configure, and
    /// `Self` where the plugin is nothing but its configuration.
    ///
    /// Unknown keys are refused by the SDK. Put `#[serde(deny_unknown_fields)]` on it all the same:
    /// nested structs are checked by that attribute alone. Optional keys get their default with
    /// `#[serde(default)]`.
    type Config: DeserializeOwned;

    /// Lower-case words joined by hyphens, for example `self-align-format`.
    const NAME: &'static str;

    /// One line for people.
    const SUMMARY: &'static str;

    /// JSON Schema of the configuration, or an empty text.
    const CONFIG_SCHEMA: &'static str = "";

    /// Measurements that the host must make before it calls: `alogp(COMPLETION | PROMPT)`,
    /// `perplexity(COMPLETION)`, both perhaps with `; initial` at the end of the brackets, or
    /// `cluster(COMPLETION)`. The words are names of variants or the roles `plain`, `good`, `bad`;
    /// [`Record::measurement`](crate::Record::measurement) finds a value under the name as it is here.
    const NEEDS: &'static [&'static str] = &[];

    /// Makes the plugin, once in every instance. Checks the configuration's values; returns
    /// [`Error::Config`] with the key and what it must be.
    fn new(config: Self::Config) -> Result<Self, Error>;
}

/// What a good answer follows, and how a prompt is put so that the model follows it.
pub trait Principle: Plugin {
    /// Publishes the in-context examples, in a fixed order.
    fn catalogue(&self) -> Result<Vec<Exemplar>, Error> {
        Ok(Vec::new())
    }

    /// Puts a prompt into its variants: at least one, names unique, completions absent. The drawn
    /// exemplars are in `record.exemplars`.
    fn render(
        &self,
        context: &Context,
        record: &Record,
        ask: &mut Ask,
    ) -> Result<Vec<Variant>, Error>;
}

/// Which prompts a round works on, and with which exemplars and decoding.
pub trait Sampler: Plugin {
    /// Selects the prompts of a round: ids from the pool, none twice, in working order. The pool
    /// comes in the order of `[difficulty] order`.
    fn select(
        &self,
        context: &Context,
        pool: &[Candidate],
        seed: u64,
    ) -> Result<Vec<String>, Error>;

    /// Equips one prompt. Depends on nothing but the slot, the catalogue and the configuration.
    fn equip(&self, _: &Context, _: &Slot, _: &[Card]) -> Result<Equipment, Error> {
        Ok(Equipment { exemplars: Vec::new(), decoding: Decoding::default() })
    }
}

/// A sampler that lets the model write new prompts.
pub trait PromptWriter: Sampler {
    /// Writes new prompts, perhaps none. `pool` holds the seed prompts and, after them, those
    /// accepted so far, in this round and in earlier ones; `index` counts the slots from 0 within the
    /// round. The host gives the prompts ids of its own. By convention they are tagged `round:N`, by
    /// which [`select`](Sampler::select) finds the new ones. A prompt with an input is one message of the
    /// user: instruction, blank line, input.
    fn write(
        &self,
        context: &Context,
        pool: &[Prompt],
        index: u32,
        ask: &mut Ask,
    ) -> Result<Vec<Prompt>, Error>;
}

/// Keeps, drops or revises one record at a time.
pub trait Filter: Plugin {
    /// Judges one record by itself. A reason to drop groups in reports: a short fixed word, with no
    /// numbers in it.
    fn filter(&self, context: &Context, record: &Record, ask: &mut Ask) -> Result<Verdict, Error>;
}

/// A filter that must have seen the whole stage: deduplication, thresholds at a mean. One instance
/// lives through the stage.
///
/// Where prompts are written, a filter at `after = "sample"` observes the prompts that are there already
/// before the new ones, and decides on the new ones only.
pub trait SetFilter: Plugin {
    /// Takes note of a record. Called for every record in order, before the first
    /// [`decide`](SetFilter::decide).
    fn observe(&mut self, context: &Context, record: &Record) -> Result<(), Error>;

    /// Decides on a record. Called for the same records in the same order, those left out that were
    /// there already.
    fn decide(&mut self, context: &Context, record: &Record) -> Result<Verdict, Error>;
}

/// Says how good completions are, or which of two is better.
pub trait Judge: Plugin {
    /// Judges the completions of one record.
    fn judge(&self, context: &Context, record: &Record, ask: &mut Ask) -> Result<Opinion, Error>;
}

/// Says how hard a prompt is for the model.
pub trait Difficulty: Plugin {
    /// Scores one record. Higher is harder; finite.
    fn score(&self, context: &Context, record: &Record, ask: &mut Ask) -> Result<f64, Error>;
}
