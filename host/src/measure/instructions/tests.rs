//! Golden cases, at least one that follows and one that does not for every instruction; and IFEval's own
//! verdicts (`tests/fixtures/make_ifeval.py`).

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;

fn read(rows: Value) -> Result<Row, String> {
    let rows: Map<String, Value> = rows.as_object().unwrap().clone();
    row(&rows).map_err(|problem| problem.to_string())
}

fn instruction(id: &str, settings: Value) -> Instruction {
    let row = read(json!({
        "key": 1, "prompt": "p", "instruction_id_list": [id], "kwargs": [settings]
    }));
    row.unwrap().instructions.remove(0)
}

/// Checks answers that follow an instruction and answers that do not; returns its id.
fn check(id: &str, settings: Value, yes: &[&str], no: &[&str]) -> String {
    let instruction = instruction(id, settings);
    for answer in yes {
        assert!(instruction.strict(answer), "{id} is followed by {answer:?}");
        assert!(instruction.loose(answer), "{id} is followed by {answer:?}");
    }
    for answer in no {
        assert!(!instruction.strict(answer), "{id} is not followed by {answer:?}");
    }
    assert!(!instruction.strict(" \n"), "{id} by an empty answer");
    id.to_owned()
}

#[test]
fn every_instruction_has_answers_that_follow_it_and_answers_that_do_not() {
    let mut ids = vec![
        check(
            "keywords:existence",
            json!({"keywords": ["rain", "C++"]}),
            &["Rainy C++ days", "c++ RAIN"],
            &["rain", "C+ rain"],
        ),
        check(
            "keywords:frequency",
            json!({"keyword": "rain", "frequency": 2, "relation": "at least"}),
            &["rain, Rain", "rainy rainbow rain"],
            &["rain", "sun"],
        ),
        check(
            "keywords:forbidden_words",
            json!({"forbidden_words": ["rain", "heavy snow"]}),
            &["rainy", "training", "heavy snows", "heavy, snow"],
            &["Rain.", "in heavy snow", "(rain)", "x rainy rain"],
        ),
        check(
            "keywords:letter_frequency",
            json!({"letter": "E", "let_frequency": 3, "let_relation": "less than"}),
            &["eE", "xyz"],
            &["eee", "Eleven eels"],
        ),
        check(
            "language:response_language",
            json!({"language": "de"}),
            &["Das ist nicht der Weg.", "42!"],
            &["This is not the way.", "Ce n'est pas le chemin."],
        ),
        check(
            "length_constraints:number_sentences",
            json!({"num_sentences": 3, "relation": "at least"}),
            &["One. Two! Three?", "A thing. \"Cold wind.\" East"],
            &["One. Two.", "Mr. Smith met Dr. Jones. He left at 3.5 p.m. today."],
        ),
        check(
            "length_constraints:number_paragraphs",
            json!({"num_paragraphs": 2}),
            &["a\n***\nb", "***\na *** b\n***"],
            &["a", "a\n***\n***\nb", "a\n\nb", "a***b***c"],
        ),
        check(
            "length_constraints:number_words",
            json!({"num_words": 4, "relation": "less than"}),
            &["one two-three", "snake_case is one"],
            &["it's two words", "a b c d"],
        ),
        check(
            "length_constraints:nth_paragraph_first_word",
            json!({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}),
            &["First.\n\nthen it rained.", "x\n\n\"Then, y"],
            &["First.\n\nthence it rained.", "then\n\nfirst", "a\n\nthen\n\nc", "then"],
        ),
        check(
            "detectable_content:number_placeholders",
            json!({"num_placeholders": 2}),
            &["[name] of [place]", "[] and [[x]"],
            &["[name]", "[a\n] [b", "name, place"],
        ),
        check(
            "detectable_content:postscript",
            json!({"postscript_marker": "P.S."}),
            &["Bye\nP.S. more", "p. s. more"],
            &["PS more", "P. P. X."],
        ),
        check(
            "detectable_format:number_bullet_lists",
            json!({"num_bullets": 2}),
            &["* a\n* b", "x\n  - a\n* b\n** bold **"],
            &["* a", "* a\n- b\n- c", "1. a\n2. b"],
        ),
        check(
            "detectable_format:constrained_response",
            json!({}),
            &["My answer is yes.", "Well: My answer is maybe."],
            &["My answer is yes", "my answer is no.", "Yes."],
        ),
        check(
            "detectable_format:number_highlighted_sections",
            json!({"num_highlights": 2}),
            &["*a* and *b*", "**a** and *b*", "*a*\n*b*"],
            &["*a* and b", "* a\n* b", "** and **", "**a**"],
        ),
        check(
            "detectable_format:multiple_sections",
            json!({"section_spliter": "SECTION", "num_sections": 2}),
            &["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION 2 SECTION 3"],
            &["SECTION 1\na", "Section 1\na\nSection 2\nb", "SECTION A SECTION B"],
        ),
        check(
            "detectable_format:json_format",
            json!({}),
            &["{\"a\": [1, 2]}", "```json\n{}\n```", "```\n[1]\n```", " 3 "],
            &["{a: 1}", "Here it is: {}", "```json {} ``` done"],
        ),
        check(
            "detectable_format:title",
            json!({}),
            &["<<Rain>>\nIt rains.", "x <<a> b>> y"],
            &["<Rain>", "<<>>", "<< \n >>", "<< >>"],
        ),
        check(
            "combination:two_responses",
            json!({}),
            &["a ****** b", "a\n******\nb\n******\n"],
            &["a ****** a", "a *** b", "a ****** b ****** c", "a ****** ****** b"],
        ),
        check(
            "combination:repeat_prompt",
            json!({"prompt_to_repeat": "Say it. "}),
            &["say it. I do.", "  SAY IT."],
            &["I say it.", "\"Say it.\""],
        ),
        check(
            "startend:end_checker",
            json!({"end_phrase": "That is all."}),
            &["x\nThat is all.\n", "\"So. that is all.\""],
            &["That is all. Bye.", "That is all"],
        ),
        check(
            "startend:quotation",
            json!({}),
            &["\"a\"", " \"a\n\" "],
            &["\"a", "a\"", "\"", "“a”"],
        ),
        check(
            "change_case:capital_word_frequency",
            json!({"capital_frequency": 2, "capital_relation": "at least"}),
            &["IT IS so", "A WELL-KNOWN x", "NO! (YES)"],
            &["It is", "ONE word", "WELL-KNOWN"],
        ),
        check(
            "change_case:english_capital",
            json!({}),
            &["THE RAIN IS NOT FAR.", "WE ARE 3!"],
            &["The rain.", "DAS IST NICHT DER WEG.", "the rain", "3 + 4"],
        ),
        check(
            "change_case:english_lowercase",
            json!({}),
            &["the rain is not far.", "we are 3!"],
            &["The rain.", "das ist nicht der weg.", "THE RAIN", "3 + 4"],
        ),
        check("punctuation:no_comma", json!({}), &["a; b", "a、b"], &["a, b", "1,000"]),
    ];
    ids.sort();
    let mut known = parse::IDS.map(str::to_owned);
    known.sort();
    assert_eq!(ids, known);
}

#[test]
fn relations_go_both_ways() {
    let words = |relation: &str| {
        instruction(
            "length_constraints:number_words",
            json!({"num_words": 2, "relation": relation}),
        )
    };
    for (answer, at_least, less_than) in [("a", false, true), ("a b", true, false)] {
        assert_eq!(words("at least").strict(answer), at_least);
        assert_eq!(words("less than").strict(answer), less_than);
    }
}

#[test]
fn sentences_end_where_nltk_ends_them() {
    let check = |text: &str, expected: usize| {
        assert_eq!(text::sentences(text), expected, "{text:?}");
    };
    check("", 0);
    check("...", 1);
    check("No end", 1);
    check("One. Two.", 2);
    check("\"Stop!\" he said.", 2);
    check("all small. no capitals, etc. and so on.", 3);
    check("Really?! Yes.", 2);
    check("Wait... what? Oh... Well.", 2);
    check("1. First thing.\n2. Second thing.", 4);
    check("I have 5. You have 6, of 7. and 8.", 2);
    check("J. R. Smith and Mr. Brown of the U.S. Army came.", 1);
    check("He came from the U.S. The others did not.", 2);
    check("A. Loud\nB. Quiet", 3);
    check("**Bold.** Plain.", 2);
    check("**Bold.**", 2);
    check("(Bold.) “Plain.” \"", 3);
    check("Version 2.5 is out.", 1);
    check("今日は雨です。明日は晴れです。", 1);
}

#[test]
fn words_are_parted_as_in_the_treebank() {
    let check = |text: &str, expected: usize| {
        assert_eq!(text::capital_words(text), expected, "{text:?}");
    };
    check("DON'T", 2);
    check("IBM's", 1);
    check("CANNOT WANNA", 4);
    check("A/B A-B A--B A,B A:1", 7);
    check("''", 0);
    check("'S", 1);
}

/// Which answers follow an instruction, 1 or 0 each.
#[derive(Deserialize)]
struct Verdicts {
    id: String,
    kwargs: Value,
    strict: String,
    loose: String,
}

#[derive(Deserialize)]
struct Group {
    answers: Vec<String>,
    instructions: Vec<Verdicts>,
}

#[derive(Deserialize)]
struct Difference {
    reason: String,
    id: String,
    kwargs: Value,
    answer: String,
    strict: bool,
}

#[derive(Deserialize)]
struct Reference {
    groups: Vec<Group>,
    differs: Vec<Difference>,
    rows: Vec<Value>,
    accuracies: Map<String, Value>,
}

fn reference() -> Reference {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/ifeval.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn verdicts_are_those_of_ifeval() {
    let (mut cases, mut followed) = (0, 0);
    let mut ids = std::collections::BTreeSet::new();
    for group in reference().groups {
        for Verdicts { id, kwargs, strict, loose } in &group.instructions {
            let instruction = instruction(id, kwargs.clone());
            let expected = strict.bytes().zip(loose.bytes());
            assert_eq!(expected.len(), group.answers.len());
            for (answer, (strict, loose)) in group.answers.iter().zip(expected) {
                let found = (instruction.strict(answer), instruction.loose(answer));
                let expected = (strict == b'1', loose == b'1');
                assert_eq!(found, expected, "{id} {kwargs} and {answer:?}");
                cases += 1;
                followed += usize::from(expected.0);
            }
            ids.insert(id.clone());
        }
    }
    assert_eq!((cases, followed, ids.len()), (28_022, 8_152, 25));
}

#[test]
fn verdicts_differ_where_it_is_said() {
    let differs = reference().differs;
    assert_eq!(differs.len(), 6);
    for Difference { reason, id, kwargs, answer, strict } in differs {
        assert_eq!(instruction(&id, kwargs).strict(&answer), !strict, "{reason}");
    }
}

#[test]
fn accuracies_are_those_of_ifeval() {
    let Reference { rows, accuracies, .. } = reference();
    let followed = rows.iter().map(|one| {
        let mut row = one.clone();
        row["key"] = json!(1);
        row["prompt"] = json!("p");
        Followed::of(&read(row).unwrap(), one["answer"].as_str().unwrap())
    });
    let found = figures(&followed.collect::<Vec<_>>());
    assert_eq!(found.len(), accuracies.len());
    for figure in found {
        let expected = accuracies[&figure.name].as_f64().unwrap();
        assert!((figure.value.unwrap() - expected).abs() < 1e-12, "{}", figure.name);
    }
}

#[test]
fn postscripts_have_their_markers() {
    let with = |marker: &str| {
        instruction("detectable_content:postscript", json!({"postscript_marker": marker}))
    };
    assert!(with("P.P.S").strict("p. p.s. and"));
    assert!(!with("P.P.S").strict("P.S. and"));
    assert!(with("N.B.").strict("n.b. this"));
}

#[test]
fn eight_forms_are_tried_loosely() {
    let quoted = instruction("startend:quotation", json!({}));
    for (answer, loose) in [
        ("Here it is:\n\"yes\"", true),
        ("\"yes\"\nI hope that helps.", true),
        ("Here:\n\"yes\"\nBye.", true),
        ("**\"yes\"**", true),
        ("Here:\n**\"yes\"**\nBye.", true),
        ("Here:\nand here:\n\"yes\"", false),
        ("yes", false),
    ] {
        assert!(!quoted.strict(answer), "{answer:?}");
        assert_eq!(quoted.loose(answer), loose, "{answer:?}");
    }
    // Without its only line nothing is left, which follows nothing.
    let comma = instruction("punctuation:no_comma", json!({}));
    assert!(!comma.loose("a, b"));
    assert!(comma.loose("a, b\nc"));
}

#[test]
fn a_prompt_is_followed_where_all_its_instructions_are() {
    let row = read(json!({
        "key": "k", "prompt": "p",
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{"relation": null, "num_words": null}, {}],
    }))
    .unwrap();
    let all: Vec<Followed> = ["\"a\"", "a", "So:\n\"a\"", "a, b"]
        .iter()
        .map(|answer| Followed::of(&row, answer))
        .collect();
    assert_eq!(all[1], Followed { strict: vec![true, false], loose: vec![true, false] });
    let found = figures(&all);
    let shown: Vec<(&str, f64, usize)> =
        found.iter().map(|f| (f.name.as_str(), f.value.unwrap(), f.n)).collect();
    assert_eq!(
        shown,
        [
            ("prompt-strict", 0.25, 4),
            ("instruction-strict", 4.0 / 8.0, 8),
            ("prompt-loose", 0.5, 4),
            ("instruction-loose", 5.0 / 8.0, 8),
        ]
    );
    let rows: Vec<(&Row, &Followed)> = all.iter().map(|one| (&row, one)).collect();
    let found = by_instruction(&rows);
    assert_eq!((found[0].name.as_str(), found[0].value), ("punctuation:no_comma", Some(0.75)));
    assert_eq!((found[1].name.as_str(), found[1].value), ("startend:quotation", Some(0.25)));
}

#[test]
fn rows_that_are_none_are_named() {
    let check = |change: Value, expected: &str| {
        let mut row = json!({
            "key": 7, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]
        });
        for (key, value) in change.as_object().unwrap() {
            row[key] = value.clone();
        }
        assert_eq!(read(row).unwrap_err(), expected);
    };
    check(json!({"key": null}), "the row has no `key`");
    check(json!({"key": [1]}), "`key` must be a text or an integer");
    check(json!({"prompt": " "}), "`prompt` is empty");
    check(json!({"instruction_id_list": "x"}), "`instruction_id_list` must be a list of texts");
    check(json!({"instruction_id_list": []}), "row `7`: `instruction_id_list` is empty");
    check(json!({"kwargs": [{}, {}]}), "row `7`: 2 `kwargs` for 1 instructions");
    check(
        json!({"instruction_id_list": ["punctuation:no_commas"]}),
        "row `7`: there is no instruction `punctuation:no_commas`; did you mean `punctuation:no_comma`?",
    );
    check(json!({"instruction_id_list": ["x"]}), "row `7`: there is no instruction `x`");
    let of = |id: &str, settings: Value, expected: &str| {
        let expected = format!("row `7`: instruction `{id}` {expected}");
        check(json!({"instruction_id_list": [id], "kwargs": [settings]}), &expected);
    };
    of("punctuation:no_comma", json!({"num_words": 3}), "has no setting `num_words`");
    let id = "length_constraints:number_words";
    of(id, json!({"num_words": 3}), "needs `relation`");
    of(
        id,
        json!({"num_words": 3, "relation": "at most"}),
        "wants `at least` or `less than` in `relation`",
    );
    of(
        id,
        json!({"num_words": -3, "relation": "at least"}),
        "wants an integer, 0 or more in `num_words`",
    );
    of("keywords:existence", json!({"keywords": []}), "wants a list of texts in `keywords`");
    of(
        "keywords:letter_frequency",
        json!({"letter": "ab", "let_frequency": 1, "let_relation": "at least"}),
        "wants one letter in `letter`",
    );
    of(
        "length_constraints:nth_paragraph_first_word",
        json!({"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}),
        "asks for paragraph 3 of 2",
    );
    let error = read(json!({
        "key": 7, "prompt": "p", "instruction_id_list": ["language:response_language"],
        "kwargs": [{"language": "xx"}],
    }));
    let error = error.unwrap_err();
    assert!(error.contains("asks for language `xx`") && error.contains("`de`"), "{error}");
}

#[test]
fn integers_may_be_written_as_floats() {
    let words = instruction(
        "length_constraints:number_words",
        json!({"num_words": 2.0, "relation": "at least"}),
    );
    assert!(words.strict("a b") && !words.strict("a"));
}
