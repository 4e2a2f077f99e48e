use super::*;
use crate::evaluate::{
    calibration::{Bin, Calibration},
    compare::Paired,
    confusion::Confusion,
    curve::curve,
    summary::{Cost, Determinism, Who},
};

fn evaluated(name: &str, counts: Confusion) -> Evaluated {
    let slice = |value: &str| Slice {
        column: "source".into(),
        value: value.into(),
        n: counts.rows(),
        figures: counts.short(),
    };
    Evaluated {
        name: name.into(),
        source: format!("builtin:{name}"),
        plugin: Some(Who {
            name: "length".into(),
            version: "1.0.0".into(),
            kind: "filter".into(),
            interfaces: vec!["filter".into()],
            needs: Vec::new(),
            digest: "abc".into(),
            bytes: 1000,
        }),
        config: serde_json::json!({"max_words": 3}),
        may_ask: false,
        failed: None,
        figures: counts.figures(),
        reasons: vec![Reason {
            reason: "too-long".into(),
            n: 3,
            good: 1,
            examples: vec!["<script>alert(1)</script> and so on".into()],
        }],
        unread: Vec::new(),
        curve: None,
        calibration: None,
        slices: vec![slice("a"), slice("b")],
        cost: Cost {
            records: 50,
            seconds: 0.5,
            fuel: 5000,
            memory_bytes: 1 << 20,
            ..Cost::default()
        },
        determinism: Some(Determinism { records: 9, ..Determinism::default() }),
        probes: [("empty", "kept".to_owned())].into(),
    }
}

fn evaluation() -> Evaluation {
    let one = Confusion { bad_dropped: 20, good_dropped: 5, bad_kept: 10, good_kept: 15 };
    let mut failed = evaluated("other", Confusion::default());
    failed.failed = Some("it trapped\n  in round 1".into());
    failed.determinism =
        Some(Determinism { records: 9, repeated: 0, reversed: Some(0), alone: Some(2) });
    let mut judge = evaluated("judge", one);
    judge.curve = curve(&[(1.0, true), (0.5, false), (0.4, true)]);
    let bin = Bin { margin: 1.0, confidence: 0.7, accuracy: 0.8, n: 10 };
    judge.calibration =
        Some(Calibration { bins: vec![bin.clone(), bin], expected_error: 0.1, brier: 0.2 });
    let paired = Paired { both: 10, first: 2, second: 12, neither: 1 };
    Evaluation {
        aligner: "0.0.0".into(),
        data: "d&d.jsonl".into(),
        pairs: false,
        rows: 50,
        undecided: 1,
        good: 20,
        bad: 30,
        model: Some("m".into()),
        plugins: vec![evaluated("short", one), failed, judge],
        comparisons: paired.compare("short", "judge").into_iter().collect(),
    }
}

#[test]
fn tables_show_plugins_side_by_side() {
    let shown = text(&evaluation());
    for part in [
        "d&d.jsonl: 50 completions, 20 good and 30 bad; 1 without a better completion left out; asked: m",
        "precision  0.800 (",
        "kappa",
        "records a second",
        "NO: 0 repeated, 0 reversed, 2 alone of 9",
        "other failed: it trapped\n",
        "too-long",
        "judge             short  0.400",
        "12 : 2",
        "imports                     log",
        "accuracy by slice",
        "source a",
        "probe",
    ] {
        assert!(shown.contains(part), "{shown}\n  lacks\n{part}");
    }
}

#[test]
fn the_page_is_one_file_and_escapes_what_it_shows() {
    let page = page(&evaluation());
    for part in [
        "<title>Evaluation on d&amp;d.jsonl</title>",
        "&lt;script&gt;alert(1)",
        "prefers-color-scheme: dark",
        "@media print",
        "<polyline",
        "<desc>short 0.",
        "--share:70.0%",
        "does not say the same again",
        "it trapped",
        "{&quot;max_words&quot;:3}",
    ] {
        assert!(page.contains(part), "lacks {part}");
    }
    for foreign in ["<script", "http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "has {foreign}");
    }
    let count = |part: &str| page.matches(part).count();
    for tag in ["table", "tr", "svg", "div", "details", "article", "section", "title"] {
        assert_eq!(count(&format!("<{tag}")), count(&format!("</{tag}>")), "{tag}");
    }
}
