//! Rows in every form, and outcomes by hand.

use super::super::letters::Letters;
use super::*;

fn read(row: &str) -> Result<Question, String> {
    let row: Map<String, Value> = serde_json::from_str(row).unwrap();
    question(&row, 3, None).map_err(|problem| problem.to_string())
}

fn shown(row: &str) -> String {
    let found = match read(row) {
        Ok(found) => found,
        Err(problem) => return problem,
    };
    let list = |choices: &[Choice]| {
        let mark = |choice: &Choice| {
            format!("{}{}", if choice.right { "+" } else { "-" }, found.choices[choice.index])
        };
        choices.iter().map(mark).collect::<Vec<_>>().join(" ")
    };
    let (mc1, mc2) = (list(&found.mc1), list(&found.mc2));
    match mc1 == mc2 {
        true => format!("{}: {mc1}", found.id),
        false => format!("{}: {mc1} | {mc2}", found.id),
    }
}

#[test]
fn questions_of_all_forms_are_read() {
    let check = |row: &str, expected: &str| assert_eq!(shown(row), expected, "{row}");
    check(r#"{"question": "q", "choices": ["a", "b"], "labels": [0, 1]}"#, "line-3: -a +b");
    check(r#"{"id": 7, "question": "q", "choices": ["a", "b"], "answer": 0}"#, "7: +a -b");
    check(r#"{"question": "q", "choices": "a; b;", "answer": "1"}"#, "line-3: -a +b");
    check(
        r#"{"question": "q", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]},
            "mc2_targets": {"choices": ["a", "c", "b"], "labels": [1, 1, 0]}}"#,
        "line-3: +a -b | +a +c -b",
    );
    check(
        r#"{"question": "q", "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1, "b": 0}}"#,
        "line-3: +a -b",
    );
    check(
        r#"{"Question": "q", "Best Answer": "a", "Correct Answers": "c; a; c",
            "Incorrect Answers": "x; c; y", "Source": "s"}"#,
        "line-3: +a -x -y | +c +a -x -y",
    );
    check(r#"{"id": 0, "query": "q", "chosen": "a", "rejected": "b"}"#, "0: +a -b");
}

#[test]
fn rows_that_are_none_are_named() {
    let check = |row: &str, expected: &str| assert_eq!(shown(row), expected, "{row}");
    check(r#"{"choices": ["a"], "answer": 0}"#, "the row has no `question`");
    check(r#"{"question": "q"}"#, "the row has no `choices`");
    check(r#"{"question": " ", "choices": ["a"]}"#, "`question` is empty");
    check(r#"{"question": "q", "choices": []}"#, "`choices` is empty");
    check(r#"{"question": "q", "choices": ["a", "b"]}"#, "the row has no `labels`");
    check(
        r#"{"question": "q", "choices": ["a", "b"], "answer": 2}"#,
        "`answer` is 2, and the choices are 0 to 1",
    );
    check(
        r#"{"question": "q", "choices": ["a", "b"], "labels": [1]}"#,
        "`labels` has 1 labels for 2 choices",
    );
    check(
        r#"{"question": "q", "choices": ["a", "b"], "labels": [1, 2]}"#,
        "`labels` must be a list of 0 and 1",
    );
    check(
        r#"{"question": "q", "choices": ["a", "b"], "labels": [1, 1]}"#,
        "none of the answers is wrong",
    );
    check(
        r#"{"question": "q", "choices": ["a", "b"], "labels": [0, 0]}"#,
        "none of the answers is right",
    );
    check(
        r#"{"question": "q", "choices": ["a", "a"], "labels": [0, 1]}"#,
        "the answer `a` stands there twice",
    );
    check(r#"{"question": "q", "chosen": "a"}"#, "the row has no `rejected`");
    check(r#"{"question": "q", "mc1_targets": {"a": 1, "b": 0}}"#, "the row has no `mc2_targets`");
    let row: Map<String, Value> =
        serde_json::from_str(r#"{"question": "q", "choices": ["a", "b"], "answer": 0}"#).unwrap();
    let error = question(&row, 1, Some("subset")).unwrap_err().to_string();
    assert_eq!(error, "the row has no text under `subset`");
}

#[test]
fn outcomes_are_what_they_are_by_hand() {
    let found = read(
        r#"{"question": "q", "mc1_targets": {"a": 1, "x": 0, "y": 0},
            "mc2_targets": {"a": 1, "c": 1, "x": 0, "y": 0}}"#,
    )
    .unwrap();
    // a, x, y, c
    let scored = |probabilities: [f64; 4], tokens: [usize; 4]| {
        let one = |(p, tokens): (f64, usize)| Scored { logprob: p.ln(), tokens };
        probabilities.into_iter().zip(tokens).map(one).collect::<Vec<_>>()
    };
    let outcome = found.outcome(&scored([0.2, 0.1, 0.1, 0.4], [1; 4]), Score::Sum);
    assert!(outcome.mc1);
    assert!((outcome.mc2 - 0.6 / 0.8).abs() < 1e-12);
    // The best right answer of MC2 is none of MC1's.
    assert!(!found.outcome(&scored([0.1, 0.2, 0.1, 0.9], [1; 4]), Score::Sum).mc1);
    // As good is not better.
    assert!(!found.outcome(&scored([0.2, 0.2, 0.1, 0.1], [1; 4]), Score::Sum).mc1);
    // By the mean: 0.2 a token for `a`, 0.1 for `x`.
    let long = scored([0.04, 0.1, 0.01, 0.2], [2, 1, 1, 1]);
    assert!(!found.outcome(&long, Score::Sum).mc1);
    let mean = found.outcome(&long, Score::Mean);
    assert!(mean.mc1);
    assert!((mean.mc2 - 0.4 / 0.51).abs() < 1e-12);
    // Nothing vanishes far below what `exp` holds.
    let far: Vec<Scored> =
        [-2000.0, -2001.0, -3000.0, -3000.0].map(|logprob| Scored { logprob, tokens: 9 }).into();
    let outcome = found.outcome(&far, Score::Sum);
    assert!((outcome.mc2 - 1.0 / (1.0 + (-1f64).exp())).abs() < 1e-12);
    assert_eq!(found.chance(), 1.0 / 3.0);
    assert_eq!(found.pair(), None);

    let right = Outcome { mc1: true, mc2: 0.5 };
    let figures = figures(&[(&found, right), (&found, Outcome { mc1: false, mc2: 0.1 })]);
    let values: Vec<(&str, f64)> =
        figures.iter().map(|figure| (figure.name.as_str(), figure.value.unwrap())).collect();
    assert_eq!(values, [("mc1", 0.5), ("mc2", 0.3), ("chance", 1.0 / 3.0)]);
}

#[test]
fn letters_count_over_both_orders() {
    let found = read(r#"{"query": "q", "chosen": "good", "rejected": "bad"}"#).unwrap();
    assert_eq!(found.pair(), Some((0, 1)));
    let turned = read(r#"{"question": "q", "choices": ["bad", "good"], "answer": 1}"#).unwrap();
    assert_eq!(turned.pair(), Some((1, 0)));
    let both = |[a, b, c, d]: [f64; 4]| BothOrders {
        straight: Letters { a, b },
        swapped: Letters { a: c, b: d },
    };
    let outcomes = [
        (&found, both([-1.0, -2.0, -2.0, -1.0])),
        // Always A, but less so where the wrong one is A.
        (&found, both([-1.0, -3.0, -1.0, -2.0])),
        (&found, both([-2.0, -1.0, -1.0, -2.0])),
    ];
    let figures = letter_figures(&outcomes);
    let value = |name: &str| figures.iter().find(|f| f.name == name).unwrap().value.unwrap();
    assert_eq!(value("accuracy"), 2.0 / 3.0);
    assert_eq!(value("both-orders"), 1.0 / 3.0);
    assert!((value("prefers-a") - (0.5 + 1.0 + 0.5) / 3.0).abs() < 1e-12);
    assert_eq!(value("chance"), 0.5);
}

#[test]
fn the_prompt_shows_what_stands_where() {
    let prompt = letters_prompt("why?", "x1", "y2");
    let parts = ["why?", "Answer A", "x1", "Answer B", "y2", "one letter"];
    assert!(parts.map(|part| prompt.find(part).unwrap()).is_sorted(), "{prompt}");
}

#[test]
fn groups_are_counted_by_name() {
    let with = |group: &str| Question {
        group: Some(group.to_owned()),
        ..read(r#"{"query": "q", "chosen": "a", "rejected": "b"}"#).unwrap()
    };
    let (honest, harmless) = (with("honest"), with("harmless"));
    let found = by_group(&[(&honest, true), (&harmless, false), (&honest, false)]);
    let shown: Vec<(&str, f64, usize)> =
        found.iter().map(|f| (f.name.as_str(), f.value.unwrap(), f.n)).collect();
    assert_eq!(shown, [("harmless", 0.0, 1), ("honest", 0.5, 2)]);
}
