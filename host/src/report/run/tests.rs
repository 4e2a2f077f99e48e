use std::fs;

use serde_json::json;

use super::*;
use crate::report::Measured;

/// Writes a run of one round: six records, of which two are trained on, and some hostile texts.
fn write(run: &Path) -> Report {
    let lines = |name: &str, rows: &[serde_json::Value]| {
        let path = run.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    };
    let ids = ["a", "b", "c", "d", "e", "f"];
    let hostile = "</script><script>alert(1)</script>\u{202e}";
    let completion = |text: &str, tokens: u32| json!({"text": text, "tokens": tokens, "logprob": -1.0, "entropy": 1.0, "finish": "stop"});
    lines("rounds/01/sample.jsonl", &ids.map(|id| json!({"id": id})));
    lines(
        "rounds/01/generate.jsonl",
        &ids.map(|id| match id {
            "a" => json!({"id": id, "variants": [], "keys": [], "dropped": "too-long"}),
            id => json!({"id": id, "keys": [], "variants": [
                {"name": "x", "role": "good", "prompt": {"raw": "?"}, "completion": completion("yes", 9)},
                {"name": "y", "role": "bad", "prompt": {"raw": "?"}, "completion": completion("no", 3)},
            ]}),
        }),
    );
    let verdict =
        |id: &str, verdict| json!({"id": id, "plugin": "p", "version": "1", "verdict": verdict});
    lines(
        "rounds/01/filter-generate.jsonl",
        &[
            verdict("b", json!({"drop": hostile})),
            verdict("c", json!("keep")),
            verdict("d", json!({"drop": "short"})),
        ],
    );
    let said = |id: &str, x: f64| {
        json!({"id": id, "opinion": {"rewards": [
            {"variant": "x", "name": "r", "value": x}, {"variant": "y", "name": "r", "value": 1.0},
        ]}})
    };
    lines(
        "rounds/01/judge.jsonl",
        &[said("c", 3.0), said("e", 1.5), json!({"id": "f", "opinion": {"unparsable": "?"}})],
    );
    let pair = |id: &str| json!({"id": id, "pair": {"chosen": "x", "rejected": "y"}});
    lines("rounds/01/pair.jsonl", &[pair("c"), pair("e")]);
    let trained = |id: &str, text: &str| {
        json!({"record_id": id, "round": 1, "prompt": hostile, "chosen": text, "chosen_finish": "stop",
            "rejected": "no", "rejected_finish": "stop", "difficulty": 2.0})
    };
    lines(
        "rounds/01/train.jsonl",
        &[trained("c", &"long ".repeat(300_000)), trained("e", hostile)],
    );
    let step = |step: u64| {
        json!({"step": step, "max_steps": 500, "epoch": 0.5, "loss": 2.0, "grad_norm": 1.0,
            "learning_rate": 1e-4, "num_tokens": 9, "rewards/margins": 0.5})
    };
    lines("rounds/01/metrics.jsonl", &(1..=500).map(step).collect::<Vec<_>>());
    let asked = |text: &str| {
        json!({"record": "h", "index": 1, "answer": {"completion": completion(text, 4)}, "request":
            {"generate": {"model": "policy", "prompt": {"raw": "how?"}, "decoding": {}, "seed": 0}}})
    };
    lines("pool/evaluate-asks.jsonl", &[asked("old")]);
    lines("rounds/01/evaluate-asks.jsonl", &[asked(hostile)]);
    let done = json!({"event": "finished", "round": 1, "stage": "generate", "key": "k", "files": {},
        "counts": {"tokens": 54_321}});
    lines(
        "journal.jsonl",
        &[json!({"event": "started", "round": 0, "stage": "evaluate", "key": "k"}), done],
    );
    lines(
        "timings.jsonl",
        &[json!({"round": 1, "stage": "generate", "seconds": 2.5, "peak_memory_bytes": 1000})],
    );
    let measured = |value| vec![Measured { measure: "length".into(), value }];
    let mut report = Report::new("<method>", "model", measured(4.0));
    let row = json!({
        "round": 1, "prompts": 6, "completions": 10, "kept": 2, "dropped": {"short": 1},
        "difficulty": [2.0, 2.0], "mean_length": 6.0, "distinct_2": 0.5, "entropy": 1.0,
        "loss_first": 2.0, "loss_last": 2.0, "held_out": measured(4.0),
    });
    report.rounds.push(serde_json::from_value(row).unwrap());
    report.best_round = 1;
    report.warning = Some("no round is better".into());
    report
}

#[test]
fn a_run_is_read_and_its_numbers_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let report = write(folder.path());
    let view = RunView::read(folder.path(), None, report);
    let Details { rounds, lengths, margins, order, costs, missing, .. } = &view.details;
    assert_eq!(*missing, Vec::<String>::new());
    let stages: Vec<(&str, u64)> =
        rounds[0].funnel.stages.iter().map(|it| (it.stage.as_str(), it.enters)).collect();
    let expected = [
        ("sample", 6),
        ("generate", 6),
        ("filter-generate", 5),
        ("judge", 3),
        ("pair", 2),
        ("train", 2),
    ];
    assert_eq!(stages, expected);
    assert_eq!(
        (rounds[0].funnel.stays, rounds[0].funnel.complete),
        (view.report.rounds[0].kept, true)
    );
    let count = |spread: &Option<data::Spread>, part: usize| {
        spread.as_ref().unwrap().histogram.counts[part].iter().sum::<u64>()
    };
    // Two completions of each record: those of `c` and `e` stayed, those of `b`, `d` and `f` went.
    assert_eq!([count(lengths, 0), count(lengths, 1)], [4, 6]);
    assert_eq!([count(margins, 0), count(margins, 1)], [2, 0]);
    assert_eq!((rounds[0].steps, order.len(), costs[0].counts["tokens"]), (500, 2, 54_321));
    assert!((20..=150).contains(&rounds[0].updates.len()), "{}", rounds[0].updates.len());
    let ends = [rounds[0].updates.first(), rounds[0].updates.last()].map(|it| it.unwrap().update);
    assert!(ends[0] < 5.0 && ends[1] > 495.0, "{ends:?}");
}

#[test]
fn the_page_is_one_file_of_bounded_size_without_markup_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let report = write(folder.path());
    let view = RunView::read(folder.path(), None, report);
    let page = page(&view);
    for part in [
        "<title>&lt;method&gt; on model</title>",
        "default-src 'none'",
        "no round is better",
        "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;\u{fffd}",
        "more characters)",
        "54,321",
        "class=\"drop\"",
        "<section id=\"times\">",
    ] {
        assert!(page.contains(part), "lacks {part}");
    }
    for foreign in
        ["<script", "http://", "https://", "src=", "@import", "url(", "\u{202e}", "<method>"]
    {
        assert!(!page.contains(foreign), "has {foreign}");
    }
    assert!(page.len() < 200_000, "{}", page.len());
    let count = |part: &str| page.matches(part).count();
    for tag in ["table", "tr", "svg", "div", "details", "article", "section", "title", "figure"] {
        let opened = count(&format!("<{tag} ")) + count(&format!("<{tag}>"));
        assert_eq!(opened, count(&format!("</{tag}>")), "{tag}");
    }
    // What differs between equal runs stands in one block.
    let mut other = view.clone();
    (other.times[0].seconds, other.times[0].peak_memory_bytes) = (99.0, 5_000_000);
    let without = |page: &str| {
        let (before, rest) = page.split_once("<section id=\"times\">").unwrap();
        format!("{before}{}", rest.split_once("</section>").unwrap().1)
    };
    let other = super::page(&other);
    assert!(other != page && without(&other) == without(&page));
}

#[test]
fn what_is_not_there_or_damaged_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let empty = RunView::read(folder.path(), None, Report::new("m", "n", Vec::new()));
    assert_eq!(empty.details, Details::default());
    let shown = page(&empty);
    assert!(shown.contains("Going on: 0 rounds done so far") && !shown.contains("<svg"), "{shown}");

    let report = write(folder.path());
    fs::write(folder.path().join("rounds/01/judge.jsonl"), "{\"id\": \"c\", \"opin").unwrap();
    fs::remove_file(folder.path().join("rounds/01/metrics.jsonl")).unwrap();
    fs::write(folder.path().join("journal.jsonl"), "{}\n{}\n").unwrap();
    let view = RunView::read(folder.path(), None, report);
    let missing = &view.details.missing;
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(missing[0].starts_with("rounds/01/judge.jsonl is damaged: line 1: "), "{missing:?}");
    assert_eq!(missing[1], "journal.jsonl cannot be read");
    let shown = page(&view);
    assert!(shown.contains("Not on this page: rounds/01/judge.jsonl is damaged"), "{shown}");
    assert!(!shown.contains(&folder.path().display().to_string()));
}
