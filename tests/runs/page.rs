//! `report.html`, and what `aligner report` makes of runs.

use serde_json::Value;

use super::{Place, without_times};

/// Returns the plugin set that a page says its run can be repeated with.
fn plugin_set(page: &str) -> String {
    let (_, rest) = page.split_once("The plugin set: ").expect("the plugin set");
    let (_, rest) = rest.split_once("<pre><code>").unwrap();
    let (text, _) = rest.split_once("</code></pre>").unwrap();
    let marks = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    marks.iter().fold(text.to_owned(), |text, (escaped, mark)| text.replace(escaped, mark))
}

#[test]
fn a_page_repeats_its_run() {
    let place = Place::new();
    place.tiny("run", &["--seed", "7", "--set", "generate.temperature=0.8"]).expect(0);
    let page = std::fs::read_to_string(place.path("run/report.html")).unwrap();
    let folder = place.folder.path().display().to_string();
    assert!(!page.contains(&folder), "where a run lies is no part of it");
    std::fs::write(place.path("again.toml"), plugin_set(&page)).unwrap();
    place.aligner(&["--plugins", "again.toml", "--out", "again"]).expect(0);
    let (run, again) = (place.files("run"), place.files("again"));
    assert_eq!(run.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
    // The command that was typed stands in two files.
    let typed = ["run.json", "final/adapter/README.md"];
    for (name, bytes) in run.iter().filter(|(name, _)| !typed.contains(&name.as_str())) {
        assert!(again[name] == *bytes, "{name} differs");
    }
    let said = place.aligner(&["report", "run", "again"]).expect(0);
    assert!(said.stdout.contains("again and run are the same run"), "{}", said.stdout);

    // The same page of the same files; what a run has is left as it is.
    place.aligner(&["report", "run", "--html", "page.html"]).expect(0);
    assert_eq!(std::fs::read_to_string(place.path("page.html")).unwrap(), page);
    let said = place.aligner(&["report", "run", "--html", "run/report.json"]).expect(2);
    said.says(&["would replace `run/report.json`"]);
    // Nor is what it made, or was made of, replaced by a page.
    let files = place.files("run");
    for file in ["rounds/01/train.jsonl", "final/adapter/new.html", "log.txt"] {
        let said = place.aligner(&["report", "run", "--html", &format!("run/{file}")]).expect(2);
        said.says(&["would stand among the files of a run"]);
    }
    assert!(place.files("run") == files);
    place.aligner(&["report", "run", "--html", "run/report.html"]).expect(0);
    std::fs::write(place.path("prompts.jsonl"), "{\"id\": \"p\", \"prompt\": \"Why?\"}\n").unwrap();
    place.tiny("own", &["--prompts", "prompts.jsonl", "--rounds", "1"]).expect(0);
    let said = place.aligner(&["report", "own", "--html", "prompts.jsonl"]).expect(2);
    said.says(&["would replace `", "prompts.jsonl`, which is read"]);
    assert!(
        without_times(&page).contains("<svg") && !without_times(&page).contains("seconds by stage")
    );
}

#[test]
fn runs_are_compared_with_the_first() {
    let place = Place::new();
    place.tiny("one", &["--rounds", "1"]).expect(0);
    place.tiny("two", &["--rounds", "1", "--set", "train.learning_rate=5e-3"]).expect(0);
    let said = place.aligner(&["report", "one", "two", "--html", "both.html"]).expect(0);
    for part in
        ["one  tiny", "two  tiny", "two differs from one in: settings of `[train]`", "perplexity*"]
    {
        assert!(said.stdout.contains(part), "no {part} in:\n{}", said.stdout);
    }
    let page = std::fs::read_to_string(place.path("both.html")).unwrap();
    assert!(page.contains("2 runs compared") && page.matches("<svg").count() > 5);

    let printed = place.aligner(&["report", "--json", "one", "two"]).expect(0);
    place.aligner(&["report", "one", "two", "--json=both.json"]).expect(0);
    assert_eq!(std::fs::read_to_string(place.path("both.json")).unwrap(), printed.stdout);
    let rows: Vec<Value> =
        printed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&rows[0]["run"], &rows[1]["run"]), (&"one".into(), &"two".into()));
    assert_eq!(
        (&rows[0]["differs_in"], &rows[1]["differs_in"][0]),
        (&Value::Array(Vec::new()), &"settings of `[train]`".into())
    );
    for row in &rows {
        let (round, summary) = (&row["details"]["rounds"][0], &row["rounds"][0]);
        let stages = round["funnel"]["stages"].as_array().unwrap();
        let left: u64 = stages
            .iter()
            .flat_map(|stage| stage["leaves"].as_array().unwrap())
            .map(|leave| leave["count"].as_u64().unwrap())
            .sum();
        assert_eq!(round["funnel"]["stays"], summary["kept"]);
        assert_eq!(stages[0]["enters"], summary["prompts"]);
        assert_eq!(
            stages[0]["enters"].as_u64(),
            Some(left + round["funnel"]["stays"].as_u64().unwrap())
        );
        let perplexity = &row["details"]["held_out"][0];
        assert_eq!(perplexity["measure"], "perplexity");
        let (point, interval) = (&perplexity["points"][1], &perplexity["points"][1]["interval"]);
        let [value, low, high] =
            [&point["value"], &interval["low"], &interval["high"]].map(|it| it.as_f64().unwrap());
        assert!(low <= value && value <= high, "{point}");
    }
}
