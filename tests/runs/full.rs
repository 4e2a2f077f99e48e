//! Runs that train every weight: whole models from one round to the next.

use std::os::unix::process::CommandExt;

use serde_json::{Value, json};

use super::{Place, Said, tests, tiny};

/// What turns the tiny set into one that trains every weight.
pub const FULL: [&str; 4] = ["--set", "train.method='full'", "--set", "train.learning_rate=1e-3"];

fn full(place: &Place, run: &str, more: &[&str]) -> Said {
    place.tiny(run, &[&FULL, more].concat())
}

#[test]
fn a_run_ends_with_a_model_that_is_the_policy() {
    let place = Place::new();
    let first = full(&place, "run", &[]).expect(0);
    for line in
        ["model of round ", "run/final/model\n", "aligner model chat --model run/final/model\n"]
    {
        assert!(first.stdout.contains(line), "no {line:?} in {}", first.stdout);
    }
    assert!(!first.stdout.contains("adapter"), "{}", first.stdout);
    first.says(&["training every weight; each round writes a model of "]);
    let files = place.files("run");
    for name in ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"] {
        for folder in ["rounds/01/model", "rounds/02/model", "final/model"] {
            let name = format!("{folder}/{name}");
            assert!(files.contains_key(&name), "no {name} in {:?}", files.keys());
        }
    }
    for part in ["adapter", "partial", "train.state", ".tmp", ".old"] {
        assert!(!files.keys().any(|name| name.contains(part)), "{part} in {:?}", files.keys());
    }
    let card = String::from_utf8(files["final/model/README.md"].clone()).unwrap();
    assert!(card.contains("library_name: transformers") && card.contains("vLLM"), "{card}");

    // The perplexity that the best round measured is that of the folder, opened by itself.
    let report: Value = serde_json::from_slice(&files["report.json"]).unwrap();
    let best = report["best_round"].as_u64().unwrap() as usize;
    let measured = report["rounds"][best - 1]["held_out"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["measure"] == "perplexity")
        .unwrap()["value"]
        .as_f64()
        .unwrap();
    let held_out = std::fs::read_to_string(tests().join("sets/tiny-held-out.jsonl")).unwrap();
    let rows = held_out.lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        let say = |role: &str, key: &str| json!({ "role": role, "content": row[key] });
        let messages = [say("user", "prompt"), say("assistant", "answer")];
        format!("{}\n", json!({ "messages": messages }))
    });
    std::fs::write(place.path("rows.jsonl"), rows.collect::<String>()).unwrap();
    let perplexity = |model: &str| {
        let arguments = ["model", "score", "--model", model, "--data", "rows.jsonl"];
        let said = place.aligner(&arguments).expect(0);
        let rows = said.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let (logprob, tokens) = rows.fold((0.0, 0.0), |(logprob, tokens), row| {
            let of = |key: &str| row[key].as_f64().unwrap();
            (logprob + of("logprob"), tokens + of("tokens"))
        });
        (-logprob / tokens).exp()
    };
    assert_eq!(perplexity("run/final/model"), measured);
    let base = tests().join("fixtures/tiny-llama").display().to_string();
    assert_ne!(perplexity(&base), measured);
    let chat = ["model", "chat", "--model", "run/final/model", "--max-new-tokens", "4"];
    place.aligner(&[&chat[..], &["--prompt", "Hi"]].concat()).expect(0);
    place
        .aligner(&["model", "chat", "--adapter", "run/final/model", "--prompt", "Hi"])
        .expect(4)
        .says(&["no PEFT adapter folder", "it is a whole model: `--model run/final/model`"]);

    // A second call finds it done, and puts back what is gone.
    std::fs::remove_dir_all(place.path("run/final")).unwrap();
    for again in [full(&place, "run", &[]), place.aligner(&["resume", "run"])] {
        assert!(again.expect(0).stdout.contains("model of round "));
        assert_eq!(place.files("run"), files);
    }
    let report = place.aligner(&["report", "run"]).expect(0);
    assert!(report.stdout.contains("kept"), "{}", report.stdout);
    place.aligner(&["show", "run", "p-1"]).expect(0);
}

/// The model of round 2, trained on from round 1 or from the beginning, and the initial model asked
/// after the weights have moved.
#[test]
fn rounds_begin_where_they_should_and_the_initial_model_stays() {
    let place = Place::new();
    let run = |name: &str, more: &[&str]| {
        full(&place, name, more).expect(0);
        place.files(name)
    };
    // Every answer is the initial model's, so both rounds of both runs train on the same rows.
    let initial = ["--set", "generate.model='initial'", "--set", "train.data='all'"];
    let previous = run("previous", &initial);
    let fresh = run("fresh", &[&initial[..], &["--set", "train.start='initial'"]].concat());
    for name in ["generate.jsonl", "train.jsonl"] {
        for round in ["rounds/01", "rounds/02"] {
            let name = format!("{round}/{name}");
            assert!(previous[&name] == fresh[&name], "{name}");
        }
    }
    let weights = |round: &str| format!("rounds/{round}/model/model.safetensors");
    assert!(previous[&weights("01")] == fresh[&weights("01")]);
    assert!(previous[&weights("02")] != fresh[&weights("02")]);
    // The policy's own answers change with its weights.
    let own = run("own", &[]);
    assert!(own["rounds/01/generate.jsonl"] == previous["rounds/01/generate.jsonl"]);
    assert!(own["rounds/02/generate.jsonl"] != previous["rounds/02/generate.jsonl"]);
}

#[test]
fn an_adapter_may_be_trained_beside_the_first_weights_after_a_whole_model() {
    let place = Place::new();
    let rounds = "\n[[rounds]]\ntrain = { start = \"initial\" }\n\
                  [[rounds]]\ntrain = { method = \"full\", start = \"initial\" }\n";
    place.write_set("mixed.toml", rounds);
    let rate = ["--set", "train.learning_rate=1e-3"];
    let run = ["--plugins", "mixed.toml", "--out", "run"];
    place.aligner(&[&run[..], &rate].concat()).expect(0);
    let files = place.files("run");
    assert!(files.contains_key("rounds/01/adapter/adapter_model.safetensors"));
    assert!(files.contains_key("rounds/02/model/model.safetensors"));
    let finals: Vec<bool> =
        ["adapter", "model"].map(|name| place.path("run/final").join(name).exists()).into();
    assert!(finals[0] != finals[1], "one of them is the result");
}

#[test]
fn only_the_last_and_the_best_model_stay_where_a_set_says_so() {
    let place = Place::new();
    // With a large rate all rounds give one and the same answer, so that the first stays the best.
    let measure = "evaluate.measures=['distinct-2']";
    let rounds = ["--rounds", "3", "--set", "train.learning_rate=3e-2", "--set", measure];
    let keep = [&rounds[..], &["--set", "run.keep=last"]].concat();
    full(&place, "all", &rounds).expect(0);
    full(&place, "last", &keep).expect(0).says(&[", the last and the best stay\n"]);
    let (all, files) = (place.files("all"), place.files("last"));
    let report: Value = serde_json::from_slice(&files["report.json"]).unwrap();
    let best = report["best_round"].as_u64().unwrap();
    let kept: Vec<u64> = (1..=3)
        .filter(|round| files.contains_key(&format!("rounds/{round:02}/model/model.safetensors")))
        .collect();
    assert_eq!(kept, if best == 3 { vec![3] } else { vec![best, 3] }, "{report}");
    assert!(best < 3, "the best is not the last: {report}");
    let removed = |name: &str| all.contains_key(name) && !files.contains_key(name);
    assert!(all.keys().filter(|name| removed(name)).all(|name| name.contains("/model/")));
    // The settings, and the journal that names what was removed; card and page say how the run is repeated.
    let differ = ["run.json", "journal.jsonl", "final/model/README.md", "report.html"];
    for (name, bytes) in files.iter().filter(|(name, _)| !differ.contains(&name.as_str())) {
        assert!(all[name] == *bytes, "{name}");
    }

    place.aligner(&["report", "last"]).expect(0);
    std::fs::remove_dir_all(place.path("last/final")).unwrap();
    full(&place, "last", &keep).expect(0);
    let journal = String::from_utf8(files["journal.jsonl"].clone()).unwrap();
    let cut = journal.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(place.path("last/journal.jsonl"), &journal[..cut]).unwrap();
    place.aligner(&["resume", "last"]).expect(0);
    assert!(place.files("last") == files);
}

#[test]
fn weights_that_are_rounded_are_not_trained() {
    let place = Place::new();
    for dtype in ["bf16", "int8"] {
        let more = ["--set", &format!("run.dtype='{dtype}'")];
        full(&place, "run", &more)
            .expect(2)
            .says(&[&format!("is `{dtype}`, and `method = \"full\"` trains every weight")]);
    }
    assert!(!place.path("run").exists());
}

/// A disk that is full where the large files are written: a state, and the model itself.
#[test]
fn a_model_that_cannot_be_written_is_the_run_directory_s_fault() {
    let place = Place::new();
    for (run, save_steps) in [("often", "1"), ("never", "0")] {
        let steps = format!("train.save_steps={save_steps}");
        let more = ["--rounds", "1", "--set", steps.as_str()];
        full(&place, "whole", &[&more[..], &["--fresh"]].concat()).expect(0);
        let arguments = tiny(run, &[&FULL[..], &more].concat());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = place.command(&arguments);
        // SAFETY: only calls that may stand between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit { rlim_cur: 100_000, rlim_max: 100_000 };
                libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                Ok(())
            })
        };
        let said = Said::of(command.output().unwrap()).expect(5);
        said.says(&["cannot write `", "model.safetensors`", "01/"]);
        place.aligner(&["resume", run]).expect(0);
        assert!(place.files(run) == place.files("whole"));
    }
}

#[test]
fn the_plan_speaks_of_the_model() {
    let place = Place::new();
    let said = full(&place, "run", &["--dry-run"]).expect(0);
    let line = "training every weight; each round writes a model of ";
    assert!(said.stdout.contains(line), "{}", said.stdout);
    let said = place.tiny("run", &["--dry-run"]).expect(0);
    assert!(!said.stdout.contains("training every weight"), "{}", said.stdout);
    assert!(!place.path("run").exists());
}
