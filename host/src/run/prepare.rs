//! Everything that is checked before weights load: data, plugins, tokenizer, digests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::aligned;
use super::manifest::{DataId, FORMAT, Manifest, ModelId};
use super::memory::SAMPLE;
use super::plan::rendered;
use super::plugins::Plugins;
use super::trial;
use crate::data::{self, GivenPair, HeldOut};
use crate::digest::sha256;
use crate::model::adapter::Adapter;
use crate::model::backend::AnyDevice;
use crate::model::template::ChatSettings;
use crate::model::text::Model;
use crate::model::{ModelError, peft, source};
use crate::plugin::{Interface, Plugin, Runtime};
use crate::plugin_set::{After, EmbeddedWork, PluginSet, Server, Source};
use crate::progress::{Progress, counted};
use crate::record::{Exemplar, Prompt, Variant};
use crate::round::{
    Aligned, GRAMMAR, Need, Number, Opened, RunError, What, given_variants, needs_of,
};

/// A run that could begin: its files are read, its plugins loaded, its models found.
pub struct Prepared {
    /// What is to be done.
    pub set: PluginSet,
    /// The loaded plugins.
    pub plugins: Plugins,
    /// The exemplars that the principle plugin publishes.
    pub catalogue: Vec<Exemplar>,
    /// The prompt pool.
    pub prompts: Vec<Prompt>,
    /// The pairs to learn from, by id; empty where the policy writes.
    pub given: BTreeMap<String, GivenPair>,
    /// Prompts with trusted answers.
    pub held_out: Vec<HeldOut>,
    /// Pairs whose better completion is known.
    pub anchors: Vec<GivenPair>,
    /// What stands in for all that rounds would train, where it is given.
    pub aligned: Option<Aligned>,
    /// What the run is.
    pub manifest: Manifest,
    /// The models' files, tokenizers and templates; weights are not loaded yet. The policy is under
    /// `policy`.
    pub models: BTreeMap<String, Opened>,
    /// Those of `[models]` that are adapters for the policy as it is before the first round.
    pub adapters: BTreeMap<String, Adapter>,
    /// Where they will run.
    pub device: AnyDevice,
    /// See [`sample`](Prepared::sample).
    sample: OnceLock<Vec<Variant>>,
}

impl Prepared {
    /// Returns some prompts of the pool ([`SAMPLE`]) as round 1 puts them. They are rendered once, for
    /// the plan, for the estimate of memory and for what is tried before.
    pub(super) fn sample(&self) -> Result<&[Variant], RunError> {
        if let Some(sample) = self.sample.get() {
            return Ok(sample);
        }
        let sample = rendered(self, SAMPLE)?;
        Ok(self.sample.get_or_init(|| sample))
    }
}

/// Prompts that take longer than this to check show how many are done.
const SILENT: Duration = Duration::from_secs(1);

/// Reads and checks what a plugin set names, for a run on `device`. `report` hears what is fetched.
pub fn prepare(
    set: PluginSet,
    device: AnyDevice,
    runtime: Runtime,
    report: &mut dyn FnMut(source::Progress),
    progress: &Progress,
    cancel: &AtomicBool,
) -> Result<Prepared, RunError> {
    let builtin = |name: &str| aligner_embed::data(name);
    let limit = set.data.limit.map_or(usize::MAX, |limit| limit as usize);
    let held_out = match &set.data.held_out {
        Some(source) => data::read_held_out(source, &builtin)?,
        None => Vec::new(),
    };
    let anchors = match &set.data.anchors {
        Some(source) => data::read_pairs(source, &builtin)?,
        None => Vec::new(),
    };
    if let Some(anchor) = anchors.iter().find(|anchor| anchor.chosen == anchor.rejected) {
        return Err(RunError::Settings {
            what: format!("of anchor `{}`, `chosen` and `rejected` are the same", anchor.prompt.id),
            hint: "an anchor says which of two completions is better".into(),
        });
    }
    let pool = pool(&set, limit, &held_out, &builtin)?;
    let pool_digest = pool.digest();
    let (prompts, given) = (pool.prompts, pool.given);
    let plugins = Plugins::load(runtime, &set, report)?;
    check_writing(&set, &plugins, &prompts)?;
    check_needs(&plugins)?;
    check_entropies(&set, &plugins)?;
    let catalogue = match &plugins.principle {
        Some(principle) => principle.catalogue()?,
        None => Vec::new(),
    };

    let mut models = BTreeMap::new();
    let (date, variables) = (set.chat.date, set.chat.variables.clone());
    let chat = ChatSettings { date, variables };
    let open = |name: &str, model: &str, report: &mut dyn FnMut(source::Progress)| match set
        .models
        .servers
        .contains_key(name)
    {
        true => Opened::open_base(model, chat.clone(), report),
        false => Opened::open(model, chat.clone(), report),
    };
    models.insert("policy".to_owned(), open("policy", &set.models.policy, report)?);
    let mut adapters = BTreeMap::new();
    for (name, model) in &set.models.named {
        match Path::new(model) {
            folder if peft::is_adapter(folder) && !set.models.servers.contains_key(name) => {
                let adapter = peft::read(folder, &models["policy"].model.spec)?;
                adapters.insert(name.clone(), adapter);
            }
            _ => {
                models.insert(name.clone(), open(name, model, report)?);
            }
        }
    }
    check_writers(&set, &adapters)?;
    check_weights(&set, &models)?;
    let aligned = match &set.models.aligned {
        Some(name) => Some(aligned::open(name, &models["policy"], chat, report)?),
        None => None,
    };
    let layers = models["policy"].model.spec.layers;
    let trained = (1..=set.run.rounds).filter_map(|round| set.train(round));
    for lora in trained.filter_map(|train| train.lora.as_ref()) {
        lora.config().check_patterns(layers).map_err(|error| RunError::Settings {
            what: format!("`lora` of `[train]` does not fit `{}`: {error}", set.models.policy),
            hint: format!(
                "paths are those of `model.layers.0.self_attn.q_proj`; it has {}",
                counted(layers as u64, "blocks")
            ),
        })?;
    }
    check_new_tokens(&set, &models)?;
    check_steered(&set, &given)?;
    readable(&models["policy"].model, &prompts, &given, &held_out, progress, cancel)?;
    let id = |name: &str, opened: &Opened| ModelId {
        name: opened.model.name.clone(),
        digest: opened.model.digest.clone(),
        served: set.models.servers.contains_key(name),
    };
    let beside = adapters.iter().map(|(name, adapter)| {
        let folder = set.models.named[name].clone();
        (name.clone(), ModelId { name: folder, digest: adapter.digest(), served: false })
    });
    let rows = |source: &Source, digest: String, count: usize, duplicates: usize| DataId {
        source: source.to_string(),
        digest,
        rows: count as u64,
        duplicates: duplicates as u64,
    };
    let answered: Vec<_> = held_out.iter().map(|row| (&row.prompt, &row.answer)).collect();
    let manifest = Manifest {
        format: FORMAT,
        aligner: env!("CARGO_PKG_VERSION").into(),
        command: Vec::new(),
        engine: device.class(set.run.dtype),
        models: models
            .iter()
            .map(|(name, opened)| (name.clone(), id(name, opened)))
            .chain(beside)
            .chain(aligned.as_ref().zip(set.models.aligned.as_ref()).map(|(aligned, name)| {
                let (name, digest) = (name.clone(), aligned.digest());
                ("aligned".to_owned(), ModelId { name, digest, served: false })
            }))
            .collect(),
        prompts: rows(
            set.data.pairs.as_ref().unwrap_or(&set.data.prompts),
            pool_digest,
            prompts.len(),
            pool.duplicates,
        ),
        held_out: (set.data.held_out.as_ref())
            .map(|source| rows(source, digest_of(&answered), held_out.len(), 0)),
        anchors: (set.data.anchors.as_ref())
            .map(|source| rows(source, digest_of(&anchors), anchors.len(), 0)),
        plugins: plugins.ids().to_vec(),
        plugin_set: set.clone(),
    };
    let sample = OnceLock::new();
    let prepared = Prepared {
        set,
        plugins,
        catalogue,
        prompts,
        given,
        held_out,
        anchors,
        aligned,
        manifest,
        models,
        adapters,
        device,
        sample,
    };
    trial::check(&prepared)?;
    Ok(prepared)
}

/// Fails where a plugin needs to know how sure the policy is of a token, and the server that scores does not say.
fn check_entropies(set: &PluginSet, plugins: &Plugins) -> Result<(), RunError> {
    let Some(server) = set.models.servers.get("policy") else { return Ok(()) };
    if server.leaves(EmbeddedWork::Scores) {
        return Ok(());
    }
    let entropy = |need: &Need| matches!(need.what, What::Scored { number: Number::Entropy, .. });
    let needs = |plugin: &&Plugin| needs_of(plugin).any(|need| entropy(&need));
    match plugins.all().find(needs) {
        None => Ok(()),
        Some(plugin) => Err(RunError::Settings {
            what: format!(
                "{} needs the entropy of tokens, which servers do not give",
                plugin.identity()
            ),
            hint: "`models.policy.embedded = [\"scores\"]` has the embedded engine score".into(),
        }),
    }
}

/// Returns what the embedded engine does with the weights of a model that a server answers for, as the beginning of a
/// sentence; none where it does nothing.
pub(super) fn engine_work(set: &PluginSet, name: &str, server: &Server) -> Option<&'static str> {
    let mut rounds = 1..=set.run.rounds;
    let trains = rounds.clone().any(|round| set.train(round).is_some_and(|it| it.trl.is_none()));
    match name {
        _ if !server.embedded.is_empty() => Some("`embedded` leaves work to"),
        "policy" if trains => Some("`[train]` needs"),
        "policy" if rounds.any(|round| set.extrapolate(round).is_some()) => {
            Some("`[extrapolate]` is done by")
        }
        _ => None,
    }
}

/// Fails where the embedded engine has to do something with a server's base whose weights are elsewhere: better said
/// before the server has done its part.
fn check_weights(set: &PluginSet, models: &BTreeMap<String, Opened>) -> Result<(), RunError> {
    for (name, server) in &set.models.servers {
        let opened = &models[name];
        let what = engine_work(set, name, server).filter(|_| !opened.checkpoint.has_weights());
        let Some(what) = what else { continue };
        return Err(RunError::Settings {
            what: format!(
                "{what} the embedded engine, and `{}`, the base of `{name}`, has no weights here",
                opened.model.name
            ),
            hint: "name a base with its weights: a folder that has them, an alias or a GGUF file"
                .into(),
        });
    }
    Ok(())
}

/// Fails where a round generates with a reward model, which writes nothing.
fn check_writers(set: &PluginSet, adapters: &BTreeMap<String, Adapter>) -> Result<(), RunError> {
    let mut writers = (1..=set.run.rounds).map(|round| &set.generate(round).model);
    let rewards =
        |name: &&String| adapters.get(*name).is_some_and(|adapter| adapter.is_reward_model());
    match writers.find(rewards) {
        None => Ok(()),
        Some(name) => Err(RunError::Settings {
            what: format!(
                "`model` of `[generate]` is `{name}`, a reward model, which writes nothing"
            ),
            hint: "a judge such as `builtin:reward-model` asks it for rewards".into(),
        }),
    }
}

/// Fails where the model cannot be prompted at all (without a chat template, say), or cannot read one of
/// the prompts. What is too long for it is left out later, and counted.
fn readable(
    model: &Model,
    prompts: &[Prompt],
    given: &BTreeMap<String, GivenPair>,
    held_out: &[HeldOut],
    progress: &Progress,
    cancel: &AtomicBool,
) -> Result<(), RunError> {
    let asked = prompts.iter().chain(held_out.iter().map(|row| &row.prompt));
    let asked = asked.map(|prompt| (prompt.id.as_str(), prompt.text.clone()));
    // Those of the pairs, under their principles too.
    let steered = given.values().filter(|pair| pair.steered.is_some()).flat_map(|pair| {
        let variants = given_variants(pair).into_iter();
        variants.map(|variant| (pair.prompt.id.as_str(), variant.prompt))
    });
    let asked = asked.chain(steered);
    let steered = given.values().filter(|pair| pair.steered.is_some()).flat_map(given_variants);
    let total = prompts.len() + held_out.len() + steered.count();
    let (begun, mut shown) = (Instant::now(), None);
    for (done, (id, text)) in asked.enumerate() {
        match model.encode_prompt(&text) {
            Ok(_) | Err(ModelError::TooLong { .. }) => {}
            Err(error) => return Err(RunError::of_record(id)(error)),
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(RunError::NotBegun);
        }
        // Many prompts take a while, and so does a template that is slow at each.
        match &shown {
            None if begun.elapsed() > SILENT => {
                let bar = progress.stage("checking prompts", total as u64, "prompts");
                bar.inc(done as u64 + 1);
                shown = Some(bar);
            }
            None => {}
            Some(bar) => bar.inc(1),
        }
    }
    if let Some(bar) = shown {
        bar.finish();
    }
    Ok(())
}

/// Fails where an objective tells completions apart by role, and no pair that is given has roles.
fn check_steered(set: &PluginSet, given: &BTreeMap<String, GivenPair>) -> Result<(), RunError> {
    if given.is_empty() || given.values().any(|pair| pair.steered.is_some()) {
        return Ok(());
    }
    let trains = (1..=set.run.rounds).filter_map(|round| set.train(round));
    let mut preferences = trains.filter_map(|train| train.preference());
    match preferences.find(|preference| preference.tells_by_role()) {
        None => Ok(()),
        Some(objective) => Err(RunError::Settings {
            what: format!(
                "objective `{}` learns from answers under principles, and the pairs that are given have \
                 none",
                objective.name()
            ),
            hint: "give rows `raw`, `p_system` and `n_system`, or take another objective, such as `dpo`"
                .into(),
        }),
    }
}

/// Fails where completions may be so long that no prompt fits into the model's context with them: every
/// prompt would be left out.
fn check_new_tokens(set: &PluginSet, models: &BTreeMap<String, Opened>) -> Result<(), RunError> {
    let rounds = (1..=set.run.rounds).map(|round| set.generate(round));
    // The policy's answers to held-out prompts are as long as those of `[generate]`.
    let answers = set
        .evaluate
        .as_ref()
        .filter(|evaluate| evaluate.measures.iter().any(|measure| measure.is_of_answers()));
    let answers = answers.map(|_| ("generate", "policy", set.generate.max_new_tokens));
    let generated =
        rounds.map(|generate| ("generate", generate.model.as_str(), generate.max_new_tokens));
    let searches = (1..=set.run.rounds).filter_map(|round| set.extrapolate(round)?.search());
    let tried = searches.filter_map(|search| search.decoding.max_new_tokens);
    let tried = tried.map(|new| ("extrapolate.decoding", "policy", new));
    for (table, name, new) in generated.chain(answers).chain(tried) {
        let model = &models.get(name).unwrap_or(&models["policy"]).model;
        let limit = model.spec.context_length;
        if new as usize >= limit {
            return Err(RunError::Settings {
                what: format!(
                    "`max_new_tokens` of `[{table}]` is {new}, and the context of `{}` is {limit} \
                     tokens, prompt and completion together",
                    model.name
                ),
                hint: format!("a smaller `{table}.max_new_tokens` leaves room for the prompt"),
            });
        }
    }
    Ok(())
}

/// What the rounds work on.
pub struct Pooled {
    /// The prompt pool.
    pub prompts: Vec<Prompt>,
    given: BTreeMap<String, GivenPair>,
    duplicates: usize,
}

impl Pooled {
    /// Returns the SHA-256 of the rows as they were read.
    pub fn digest(&self) -> String {
        match self.given.is_empty() {
            true => digest_of(&self.prompts),
            false => digest_of(&self.given),
        }
    }
}

/// Returns the SHA-256 of rows as JSON.
fn digest_of(rows: &impl Serialize) -> String {
    sha256(&serde_json::to_vec(rows).expect("our own types serialise"))
}

/// Reads the prompt pool of a plugin set.
pub fn pool_of(set: &PluginSet) -> Result<Pooled, RunError> {
    let builtin = |name: &str| aligner_embed::data(name);
    let held_out = match (&set.models.aligned, &set.data.held_out) {
        (Some(_), Some(source)) => data::read_held_out(source, &builtin)?,
        _ => Vec::new(),
    };
    let limit = set.data.limit.map_or(usize::MAX, |limit| limit as usize);
    pool(set, limit, &held_out, &builtin)
}

/// Reads at most `limit` prompts, alone or with the pairs that are given for them; those that are held
/// out where a run with an aligned model has no others.
fn pool<'a>(
    set: &PluginSet,
    limit: usize,
    held_out: &[HeldOut],
    builtin: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<Pooled, RunError> {
    if set.models.aligned.is_some() && set.data.held_out.as_ref() == Some(&set.data.prompts) {
        let prompts = held_out.iter().map(|row| row.prompt.clone()).take(limit).collect();
        return Ok(Pooled { prompts, given: BTreeMap::new(), duplicates: 0 });
    }
    let Some(pairs) = &set.data.pairs else {
        let data::Prompts { mut prompts, duplicates } =
            data::read_prompts(&set.data.prompts, builtin)?;
        prompts.truncate(limit);
        return Ok(Pooled { prompts, given: BTreeMap::new(), duplicates });
    };
    let mut pairs = data::read_pairs(pairs, builtin)?;
    pairs.truncate(limit);
    let prompts = pairs.iter().map(|pair| pair.prompt.clone()).collect();
    let given = pairs.into_iter().map(|pair| (pair.prompt.id.clone(), pair)).collect();
    Ok(Pooled { prompts, given, duplicates: 0 })
}

/// Fails where the plugin set and its sampler disagree on whether prompts are written, or where a written
/// prompt could get an id that is taken.
fn check_writing(set: &PluginSet, plugins: &Plugins, prompts: &[Prompt]) -> Result<(), RunError> {
    let Some(sampler) = &plugins.sampler else { return Ok(()) };
    let refuse = |what: String, hint: &str| Err(RunError::Settings { what, hint: hint.into() });
    match (set.write(), sampler.has(Interface::PromptWriter)) {
        (None, false) => Ok(()),
        (None, true) => refuse(
            format!("{} writes prompts, and `[sampler]` does not say how many", sampler.identity()),
            "add `write = { prompts = 64, slots = 200 }` to `[sampler]`: a round has so many prompts, \
             and the plugin is called for more so often at most",
        ),
        (Some(_), false) => refuse(
            format!("`[sampler]` has `write`, and {} writes no prompts", sampler.identity()),
            "take `write` out, or take a plugin that exports `prompt-writer`",
        ),
        (Some(_), true) => match prompts.iter().find(|prompt| is_written_id(&prompt.id)) {
            None => Ok(()),
            Some(prompt) => refuse(
                format!("prompt `{}` of the pool has an id as written prompts get them", prompt.id),
                "give it another one, not `w`, a round, a hyphen and a number",
            ),
        },
    }
}

/// Returns whether an id looks like `w01-0001`.
fn is_written_id(id: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = id.strip_prefix('w').and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(round, count)| number(round) && number(count))
}

/// Fails where a plugin needs what is no measurement, or needs one before there are completions.
pub fn check_needs(plugins: &Plugins) -> Result<(), RunError> {
    let refuse = |plugin: &Plugin, need: &str, why: &str, hint: &str| {
        let what = format!("{} needs `{need}`, {why}", plugin.identity());
        Err(RunError::Settings { what, hint: hint.into() })
    };
    for plugin in plugins.all() {
        if let Some(need) = plugin.needs().iter().find(|need| Need::parse(need).is_none()) {
            return refuse(plugin, need, "which is no measurement of this host", GRAMMAR);
        }
    }
    let prompts = plugins.filters.iter().filter(|(after, _)| *after == After::Sample);
    let early = plugins.principle.iter().chain(&plugins.sampler).chain(prompts.map(|(_, it)| it));
    for plugin in early {
        if let [need, ..] = plugin.needs() {
            let why = "and is called before there are completions to measure";
            let hint = "filters after `generate`, `judge` and `pair`, judges and difficulty scorers \
                        can have measurements";
            return refuse(plugin, need, why, hint);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_written_prompts_are_known() {
        for id in ["w01-0001", "w1-1", "w100-12345"] {
            assert!(is_written_id(id), "{id}");
        }
        for id in ["w01", "w-1", "w01-", "x01-0001", "w01-0001b", "p-1", "w", ""] {
            assert!(!is_written_id(id), "{id}");
        }
    }
}
