//! The plan of a run: what it will do, and about how long that takes.

use std::path::Path;
use std::time::Instant;

use super::Prepared;
use super::memory::{spread, trained_bytes};
use crate::memory::Estimate;
use crate::model::backend::{AnyDevice, Backend, WeightType, Write};
use crate::model::spec::{Linear, Spec};
use crate::plugin::{Answerer, Ask, Candidate, Outcome, Place};
use crate::plugin_set::{
    Alpha, Launch, Lora, OnAlarm, PluginSet, Scope, Search, Train, Trl, Watch,
};
use crate::progress::counted;
use crate::record::{Answer, Exemplar, Prompt, Record, Text, Variant, VariantRole};
use crate::report::{Plan, PlanPlugin, PlanTime};
use crate::round::RunError;
use crate::shown::one_line;
use crate::train::shares_prompts;

/// Prompts that are rendered to estimate how long the others are.
pub(super) const PROBES: usize = 8;

/// Returns the plan. Tokens are counted on a few rendered prompts, time by a short product of
/// matrices on this machine; both are estimates, as memory is ([`super::memory`]), of which there are
/// `available` bytes.
pub fn plan(
    prepared: &Prepared,
    plugin_set: &str,
    out: &Path,
    memory: &Estimate,
    available: Option<u64>,
) -> Result<Plan, RunError> {
    let (set, manifest) = (&prepared.set, &prepared.manifest);
    let policy = &prepared.models["policy"].model;
    let tokens = tokens(prepared)?;
    let ids = manifest.plugins.iter().zip(set.plugins());
    let plugins = ids.map(|(id, (_, wanted))| PlanPlugin {
        kind: id.kind.clone(),
        name: id.name.clone(),
        version: id.version.clone(),
        digest: id.digest.clone(),
        ask: wanted.ask.clone(),
    });
    Ok(Plan {
        method: set.method.name.clone(),
        plugin_set: plugin_set.to_owned(),
        rounds: set.run.rounds,
        model: policy.name.clone(),
        model_digest: policy.digest.clone(),
        model_bytes: size(&policy.path),
        round_model_bytes: trained_bytes(prepared),
        keep: set.run.keep,
        plugins: plugins.collect(),
        prompts: prepared.prompts.len() as u64,
        written: set.write().map(|write| write.prompts.into()),
        duplicates: manifest.prompts.duplicates,
        held_out: prepared.held_out.len() as u64,
        anchors: prepared.anchors.len() as u64,
        too_long: too_long(prepared)?,
        extrapolation: extrapolation(prepared),
        watch: set.watch.as_ref().map(watch),
        trainer: trainer(set),
        tokens: tokens.forward + tokens.trained,
        // How fast a server is nobody knows here.
        time: match set.models.servers.is_empty() {
            true => speed(&prepared.device, &policy.spec)
                .map(|speed| seconds(&policy.spec, tokens, speed)),
            false => None,
        },
        servers: (set.models.servers.iter())
            .map(|(name, server)| (name.clone(), server.server.clone()))
            .collect(),
        memory: memory.stages.iter().map(|stage| (stage.name, stage.total())).collect(),
        available,
        device: manifest.engine.clone(),
        out: out.to_owned(),
    })
}

/// Returns how many prompts of a sample do not fit into the context with a completion of round 1, and
/// of how many.
fn too_long(prepared: &Prepared) -> Result<(u64, u64), RunError> {
    if !prepared.given.is_empty() || prepared.aligned.is_some() {
        return Ok((0, prepared.prompts.len() as u64));
    }
    let generate = prepared.set.generate(1);
    let model = prepared.models.get(&generate.model).unwrap_or(&prepared.models["policy"]);
    let (model, new) = (&model.model, generate.max_new_tokens as usize);
    let room = model.spec.context_length;
    let prompts = prepared.sample()?;
    let fits = |text: &Text| model.encode_prompt(text).is_ok_and(|ids| ids.len() + new <= room);
    let too_long = prompts.iter().filter(|variant| !fits(&variant.prompt)).count();
    Ok((too_long as u64, prompts.len() as u64))
}

/// Returns what is said of rounds that go beyond what they trained; none where no round does.
fn extrapolation(prepared: &Prepared) -> Option<String> {
    let set = &prepared.set;
    let rounds = (1..=set.run.rounds).filter_map(|round| Some((round, set.extrapolate(round)?)));
    let said: Vec<String> = rounds
        .map(|(round, extrapolate)| match &extrapolate.alpha {
            Alpha::Fixed(alpha) => format!("round {round} by alpha {alpha}"),
            Alpha::Search(search) => format!(
                "round {round} by the best of {} alphas, by {} on {}",
                candidates(search),
                search.objective.as_str(),
                counted(
                    prepared.held_out.len().min(search.prompts as usize) as u64,
                    "held-out prompts"
                )
            ),
        })
        .collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Returns what programs are started to train rounds; none where no round is left to another.
fn trainer(set: &PluginSet) -> Option<String> {
    let said = |round: u32| {
        let Trl { launch, python, .. } = set.train(round)?.trl.as_ref()?;
        let name = Launch::ALL.iter().find(|(_, it)| it == launch).map_or("", |(name, _)| name);
        Some(format!("round {round} by TRL ({name}, `{}`)", one_line(python, 200)))
    };
    let said: Vec<String> = (1..=set.run.rounds).filter_map(said).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Returns what is watched, and what comes of it.
fn watch(watch: &Watch) -> String {
    let signals: Vec<&str> = watch.limits.keys().map(|signal| signal.as_str()).collect();
    let comes = match watch.on_alarm {
        OnAlarm::Warn => "only says so",
        OnAlarm::Stop => "ends the run",
        OnAlarm::RollBack => "ends the run, with the best of the rounds before",
    };
    format!("{}; an alarm {comes}", signals.join(", "))
}

/// Returns how many alphas a search tries.
fn candidates(search: &Search) -> u64 {
    1 + search.grid.len() as u64 + u64::from(search.refine)
}

/// Tokens of a run, estimated.
#[derive(Clone, Copy, Debug)]
struct Tokens {
    /// Read and written by forward passes alone, prefixes that all prompts share left out.
    forward: u64,
    /// Trained on: forward and backward.
    trained: u64,
    /// How much work that is, in forward passes of as many tokens.
    passes: f64,
}

fn tokens(prepared: &Prepared) -> Result<Tokens, RunError> {
    let (set, policy) = (&prepared.set, &prepared.models["policy"].model);
    let rendered = rendered(prepared, PROBES)?;
    let encoded: Vec<Vec<u32>> =
        rendered.iter().filter_map(|variant| policy.encode_prompt(&variant.prompt).ok()).collect();
    let shared = shared_prefix(&encoded);
    let mean = |total: usize, count: usize| (total / count.max(1)) as u64;
    let own = mean(encoded.iter().map(|row| row.len() - shared).sum(), encoded.len());
    let plain: usize =
        prepared.prompts.iter().take(64).map(|prompt| prompt.text.gist().len() / 4 + 8).sum();
    let plain = mean(plain, prepared.prompts.len().min(64));
    let new = u64::from(set.generate.max_new_tokens);

    let selected = selected(prepared)?;
    if let Some(empty) = selected.iter().position(|&count| count == 0) {
        return Err(RunError::Settings {
            what: format!(
                "round {} would have no prompts: the pool has {} for {}",
                empty + 1,
                prepared.prompts.len(),
                counted(set.run.rounds.into(), "rounds")
            ),
            hint: "give more prompts, or fewer `run.rounds`".into(),
        });
    }
    let rounds: u64 = selected.iter().sum();
    let scope = set.difficulty.as_ref().filter(|_| prepared.aligned.is_none()).map(|it| it.scope);
    let (pool, scored) = match scope {
        Some(Scope::Pool) => (prepared.prompts.len() as u64, prepared.prompts.len() as u64),
        Some(Scope::Round) => (0, rounds),
        None => (0, 0),
    };
    let first = selected.first().copied().unwrap_or(0);
    let reused = if pool > 0 { first } else { 0 };
    // Each prompt is completed in every way in which it is put.
    let variants = rendered.len().div_ceil(prepared.prompts.len().clamp(1, PROBES)).max(1) as u64;
    let completions = match prepared.given.is_empty() && prepared.aligned.is_none() {
        true => (pool + rounds - reused) * variants,
        false => 0,
    };
    let held_out: usize = prepared.held_out.iter().map(|row| row.answer.len() / 4 + 24).sum();
    let evaluations = u64::from(set.run.rounds) + 1;
    let mut forward =
        completions * (own + new) + scored * (plain + new) + held_out as u64 * evaluations;
    for search in (1..=set.run.rounds).filter_map(|round| set.extrapolate(round)?.search()) {
        let answers =
            candidates(search) * (prepared.held_out.len() as u64).min(search.prompts.into());
        forward += answers * (plain + u64::from(search.decoding.max_new_tokens.unwrap_or(0)));
    }
    let mut trained = 0;
    for (round, &count) in (1..).zip(&selected) {
        let [learnt, scored] = set.train(round).map_or([0, 0], sequences);
        // The second of a pair shares its prompt with the first.
        let tokens = |sequences: u64, pairs: bool| {
            let prompts = if pairs { sequences.div_ceil(2) } else { sequences };
            prompts * plain + sequences * new / 2
        };
        let preference = set.train(round).and_then(Train::preference);
        let pairs = preference.is_some_and(|preference| preference.is_paired());
        let lora = set.train(round).and_then(|train| train.lora.as_ref()).map(Lora::config);
        trained += count * tokens(learnt, pairs && shares_prompts(lora.as_ref()));
        // What is given is measured first.
        let given = if prepared.given.is_empty() { 0 } else { 2 };
        forward += count * (tokens(scored, pairs) + tokens(given, true));
    }
    // Two operations a parameter forward; backward the same again for the inputs, and the same for
    // the gradients of every weight, or about half of that for an adapter's.
    let passes = if trained_bytes(prepared).is_some() { 3.0 } else { 2.5 };
    Ok(Tokens { forward, trained, passes })
}

/// Returns how many sequences training makes of a record: those that are learnt from, and those that go
/// through the model besides.
fn sequences(train: &Train) -> [u64; 2] {
    let Some(preference) = train.preference() else { return [1, 0] };
    let all = [preference.learnt(), preference.roles().len()];
    let [learnt, all] = all.map(|sequences| (preference.items() * sequences) as u64);
    // TRL asks the reference itself.
    let referred = if train.reference.is_some() && train.trl.is_none() { all } else { 0 };
    [learnt, all - learnt + referred]
}

/// Renders at most `count` prompts as round 1 would; a principle plugin that asks gets no answers.
pub(super) fn rendered(prepared: &Prepared, count: usize) -> Result<Vec<Variant>, RunError> {
    put(prepared, &spread(&prepared.prompts, count))
}

/// Renders these prompts as round 1 would.
pub(super) fn put(prepared: &Prepared, prompts: &[Prompt]) -> Result<Vec<Variant>, RunError> {
    let set = &prepared.set;
    let bare = |prompt: &Prompt| Variant {
        name: "plain".into(),
        role: VariantRole::Plain,
        prompt: prompt.text.clone(),
        completion: None,
    };
    let plain = || prompts.iter().map(bare).collect();
    let principle = match &prepared.plugins.principle {
        Some(principle) if prepared.given.is_empty() => principle,
        // What is given has been put.
        _ => return Ok(plain()),
    };
    let place = place(prepared, 1, "sample");
    let mut records: Vec<Record> = prompts.iter().cloned().map(Record::new).collect();
    if let Some(sampler) = &prepared.plugins.sampler {
        let equipped = sampler.equip(&place, prompts, &prepared.catalogue)?.outcomes;
        for (record, outcome) in records.iter_mut().zip(equipped) {
            if let Outcome::Done(equipment) = outcome {
                let drawn = |&i: &usize| -> Exemplar { prepared.catalogue[i].clone() };
                record.exemplars = equipment.exemplars.iter().map(drawn).collect();
            }
        }
    }
    let asks = set.principle.as_ref().is_some_and(|principle| principle.ask.is_some());
    // What it puts where a model has nothing to say is about as long as what it will put.
    let stage = match principle.render(&place, &records, &mut Silence) {
        Err(_) if asks => return Ok(plain()),
        stage => stage?,
    };
    let variants = stage.outcomes.into_iter().filter_map(|outcome| match outcome {
        Outcome::Done(variants) => Some(variants),
        Outcome::Failed(_) => None,
    });
    Ok(variants.flatten().collect())
}

/// Answers nothing: no model is there yet.
struct Silence;

impl Answerer for Silence {
    fn answer(
        &mut self,
        asks: &[Ask<'_>],
    ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(asks.iter().map(|_| Answer::Unanswered("this is an estimate".into())).collect())
    }
}

/// Returns how many prompts each round would select from the pool in the order of the file. Where they
/// are written first, each round has as many as are wanted.
fn selected(prepared: &Prepared) -> Result<Vec<u64>, RunError> {
    if let Some(write) = prepared.set.write() {
        return Ok(vec![write.prompts.into(); prepared.set.run.rounds as usize]);
    }
    let all = prepared.prompts.len() as u64;
    let Some(sampler) = &prepared.plugins.sampler else {
        return Ok(vec![all; prepared.set.run.rounds as usize]);
    };
    let pool: Vec<Candidate> = prepared
        .prompts
        .iter()
        .map(|prompt| Candidate {
            id: prompt.id.clone(),
            tags: prompt.tags.clone(),
            difficulty: None,
            selected: 0,
        })
        .collect();
    let rounds = 1..=prepared.set.run.rounds;
    rounds
        .map(|round| Ok(sampler.select(&place(prepared, round, "sample"), &pool)?.0.len() as u64))
        .collect()
}

pub(super) fn place<'a>(prepared: &Prepared, round: u32, stage: &'a str) -> Place<'a> {
    let run = &prepared.set.run;
    Place { run_seed: run.seed, round, rounds: run.rounds, stage, position: 0 }
}

fn shared_prefix(rows: &[Vec<u32>]) -> usize {
    let [first, rest @ ..] = rows else { return 0 };
    if rest.is_empty() {
        return 0;
    }
    let agrees = |&i: &usize| rest.iter().all(|row| row.get(i) == first.get(i));
    (0..first.len()).take_while(agrees).count()
}

/// Returns the size of a file, or of all files of a folder, in bytes.
fn size(path: &Path) -> u64 {
    let of = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| of(&entry.path())).sum(),
        Err(_) => of(path),
    }
}

/// Returns the time for so many tokens at these speeds.
fn seconds(spec: &Spec, tokens: Tokens, speed: Speed) -> PlanTime {
    let linears: usize =
        Linear::ALL.iter().map(|&linear| spec.linear_shape(linear)).map(|(o, i)| o * i).sum();
    let parameters = (spec.layers * linears + spec.vocab * spec.hidden) as f64;
    // Attention, norms and sampling are about a third on top.
    let forward = 2.0 * parameters * 1.35;
    let work = forward * (tokens.forward as f64 + tokens.passes * tokens.trained as f64);
    PlanTime { seconds: work / speed.fastest, busy: speed.fastest > 1.5 * speed.mean }
}

/// Floating-point operations a second, over a number of equal pieces of work.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Speed {
    /// In the fastest piece. Others who work on the machine make some pieces slower and none faster, so
    /// this tells what it can do, much the same at every call.
    fastest: f64,
    /// In all of them.
    mean: f64,
}

impl Speed {
    /// Returns the speeds of pieces of so many operations that took these times, in seconds.
    fn of(operations: f64, times: &[f64]) -> Option<Speed> {
        let fast = times.iter().copied().min_by(f64::total_cmp)?;
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        Some(Speed { fastest: operations / fast, mean: operations / mean })
    }
}

/// Measures a product of the MLP's shape.
fn speed(backend: &AnyDevice, spec: &Spec) -> Option<Speed> {
    const ROWS: usize = 64;
    let (outputs, inputs) = spec.linear_shape(Linear::Up);
    let weight =
        backend.pack(&vec![0.01; outputs * inputs], outputs, inputs, WeightType::F32).ok()?;
    let x = backend.upload(&vec![0.01; ROWS * inputs]).ok()?;
    let mut y = backend.zeros(ROWS * outputs).ok()?;
    backend.linear(&x, ROWS, &weight, &mut y, Write::Set);
    backend.view(&y, 0..1).ok()?;
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed().as_millis() < 150 {
        let piece = Instant::now();
        backend.linear(&x, ROWS, &weight, &mut y, Write::Set);
        // Until it is done.
        backend.view(&y, 0..1).ok()?;
        times.push(piece.elapsed().as_secs_f64());
    }
    Speed::of(2.0 * (ROWS * outputs * inputs) as f64, &times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_leaves_the_fastest_piece_as_it_is() {
        let quiet = vec![0.25; 128];
        let mut busy = quiet.clone();
        busy[16..].fill(1.0);
        let speed = |times: &[f64]| Speed::of(8.0, times).unwrap();
        assert_eq!(speed(&quiet), Speed { fastest: 32.0, mean: 32.0 });
        let busy = speed(&busy);
        assert_eq!(busy.fastest, 32.0);
        assert!((8.0..9.0).contains(&busy.mean), "{busy:?}");
        assert_eq!(Speed::of(8.0, &[]), None);
    }

    #[test]
    fn a_prefix_is_shared_by_all_rows() {
        let check = |rows: &[&[u32]], expected: usize| {
            let rows: Vec<Vec<u32>> = rows.iter().map(|row| row.to_vec()).collect();
            assert_eq!(shared_prefix(&rows), expected);
        };
        check(&[], 0);
        check(&[&[1, 2, 3]], 0);
        check(&[&[1, 2, 3], &[1, 2, 4]], 2);
        check(&[&[1, 2], &[1, 2, 4], &[1]], 1);
    }
}
