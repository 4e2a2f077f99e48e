//! What the targets for plugins share: guests as components, the runtime, records, and every call there is.
//! The targets for data have theirs in `data`.

pub mod data;

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use aligner::plugin::compile::Compiler;
use aligner::plugin::{
    Answerer, Ask, Cache, Candidate, Grant, Interface, Limits, Loaded, Place, PluginError, Runtime,
    Settings, Setup, Spent,
};
use aligner::record::{
    Answer, Completion, Exemplar, Finish, Prompt, Record, Repro, Request, Score, Text, Variant,
    VariantRole,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The runtime of the fuzzed process. It compiles in the process itself, so inputs are kept small.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let settings = Settings { compiler: Compiler::InProcess, cache: Cache::Off };
    Runtime::new(settings).expect("the runtime starts")
});

/// Returns limits under which one input takes milliseconds.
pub fn limits() -> Limits {
    Limits {
        fuel: 2_000_000,
        memory_bytes: 4 << 20,
        deadline: Duration::from_secs(10),
        copied_bytes: 1 << 20,
        log_bytes: 4 << 10,
        ..Limits::default()
    }
}

/// Returns the guest whose results are the bytes of its configuration, as a component.
pub fn image() -> Vec<u8> {
    const WORLD: &str = "
        package fuzz:guests;
        world everything {
            import aligner:plugin/log@0.1.1;
            export aligner:plugin/meta@0.1.1;
            export aligner:plugin/principle@0.1.1;
            export aligner:plugin/sampler@0.1.1;
            export aligner:plugin/prompt-writer@0.1.1;
            export aligner:plugin/filter@0.1.1;
            export aligner:plugin/set-filter@0.1.1;
            export aligner:plugin/judge@0.1.1;
            export aligner:plugin/difficulty@0.1.1;
        }
    ";
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut resolve = Resolve::default();
    resolve.push_dir(here.join("../../wit")).expect("the contract is there");
    let package = resolve.push_str("everything.wit", WORLD).expect("the world is valid");
    let world = resolve.select_world(&[package], Some("everything")).expect("the world is there");
    let text = include_bytes!("../../guests/wat/image.wat");
    let mut module = wat::parse_bytes(text).expect("the guest is valid").into_owned();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("the contract fits into the module");
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .expect("the guest keeps to the contract")
}

/// Answers everything in the same way.
struct Model;

impl Answerer for Model {
    fn answer(
        &mut self,
        asks: &[Ask<'_>],
    ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>> {
        let answer = |ask: &Ask| match ask.request {
            Request::Generate { .. } => Answer::Completion(completion("yes")),
            Request::Score { .. } => Answer::Score(Score {
                logprob: -3.0,
                tokens: 6,
                entropy: None,
                repro: Repro::Exact,
            }),
            Request::Reward { .. } => Answer::Reward { value: -0.25, tokens: 9 },
        };
        Ok(asks.iter().map(answer).collect())
    }
}

fn completion(text: &str) -> Completion {
    Completion {
        text: text.into(),
        tokens: 3,
        logprob: -1.5,
        entropy: Some(0.5),
        finish: Finish::Stop,
        repro: Repro::Exact,
    }
}

/// Returns two records with two completed variants each, `a` and `b`.
fn records() -> Vec<Record> {
    let variant = |name: &str| Variant {
        name: name.into(),
        role: VariantRole::Good,
        prompt: Text::user("what is it?"),
        completion: Some(completion("it is this")),
    };
    let record = |id: &str| {
        let prompt = Prompt { id: id.into(), text: Text::user("what is it?"), tags: vec![] };
        let mut record = Record::new(prompt);
        record.variants = vec![variant("a"), variant("b")];
        record
    };
    vec![record("p-1"), record("p-2")]
}

/// Calls one function of the contract; whatever comes of it is a result or an error with words.
pub fn call(
    loaded: &Loaded,
    interface: Interface,
    catalogue: bool,
    config: String,
) -> Result<(), PluginError> {
    const PLACE: Place<'static> =
        Place { run_seed: 17, round: 1, rounds: 1, stage: "fuzz", position: 0 };
    let setup = Setup {
        config,
        limits: limits(),
        grant: Some(Grant::new(["a".to_owned()], 1000, 8)),
        ..Setup::new(interface.kind())
    };
    let plugin = loaded.configure(setup)?;
    let records = records();
    let prompts: Vec<Prompt> = records.iter().map(|record| record.prompt.clone()).collect();
    match interface {
        Interface::Principle if catalogue => plugin.catalogue().map(drop),
        Interface::Principle => plugin.render(&PLACE, &records, &mut Model).map(drop),
        Interface::Sampler if catalogue => {
            let exemplar = |id: &str| Exemplar { id: id.into(), tags: vec![], text: "e".into() };
            plugin.equip(&PLACE, &prompts, &[exemplar("a"), exemplar("b")]).map(drop)
        }
        Interface::Sampler => {
            let candidate = |prompt: &Prompt| Candidate {
                id: prompt.id.clone(),
                tags: vec![],
                difficulty: None,
                selected: 0,
            };
            let pool: Vec<Candidate> = prompts.iter().map(candidate).collect();
            plugin.select(&PLACE, &pool).map(drop)
        }
        Interface::PromptWriter => {
            plugin.write(&PLACE, &prompts, 0..2, Spent::default(), &mut Model).map(drop)
        }
        Interface::Filter => plugin.filter(&PLACE, &records, &mut Model).map(drop),
        Interface::SetFilter => plugin.filter_set(&PLACE, &[], &records).map(drop),
        Interface::Judge => plugin.judge(&PLACE, &records, &mut Model).map(drop),
        Interface::Difficulty => plugin.score(&PLACE, &records, &mut Model).map(drop),
    }
}

/// Sees that an error has words, and none that would harm a terminal.
pub fn check(result: Result<(), PluginError>) {
    let Err(error) = result else { return };
    assert!(!matches!(error, PluginError::Host(_)), "{error}");
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\u{1b}') && text.len() < 10_000, "{text:?}");
}
