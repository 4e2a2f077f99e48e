//! The arithmetic and the looks of the bench's table.

use std::collections::BTreeMap;

use crate::bench_table::*;

fn sample(tokens: u64, wall: f64, cpu: f64) -> Sample {
    Sample { tokens, wall, cpu, peak_bytes: 0, check: None, stages: BTreeMap::new() }
}

#[test]
fn medians_are_in_the_middle() {
    assert_eq!(median([]), None);
    assert_eq!(median([3.0]), Some(3.0));
    assert_eq!(median([5.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median([4.0, 1.0, 2.0, 100.0]), Some(3.0));
}

#[test]
fn a_side_that_takes_twice_as_long_gives_two() {
    let theirs = [sample(10, 4.0, 8.0), sample(10, 6.0, 8.0), sample(10, 40.0, 8.0)];
    let ours = [sample(10, 3.0, 2.0), sample(10, 2.0, 2.0), sample(10, 10.0, 2.0)];
    let ratio = Ratio::of(&theirs, &ours).unwrap();
    assert_eq!(ratio.median, 2.0);
    assert!((ratio.min - 4.0 / 3.0).abs() < 1e-12, "{}", ratio.min);
    assert_eq!(ratio.max, 4.0);
    assert_eq!((ratio.cpu, ratio.runs), (Some(4.0), 3));
    // Per token: a side that did half of the work is no faster for it.
    let half = ours.clone().map(|run| sample(5, run.wall, run.cpu));
    assert_eq!(Ratio::of(&theirs, &half).unwrap().median, 1.0);
    assert_eq!(Ratio::of(&[], &ours), None);
}

#[test]
fn goals_say_by_how_much_they_are_missed() {
    let check = |goal: Goal, ratio, expected| assert_eq!(goal.verdict(ratio), expected);
    check(Goal::AtLeast(2.0), 2.0, "reached");
    check(Goal::AtLeast(2.0), 1.5, "missed by 25 %");
    check(Goal::AtLeast(2.0), 1.999, "missed by 1 %");
    check(Goal::AtMost(0.4), 0.4, "reached");
    check(Goal::AtMost(0.4), 0.5, "missed by 25 %");
}

#[test]
fn a_side_that_is_missing_leaves_the_line_and_says_why() {
    let line = Line {
        row: "decode".into(),
        title: "decode, batch 8".into(),
        kind: Kind::Speed,
        against: "llama.cpp".into(),
        ours: Some(250.4),
        theirs: None,
        unit: "tok/s",
        ratio: Ratio::of(&[], &[sample(1, 1.0, 1.0)]),
        goal: Some(Goal::AtLeast(2.2)),
        note: Some("`llama_cpp` is not installed".into()),
        samples: Vec::new(),
    };
    let table = Table { head: vec![("threads".into(), "2".into())], lines: vec![line] };
    let expected = "| decode, batch 8 | llama.cpp | speed | – | – | 250 tok/s | – | ≥ 2.2× | \
                    `llama_cpp` is not installed |\n";
    assert!(table.markdown().ends_with(expected), "{}", table.markdown());
    assert_eq!(table.json()["lines"][0]["goal"]["at_least"], 2.2);
    assert_eq!(table.json()["head"]["threads"], "2");
}
