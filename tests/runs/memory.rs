//! Memory: what a run is said to take, what it takes, and what becomes of one that takes too much.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use aligner::cli::{self, Cli, CliError, host};
use aligner::memory::Budget;
use aligner::model::backend::any::AnyDevice;
use aligner::model::backend::cpu::{Cpu, Room};
use aligner::plugin::{Cache, Runtime, Settings};
use aligner::progress::{Progress, Style};
use aligner::run::{self, Existing, Opened, Prepared};
use clap::Parser;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::full::FULL;
use super::{Place, tests, tiny};

/// Writes the tiny model anew with 60 times the weights, wide enough that numbers, not the program, are
/// most of what a run takes.
fn medium(folder: &Path) {
    const LAYERS: usize = 8;
    let [hidden, intermediate, vocab, narrow] = [256, 1024, 400, 128];
    std::fs::create_dir(folder).unwrap();
    let tiny = tests().join("fixtures/tiny-llama");
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(tiny.join(name), folder.join(name)).unwrap();
    }
    let text = std::fs::read(tiny.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    for (key, value) in [
        ("hidden_size", hidden),
        ("intermediate_size", intermediate),
        ("num_hidden_layers", LAYERS),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 32),
    ] {
        config[key] = json!(value);
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut shapes = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ]);
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![narrow, hidden]),
            ("self_attn.v_proj", vec![narrow, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![intermediate, hidden]),
            ("mlp.up_proj", vec![intermediate, hidden]),
            ("mlp.down_proj", vec![hidden, intermediate]),
        ] {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    let mut state = 17u64;
    let mut draw = move |scale: f32| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        scale * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let len = shape.iter().product();
            let scale = if shape.len() == 1 { 0.0 } else { 0.1 };
            let mean = if shape.len() == 1 { 1.0 } else { 0.0 };
            let bytes = (0..len).flat_map(|_| (mean + draw(scale)).to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// Returns the size after `word` in a text such as `about 312 MB (training 312 MB, …`.
fn size(text: &str, word: &str) -> f64 {
    let (_, rest) = text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {text}"));
    let mut words = rest.split([' ', ',', ')']);
    let number: f64 = words.next().unwrap().parse().unwrap();
    number
        * match words.next().unwrap() {
            "MB" => 1e6,
            "GB" => 1e9,
            unit => panic!("{unit} in {text}"),
        }
}

/// Runs a command and returns how it ended, and the most memory that it held, in bytes.
#[cfg(target_os = "linux")]
fn peak(command: &mut Command) -> (i32, f64) {
    let child = command.spawn().unwrap().id() as i32;
    // SAFETY: the child is ours and nobody else waits for it; both places are there.
    unsafe {
        let (mut status, mut usage) = (0, std::mem::zeroed::<libc::rusage>());
        assert_eq!(libc::wait4(child, &mut status, 0, &mut usage), child);
        (status, usage.ru_maxrss as f64 * 1024.0)
    }
}

/// A buffer that nobody counts shows here once it is a good part of the whole.
#[cfg(target_os = "linux")]
#[test]
fn a_run_takes_about_what_is_said_before() {
    let place = Place::new();
    medium(&place.path("medium"));
    let prompt = |i| format!("{{\"id\": \"p-{i}\", \"prompt\": \"Name river {i}.\"}}\n");
    let prompts: String = (1..=24).map(prompt).collect();
    std::fs::write(place.path("prompts.jsonl"), prompts).unwrap();
    let check = |out: &str, rounds: &str, more: &[&str]| {
        // Many examples for each step, so that micro-batches are full whatever the random model says.
        let model = ["--model", "medium", "--prompts", "prompts.jsonl", "--rounds", rounds];
        let fixed = [
            &model[..],
            &["--set", "generate.max_new_tokens=100"],
            &["--set", "train.per_device_train_batch_size=24"],
        ];
        let arguments = tiny(out, &[&fixed.concat(), more].concat());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let log = std::fs::File::create(place.path("log")).unwrap();
        let (status, peak) = peak(place.command(&arguments).stdout(Stdio::null()).stderr(log));
        let log = std::fs::read_to_string(place.path("log")).unwrap();
        assert_eq!(status, 0, "{log}");
        let line = log.lines().find(|line| line.starts_with("memory ")).unwrap();
        let (said, taken) = (size(line, "about "), peak);
        println!("{out}: {line}; took {:.0} MB", taken / 1e6);
        // Closer from below: there a buffer is that nobody counts.
        let ratio = said / taken;
        assert!((0.9..1.2).contains(&ratio), "{line}; took {:.0} MB", taken / 1e6);
        size(line, "training ")
    };
    let all = check("all", "1", &[]);
    let checkpointing = "train.gradient_checkpointing=true";
    // The second round begins with weights of its own, whose file is mapped beside the first.
    check("full", "2", &FULL);
    let less = check("less", "1", &["--set", "run.dtype=bf16", "--set", checkpointing]);
    assert!(less < 0.8 * all, "{less} {all}");
}

#[test]
fn a_run_that_takes_too_much_is_refused_before_anything_is_written() {
    let place = Place::new();
    let run = |memory: &str, arguments: &[&str]| {
        let output = place.command(arguments).env("ALIGNER_MEMORY", memory).output().unwrap();
        super::Said::of(output)
    };
    let arguments = tiny("run", &["--rounds", "1"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let planned = run("20MB", &[&arguments[..], &["--dry-run"]].concat()).expect(4);
    let line = planned.stdout.lines().find(|line| line.starts_with("memory ")).unwrap();
    let (plan, refusal) = (size(line, "about "), size(&planned.stderr, " would take about "));
    assert_eq!(plan, refusal, "{line}\n{}", planned.stderr);
    let refused = run("20MB", &arguments).expect(4).says(&[
        " would take about ",
        "and 20 MB is available",
        "hint: ",
        "`ALIGNER_MEMORY=",
    ]);
    assert!(!place.path("run").exists());
    let planned = run("20MB", &[&arguments[..], &["--dry-run"]].concat()).expect(4);
    assert!(planned.stdout.contains(", 20 MB available"), "{}", planned.stdout);
    let planned = run("0.02GB", &[&arguments[..], &["--dry-run"]].concat()).expect(4);
    assert!(planned.stdout.contains(", 20 MB available"), "{}", planned.stdout);
    run("much", &arguments).expect(2).says(&["`ALIGNER_MEMORY` is `much`, expected a size"]);

    // Whoever knows better may begin, with the words of the hint; what has ended needs nothing.
    let (_, enough) = refused.stderr.split_once("`ALIGNER_MEMORY=").unwrap();
    run(enough.split('`').next().unwrap(), &arguments).expect(0);
    let files = place.files("run");
    run("20MB", &arguments).expect(0);
    run("20MB", &["resume", "run"]).expect(0);
    run("20MB", &[&arguments[..], &["--fresh"]].concat()).expect(4);
    assert_eq!(place.files("run"), files, "refused before it was thrown away");
    // Whether it has ended says the journal, whatever the report says.
    let journal = place.path("run/journal.jsonl");
    let whole = std::fs::read_to_string(&journal).unwrap();
    let cut = whole.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(&journal, &whole[..cut]).unwrap();
    run("20MB", &["resume", "run"]).expect(4).says(&["`ALIGNER_MEMORY="]);
    run("20MB", &[&arguments[..], &["--resume"]].concat()).expect(4).says(&["`ALIGNER_MEMORY="]);
    std::fs::write(&journal, &whole).unwrap();
    std::fs::remove_file(place.path("run/report.json")).unwrap();
    run("20MB", &arguments).expect(5).says(&["run/report.json"]);

    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let chat = ["model", "chat", "--model", &model, "--prompt", "Hello.", "--max-new-tokens", "2"];
    run("20MB", &chat).expect(4).says(&["the model would take about ", "20 MB is available"]);
    run("64GB", &chat).expect(0);
}

/// In a long run others may take what was free when it began.
/// Prepares a run of the tiny set.
fn prepared(folder: &Path, device: AnyDevice) -> Prepared {
    let arguments = tiny(&folder.display().to_string(), &[]);
    let arguments = ["aligner".to_owned()].into_iter().chain(arguments);
    let args = Cli::parse_from(arguments).run.unwrap();
    let set = args.plugin_set(&host::embedded()).unwrap().set;
    let settings = Settings { compiler: crate::runtime::compiler(), cache: Cache::Off };
    let runtime = Runtime::new(settings).unwrap();
    let (silent, go_on) = (Progress::new(Style::Silent), AtomicBool::new(false));
    let prepared = run::prepare(set, device, runtime, &mut |_| (), &silent, &go_on);
    let mut prepared = prepared.unwrap();
    prepared.manifest.command = args.command();
    prepared
}

/// Wherever memory ends for a moment, a round goes on with less at a time, or stops and can be resumed; the
/// bytes are the same.
#[test]
fn memory_that_ends_in_a_round_changes_no_byte() {
    let place = Place::new();
    place.tiny("whole", &[]).expect(0);
    let whole = place.files("whole");
    let (silent, go_on) = (Progress::new(Style::Silent), AtomicBool::new(false));
    let (mut went_on, mut stopped) = (0, 0);
    for failure in (0..).map(|step: u32| (1.5f64.powi(step as i32) as usize) + step as usize) {
        let room: &'static Room = Box::leak(Box::new(Room::new(usize::MAX, failure)));
        let folder = place.path("run");
        let prepared = prepared(&folder, AnyDevice::Cpu(Cpu::new().within(room)));
        let Ok(models) = cli::run::models(&prepared, &silent) else { continue };
        let opened = run::open(&folder, &prepared.manifest, Existing::Refuse).unwrap();
        let Opened::Open(directory) = opened else { panic!("{opened:?}") };
        let estimate = run::memory::estimate(&prepared).unwrap();
        let budget = Budget { estimate, available: &|| None };
        match run::execute(&prepared, &models, directory, None, &budget, &silent, &go_on) {
            Ok(_) if room.refused() == 0 => break,
            Ok(_) => went_on += 1,
            Err(error) => {
                let error = CliError::from(error);
                assert_eq!(error.code, 4, "{error}");
                let said = error.to_string();
                assert!(said.contains("cpu has no room for") && said.contains("goes on"), "{said}");
                place.aligner(&["resume", "run"]).expect(0);
                stopped += 1;
            }
        }
        assert!(place.files("run") == whole, "allocation {failure}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
    assert!(went_on > 5, "{went_on} went on, {stopped} stopped");
}

#[test]
fn a_run_stops_before_it_trains_where_less_memory_is_left_and_can_be_resumed() {
    let place = Place::new();
    place.tiny("whole", &[]).expect(0);
    let folder = place.path("run");
    let silent = Progress::new(Style::Silent);
    let go_on = AtomicBool::new(false);
    let prepared = prepared(&folder, AnyDevice::cpu());
    let models = cli::run::models(&prepared, &silent).unwrap();
    let opened = run::open(&folder, &prepared.manifest, Existing::Refuse).unwrap();
    let Opened::Open(directory) = opened else { panic!("{opened:?}") };
    // Enough for the first round, and too little for the second.
    let asked = Cell::new(0);
    let available =
        &|| Some(if asked.replace(asked.get() + 1) == 0 { u64::MAX } else { 1_000_000 });
    let budget = Budget { estimate: run::memory::estimate(&prepared).unwrap(), available };
    let stopped = run::execute(&prepared, &models, directory, None, &budget, &silent, &go_on);
    let error = CliError::from(stopped.unwrap_err());
    assert_eq!(error.code, 4);
    let said = error.to_string();
    let resume = format!("`aligner resume {}` goes on", folder.display());
    for part in ["in round 2, training would take about ", "and 1.0 MB is available", &resume] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }

    place.aligner(&["resume", "run"]).expect(0);
    assert_eq!(place.files("run"), place.files("whole"));
}
