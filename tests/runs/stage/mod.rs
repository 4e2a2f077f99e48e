//! `aligner stage`: however data is cut, the merged result has the same bytes.

mod killed;
mod refused;

use serde_json::{Value, json};

use super::{Place, Said, lines, tests};
use crate::runtime::guests;

/// Numbers that look random and are the same each time.
pub struct Draws(u64);

impl Draws {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

const WORDS: [&str; 12] = [
    "water", "boils", "because", "of", "Heat", "and", "less", "air", "presses", "on", "it", "there",
];

/// Returns rows of pairs, with a column of the user's, of many lengths.
pub fn pairs(count: usize) -> Vec<String> {
    let mut draws = Draws(7);
    let mut text = |most: usize| {
        let words: Vec<&str> =
            (0..1 + draws.below(most)).map(|_| WORDS[draws.below(WORDS.len())]).collect();
        words.join(" ")
    };
    let mut row = |index: usize| {
        json!({
            "id": format!("row-{index}"),
            "prompt": format!("Write {}?", text(9)),
            "chosen": text(12),
            "rejected": text(12),
            "source": {"page": index, "share": 0.1},
        })
    };
    (0..count).map(|index| format!("{}\n", row(index))).collect()
}

/// Cuts rows into so many shards at random places; some may be empty.
pub fn cut(rows: &[String], shards: usize) -> Vec<String> {
    let mut draws = Draws(shards as u64);
    let mut places: Vec<usize> = (1..shards).map(|_| draws.below(rows.len() + 1)).collect();
    places.extend([0, rows.len()]);
    places.sort_unstable();
    places.windows(2).map(|place| rows[place[0]..place[1]].concat()).collect()
}

/// Runs a stage over shards, and returns the results one after the other.
pub fn staged(place: &Place, stage: &[&str], set: &str, shards: &[String]) -> String {
    let one = |(number, shard): (usize, &String)| {
        let (input, out) = (format!("in-{number}.jsonl"), format!("out-{number}.jsonl"));
        std::fs::write(place.path(&input), shard).unwrap();
        let files = ["--plugins", set, "--in", &input, "--out", &out, "--device", "cpu", "--fresh"];
        place.aligner(&[&["stage"], stage, &files[..]].concat()).expect(0);
        std::fs::read_to_string(place.path(&out)).unwrap()
    };
    shards.iter().enumerate().map(one).collect()
}

/// Returns lines as rows for the next stage.
pub fn rows_of(text: &str) -> Vec<String> {
    text.lines().map(|line| format!("{line}\n")).collect()
}

pub fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn shards_set() -> String {
    tests().join("sets/shards.toml").display().to_string()
}

/// Runs a stage over the whole and over shards of it; returns what comes of it.
#[track_caller]
fn check(place: &Place, stage: &[&str], set: &str, rows: &[String], cuts: &[usize]) -> String {
    let whole = staged(place, stage, set, &[rows.concat()]);
    assert_eq!(whole.lines().count(), rows.len(), "a line for each row");
    for &shards in cuts {
        let merged = staged(place, stage, set, &cut(rows, shards));
        assert!(merged == whole, "{stage:?} over {shards} shards differs");
    }
    whole
}

fn dropped(rows: &[Value]) -> usize {
    rows.iter().filter(|row| row.get("dropped").is_some()).count()
}

#[test]
fn any_number_of_shards_gives_the_same_bytes_stage_after_stage() {
    let place = Place::new();
    let (set, rows) = (shards_set(), pairs(90));
    let mut found = rows;
    let mut left = 0;
    for (stage, cuts) in [
        (&["filter", "--after", "sample"][..], &[2, 7][..]),
        (&["filter", "--after", "generate"], &[2, 7, 64]),
        (&["judge"], &[2, 7, 64]),
        (&["filter", "--after", "judge"], &[2, 7]),
        (&["filter", "--after", "pair"], &[2, 7]),
        (&["score"], &[2, 7, 64]),
    ] {
        let text = check(&place, stage, &set, &found, cuts);
        let rows = parsed(&text);
        let now = dropped(&rows);
        assert!(now >= left, "what is dropped stays so");
        if stage[0] == "filter" {
            assert!(now > left && now < rows.len(), "{stage:?}: {now} of {}", rows.len());
        }
        left = now;
        found = rows_of(&text);
    }
    // One row that came through, and one that did not.
    let rows = parsed(&found.concat());
    let kept = rows.iter().find(|row| row.get("dropped").is_none()).unwrap();
    let id = kept["id"].as_str().unwrap();
    assert_eq!(kept["prompt"]["id"], id);
    assert_eq!(kept["columns"]["source"]["share"], 0.1);
    assert_eq!(kept["rewards"].as_array().unwrap().len(), 2, "{kept}");
    assert!(kept["difficulty"].as_f64().unwrap() > 1.0 && kept["pair"].is_object(), "{kept}");
    let said: Vec<&str> =
        kept["said"].as_array().unwrap().iter().map(|it| it["stage"].as_str().unwrap()).collect();
    let chain = ["filter-generate", "filter-generate", "judge", "filter-judge", "filter-pair"];
    assert_eq!(said, [&["filter-sample"], &chain[..], &["difficulty"]].concat());
    let gone = rows.iter().find(|row| row["dropped"]["stage"] == "filter-generate").unwrap();
    let last = &gone["said"].as_array().unwrap().last().unwrap()["verdict"]["drop"];
    assert_eq!(*last, gone["dropped"]["reason"], "{gone}");
    assert!(gone.get("rewards").is_none() && gone.get("difficulty").is_none());
}

#[test]
fn completions_alone_are_filtered_and_scored_alike() {
    let place = Place::new();
    place.write_set("mine.toml", "");
    // Of a completion alone there is one variant.
    let set = std::fs::read_to_string(place.path("mine.toml")).unwrap();
    let plain = "plugin = \"builtin:perplexity\"\nconfig = { variant = \"plain\" }";
    std::fs::write(place.path("mine.toml"), set.replace("plugin = \"builtin:perplexity\"", plain))
        .unwrap();
    let mut draws = Draws(5);
    let row = |index: usize| {
        let words: Vec<&str> = (0..draws.below(4)).map(|_| WORDS[index % 12]).collect();
        let finish = if index.is_multiple_of(5) { "length" } else { "stop" };
        let messages = json!([{"role": "user", "content": format!("Why {index}?")}]);
        format!(
            "{}\n",
            json!({"id": index, "prompt": messages, "completion": words.join(" "), "finish": finish})
        )
    };
    let rows: Vec<String> = (0..70).map(row).collect();
    let filtered = check(&place, &["filter"], "mine.toml", &rows, &[2, 7, 64]);
    let gone = dropped(&parsed(&filtered));
    assert!(gone > 5 && gone < 60, "{gone}");
    // Without a completion there is nothing to score, so what was dropped is not asked about.
    check(&place, &["score"], "mine.toml", &rows_of(&filtered), &[7]);
    let done: Value =
        serde_json::from_slice(&std::fs::read(place.path("out-0.jsonl.done.json")).unwrap())
            .unwrap();
    assert!(done["dropped_before"].is_u64() && done["engine"].as_str().unwrap().starts_with("cpu"));

    // And those that are kept, alone.
    let args =
        ["stage", "filter", "--plugins", "mine.toml", "--in", "in.jsonl", "--out", "kept.jsonl"];
    std::fs::write(place.path("in.jsonl"), rows.concat()).unwrap();
    let said = place.aligner(&[&args[..], &["--kept-only"]].concat()).expect(0);
    let kept = std::fs::read_to_string(place.path("kept.jsonl")).unwrap();
    let expected = rows_of(&filtered).into_iter().filter(|row| !row.contains("\"dropped\":"));
    assert_eq!(kept, expected.collect::<String>());
    assert!(said.stdout.contains("dropped: too-short"), "{}", said.stdout);
}

/// Puts the records of a run together as they stood before a stage.
fn records(place: &Place, run: &str, folder: &str) -> String {
    let files = place.files(run);
    let prompts = lines(&files, "pool/sample.jsonl");
    let texts = std::fs::read_to_string(tests().join("sets/tiny-prompts.jsonl")).unwrap();
    let texts = parsed(&texts);
    assert!(!prompts.is_empty());
    let record = |row: &Value| {
        let text = texts.iter().find(|text| text["id"] == row["id"]).unwrap();
        let prompt = match &text["prompt"] {
            Value::String(words) => json!({"chat": [{"role": "user", "content": words}]}),
            messages => json!({"chat": messages}),
        };
        let tags = text.get("tags").cloned().unwrap_or(json!([]));
        let prompt = json!({"id": row["id"], "text": prompt, "tags": tags});
        format!("{}\n", json!({"prompt": prompt, "variants": row["variants"]}))
    };
    lines(&files, &format!("{folder}/generate.jsonl")).iter().map(record).collect()
}

#[test]
fn a_stage_says_what_a_run_says() {
    let place = Place::new();
    let judge = "\n[judge]\nplugin = \"builtin:grade\"\nask = { models = [\"policy\"] }\n";
    place.write_set("mine.toml", judge);
    place
        .aligner(&["--plugins", "mine.toml", "--out", "run", "--rounds", "1", "--device", "cpu"])
        .expect(0);
    let files = place.files("run");
    // The same number of rounds as the run had: plugins are told it.
    let rounds = ["--set", "run.rounds=1"];
    let said = |stage: &str, rows: &str| {
        let text =
            staged(&place, &[&[stage], &rounds[..]].concat(), "mine.toml", &[rows.to_owned()]);
        (parsed(&text), text)
    };
    let (rows, filtered) = said("filter", &records(&place, "run", "rounds/01"));
    let verdicts = lines(&files, "rounds/01/filter-generate.jsonl");
    assert_eq!(rows.len(), verdicts.len());
    for (row, verdict) in rows.iter().zip(&verdicts) {
        assert_eq!((&row["id"], &row["said"][0]["verdict"]), (&verdict["id"], &verdict["verdict"]));
    }
    let (rows, _) = said("judge", &filtered);
    let opinions = lines(&files, "rounds/01/judge.jsonl");
    let judged: Vec<&Value> = rows.iter().filter(|row| row["said"][1].is_object()).collect();
    assert_eq!(judged.len(), opinions.len());
    for (row, opinion) in judged.iter().zip(&opinions) {
        assert_eq!((&row["id"], &row["said"][1]["opinion"]), (&opinion["id"], &opinion["opinion"]));
    }
    let asked = |text: &str| -> Vec<(Value, Value)> {
        let one = |mut line: Value| (line["key"].take(), line["answer"].take());
        let mut asked: Vec<_> = parsed(text).into_iter().map(one).collect();
        asked.sort_by_key(|(key, _)| key.to_string());
        asked
    };
    let of_run = std::str::from_utf8(&files["rounds/01/judge-asks.jsonl"]).unwrap();
    let of_stage = std::fs::read_to_string(place.path("out-0.jsonl.asks")).unwrap();
    assert!(asked(&of_stage) == asked(of_run), "the same is asked, and answered");

    let (rows, _) = said("score", &records(&place, "run", "pool"));
    let scores = lines(&files, "pool/difficulty.jsonl");
    assert_eq!(rows.len(), scores.len());
    for (row, score) in rows.iter().zip(&scores) {
        assert_eq!((&row["id"], &row["difficulty"]), (&score["id"], &score["difficulty"]));
    }
}

#[test]
fn a_record_on_which_a_plugin_fails_is_dropped_wherever_it_stands() {
    let place = Place::new();
    let hostile = guests::path("hostile").display().to_string();
    let row = |index: usize| {
        let name = if index % 13 == 5 { "poison" } else { "p" };
        let text = json!({"raw": format!("Why {index}?")});
        let completion =
            json!({"text": "So.", "tokens": 1, "logprob": 0.0, "entropy": 0.0, "finish": "stop"});
        let variant =
            json!({"name": "a", "role": "plain", "prompt": text, "completion": completion});
        let prompt = json!({"id": format!("{name}-{index}"), "text": text});
        format!("{}\n", json!({"prompt": prompt, "variants": [variant]}))
    };
    let rows: Vec<String> = (0..80).map(row).collect();
    for mode in ["nan-on", "unknown-variant-on"] {
        let judge = |on_error: &str| {
            format!(
                "\n[judge]\nplugin = \"{hostile}\"\nconfig = {{ mode = \"{mode}\" }}\n\
                 on_error = \"{on_error}\"\nlimits = {{ fuel = \"20M\" }}\n"
            )
        };
        place.write_set("drop.toml", &judge("drop"));
        let text = check(&place, &["judge"], "drop.toml", &rows, &[2, 7]);
        for row in parsed(&text) {
            let poisoned = row["id"].as_str().unwrap().starts_with("poison");
            assert_eq!(row["dropped"]["reason"] == "plugin-error", poisoned, "{row}");
            assert_eq!(row["rewards"][0]["value"] == 1.5, !poisoned, "{row}");
        }
        place.write_set("stop.toml", &judge("stop"));
        let args = [
            "stage",
            "judge",
            "--plugins",
            "stop.toml",
            "--in",
            "in-0.jsonl",
            "--out",
            "stop.jsonl",
        ];
        std::fs::write(place.path("in-0.jsonl"), rows.concat()).unwrap();
        let said: Said = place.aligner(&[&args[..], &["--fresh"]].concat()).expect(3);
        said.says(&["judge `hostile` 0.2.0", "round 1, stage judge", "\n  --> in-0.jsonl:"]);
        assert!(!place.path("stop.jsonl").exists());
    }
}

#[test]
fn plugins_that_see_all_rows_see_the_merged_file() {
    let place = Place::new();
    let set = "\n[[filter]]\nafter = \"sample\"\nplugin = \"builtin:rouge-l\"\n";
    place.write_set("mine.toml", set);
    let rows = pairs(40);
    let doubled: String =
        rows.iter().map(|row| row.clone() + &row.replace("\"row-", "\"again-")).collect();
    std::fs::write(place.path("in.jsonl"), &doubled).unwrap();
    let args =
        ["stage", "filter", "--after", "sample", "--plugins", "mine.toml", "--in", "in.jsonl"];
    let args = [&args[..], &["--out", "out.jsonl"]].concat();
    place.aligner(&args).expect(2).says(&[
        "filter `rouge-l` 0.1.0 decides over the whole stage",
        "hint: merge the shards (`cat`), and run the stage over the one file with `--whole`",
    ]);
    assert!(!place.path("out.jsonl.work").exists());
    place.aligner(&[&args[..], &["--whole"]].concat()).expect(0);
    let found = parsed(&std::fs::read_to_string(place.path("out.jsonl")).unwrap());
    for row in &found {
        let again = row["id"].as_str().unwrap().starts_with("again");
        assert!(!again || row["dropped"]["plugin"] == "rouge-l", "{row}");
    }

    // Clusters are among all rows too.
    let gauge = guests::path("gauge").display().to_string();
    place.write_set("gauge.toml", &format!("\n[judge]\nplugin = \"{gauge}\"\n"));
    let args = [
        "stage",
        "judge",
        "--plugins",
        "gauge.toml",
        "--in",
        "plain.jsonl",
        "--out",
        "gauged.jsonl",
    ];
    let plain = |row: &String| {
        row.replace("\"chosen\"", "\"completion\"").replace("\"rejected\"", "\"other\"")
    };
    std::fs::write(place.path("plain.jsonl"), rows.iter().map(plain).collect::<String>()).unwrap();
    place.aligner(&args).expect(2).says(&["judge `gauge` 0.1.0 needs `cluster(plain)`", "--whole"]);
    place.aligner(&[&args[..], &["--whole"]].concat()).expect(0);
    let found = parsed(&std::fs::read_to_string(place.path("gauged.jsonl")).unwrap());
    let clusters: std::collections::BTreeSet<String> = found
        .iter()
        .flat_map(|row| row["measurements"].as_array().unwrap())
        .filter(|it| it["name"] == "cluster(plain)")
        .map(|it| it["value"].to_string())
        .collect();
    assert!(clusters.len() > 1, "{clusters:?}");

    // What is measured of each row by itself is measured in shards.
    let one_by_one = guests::replaced(guests::core("gauge"), "cluster(plain)", "entropy(plain)");
    std::fs::write(place.path("each.wasm"), one_by_one).unwrap();
    place.write_set("each.toml", "\n[judge]\nplugin = \"each.wasm\"\n");
    let rows: Vec<String> = rows.iter().map(plain).collect();
    let text = check(&place, &["judge"], "each.toml", &rows, &[2, 7]);
    for row in parsed(&text) {
        assert_eq!(row["rewards"][0]["value"], row["measurements"][0]["value"], "{row}");
    }
}

#[test]
fn budgets_hold_for_each_shard() {
    let place = Place::new();
    let judge = |budget: &str| {
        format!(
            "\n[judge]\nplugin = \"builtin:grade\"\nask = {{ models = [\"policy\"], {budget} }}\n"
        )
    };
    place.write_set("free.toml", &judge("tokens = \"1M\""));
    let rows = pairs(12);
    staged(&place, &["judge"], "free.toml", &[rows.concat()]);
    let done: Value =
        serde_json::from_slice(&std::fs::read(place.path("out-0.jsonl.done.json")).unwrap())
            .unwrap();
    let requests = done["spent"]["judge"]["requests"].as_u64().unwrap();
    assert_eq!(done["asks"], requests);
    for budget in ["requests", "run_requests"] {
        place.write_set("less.toml", &judge(&format!("{budget} = {}", requests - 1)));
        // Each half is within it.
        staged(&place, &["judge"], "less.toml", &cut(&rows, 2));
        std::fs::write(place.path("in.jsonl"), rows.concat()).unwrap();
        let args =
            ["stage", "judge", "--plugins", "less.toml", "--in", "in.jsonl", "--out", "out.jsonl"];
        place.aligner(&args).expect(3).says(&["requests"]);
    }
    // Over all chunks of a shard, also after a kill.
    let many = pairs(9000);
    std::fs::write(place.path("many.jsonl"), many.concat()).unwrap();
    let args =
        |out| ["stage", "filter", "--plugins", "mine.toml", "--in", "many.jsonl", "--out", out];
    place.write_set("mine.toml", "");
    place.aligner(&args("free.jsonl")).expect(0);
    let done: Value =
        serde_json::from_slice(&std::fs::read(place.path("free.jsonl.done.json")).unwrap())
            .unwrap();
    let fuel = done["spent"]["filter-1"]["fuel"].as_u64().unwrap();
    let limit = format!("filter.0.limits={{ fuel = {0}, run_fuel = {0} }}", fuel - 1);
    let less = [&args("less.jsonl")[..], &["--set", &limit]].concat();
    let parts = [&*format!("used up its budget of {} fuel for the whole run", fuel - 1)];
    place.aligner(&less).expect(3).says(&parts);
    place.aligner(&less).expect(3).says(&parts);
    assert!(place.path("less.jsonl.work").exists());
}
