//! `[train] method`: an adapter or every weight. Where training begins, how it is kept between two
//! steps, and what it leaves.

use std::ops::ControlFlow;
use std::path::Path;

use super::{Models, Policy, RunError};
use crate::model::adapter::Adapter;
use crate::model::backend::AnyDevice;
use crate::model::checkpoint::Checkpoint;
use crate::model::export::{self, ExportError};
use crate::model::peft;
use crate::model::text::Model;
use crate::plugin_set::{Start, Train};
use crate::run::directory::{Directory, DirectoryError};
use crate::run::seed;
use crate::train::{Data, TrainError, TrainSettings, TrainState, Trainer, WeightsState};

/// What training an adapter leaves.
pub const ADAPTER: &str = "adapter";

/// What training every weight leaves.
pub const MODEL: &str = "model";

/// Returns the name of what training leaves, a folder in the round's and in `final/`: `adapter`, or
/// `model`.
pub fn result_name(settings: &Train) -> &'static str {
    match settings.lora {
        Some(_) => ADAPTER,
        None => MODEL,
    }
}

/// Begins the training of a round; `seed` draws a fresh adapter.
pub fn begin(
    models: &Models,
    round: u32,
    settings: &Train,
    entering: &Policy,
    data: impl Into<Data>,
    wanted: TrainSettings,
    seed: u64,
) -> Result<Trainer<AnyDevice>, RunError> {
    let from = match settings.start {
        Start::Previous => entering.clone(),
        Start::Initial => models.initial(),
    };
    match (&settings.lora, &from.adapter) {
        (Some(_), _) => {
            let start = starting_adapter(models, round, settings, &from, seed)?;
            Ok(Trainer::new(models.engine_of(&from)?, &start, data, wanted)?)
        }
        (None, Some(_)) => Err(refuse(round, "an adapter: it trains every weight", "method")),
        (None, None) => {
            let (backend, weights) = models.take(&from)?;
            Ok(Trainer::full(backend, weights, data, wanted)?)
        }
    }
}

/// Returns the adapter that a round's training begins with: that of the policy `from` under the round's
/// settings, or a fresh one, which `seed` draws.
///
/// Fails where the one before has another shape, or there are other weights under it.
pub fn starting_adapter(
    models: &Models,
    round: u32,
    settings: &Train,
    from: &Policy,
    seed: u64,
) -> Result<Adapter, RunError> {
    let Some(lora) = &settings.lora else { return Err(TrainError::NoAdapter.into()) };
    if !models.has_initial_weights(from) {
        return Err(refuse(round, "a whole model: it trains an adapter", "method"));
    }
    let (config, spec) = (lora.config(), &models.policy().spec);
    let seed = seed::of([seed.into(), "lora".into()]);
    let start = match &from.adapter {
        Some(adapter) => adapter.under(config, spec.layers).ok_or_else(|| {
            let what = format!("an adapter of rank {}: its settings differ", adapter.rank());
            refuse(round, &what, "lora")
        })?,
        None => Adapter::init(spec, config, seed).map_err(TrainError::from)?,
    };
    Ok(match settings.makes_reward_model() {
        true => start.with_score(spec, seed),
        false => start,
    })
}

fn refuse(round: u32, what: &str, key: &str) -> RunError {
    RunError::Settings {
        what: format!("round {round} cannot train on from {what}"),
        hint: format!("keep `train.{key}` the same in all rounds, or set `start = \"initial\"`"),
    }
}

/// Writes all that [`resume`] needs in the place of what was there.
pub fn save(
    directory: &Directory,
    name: &str,
    settings: &Train,
    trainer: &Trainer<AnyDevice>,
) -> Result<(), RunError> {
    match settings.lora {
        Some(_) => {
            directory.write(name, &trainer.state()?.to_bytes())?;
            Ok(())
        }
        None => directory.write_folder(name, |folder| trainer.save(folder).map_err(RunError::from)),
    }
}

/// Goes on with the training of a round from what [`save`] wrote.
pub fn resume(
    models: &Models,
    directory: &Directory,
    name: &str,
    settings: &Train,
    data: impl Into<Data>,
    wanted: TrainSettings,
) -> Result<Trainer<AnyDevice>, RunError> {
    let damaged = |error| directory.damaged(name, error);
    match settings.lora {
        Some(_) => {
            let state = TrainState::from_bytes(&directory.read(name)?).map_err(damaged)?;
            let engine = models.engine_of(&models.initial())?;
            Ok(Trainer::resume(engine, state, data, wanted)?)
        }
        None => {
            let spec = &models.policy().spec;
            let state = WeightsState::open(&directory.join(name), spec).map_err(damaged)?;
            // The trainer has weights of its own.
            models.release();
            Ok(Trainer::resume_full(models.device().clone().into(), &state, data, wanted)?)
        }
    }
}

/// Writes what training has made as a folder that other tools read: an adapter of PEFT, or a model in
/// Hugging Face layout.
pub fn leave(
    models: &Models,
    directory: &Directory,
    name: &str,
    settings: &Train,
    trainer: &Trainer<AnyDevice>,
) -> Result<(), RunError> {
    let model = models.policy();
    directory.write_folder(name, |folder| match settings.lora {
        Some(_) => leave_adapter(model, &trainer.adapter()?, folder),
        None => {
            let go_on = &mut |_, _| ControlFlow::Continue(());
            leave_model(model, &trainer.checkpoint(), folder, go_on)
        }
    })
}

/// Writes an adapter of `model` into a folder of a run.
pub fn leave_adapter(model: &Model, adapter: &Adapter, folder: &Path) -> Result<(), RunError> {
    let (name, revision) = model.base_name();
    let base = peft::Base { name_or_path: &name, revision: revision.as_deref() };
    Ok(peft::write(folder, adapter, base)?)
}

/// Writes a whole model in f32 into a folder of a run. `model` has what stands beside the weights.
pub fn leave_model(
    model: &Model,
    weights: &dyn Checkpoint,
    folder: &Path,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<(), RunError> {
    let (mut files, f32) = (folder.to_owned(), export::Settings::default());
    let written = export::write(&mut files, model, weights, &f32, progress);
    written.map_err(|error| match error {
        ExportError::Write { name, source } => {
            let path = folder.join(name);
            DirectoryError::Io { action: "write", path, source }.into()
        }
        error => error.into(),
    })
}

/// Returns the policy that [`leave`] wrote. `digest` stands for the files.
pub fn policy(
    models: &Models,
    directory: &Directory,
    name: &str,
    settings: &Train,
    digest: &str,
) -> Result<Policy, RunError> {
    let folder = directory.join(name);
    match settings.lora {
        Some(_) => models.adapted(peft::read(&folder, &models.policy().spec)?),
        None => models.with_weights(&folder, digest),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::backend::WeightType;
    use crate::model::forward::Engine;
    use crate::model::layout;
    use crate::model::merge::logits;
    use crate::model::template::ChatSettings;
    use crate::plugin_set::Lora;
    use crate::progress::{Progress, Style};
    use crate::round::{Loaded, Opened};
    use crate::train::Example;

    fn open(name: &str) -> (Opened, Models) {
        let opened = Opened::open(name, ChatSettings::default(), &mut |_| ()).unwrap();
        let silent = Progress::new(Style::Silent);
        let loaded = Loaded::load(&opened, &AnyDevice::cpu(), WeightType::F32, &silent).unwrap();
        let models = Models::new(&opened, loaded, BTreeMap::new(), silent);
        (opened, models)
    }

    fn tiny() -> (Opened, Models) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-llama");
        open(folder.to_str().unwrap())
    }

    fn directory() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(&folder.path().join("run")).unwrap();
        (folder, directory)
    }

    const TOKENS: [[u32; 6]; 2] = [[5, 6, 7, 8, 9, 10], [300, 5, 17, 8, 64, 12]];

    fn examples() -> Vec<Example> {
        let trained = vec![false, false, true, true, true, true];
        let example = |tokens: [u32; 6]| Example {
            id: tokens[0].to_string(),
            tokens: tokens.to_vec(),
            trained: trained.clone(),
        };
        TOKENS.map(example).to_vec()
    }

    fn full(start: Start) -> Train {
        Train { start, ..Train::full() }
    }

    fn begun(models: &Models, settings: &Train, entering: &Policy) -> Trainer<AnyDevice> {
        let wanted = TrainSettings { learning_rate: 1e-2, ..TrainSettings::default() };
        begin(models, 2, settings, entering, examples(), wanted, 7).unwrap()
    }

    fn said(models: &Models, policy: &Policy) -> Vec<f32> {
        let engine = models.engine_of(policy).unwrap();
        logits(&engine, None, &TOKENS.map(|tokens| tokens.to_vec())).unwrap()
    }

    fn tensors(checkpoint: &dyn Checkpoint) -> Vec<Vec<f32>> {
        let tensors = layout::tensors(checkpoint.spec()).into_iter();
        tensors.map(|(name, shape)| checkpoint.tensor(&name, &shape).unwrap()).collect()
    }

    /// Trains one step and leaves the model in a folder of this name; returns the policy, and what the
    /// trainer's own weights say.
    fn round(
        models: &Models,
        directory: &Directory,
        name: &str,
        settings: &Train,
        entering: &Policy,
    ) -> (Policy, Vec<f32>) {
        let mut trainer = begun(models, settings, entering);
        trainer.step().unwrap();
        leave(models, directory, name, settings, &trainer).unwrap();
        let engine = Engine::new(AnyDevice::cpu(), trainer.into_weights().unwrap());
        let said = logits(&engine, None, &TOKENS.map(|tokens| tokens.to_vec())).unwrap();
        let digest = directory.digest(&format!("{name}/model.safetensors")).unwrap();
        (policy(models, directory, name, settings, &digest).unwrap(), said)
    }

    #[test]
    fn a_model_is_left_as_it_was_trained() {
        let ((_, models), (_folder, directory)) = (tiny(), directory());
        let initial = models.initial();
        let before = said(&models, &initial);
        let (policy, trained) =
            round(&models, &directory, "model", &full(Start::Previous), &initial);
        assert!(said(&models, &policy) == trained && trained != before);
        // As anybody opens it.
        let (_, opened) = open(directory.join("model").to_str().unwrap());
        assert!(said(&opened, &opened.initial()) == trained);
        let prompt = crate::record::Text::user("Hi");
        let tokens = |models: &Models| models.policy().encode_prompt(&prompt).unwrap();
        assert_eq!(tokens(&opened), tokens(&models));
        // And who asks for the initial model gets it still.
        assert!(said(&models, &initial) == before);
    }

    #[test]
    fn training_begins_where_the_settings_say() {
        let ((opened, models), (_folder, directory)) = (tiny(), directory());
        let (one, _) = round(&models, &directory, "1", &full(Start::Previous), &models.initial());
        let of = |start| tensors(&begun(&models, &full(start), &one).checkpoint());
        let (left, _) = open(directory.join("1").to_str().unwrap());
        assert!(of(Start::Previous) == tensors(&*left.checkpoint));
        assert!(of(Start::Initial) == tensors(&*opened.checkpoint));
        assert!(of(Start::Initial) != tensors(&*left.checkpoint));
    }

    #[test]
    fn one_version_of_the_weights_is_in_memory() {
        let ((_, models), (_folder, directory)) = (tiny(), directory());
        let initial = models.initial();
        let alive = |policy: &Policy| Arc::downgrade(&models.engine_of(policy).unwrap().weights);
        let first = alive(&initial);
        let (one, _) = round(&models, &directory, "1", &full(Start::Previous), &initial);
        assert!(first.upgrade().is_none(), "the trainer has taken them");
        let second = alive(&one);
        assert!(second.upgrade().is_some());
        let again = alive(&initial);
        assert!(second.upgrade().is_none() && again.upgrade().is_some());
    }

    #[test]
    fn equal_weights_are_one_policy_and_others_another() {
        let ((_, models), (_folder, directory)) = (tiny(), directory());
        let initial = models.initial();
        let train = |name: &str, start: Start, entering: &Policy| {
            round(&models, &directory, name, &full(start), entering).0
        };
        let one = train("1", Start::Previous, &initial);
        let same = train("2", Start::Initial, &one);
        let other = train("3", Start::Previous, &one);
        assert_eq!(one.digest, same.digest);
        assert!(other.digest != one.digest && one.digest != initial.digest);
        assert_eq!(models.state("policy", &one), one.digest);
        assert_eq!(models.state("initial", &one), initial.digest);
        models.save("generator", &one);
        assert_eq!(models.state("generator", &other), one.digest);
        models.forget("generator");
        assert_eq!(models.state("generator", &other), other.digest);
    }

    #[test]
    fn a_saved_training_goes_on_to_the_same_weights() {
        let ((_, models), (_folder, directory)) = (tiny(), directory());
        for settings in [full(Start::Previous), Train::default()] {
            let wanted = TrainSettings { num_train_epochs: 3.0, ..TrainSettings::default() };
            let (initial, data) = (models.initial(), examples());
            let mut trainer =
                begin(&models, 1, &settings, &initial, data, wanted.clone(), 7).unwrap();
            // What was saved before gives way.
            for _ in 0..2 {
                trainer.step().unwrap();
                save(&directory, "state", &settings, &trainer).unwrap();
            }
            trainer.step().unwrap();
            leave(&models, &directory, "whole", &settings, &trainer).unwrap();
            drop(trainer);
            let mut trainer =
                resume(&models, &directory, "state", &settings, examples(), wanted).unwrap();
            assert_eq!(trainer.steps_done(), 2);
            trainer.step().unwrap();
            leave(&models, &directory, "resumed", &settings, &trainer).unwrap();
            let digests = |name: &str| -> Vec<String> {
                directory.digests(name).unwrap().into_values().collect()
            };
            assert_eq!(digests("whole"), digests("resumed"));
            directory.remove_folder("state").unwrap();
        }
    }

    #[test]
    fn an_adapter_and_weights_do_not_go_on_from_each_other() {
        let ((_, models), (_folder, directory)) = (tiny(), directory());
        let spec = &models.policy().spec;
        let adapter = Adapter::init(spec, Lora::default().config(), 1).unwrap();
        let adapted = models.adapted(adapter).unwrap();
        let (whole, _) = round(&models, &directory, "1", &full(Start::Previous), &models.initial());
        let check = |settings: &Train, entering: &Policy, expected: &str| {
            let wanted = TrainSettings::default();
            let trainer = begin(&models, 2, settings, entering, examples(), wanted, 7);
            assert_eq!(trainer.map(|_| ()).unwrap_err().to_string(), expected);
        };
        check(
            &full(Start::Previous),
            &adapted,
            "round 2 cannot train on from an adapter: it trains every weight",
        );
        check(
            &Train::default(),
            &whole,
            "round 2 cannot train on from a whole model: it trains an adapter",
        );
        for (settings, entering) in [
            (full(Start::Initial), &adapted),
            (Train { start: Start::Initial, ..Train::default() }, &whole),
        ] {
            begun(&models, &settings, entering);
        }
    }
}
