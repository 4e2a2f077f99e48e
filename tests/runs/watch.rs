//! The collapse watch: what is seen, when it ends a run, and what is left then.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::{Place, Said, methods, tests};

/// The tiny set over three rounds that learn too fast, with a `[watch]`.
fn watched(place: &Place, out: &str, watch: &str, more: &[&str]) -> Said {
    place.write_set("watched.toml", &format!("\n[watch]\n{watch}\n"));
    let own = ["--plugins", "watched.toml", "--out", out, "--set", "run.rounds=3"];
    let fast = ["--set", "train.learning_rate=5e-2"];
    place.aligner(&[&own[..], &fast, more].concat())
}

fn report(place: &Place, out: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place.path(out).join("report.json")).unwrap()).unwrap()
}

/// What a signal was in each round.
fn values(report: &Value, signal: &str) -> Vec<f64> {
    let rounds = report["rounds"].as_array().unwrap();
    rounds.iter().map(|round| round["signals"][signal].as_f64().unwrap()).collect()
}

/// Returns a limit that lets the values before the last one pass, and not the last one.
fn limit(values: &[f64]) -> Option<String> {
    let (last, before) = values.split_last()?;
    let least = before.iter().copied().fold(f64::INFINITY, f64::min);
    let most = before.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match *last {
        last if last > most => Some(format!("max = {}", (last + most) / 2.0)),
        last if last < least => Some(format!("min = {}", (last + least) / 2.0)),
        _ => None,
    }
}

const ALL: &str = "on_alarm = \"warn\"
perplexity = { max_rise = 1e9 }
length = { max_rise = 1e9 }
generated-distinct-2 = { min = 0 }
generated-length = { max_rise = 1e9 }
generated-entropy = { max_rise = 1e9 }";

fn same(one: &Path, other: &Path) -> bool {
    let weights = |folder: &Path| std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    weights(one) == weights(other)
}

#[test]
fn an_alarm_warns_ends_or_rolls_back() {
    let place = Place::new();
    watched(&place, "quiet", ALL, &[]).expect(0);
    let quiet = report(&place, "quiet");
    assert!(quiet.get("alarms").is_none(), "{quiet}");
    let start = quiet["before"][0]["value"].as_f64().unwrap();
    let perplexity = [&[start], &values(&quiet, "perplexity")[..]].concat();
    // Of the policy that round 2 made, and of the one that round 1 made.
    let second = limit(&perplexity[..3]).unwrap_or_else(|| panic!("{perplexity:?}"));
    let first = limit(&perplexity[..2]).unwrap();
    let limit = second;
    let with = |on_alarm: &str| format!("on_alarm = \"{on_alarm}\"\nperplexity = {{ {limit} }}");

    let said = watched(&place, "warn", &with("warn"), &[]).expect(0);
    assert!(said.stdout.contains("alarm: perplexity is"), "{}", said.stdout);
    let warn = report(&place, "warn");
    assert_eq!((&warn["ended"], warn["rounds"].as_array().unwrap().len()), (&"rounds".into(), 3));
    assert_eq!((&warn["alarms"][0]["round"], &warn["alarms"][0]["blamed"]), (&2.into(), &2.into()));
    assert_eq!(warn["best_round"], quiet["best_round"]);

    watched(&place, "stop", &with("stop"), &[]).expect(0);
    let stop = report(&place, "stop");
    assert_eq!((&stop["ended"], stop["rounds"].as_array().unwrap().len()), (&"alarm".into(), 2));
    assert!(stop.get("blamed").is_none());

    let said = watched(&place, "back", &with("roll-back"), &[]).expect(0);
    let told = "rolled back: the policy of round 2 is to blame, and the result is of round 1";
    assert!(said.stdout.contains(told), "{}", said.stdout);
    let back = report(&place, "back");
    assert_eq!((&back["ended"], &back["best_round"]), (&"alarm".into(), &1.into()));
    assert!(same(&place.path("back/final/adapter"), &place.path("back/rounds/01/adapter")));
    let page = std::fs::read_to_string(place.path("back/report.html")).unwrap();
    assert!(
        page.contains("Ended by an alarm") && page.contains("perplexity and its m"),
        "no alarm"
    );
    // It has ended, and is what it says it is.
    let again = watched(&place, "back", &with("roll-back"), &["--resume"]).expect(0);
    assert!(again.stdout.contains(told), "{}", again.stdout);
    place.aligner(&["verify", "back", "--all"]).expect(0);
    let shown = place.aligner(&["report", "back"]).expect(0);
    assert!(shown.stdout.contains(told), "{}", shown.stdout);

    // The first round is to blame: there is nothing to go back to.
    let first = format!("on_alarm = \"roll-back\"\nperplexity = {{ {first} }}");
    let said = watched(&place, "none", &first, &[]).expect(6);
    assert!(said.stdout.contains("no round before it made a policy"), "{}", said.stdout);
    said.says(&["an alarm leaves no round"]);
    assert!(!place.path("none/final").exists());
    assert_eq!(report(&place, "none")["best_round"], 0);
    // So is the model that it begins with.
    let said = watched(&place, "start", "perplexity = { max = 1 }", &[]).expect(2);
    said.says(&["`watch.perplexity` has `max = 1`, and it is", "before the first round"]);
}

#[test]
fn numbers_that_are_not_finite_are_an_alarm_too() {
    let place = Place::new();
    // The second round learns at a rate at which nothing stays finite.
    let rounds = "[[rounds]]\n[[rounds]]\ntrain = { learning_rate = 1e18 }\n[[rounds]]\n";
    let run = |out: &str, watch: &str, more: &[&str]| {
        place.write_set("wild.toml", &format!("\n{rounds}\n{watch}\n"));
        let own = ["--plugins", "wild.toml", "--out", out, "--set", "run.rounds=3"];
        place.aligner(&[&own[..], more].concat())
    };
    let limit = |on_alarm: &str| {
        format!("[watch]\non_alarm = \"{on_alarm}\"\ngenerated-length = {{ max = 1e9 }}")
    };
    for on_alarm in ["stop", "roll-back"] {
        let said = run(on_alarm, &limit(on_alarm), &[]).expect(0);
        let report = report(&place, on_alarm);
        assert_eq!((&report["ended"], &report["best_round"]), (&"alarm".into(), &1.into()));
        let diverged = serde_json::json!({
            "round": 2, "blamed": 2, "what": "what the policy of round 2 says is not finite",
        });
        assert_eq!(report["diverged"], diverged, "{report}");
        let told = "alarm: round 2 diverged: what the policy of round 2 says is not finite\n\
                    rolled back: the policy of round 2 is to blame, and the result is of round 1\n";
        assert!(said.stdout.contains(told), "{}", said.stdout);
        let adapter = |folder: &str| place.path(&format!("{on_alarm}/{folder}/adapter"));
        assert!(same(&adapter("final"), &adapter("rounds/01")));
        assert!(!place.path(&format!("{on_alarm}/rounds/02/train.state")).exists());
        let page = std::fs::read_to_string(place.path(on_alarm).join("report.html")).unwrap();
        assert!(page.contains("Ended by an alarm") && page.contains("diverged: "), "no alarm");
        place.aligner(&["verify", on_alarm, "--all"]).expect(0);
    }
    // Stopped on the way, in the round that diverges and at its end, it ends with the same bytes.
    let whole = place.files("roll-back");
    let arguments = ["--plugins", "wild.toml", "--out", "cut", "--set", "run.rounds=3"];
    let mut killed = 0;
    for write in (1..).map(|step| 12 * step) {
        let mut command = place.command(&arguments);
        let fault = format!("kill:{write}");
        let status = command.env("ALIGNER_FAULT", fault).stderr(Stdio::null()).status().unwrap();
        if status.success() {
            break;
        }
        place.aligner(&["resume", "cut"]).expect(0);
        let mut files = place.files("cut");
        for (name, bytes) in &whole {
            // The command, which names the folder, stands in these.
            let typed = ["run.json", "final/adapter/README.md", "report.html"];
            let same = files.remove(name).is_some_and(|own| own == *bytes);
            assert!(same || typed.contains(&name.as_str()), "{name} after {write} writes");
        }
        assert!(files.is_empty(), "{:?} after {write} writes", files.keys());
        std::fs::remove_dir_all(place.path("cut")).unwrap();
        killed += 1;
    }
    assert!(killed > 5, "{killed}");

    // A counterfactual run that diverges says so.
    let other = "filter-1={\"min_characters\": 2}";
    let said = place.aligner(&["ablate", "roll-back", "--config", other]).expect(0);
    let told = "the second run ended there: round 2 diverged: ";
    assert!(said.stdout.contains(told), "{}{}", said.stdout, said.stderr);

    // The first round is to blame; and where no alarm ends the run, it is an error.
    let wild = ["--set", "train.learning_rate=1e18", "--set", "train.num_train_epochs=3"];
    let said = run("none", &limit("stop"), &wild).expect(6);
    let said = said.says(&["an alarm leaves no round", "lower `train.learning_rate`"]);
    assert!(said.stdout.contains("alarm: round 1 diverged: "), "{}", said.stdout);
    run("warn", &limit("warn"), &[]).expect(4).says(&["learning_rate`"]);
    run("plain", "", &[]).expect(4);
}

#[test]
fn what_a_round_writes_tells_of_the_policy_before_it() {
    let place = Place::new();
    let more = ["--set", "train.method=full", "--set", "run.keep=last"];
    // The tiny set trains an adapter.
    let no_adapter = |name: &str| {
        let text = std::fs::read_to_string(place.path(name)).unwrap();
        std::fs::write(place.path(name), text.replace("lora = { r = 2, alpha = 2 }\n", ""))
            .unwrap();
    };
    let run = |out: &str, watch: &str| {
        place.write_set("full.toml", &format!("\n[watch]\n{watch}\n"));
        no_adapter("full.toml");
        let own = ["--plugins", "full.toml", "--out", out, "--set", "run.rounds=3"];
        place.aligner(&[&own[..], &more].concat())
    };
    run("quiet", ALL).expect(0);
    let quiet = report(&place, "quiet");
    let signals = ["generated-entropy", "generated-length", "generated-distinct-2"];
    let found = signals.iter().find_map(|name| Some((name, limit(&values(&quiet, name))?)));
    let (signal, limit) = found.expect("one of them is furthest in the last round");
    let said =
        run("back", &format!("on_alarm = \"roll-back\"\n{signal} = {{ {limit} }}")).expect(0);
    let told = "rolled back: the policy of round 2 is to blame, and the result is of round 1";
    assert!(said.stdout.contains(told), "{}", said.stdout);
    // Of round 1's, which had to be kept for this.
    let weights =
        |folder: &str| std::fs::read(place.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("back/final/model") == weights("back/rounds/01/model"));
    let back = report(&place, "back");
    let alarm = &back["alarms"][0];
    assert_eq!((&alarm["round"], &alarm["blamed"]), (&3.into(), &2.into()), "{back}");
}

/// A set with a judge that asks the tiny model, and anchors for it.
fn judged(place: &Place, judge: &str, watch: &str, rounds: &str) {
    std::fs::write(
        place.path("anchors.jsonl"),
        "{\"prompt\": \"Name a colour.\", \"chosen\": \"Red.\", \"rejected\": \"A horse.\"}\n\
         {\"prompt\": \"Two and two?\", \"chosen\": \"Four.\", \"rejected\": \"Five.\"}\n",
    )
    .unwrap();
    let judge =
        format!("\n[judge]\nplugin = \"builtin:{judge}\"\nask = {{ models = [\"policy\"] }}\n");
    place.write_set("judged.toml", &format!("{judge}{rounds}\n[watch]\n{watch}\n"));
    let set = std::fs::read_to_string(place.path("judged.toml")).unwrap();
    let set = set.replace("[run]\n", "anchors = \"anchors.jsonl\"\n[run]\n");
    let set =
        set.replace("[\"perplexity\", \"distinct-2\", \"length\"]", "[\"agreement\", \"entropy\"]");
    std::fs::write(place.path("judged.toml"), set).unwrap();
}

#[test]
fn the_judge_is_asked_about_anchors_before_and_after_each_round() {
    let place = Place::new();
    let rounds = "\n[[rounds]]\njudge = false\n\n[[rounds]]\njudge = false\n";
    judged(&place, "grade", "agreement = { min = 0.1 }\nentropy = { min = 0.001 }", rounds);
    let plan = place.aligner(&["--plugins", "judged.toml", "--out", "run", "--dry-run"]).expect(0);
    assert!(plan.stdout.contains("entropy, agreement; an alarm ends the run"), "{}", plan.stdout);
    place.aligner(&["--plugins", "judged.toml", "--out", "run"]).expect(0);
    let files = place.files("run");
    for file in ["pool/anchors.jsonl", "rounds/01/anchors.jsonl", "rounds/02/anchors.jsonl"] {
        let ids: Vec<String> = super::lines(&files, file)
            .iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids, ["line-1#1", "line-1#2", "line-2#1", "line-2#2"]);
    }
    let report = report(&place, "run");
    // What cannot be read is a half.
    assert_eq!(report["before"][0], serde_json::json!({"measure": "agreement", "value": 0.5}));
    assert_eq!(values(&report, "agreement"), [0.5, 0.5]);
    assert!(values(&report, "entropy").iter().all(|entropy| *entropy > 0.1));
    place.aligner(&["verify", "run", "--all"]).expect(0);

    // Another file is another run.
    std::fs::write(
        place.path("anchors.jsonl"),
        "{\"prompt\": \"Name a colour.\", \"chosen\": \"Red.\", \"rejected\": \"A cow.\"}\n",
    )
    .unwrap();
    let said = place.aligner(&["--plugins", "judged.toml", "--out", "run", "--resume"]);
    said.expect(5).says(&["it differs in anchors"]);
}

#[test]
fn a_judge_that_cannot_be_read_raises_an_alarm_even_where_nothing_is_kept() {
    let place = Place::new();
    // Its words are none that a judge could read.
    let limit = "on_alarm = \"roll-back\"\nunparsable = { max = 0.5 }";
    judged(&place, "self-assessment", limit, "");
    let long = methods::model(&place, "long", &|_| ()).display().to_string();
    let own = ["--plugins", "judged.toml", "--out", "run", "--model", &long];
    let asks = ["--set", "judge.config={ model = 'policy' }"];
    let said = place.aligner(&[&own[..], &asks].concat()).expect(6);
    said.says(&["kept none of its"]);
    let report = report(&place, "run");
    let alarm = &report["alarms"][0];
    assert_eq!(
        (&alarm["signal"], &alarm["value"]),
        (&"unparsable".into(), &1.0.into()),
        "{report}"
    );
    assert_eq!((&alarm["blamed"], &report["blamed"]), (&0.into(), &0.into()), "{report}");
}

#[test]
fn sets_that_watch_are_packed_and_locked_with_their_anchors() {
    let place = Place::new();
    let rounds = "\n[[rounds]]\njudge = false\n\n[[rounds]]\njudge = false\n";
    judged(&place, "grade", "agreement = { min = 0.1 }", rounds);
    place.aligner(&["plugin", "lock", "judged.toml"]).expect(0);
    let lock = std::fs::read_to_string(place.path("aligner.lock")).unwrap();
    assert!(lock.contains("anchors.jsonl"), "{lock}");
    place.aligner(&["plugin", "pack", "judged.toml", "--out", "judged.aligner"]).expect(0);
    std::fs::remove_file(place.path("anchors.jsonl")).unwrap();
    let model = format!("models.policy={}", tests().join("fixtures/tiny-llama").display());
    let arguments = ["--plugins", "judged.aligner", "--out", "packed", "--set", &model];
    place.aligner(&arguments).expect(0);
    assert_eq!(values(&report(&place, "packed"), "agreement"), [0.5, 0.5]);
}
