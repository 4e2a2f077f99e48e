//! Everything that is checked before weights load: data, plugins, tokenizer, digests.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::manifest::{DataId, FORMAT, Manifest, ModelId};
use super::memory::SAMPLE;
use super::plan::rendered;
use super::plugins::Plugins;
use crate::data::{self, GivenPair, HeldOut};
use crate::digest::sha256;
use crate::model::backend::AnyDevice;
use crate::model::template::ChatSettings;
use crate::model::text::Model;
use crate::model::{ModelError, source};
use crate::plugin::{Interface, Kind, Plugin, Runtime};
use crate::plugin_set::{Measure, PluginSet, Source};
use crate::progress::counted;
use crate::record::{Exemplar, Prompt, Text};
use crate::round::{Opened, RunError, given_variants};

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
    /// What the run is.
    pub manifest: Manifest,
    /// The models' files, tokenizers and templates; weights are not loaded yet. The policy is under
    /// `policy`.
    pub models: BTreeMap<String, Opened>,
    /// Where they will run.
    pub device: AnyDevice,
    /// See [`sample`](Prepared::sample).
    sample: OnceLock<Vec<Text>>,
}

impl Prepared {
    /// Returns some prompts of the pool ([`SAMPLE`]) as round 1 puts them. They are rendered once, for
    /// the plan and for the estimate of memory.
    pub(super) fn sample(&self) -> Result<&[Text], RunError> {
        if let Some(sample) = self.sample.get() {
            return Ok(sample);
        }
        let sample = rendered(self, SAMPLE)?;
        Ok(self.sample.get_or_init(|| sample))
    }
}

/// Reads and checks what a plugin set names, for a run on `device`. `report` hears what is fetched.
pub fn prepare(
    set: PluginSet,
    device: AnyDevice,
    runtime: Runtime,
    report: &mut dyn FnMut(source::Progress),
) -> Result<Prepared, RunError> {
    let builtin = |name: &str| aligner_embed::data(name);
    let limit = set.data.limit.map_or(usize::MAX, |limit| limit as usize);
    let pool = pool(&set, limit, &builtin)?;
    let (prompts, given) = (pool.prompts, pool.given);
    let held_out = match &set.data.held_out {
        Some(source) => data::read_held_out(source, &builtin)?,
        None => Vec::new(),
    };
    let plugins = Plugins::load(runtime, &set)?;
    for plugin in plugins.all() {
        refuse_what_is_not_there(plugin)?;
    }
    let catalogue = match &plugins.principle {
        Some(principle) => principle.catalogue()?,
        None => Vec::new(),
    };

    let mut models = BTreeMap::new();
    let (date, variables) = (set.chat.date, set.chat.variables.clone());
    let chat = ChatSettings { date, variables };
    let named = set.models.named.iter().map(|(name, model)| (name.as_str(), model));
    for (name, model) in std::iter::once(("policy", &set.models.policy)).chain(named) {
        let opened = Opened::open(model, chat.clone(), report)?;
        models.insert(name.to_owned(), opened);
    }
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
    readable(&models["policy"].model, &prompts, &given, &held_out)?;
    let id = |opened: &Opened| ModelId {
        name: opened.model.name.clone(),
        digest: opened.model.digest.clone(),
    };
    let rows = |source: &Source, rows: &[u8], count: usize, duplicates: usize| DataId {
        source: source.to_string(),
        digest: sha256(rows),
        rows: count as u64,
        duplicates: duplicates as u64,
    };
    let bytes = match given.is_empty() {
        true => serde_json::to_vec(&prompts),
        false => serde_json::to_vec(&given),
    };
    let bytes = bytes.expect("our own types serialise");
    let answered: Vec<_> = held_out.iter().map(|row| (&row.prompt, &row.answer)).collect();
    let held_out_bytes = serde_json::to_vec(&answered).expect("our own types serialise");
    let manifest = Manifest {
        format: FORMAT,
        aligner: env!("CARGO_PKG_VERSION").into(),
        engine: device.class(set.run.dtype),
        models: models.iter().map(|(name, opened)| (name.clone(), id(opened))).collect(),
        prompts: rows(
            set.data.pairs.as_ref().unwrap_or(&set.data.prompts),
            &bytes,
            prompts.len(),
            pool.duplicates,
        ),
        held_out: set
            .data
            .held_out
            .as_ref()
            .map(|source| rows(source, &held_out_bytes, held_out.len(), 0)),
        plugins: plugins.ids().to_vec(),
        plugin_set: set.clone(),
    };
    let sample = OnceLock::new();
    Ok(Prepared {
        set,
        plugins,
        catalogue,
        prompts,
        given,
        held_out,
        manifest,
        models,
        device,
        sample,
    })
}

/// Fails where the model cannot be prompted at all (without a chat template, say), or cannot read one of
/// the prompts. What is too long for it is left out later, and counted.
fn readable(
    model: &Model,
    prompts: &[Prompt],
    given: &BTreeMap<String, GivenPair>,
    held_out: &[HeldOut],
) -> Result<(), RunError> {
    let asked = prompts.iter().chain(held_out.iter().map(|row| &row.prompt));
    let asked = asked.map(|prompt| (prompt.id.as_str(), prompt.text.clone()));
    // Those of the pairs, under their principles too.
    let steered = given.values().filter(|pair| pair.steered.is_some()).flat_map(|pair| {
        let variants = given_variants(pair).into_iter();
        variants.map(|variant| (pair.prompt.id.as_str(), variant.prompt))
    });
    for (id, text) in asked.chain(steered) {
        match model.encode_prompt(&text) {
            Ok(_) | Err(ModelError::TooLong { .. }) => {}
            Err(error) => return Err(RunError::of_record(id)(error)),
        }
    }
    Ok(())
}

/// Fails where an objective tells completions apart by role, and pairs that are given have no roles.
fn check_steered(set: &PluginSet, given: &BTreeMap<String, GivenPair>) -> Result<(), RunError> {
    let trains = (1..=set.run.rounds).filter_map(|round| set.train(round));
    let preference = trains.filter_map(|train| train.preference());
    let Some(objective) = preference.into_iter().find(|preference| preference.tells_by_role())
    else {
        return Ok(());
    };
    match given.values().find(|pair| pair.steered.is_none()) {
        None => Ok(()),
        Some(pair) => Err(RunError::Settings {
            what: format!(
                "objective `{}` learns from answers under principles, and the pair `{}` has none",
                objective.name(),
                pair.prompt.id
            ),
            hint: "give each row `raw`, `p_system` and `n_system`, or take another objective, such as \
                   `dpo`"
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
        .filter(|evaluate| evaluate.measures.iter().any(|measure| *measure != Measure::Perplexity));
    let answers = answers.map(|_| ("policy", set.generate.max_new_tokens));
    let generated = rounds.map(|generate| (generate.model.as_str(), generate.max_new_tokens));
    for (name, new) in generated.chain(answers) {
        let model = &models.get(name).unwrap_or(&models["policy"]).model;
        let limit = model.spec.context_length;
        if new as usize >= limit {
            return Err(RunError::Settings {
                what: format!(
                    "`max_new_tokens` of `[generate]` is {new}, and the context of `{}` is {limit} \
                     tokens, prompt and completion together",
                    model.name
                ),
                hint: "a smaller `generate.max_new_tokens` leaves room for the prompt".into(),
            });
        }
    }
    Ok(())
}

/// What the rounds work on.
struct Pooled {
    prompts: Vec<Prompt>,
    given: BTreeMap<String, GivenPair>,
    duplicates: usize,
}

/// Reads at most `limit` prompts, alone or with the pairs that are given for them.
fn pool<'a>(
    set: &PluginSet,
    limit: usize,
    builtin: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<Pooled, RunError> {
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

/// Fails where a plugin counts on a part of the contract that rounds do not carry out yet, rather
/// than leaving that part out in silence.
fn refuse_what_is_not_there(plugin: &Plugin) -> Result<(), RunError> {
    let refuse = |what: String| {
        let hint = "this version cannot run it; take another plugin".to_owned();
        Err(RunError::Settings { what: format!("{} {what}", plugin.identity()), hint })
    };
    if plugin.setup().kind == Kind::Sampler && plugin.has(Interface::PromptWriter) {
        return refuse("writes prompts of its own, which rounds do not ask for yet".into());
    }
    match plugin.needs() {
        [] => Ok(()),
        needs => {
            refuse(format!("needs measurements that the host does not make: {}", needs.join(", ")))
        }
    }
}
