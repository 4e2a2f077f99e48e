//! How much memory a run takes, estimated before its weights load.
//!
//! Sizes come from the code that allocates. What nobody knows yet is how many tokens go through at
//! once, so this is assumed: completions that run together have three quarters of the tokens that
//! they may have, and those that are left to train together half of them; prompts are like those that
//! are rendered here ([`SAMPLE`] of the pool, as round 1 puts them). Where a model ends its answers much
//! earlier, or filters leave few and short ones, a run stays below its estimate; where it ends none, it
//! comes to a little more. What plugins ask the models is taken to be no more than the run itself asks.

use super::Prepared;
use super::prepare::engine_work;
use crate::data::GivenPair;
use crate::generate::{DecodeMemory, Settings};
use crate::memory::{Estimate, ModelMemory, Part, Stage, TRAINING, program};
use crate::model::adapter::LoraConfig;
use crate::model::backend::{AnyDevice, WeightType};
use crate::model::layout;
use crate::model::spec::Spec;
use crate::model::text::Model;
use crate::model::trainable::TrainableAdapter;
use crate::plugin_set::{EmbeddedWork, Generate, Lora, PluginSet, Search, Train};
use crate::record::{Finish, Text, Variant};
use crate::round::{Aligned, RunError, given_variants, tokens_at_once};
use crate::train::{TrainError, TrainMemory, TrainSettings, reference_memory, shares_prompts};

/// Prompts that are rendered to estimate how long the others are: three batches of the default size.
pub(super) const SAMPLE: usize = 96;

/// Returns the size of the weights that a round leaves in f32; none where no round trains every weight.
pub fn trained_bytes(prepared: &Prepared) -> Option<u64> {
    let set = &prepared.set;
    let mut trains = (1..=set.run.rounds).filter_map(|round| set.train(round));
    trains.any(|train| train.lora.is_none()).then(|| whole_bytes(prepared))
}

/// Returns the size of all weights in f32.
fn whole_bytes(prepared: &Prepared) -> u64 {
    let tensors = layout::tensors(&prepared.models["policy"].model.spec).into_iter();
    tensors.map(|(_, shape)| 4 * shape.iter().product::<usize>() as u64).sum()
}

/// Returns what the stages of a run hold of the memory of its device.
pub fn estimate(prepared: &Prepared) -> Result<Estimate, RunError> {
    let (set, policy) = (&prepared.set, &*prepared.models["policy"].model);
    let (device, dtype) = (&prepared.device, set.run.dtype);
    let models = prepared.models.iter().filter(|(name, _)| has_weights_here(set, name));
    let models: Vec<ModelMemory> = models
        .map(|(_, opened)| ModelMemory::predict(device, &*opened.checkpoint, dtype))
        .collect();
    let program = program(device);
    let stage = |name| {
        let stage = Stage::new(name).with(Part::Program, program);
        models.iter().fold(stage, |stage, model| model.to(stage))
    };
    let reading = models.iter().map(|model| model.reading).max().unwrap_or(0);

    let rounds = || 1..=set.run.rounds;
    let trains: Vec<&Train> = rounds().filter_map(|round| set.train(round)).collect();
    let adapter = trains
        .iter()
        .map(|train| adapter(device, &policy.spec, train))
        .collect::<Result<Vec<_>, _>>()?;
    let given = match &prepared.aligned {
        Some(Aligned::Adapter(adapter)) => {
            Some(in_use(device, &policy.spec, &adapter.config, false)?)
        }
        _ => None,
    };
    let named: Vec<_> = prepared
        .adapters
        .values()
        .map(|adapter| in_use(device, &policy.spec, &adapter.config, adapter.is_reward_model()))
        .collect::<Result<_, _>>()?;
    let named_bytes: usize = named.iter().map(|adapter| adapter.bytes).sum();
    let named_rank = named.iter().map(|adapter| adapter.rank).max().unwrap_or(0);
    let adapter =
        adapter.into_iter().chain(given).max_by_key(|adapter| adapter.bytes).unwrap_or_default();

    let renderings = prepared.sample()?.iter().map(|variant| variant.prompt.clone());
    let prompts = encoded(policy, &renderings.collect::<Vec<_>>());
    let lessons: Vec<Vec<Lesson>> =
        trains.iter().map(|train| lessons(prepared, train, &prompts)).collect();
    let mut largest: Option<TrainMemory> = None;
    // What TRL trains, it trains in memory of its own, while these weights are let go.
    let native = |train: &Train| train.trl.is_none();
    for (train, lessons) in trains.iter().zip(&lessons).filter(|(train, _)| native(train)) {
        let memory = training(prepared, train, lessons, dtype)?;
        if largest.is_none_or(|largest| memory.total() > largest.total()) {
            largest = Some(memory);
        }
    }
    // What training works in is kept for the next round.
    let kept = largest.map_or(0, |largest| largest.kept());
    // The policy that a later round begins with stays until the round is done: its adapter, or the file
    // of its weights, which a whole model has beside those of the initial one. So does what is saved.
    let others = if set.run.rounds > 1 { 1 + set.models.saved.len() } else { 0 };
    let entering = others * adapter.bytes + named_bytes;
    let trained = match given_file(prepared) {
        0 => trained_bytes(prepared).unwrap_or(0) as usize,
        given => given + whole_bytes(prepared) as usize,
    };
    let entering_file = others * trained;

    let mut stages = vec![stage("loading").with(Part::Reading, reading)];
    let decoding = |generate: &Generate, prompts: &[Vec<u32>]| {
        let (new, limit) = (generate.max_new_tokens as usize, policy.spec.context_length);
        let prompts = prompts.iter().filter(|prompt| prompt.len() + new <= limit);
        let prompts: Vec<_> = prompts.map(|prompt| (prompt.clone(), drawn(new))).collect();
        decode(device, &policy.spec, dtype, adapter.rank.max(named_rank), &prompts, generate.batch)
    };
    // What plugins ask is answered in batches of the default size.
    let asks = set.plugins().iter().any(|(_, plugin)| plugin.ask.is_some());
    let generations = rounds().flat_map(|round| {
        let own = set.generate(round);
        let asked = asks.then(|| Generate { batch: None, ..own.clone() });
        [Some(own.clone()), asked].into_iter().flatten()
    });
    // What is given need not be generated.
    let writes = prepared.given.is_empty() && prepared.aligned.is_none();
    let written = |_: &Generate| writes || asks;
    let here = |generate: &Generate| engine_of(set, &generate.model, EmbeddedWork::Adapters);
    let generations = generations.filter(|generate| written(generate) && here(generate));
    let generations = generations.map(|generate| decoding(&generate, &prompts));
    if let Some(most) = generations.max_by_key(DecodeMemory::total) {
        let kept = if set.run.rounds > 1 { kept } else { 0 };
        let stage = stage("generation").decoding(&most).with(Part::Adapters, entering);
        stages.push(stage.with(Part::Passes, kept).with(Part::Files, entering_file));
    }
    let evaluates_here = set.models.servers.get("policy").is_none_or(|it| !it.embedded.is_empty());
    if let Some(evaluate) = set.evaluate.as_ref().filter(|_| evaluates_here) {
        let mut most = scoring(prepared, policy, adapter.rank.max(named_rank));
        if evaluate.measures.iter().any(|measure| measure.is_of_answers()) {
            let texts = prepared.held_out.iter().map(|row| row.prompt.text.clone());
            let prompts = encoded(policy, &texts.collect::<Vec<_>>());
            let answers = decoding(&Generate { batch: None, ..set.generate.clone() }, &prompts);
            most = [most, answers].into_iter().max_by_key(DecodeMemory::total).unwrap_or(most);
        }
        let stage = stage("evaluation").decoding(&most).with(Part::Adapters, adapter.bytes);
        let files = trained + entering_file;
        stages.push(stage.with(Part::Passes, kept).with(Part::Files, files));
    }
    let searches: Vec<&Search> =
        rounds().filter_map(|round| set.extrapolate(round)?.search()).collect();
    if rounds().any(|round| set.extrapolate(round).is_some()) {
        // Candidates are read from both ends of the line, one at a time.
        let mut most = DecodeMemory::default();
        for search in &searches {
            let held_out =
                &prepared.held_out[..prepared.held_out.len().min(search.prompts as usize)];
            let texts = held_out.iter().map(|row| row.prompt.text.clone());
            let prompts = encoded(policy, &texts.collect::<Vec<_>>());
            let new = search.decoding.max_new_tokens.unwrap_or(set.generate.max_new_tokens);
            let generate = Generate { batch: None, max_new_tokens: new, ..set.generate.clone() };
            let answers = decoding(&generate, &prompts);
            let scores = scoring(prepared, policy, adapter.rank);
            most =
                [most, answers, scores].into_iter().max_by_key(DecodeMemory::total).unwrap_or(most);
        }
        // The trained adapter, a candidate's and the one of the round before.
        let stage = stage("extrapolation").decoding(&most).with(Part::Reading, 2 * reading);
        let adapters = 2 * adapter.bytes + entering;
        let files = trained + entering_file;
        let stage = stage.with(Part::Adapters, adapters).with(Part::Passes, kept);
        stages.push(stage.with(Part::Files, files));
    }
    // A reference is asked about what is compared, and what is given is scored in any case.
    let mut scored = Vec::new();
    for (train, lessons) in trains.iter().zip(&lessons) {
        if train.reference.is_some() && native(train) {
            scored.push(referring(prepared, train, lessons)?);
        }
        if !prepared.given.is_empty() {
            scored.push(comparing(prepared, lessons, adapter.rank));
        }
    }
    if let Some(most) = scored.into_iter().max_by_key(DecodeMemory::total) {
        let kept = if set.run.rounds > 1 { kept } else { 0 };
        let stage = stage("reference").decoding(&most).with(Part::Adapters, entering);
        stages.push(stage.with(Part::Passes, kept).with(Part::Files, entering_file));
    }
    // So is what plugins need measured.
    let scores_here = engine_of(set, "policy", EmbeddedWork::Scores);
    let measured = scores_here && prepared.plugins.all().any(|plugin| !plugin.needs().is_empty());
    let measured = measured.then(|| trains.iter().zip(&lessons)).into_iter().flatten();
    let measured = measured.map(|(_, lessons)| comparing(prepared, lessons, adapter.rank));
    if let Some(most) = measured.max_by_key(DecodeMemory::total) {
        let kept = if set.run.rounds > 1 { kept } else { 0 };
        let stage = stage("measuring").decoding(&most).with(Part::Adapters, entering);
        stages.push(stage.with(Part::Passes, kept).with(Part::Files, entering_file));
    }
    if let Some(most) = largest {
        let stage = stage(TRAINING).training(&most).with(Part::Adapters, entering);
        stages.push(stage.with(Part::Files, entering_file));
    }
    Ok(Estimate { stages })
}

/// Returns whether a run holds the weights of a model: of one on a server, for what only the embedded engine does.
fn has_weights_here(set: &PluginSet, name: &str) -> bool {
    set.models.servers.get(name).is_none_or(|server| engine_work(set, name, server).is_some())
}

/// Returns whether the embedded engine does some work of a model.
fn engine_of(set: &PluginSet, model: &str, work: EmbeddedWork) -> bool {
    let servers = &set.models.servers;
    let own = servers.get(model).or_else(|| match set.models.named.contains_key(model) {
        true => None,
        false => servers.get("policy"),
    });
    own.is_none_or(|server| server.leaves(work))
}

/// Returns the size of the mapped files of an aligned model that is given.
fn given_file(prepared: &Prepared) -> usize {
    match &prepared.aligned {
        Some(Aligned::Model(opened)) => opened.checkpoint.mapped_bytes(),
        Some(Aligned::Adapter(_)) | None => 0,
    }
}

/// Returns what the user can do about a part, where something can be done.
pub fn way_out(set: &PluginSet, part: Part) -> Option<String> {
    let trains = || (1..=set.run.rounds).filter_map(|round| set.train(round));
    match part {
        Part::Activations => Some(match trains().all(|train| train.gradient_checkpointing) {
            true => "a smaller `train.micro_batch_tokens` or `train.max_length` makes activations smaller"
                .into(),
            false => {
                "`train.gradient_checkpointing = true`, or a smaller `train.max_length`, makes \
                      activations smaller"
                    .into()
            }
        }),
        Part::Weights => Some(match set.run.dtype {
            WeightType::F32 => "`run.dtype = \"bf16\"` halves the weights".into(),
            _ => "a smaller model has smaller weights".into(),
        }),
        Part::Cache => Some(
            "a smaller `generate.batch` or `generate.max_new_tokens` makes keys and values smaller"
                .into(),
        ),
        Part::Gradients if trains().any(|train| train.lora.is_none()) => {
            Some("`train.method = \"lora\"` has small gradients".into())
        }
        Part::Adapters | Part::Gradients | Part::Copies => {
            Some("a smaller `train.lora.r` makes the adapter and its gradients smaller".into())
        }
        _ => None,
    }
}

/// An adapter in use.
#[derive(Clone, Copy, Default)]
struct InUse {
    rank: usize,
    /// As it was read, and packed.
    bytes: usize,
}

fn adapter(device: &AnyDevice, spec: &Spec, train: &Train) -> Result<InUse, RunError> {
    // In full training there is none.
    let Some(lora) = &train.lora else { return Ok(InUse::default()) };
    in_use(device, spec, &lora.config(), train.makes_reward_model())
}

fn in_use(
    device: &AnyDevice,
    spec: &Spec,
    config: &LoraConfig,
    scores: bool,
) -> Result<InUse, RunError> {
    let pairs = config.pairs(spec.layers).map_err(TrainError::from)?;
    let len = TrainableAdapter::len(device, spec, &pairs, scores);
    let rank = pairs.values().map(|pair| pair.r).max().unwrap_or(0);
    Ok(InUse { rank, bytes: len.bytes() })
}

fn decode(
    device: &AnyDevice,
    spec: &Spec,
    dtype: WeightType,
    rank: usize,
    prompts: &[(Vec<u32>, usize)],
    batch: Option<u32>,
) -> DecodeMemory {
    let mut settings = Settings::on(device);
    if let Some(batch) = batch {
        settings.set_batch(device, batch as usize);
    }
    DecodeMemory::predict(device, spec, dtype, rank, prompts, &settings)
}

/// Returns what scoring the trusted answers holds.
fn scoring(prepared: &Prepared, policy: &Model, rank: usize) -> DecodeMemory {
    // A judge that is asked about anchors reads them, among more.
    let anchors = prepared.anchors.iter().map(|row| (&row.prompt, &row.chosen));
    let rows = prepared.held_out.iter().map(|row| (&row.prompt, &row.answer)).chain(anchors);
    let rows =
        rows.filter_map(|(prompt, answer)| sequence(policy, &prompt.text, answer, Finish::Stop));
    let (device, dtype) = (&prepared.device, prepared.set.run.dtype);
    decode(device, &policy.spec, dtype, rank, &rows.collect::<Vec<_>>(), None)
}

/// Returns the tokens of prompts, those left out that the model cannot read.
fn encoded(policy: &Model, prompts: &[Text]) -> Vec<Vec<u32>> {
    prompts.iter().filter_map(|text| policy.encode_prompt(text).ok()).collect()
}

/// Returns how many tokens a completion is taken to have that may have `most`.
fn drawn(most: usize) -> usize {
    (3 * most).div_ceil(4)
}

/// Returns how many are taken to be left of it for training.
fn trained(most: usize) -> usize {
    most.div_ceil(2)
}

/// What one item of a round's training has: prompts in tokens, with how many tokens follow. The first
/// are learnt from, the others only looked at.
struct Lesson {
    learnt: Vec<Sequence>,
    looked_at: Vec<Sequence>,
}

type Sequence = (Vec<u32>, usize);

/// Returns the lessons of a sample of the pool: each prompt with a completion, or with those that an
/// objective compares, under the longest of the `renderings` where that counts.
fn lessons(prepared: &Prepared, train: &Train, renderings: &[Vec<u32>]) -> Vec<Lesson> {
    let policy = &*prepared.models["policy"].model;
    let new = trained(max_new_tokens(&prepared.set));
    let preference = train.preference();
    let by_role = preference.is_some_and(|preference| preference.tells_by_role());
    let count = preference.map_or(1, |preference| preference.roles().len());
    // Of each prompt, as many as there are, over and over.
    let sequences: Vec<Vec<Sequence>> = if prepared.given.is_empty() {
        let texts: Vec<Text> = prepared.prompts.iter().map(|prompt| prompt.text.clone()).collect();
        let longest = renderings.iter().max_by_key(|tokens| tokens.len()).filter(|_| by_role);
        let of = |prompt: Vec<u32>| vec![(longest.cloned().unwrap_or(prompt), new)];
        encoded(policy, &spread(&texts, SAMPLE)).into_iter().map(of).collect()
    } else {
        let pairs: Vec<_> = prepared.given.values().cloned().collect();
        let of = |pair: &GivenPair| {
            let variants = given_variants(pair).into_iter();
            variants.filter_map(|variant| given(policy, &variant)).collect()
        };
        spread(&pairs, SAMPLE).iter().map(of).collect()
    };
    let lesson = |of: Vec<Sequence>| {
        let mut learnt: Vec<Sequence> = of.iter().cycle().take(count).cloned().collect();
        let looked_at = learnt.split_off(preference.map_or(1, |preference| preference.learnt()));
        Lesson { learnt, looked_at }
    };
    let items = preference.map_or(1, |preference| preference.items());
    let usable = sequences.into_iter().filter(|of: &Vec<Sequence>| !of.is_empty());
    usable.flat_map(|of| std::iter::repeat_n(of, items)).map(lesson).collect()
}

/// Returns the tokens of a completion that is given, where the model can read it.
fn given(policy: &Model, variant: &Variant) -> Option<Sequence> {
    let completion = variant.completion.as_ref()?;
    sequence(policy, &variant.prompt, &completion.text, completion.finish)
}

/// Returns the tokens of a prompt and how many follow with a completion, where the model can read it.
fn sequence(policy: &Model, prompt: &Text, completion: &str, finish: Finish) -> Option<Sequence> {
    let example = policy.encode_example(prompt, completion, finish).ok()?;
    let from = example.trained.iter().position(|&trained| trained)?;
    let new = example.tokens.len() - from;
    Some((example.tokens[..from].to_vec(), new))
}

/// Returns the most tokens of a completion in any round.
fn max_new_tokens(set: &PluginSet) -> usize {
    let new = (1..=set.run.rounds).map(|round| set.generate(round).max_new_tokens).max();
    new.unwrap_or(0) as usize
}

/// Returns what training one round holds.
fn training(
    prepared: &Prepared,
    train: &Train,
    lessons: &[Lesson],
    dtype: WeightType,
) -> Result<TrainMemory, RunError> {
    let lora: Option<LoraConfig> = train.lora.as_ref().map(Lora::config);
    let shares = shares_prompts(lora.as_ref());
    let rows = |of: fn(&Lesson) -> &[Sequence]| {
        rows_at_once(prepared, train, lessons.iter().map(|lesson| of(lesson).iter()), shares)
    };
    let rows = rows(|lesson| &lesson.learnt).max(rows(|lesson| &lesson.looked_at));
    let memory = TrainMemory::predict(
        &prepared.device,
        &prepared.models["policy"].model.spec,
        lora.as_ref(),
        train.makes_reward_model(),
        dtype,
        rows,
        train.gradient_checkpointing,
    );
    memory.map_err(|error| TrainError::from(error).into())
}

/// Returns what asking the reference of a round holds.
fn referring(
    prepared: &Prepared,
    train: &Train,
    lessons: &[Lesson],
) -> Result<DecodeMemory, RunError> {
    let spec = &prepared.models["policy"].model.spec;
    let all = lessons.iter().map(|lesson| lesson.learnt.iter().chain(&lesson.looked_at));
    // What has no pairs is compared with a completion of another prompt.
    let pairs = train.preference().is_some_and(|preference| preference.is_paired());
    let rows = rows_at_once(prepared, train, all, pairs);
    let lora: Option<LoraConfig> = train.lora.as_ref().map(Lora::config);
    let memory = reference_memory(&prepared.device, spec, lora.as_ref(), rows);
    memory.map_err(|error| TrainError::from(error).into())
}

/// Returns the most rows that a training pass over lessons has, of which each has some sequences. What is longer than
/// `max_length` is dropped. Where they share, the second of a pair has its prompt with the first, but for the last token.
fn rows_at_once<'a, L: Iterator<Item = &'a Sequence>>(
    prepared: &Prepared,
    train: &Train,
    lessons: impl Iterator<Item = L>,
    shares: bool,
) -> usize {
    let context_length = prepared.models["policy"].model.spec.context_length;
    let longest = (train.max_length as usize).min(context_length);
    let rows = |(nth, (prompt, new)): (usize, &Sequence)| {
        let shared = if shares && nth % 2 == 1 { prompt.len().saturating_sub(1) } else { 0 };
        (prompt.len() + new).min(longest).saturating_sub(shared)
    };
    let lengths: Vec<usize> = lessons.map(|lesson| lesson.enumerate().map(rows).sum()).collect();
    let settings = TrainSettings {
        per_device_train_batch_size: train.per_device_train_batch_size as usize,
        gradient_accumulation_steps: train.gradient_accumulation_steps as usize,
        micro_batch_tokens: tokens_at_once(train, &prepared.device),
        ..TrainSettings::default()
    };
    TrainMemory::rows(&lengths, &settings)
}

/// Returns what scoring the sequences of lessons holds.
fn comparing(prepared: &Prepared, lessons: &[Lesson], rank: usize) -> DecodeMemory {
    let spec = &prepared.models["policy"].model.spec;
    let rows = lessons.iter().flat_map(|lesson| lesson.learnt.iter().chain(&lesson.looked_at));
    let rows = rows.filter(|(prompt, new)| prompt.len() + new <= spec.context_length);
    let (device, dtype) = (&prepared.device, prepared.set.run.dtype);
    decode(device, spec, dtype, rank, &rows.cloned().collect::<Vec<_>>(), None)
}

/// Returns at most `count` of some items, evenly spread.
pub(super) fn spread<T: Clone>(items: &[T], count: usize) -> Vec<T> {
    match items.len() <= count {
        true => items.to_vec(),
        false => (0..count).map(|i| items[i * items.len() / count].clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_over_all() {
        let check = |items: usize, count: usize, expected: &[usize]| {
            assert_eq!(spread(&(0..items).collect::<Vec<_>>(), count), expected);
        };
        check(3, 5, &[0, 1, 2]);
        check(10, 5, &[0, 2, 4, 6, 8]);
        check(7, 3, &[0, 2, 4]);
        check(0, 3, &[]);
    }
}
