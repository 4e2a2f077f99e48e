//! Every method's plugin set in two rounds on a tiny model, through the plugins that ship: which prompt
//! made which completion, which of them is learnt, and from which weights.
//!
//! A random model keeps no format, so the rules of form are loosened here; where a method needs words
//! that can be read, a model is trained to say them first ([`actor`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::models::{change_json, copy};
use super::{Place, Said, lines, tests};

pub type Files = BTreeMap<String, Vec<u8>>;

/// A copy of the tiny model that reads prompts as long as the methods', under another architecture where
/// `change` says so.
pub fn model(place: &Place, name: &str, change: &dyn Fn(&mut Value)) -> PathBuf {
    let folder = copy(place, name);
    change_json(&folder.join("config.json"), &|config| {
        config["max_position_embeddings"] = json!(8192);
        change(config);
    });
    folder
}

/// Runs a shipped plugin set on a tiny model, in steps of all rows at once.
pub fn run(place: &Place, method: &str, out: &str, more: &[&str]) -> Said {
    let arguments = arguments(place, method, out, more);
    place.aligner(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Returns the arguments of such a run.
pub fn arguments(place: &Place, method: &str, out: &str, more: &[&str]) -> Vec<String> {
    let tiny = place.path("tiny");
    if !tiny.exists() {
        model(place, "tiny", &|_| ());
    }
    let held_out = format!("data.held_out='{}/sets/tiny-held-out.jsonl'", tests().display());
    let tiny = tiny.display().to_string();
    let small = [
        "generate.max_new_tokens=12",
        "train.lora={ r = 2, alpha = 2 }",
        "train.learning_rate=1e-2",
        "train.per_device_train_batch_size=64",
        "train.warmup_ratio=0",
        "evaluate.measures=['perplexity']",
    ];
    let sets = small.iter().copied().chain([held_out.as_str()]).flat_map(|set| ["--set", set]);
    let fixed = ["--plugins", method, "--out", out];
    let model = ["--model", tiny.as_str()].into_iter().filter(|_| !more.contains(&"--model"));
    let arguments = fixed.into_iter().chain(model).chain(sets).chain(more.iter().copied());
    arguments.map(str::to_owned).collect()
}

/// Every method that ships, as it runs on a tiny model in two rounds where it has several: its plugin set and
/// settings.
pub fn all(place: &Place) -> Vec<(&'static str, Vec<String>)> {
    let owned = |more: &[&str]| more.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let prompts = prompts();
    let with = |more: &[&str]| owned(&[&["--prompts", &prompts], more].concat());
    let two = |filter: &str| with(&["--rounds", "2", "--set", filter]);
    let writer = writer(place, &TASKS);
    let scored = scored_by(place);
    let judged = scored.iter().flat_map(|set| ["--set", set]);
    let writes = ["--set", "sampler.config.temperature=0.7", "--set"];
    let by = written_by(&writer);
    let written = by[..6].iter().copied().chain(writes);
    let sheep = judged.chain(written.clone()).chain(["sampler.write={ prompts = 3, slots = 40 }"]);
    let instruct = written.chain(["sampler.write={ prompts = 3, slots = 6 }"]);
    vec![
        ("soft", two(ANY_FORM)),
        ("soft-plus", two(ANY_FORM)),
        ("dromedary", two(ANY_FORM)),
        ("rlcd", two(ANY_ANSWER)),
        ("sso", two(ANY_ANSWER)),
        ("sso-v2", with(&["--set", ANY_ANSWER])),
        ("expo", with(&["--set", ANY_ANSWER, "--set", "extrapolate.prompts=4"])),
        ("i-sheep", owned(&sheep.chain(["--rounds", "2"]).collect::<Vec<_>>())),
        ("self-instruct", owned(&instruct.collect::<Vec<_>>())),
    ]
}

pub fn prompts() -> String {
    tests().join("sets/tiny-prompts.jsonl").display().to_string()
}

/// Settings under which an answer of any form passes SELF-ALIGN's filter.
pub const ANY_FORM: &str = "filter.0.config={ format = 'brief', opening = false, marker = false, \
    loops = false, min_characters = 1, min_words = 0, format_leaks = false, leak_words = 0, \
    leak_run = 0, echo = false, refusals = false, min_distinct_words = 0, \
    min_distinct_trigrams = 0 }";
/// The same for the clean-up of contrastive answers.
pub const ANY_ANSWER: &str = "filter.0.config={ min_characters = 1 }";

pub fn of(files: &Files, round: u32, stage: &str) -> Vec<Value> {
    lines(files, &format!("rounds/{round:02}/{stage}.jsonl"))
}

pub fn ids(rows: &[Value], key: &str) -> BTreeSet<String> {
    rows.iter().map(|row| row[key].as_str().unwrap().to_owned()).collect()
}

fn by_id<'a>(rows: &'a [Value], id: &Value) -> &'a Value {
    rows.iter().find(|row| row["id"] == *id).unwrap_or_else(|| panic!("no {id}"))
}

/// What was said to the assistant last.
fn asked(text: &Value) -> &str {
    match text.get("chat") {
        Some(messages) => messages.as_array().unwrap().last().unwrap()["content"].as_str().unwrap(),
        None => text["raw"].as_str().unwrap(),
    }
}

/// Checks that a supervised round learns each kept completion under the bare prompt, and returns what
/// it worked on.
fn check_supervised(files: &Files, round: u32) -> BTreeSet<String> {
    let (generated, trained) = (of(files, round, "generate"), of(files, round, "train"));
    assert!(!trained.is_empty());
    for row in &trained {
        let record = by_id(&generated, &row["record_id"]);
        let written = record["variants"][0]["completion"]["text"].as_str().unwrap();
        let learnt = row["completion"][0]["content"].as_str().unwrap();
        assert!(written.contains(learnt.trim()), "{learnt:?} of {written:?}");
        let bare = row["prompt"].as_array().unwrap();
        assert!(bare.len() <= 2, "without principles and examples: {row}");
    }
    ids(&generated, "id")
}

#[test]
fn soft_cuts_the_pool_into_rounds_and_learns_without_what_it_was_shown() {
    for method in ["soft", "soft-plus"] {
        let place = Place::new();
        let prompts = prompts();
        let more = ["--prompts", &prompts, "--rounds", "2", "--set", ANY_FORM];
        run(&place, method, "run", &more).expect(0);
        let files = place.files("run");
        let [first, second] = [1, 2].map(|round| check_supervised(&files, round));
        assert_eq!((first.len(), second.len()), (4, 4));
        assert!(first.is_disjoint(&second));
        for round in [1, 2] {
            let sampled = of(&files, round, "sample");
            for row in of(&files, round, "render") {
                assert_eq!(by_id(&sampled, &row["id"])["exemplars"].as_array().unwrap().len(), 2);
                let shown = row["variants"][0]["prompt"]["chat"].as_array().unwrap();
                // Principles, two examples of a question and an answer, the question.
                assert!(shown.len() >= 5, "{shown:?}");
            }
        }
        let exemplars: BTreeSet<String> = [1, 2]
            .into_iter()
            .flat_map(|round| of(&files, round, "sample"))
            .map(|row| row["exemplars"].to_string())
            .collect();
        assert!(exemplars.len() > 2, "each prompt has a draw of its own: {exemplars:?}");
        if method == "soft-plus" {
            let hard = lines(&files, "pool/difficulty.jsonl");
            let difficulty = |ids: &BTreeSet<String>| -> Vec<f64> {
                let of = |id: &String| by_id(&hard, &json!(id))["difficulty"].as_f64().unwrap();
                ids.iter().map(of).collect()
            };
            let most = difficulty(&first).into_iter().fold(f64::MIN, f64::max);
            let least = difficulty(&second).into_iter().fold(f64::MAX, f64::min);
            assert!(most <= least, "easy before hard: {most} {least}");
        }
    }
}

#[test]
fn dromedary_shows_the_same_five_examples_and_engraves_the_initial_model() {
    let place = Place::new();
    let prompts = prompts();
    let more = ["--prompts", &prompts, "--rounds", "2", "--set", ANY_FORM];
    run(&place, "dromedary", "run", &more).expect(0);
    let files = place.files("run");
    assert_eq!(check_supervised(&files, 1), check_supervised(&files, 2));
    for round in [1, 2] {
        let sampled = of(&files, round, "sample");
        let shown: BTreeSet<String> =
            sampled.iter().map(|row| row["exemplars"].to_string()).collect();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert_eq!(sampled[0]["exemplars"].as_array().unwrap().len(), 5, "{shown:?}");
    }
    started_from_the_initial_model(&place, "dromedary", &more);
}

/// Checks where round 2 began: with the other `start` its first loss is another on the same rows.
fn started_from_the_initial_model(place: &Place, method: &str, more: &[&str]) {
    let start = |start: &str| {
        let start = format!("train.start='{start}'");
        run(place, method, &start, &[more, &["--set", &start]].concat()).expect(0);
        place.files(&start)
    };
    let (own, other, run) = (start("initial"), start("previous"), place.files("run"));
    let loss = |files: &Files, round| of(files, round, "metrics")[0]["loss"].clone();
    assert_eq!(run["rounds/02/train.jsonl"], other["rounds/02/train.jsonl"]);
    assert_eq!(loss(&run, 1), loss(&other, 1));
    assert_eq!(loss(&run, 2), loss(&own, 2));
    assert_ne!(loss(&run, 2), loss(&other, 2));
}

#[test]
fn rlcd_prefers_what_was_written_under_the_good_sentence() {
    let place = Place::new();
    let prompts = prompts();
    let more = ["--prompts", &prompts, "--rounds", "2", "--set", ANY_ANSWER];
    run(&place, "rlcd", "run", &more).expect(0);
    let files = place.files("run");
    for round in [1, 2] {
        check_contrast(&files, round, 2);
        begins_as_its_reference(&files, round);
    }
}

/// Checks the pairs of a round: chosen is what the good variant wrote, rejected what the bad one wrote,
/// both under the prompt without guidelines.
fn check_contrast(files: &Files, round: u32, variants: usize) {
    let (generated, trained) = (of(files, round, "generate"), of(files, round, "train"));
    assert!(!trained.is_empty());
    for row in &trained {
        let record = by_id(&generated, &row["record_id"]);
        let of_record = record["variants"].as_array().unwrap();
        assert_eq!(of_record.len(), variants);
        let variant = |role: &str| of_record.iter().find(|variant| variant["role"] == role);
        for (column, role) in [("chosen", "good"), ("rejected", "bad")] {
            let variant = variant(role).unwrap();
            let written = variant["completion"]["text"].as_str().unwrap();
            let learnt = row[column][0]["content"].as_str().unwrap();
            // The clean-up adds no more than a full stop.
            assert!(learnt.trim().starts_with(written.trim()), "{learnt:?} of {written:?}");
            let system = &variant["prompt"]["chat"][0];
            assert_eq!(system["role"], "system", "{variant}");
            assert_eq!(asked(&variant["prompt"]), row["prompt"][0]["content"].as_str().unwrap());
        }
        assert_eq!(row["prompt"].as_array().unwrap().len(), 1, "without guidelines: {row}");
    }
}

/// Checks that a round's policy is its reference before the first update.
fn begins_as_its_reference(files: &Files, round: u32) {
    let margin = of(files, round, "metrics")[0]["rewards/margins"].as_f64().unwrap();
    assert!(margin.abs() < 1e-4, "round {round}: {margin}");
}

#[test]
fn sso_learns_six_sequences_from_where_the_round_before_ended() {
    let place = Place::new();
    let prompts = prompts();
    let more = ["--prompts", &prompts, "--rounds", "2", "--set", ANY_ANSWER];
    run(&place, "sso", "run", &more).expect(0);
    let files = place.files("run");
    for round in [1, 2] {
        check_contrast(&files, round, 3);
        begins_as_its_reference(&files, round);
        // The model was asked which features matter, and whatever it said there are some.
        assert!(!of(&files, round, "render-asks").is_empty());
        assert!(of(&files, round, "train").iter().all(|row| row["steered"].is_object()));
        let sequences = |row: &Value| row["logprobs"].as_array().unwrap().len();
        assert!(of(&files, round, "reference").iter().all(|row| sequences(row) == 6));
    }
    let worked_on = [1, 2].map(|round| ids(&of(&files, round, "sample"), "id"));
    assert!(worked_on[0].is_disjoint(&worked_on[1]));
}

/// The mean logprobs that `logprob-order` compares, as it names them.
const ORDERED: [&str; 6] = [
    "alogp(good | good)",
    "alogp(good | plain)",
    "alogp(good | bad)",
    "alogp(bad | bad)",
    "alogp(bad | plain)",
    "alogp(bad | good)",
];

/// Which records of a round SSO's filter over pairs leaves: those in order, of these those that are on
/// policy, of these those with contrast.
fn in_order(files: &Files, stages: [bool; 3]) -> BTreeSet<String> {
    let mut left: Vec<(String, [f64; 6])> = Vec::new();
    for row in of(files, 1, "measure-pair") {
        let measured = row["measurements"].as_array().unwrap();
        let value = |name: &str| {
            measured.iter().find(|m| m["name"] == name).unwrap()["value"].as_f64().unwrap()
        };
        left.push((row["id"].as_str().unwrap().to_owned(), ORDERED.map(value)));
    }
    if stages[0] {
        left.retain(|(_, [a, b, c, d, e, f])| a > b && b > c && d > e && e > f);
    }
    let keep = |left: &mut Vec<(String, [f64; 6])>, of: &dyn Fn(&[f64; 6]) -> [f64; 2], least| {
        let count = left.len() as f64;
        let mean = |side: usize| left.iter().map(|(_, all)| of(all)[side]).sum::<f64>() / count;
        let means = [0, 1].map(mean);
        let over = |(value, mean): (f64, f64)| if least { value >= mean } else { value > mean };
        left.retain(|(_, all)| of(all).into_iter().zip(means).all(over));
    };
    if stages[1] {
        keep(&mut left, &|all| [all[1], all[4]], true);
    }
    if stages[2] {
        keep(&mut left, &|all| [all[0] - all[2], all[3] - all[5]], false);
    }
    left.into_iter().map(|(id, _)| id).collect()
}

#[test]
fn sso_keeps_pairs_that_the_policy_holds_likely_where_it_should() {
    let place = Place::new();
    let prompts = prompts();
    let pairs = super::given::pairs(&place, 8, true);
    let written = ["--prompts", &prompts, "--set", "data.limit=8"];
    let given = ["--from-data", &pairs];
    let mut kept = Vec::new();
    for (from, source) in [("written", &written[..]), ("given", &given[..])] {
        for stages in
            [[true, true, true], [true, false, false], [false, true, false], [false, true, true]]
        {
            let [order, on_policy, contrast] = stages;
            let filters = format!(
                "filter=[{{ after = 'generate', plugin = 'builtin:contrast-cleanup' }}, \
                 {{ after = 'pair', plugin = 'builtin:logprob-order', \
                 config = {{ order = {order}, on_policy = {on_policy}, contrast = {contrast} }} }}]"
            );
            let out = format!("{from}-{order}-{on_policy}-{contrast}");
            let fixed = ["--rounds", "1", "--set", &filters];
            let said = run(&place, "sso", &out, &[source, &fixed].concat());
            let files = place.files(&out);
            let expected = in_order(&files, stages);
            let verdicts = of(&files, 1, "filter-pair").into_iter();
            let stay = verdicts.filter(|row| row["verdict"] == "keep").collect::<Vec<_>>();
            assert_eq!(ids(&stay, "id"), expected, "{out}");
            match expected.is_empty() {
                true => drop(said.expect(6).says(&["round 1 kept none"])),
                false => {
                    said.expect(0);
                    let trained = of(&files, 1, "train");
                    assert_eq!(ids(&trained, "record_id"), expected, "{out}");
                }
            }
            kept.push(expected.len());
        }
    }
    assert!(kept.iter().any(|&count| count > 0), "{kept:?}");
}

#[test]
fn sso_v2_trains_a_generator_and_then_the_policy_from_where_it_began() {
    let place = Place::new();
    let prompts = prompts();
    let more = ["--prompts", &prompts, "--set", ANY_ANSWER];
    run(&place, "sso-v2", "run", &more).expect(0);
    let files = place.files("run");
    for round in [1, 2] {
        check_contrast(&files, round, 3);
        // Both phases begin with the initial model, which is the reference of both.
        begins_as_its_reference(&files, round);
    }
    assert!(of(&files, 1, "train").iter().all(|row| row["steered"].is_object()));
    assert!(of(&files, 2, "train").iter().all(|row| row.get("steered").is_none()));
    // Drawn again by the initial model, the second round's answers are others.
    let initial = [&more[..], &["--set", "rounds.1.generate.model='initial'"]].concat();
    run(&place, "sso-v2", "other", &initial).expect(0);
    let other = place.files("other");
    assert_eq!(files["rounds/01/generate.jsonl"], other["rounds/01/generate.jsonl"]);
    let texts = |files: &Files| -> Vec<Value> {
        let rows = of(files, 2, "generate").into_iter();
        rows.map(|row| row["variants"][1]["completion"]["text"].clone()).collect()
    };
    assert_ne!(texts(&files), texts(&other));
}

/// Trains a model that goes on with one of `words` after raw text that ends with `ending`, and returns its
/// folder. It sees the end of a prompt alone, so it does not matter what is asked.
pub fn actor(place: &Place, name: &str, ending: &str, words: &[&str]) -> String {
    let base = model(place, &format!("{name}-base"), &|config| {
        config["architectures"] = json!(["MistralForCausalLM"]);
        config["model_type"] = json!("mistral");
        config["sliding_window"] = json!(24);
    });
    let questions =
        ["Write some.", "Go on", "How good is it?", "1. What now?", "Good", "So: ", "x", "."];
    let rows = words.iter().flat_map(|words| {
        questions.map(|question| {
            let prompt = format!("{question}{question}{ending}");
            json!({ "prompt": prompt, "chosen": words, "rejected": "?" }).to_string() + "\n"
        })
    });
    std::fs::write(place.path("actor.jsonl"), rows.collect::<String>()).unwrap();
    // What it has to tell apart it has to see more often.
    let epochs = 100 + 50 * words.len();
    let set = format!(
        "[method]\nname = 'actor'\ncontract = '0.1'\n[models]\npolicy = '{}'\n\
         [data]\npairs = 'actor.jsonl'\n[run]\nrounds = 1\n[train]\nmethod = 'full'\n\
         learning_rate = 1e-2\nnum_train_epochs = {epochs}\nper_device_train_batch_size = 64\n",
        base.display()
    );
    std::fs::write(place.path("actor.toml"), set).unwrap();
    let out = format!("{name}-run");
    place.aligner(&["--plugins", "actor.toml", "--out", &out]).expect(0);
    place.path(&out).join("final/model").display().to_string()
}

/// What models write that were asked to go on with number 9.
const TASKS: [&str; 3] = [
    " Name a small bird.\n10. Say what rain is.\n11. Count slowly to four.\n12. Ask for some tea.\n",
    " Tell me about old trains.\n10. List three warm colours.\n11. Why do cats sleep?\n12. Sing a song.\n",
    " Describe how bread smells.\n10. Give my dog orders.\n11. Explain a simple knot.\n12. Greet me.\n",
];

/// Trains a model that writes such tasks, and returns the setting that names it.
fn writer(place: &Place, tasks: &[&str]) -> String {
    format!("models.writer='{}'", actor(place, "writer", "\n\n9.", tasks))
}

/// Lets the model of that setting write the prompts, always the same.
fn written_by(writer: &str) -> [&str; 8] {
    [
        "--set",
        writer,
        "--set",
        "sampler.ask={ models = ['writer'] }",
        "--set",
        "sampler.config.model='writer'",
        "--set",
        "sampler.config.temperature=0",
    ]
}

/// Trains the model that scores, and returns the settings that let it judge.
fn scored_by(place: &Place) -> [String; 4] {
    let scorer = actor(place, "scorer", "your score is:", &[" 9||good"]);
    [
        format!("models.scorer='{scorer}'"),
        "judge.ask={ models = ['scorer'] }".into(),
        "judge.config.model='scorer'".into(),
        "judge.config.temperature=0".into(),
    ]
}

#[test]
fn i_sheep_writes_answers_and_scores() {
    let place = Place::new();
    let writer = writer(&place, &TASKS[..1]);
    let scored = scored_by(&place);
    let mut more: Vec<&str> = scored.iter().flat_map(|set| ["--set", set]).collect();
    more.extend(written_by(&writer));
    more.extend(["--rounds", "2", "--set", "sampler.write={ prompts = 4, slots = 6 }"]);
    let said = run(&place, "i-sheep", "run", &more);
    // The second round's tasks are those of the first, and nearly the same is not kept.
    let said = said.expect(6);
    let files = place.files("run");
    let written = of(&files, 1, "write");
    let prompts: Vec<&str> = written.iter().map(|row| asked(&row["prompt"])).collect();
    assert_eq!(prompts[..3], ["Name a small bird.", "Say what rain is.", "Count slowly to four."]);
    let kept = check_supervised(&files, 1);
    assert!(kept.iter().all(|id| id.starts_with("w01-")), "{kept:?}");
    for row in of(&files, 1, "judge") {
        let rewards = row["opinion"]["rewards"].as_array().unwrap();
        let named: Vec<_> = rewards.iter().map(|r| (&r["name"], &r["value"])).collect();
        assert_eq!(named, [(&json!("quality"), &json!(9.0)), (&json!("following"), &json!(9.0))]);
    }
    let again = of(&files, 2, "write");
    assert!(again.iter().all(|row| row["dropped"] == "near-duplicate"), "{again:?}");
    assert!(said.stderr.contains("near-duplicate"), "{}", said.stderr);
    // A threshold that nothing passes is a clean stop, too.
    let strict = [&more[..], &["--set", "filter.3.config={ rewards = { quality = 9 } }"]].concat();
    run(&place, "i-sheep", "strict", &strict).expect(6).says(&["below-threshold"]);
}

/// "One_base", "One_last" and "Total_base" of the paper's table 3: which data a round learns, and from
/// which weights on.
#[test]
fn i_sheep_goes_on_with_new_tasks_in_each_of_its_ways() {
    let place = Place::new();
    let writer = writer(&place, &TASKS);
    let scored = scored_by(&place);
    let mut more: Vec<&str> = scored.iter().flat_map(|set| ["--set", set]).collect();
    // Other tasks in another draw.
    more.extend(&written_by(&writer)[..6]);
    more.extend(["--set", "sampler.config.temperature=0.7", "--rounds", "2"]);
    more.extend(["--set", "sampler.write={ prompts = 3, slots = 40 }"]);
    let way = |name: &str, settings: &[&str]| {
        run(&place, "i-sheep", name, &[&more[..], settings].concat()).expect(0);
        place.files(name)
    };
    let one_base = way("one-base", &[]);
    let one_last = way("one-last", &["--set", "train.start='previous'"]);
    let total_base = way("total-base", &["--set", "train.data='all'"]);

    let mut known = BTreeSet::new();
    for round in [1, 2] {
        let rows = of(&one_base, round, "write").into_iter();
        let rows: Vec<Value> = rows.filter(|row| row.get("dropped").is_none()).collect();
        assert_eq!(rows.len(), 3, "{rows:?}");
        let all_new = rows.iter().all(|row| known.insert(asked(&row["prompt"]).to_owned()));
        assert!(all_new, "{known:?}");
        let answered = check_supervised(&one_base, round);
        assert_eq!(answered, ids(&rows, "id"));
        assert!(answered.iter().all(|id| id.starts_with(&format!("w0{round}-"))), "{answered:?}");
    }
    let learnt = |files: &Files, round| {
        let rows = of(files, round, "train").into_iter();
        let id = |row: Value| row["record_id"].as_str().unwrap().to_owned();
        rows.filter(|row| row.get("dropped").is_none()).map(id).collect::<BTreeSet<String>>()
    };
    let [first, second] = [1, 2].map(|round| learnt(&one_base, round));
    assert!(!first.is_empty() && !second.is_empty() && first.is_disjoint(&second));
    assert_eq!(learnt(&one_last, 2), second);
    assert_eq!(learnt(&total_base, 2), &first | &second);
    // The second round's loss on the same rows says which weights it began with.
    let loss = |files: &Files, round| of(files, round, "metrics")[0]["loss"].clone();
    assert_eq!(one_base["rounds/02/train.jsonl"], one_last["rounds/02/train.jsonl"]);
    assert_eq!(loss(&one_base, 1), loss(&one_last, 1));
    assert_ne!(loss(&one_base, 2), loss(&one_last, 2));
}

#[test]
fn self_instruct_learns_all_that_it_answered() {
    let place = Place::new();
    let writer = writer(&place, &TASKS[..1]);
    let three = ["--set", "sampler.write={ prompts = 3, slots = 6 }"];
    run(&place, "self-instruct", "run", &[&written_by(&writer)[..], &three].concat()).expect(0);
    let files = place.files("run");
    let answered = check_supervised(&files, 1);
    assert_eq!(answered.len(), 3);
    assert_eq!(of(&files, 1, "train").len(), 3);
    assert!(!files.contains_key("rounds/01/judge.jsonl"));
}
