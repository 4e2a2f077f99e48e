use std::collections::BTreeSet;

use aligner_sdk::{Answer, Finish, Request, testing};

use super::*;

fn plugin(config: &str) -> SelfInstruct {
    testing::plugin(config).unwrap()
}

fn prompt(id: &str, text: &str, tags: &[&str]) -> Prompt {
    let tags = tags.iter().map(|&tag| tag.into()).collect();
    Prompt { id: id.into(), text: Text::user(text), tags }
}

/// Returns seeds without an input, then with one, then prompts written in round 1.
fn pool() -> Vec<Prompt> {
    let seed = |i: usize| prompt(&format!("s-{i}"), &format!("Seed {i}?"), &["domain:x"]);
    let with_input = |i: usize| prompt(&format!("i-{i}"), &format!("Input {i}?\n\nx"), &[]);
    let written = |i: usize| prompt(&format!("w-{i}"), &format!("Written {i}?"), &["round:1"]);
    (0..12).map(seed).chain((0..6).map(with_input)).chain((0..4).map(written)).collect()
}

/// Lets a plugin write from what the model answers. Returns the instructions and the request.
fn write(config: &str, pool: &[Prompt], answer: &str) -> (Vec<String>, GenerateRequest) {
    let mut asked = None;
    let model = |request: &Request| {
        let Request::Generate(request) = request else { panic!("asked for a score") };
        asked = Some(request.clone());
        Answer::Completion(testing::completion(answer))
    };
    let prompts = testing::write(&plugin(config), pool, model).unwrap();
    (prompts.iter().map(|it| it.text.gist().into()).collect(), asked.unwrap())
}

#[test]
fn what_the_model_writes_becomes_prompts_of_this_round() {
    let answer = " Why?\n6. Input:\n<noinput>\n###\n7. Instruction: Sum up.\n7. Input:\na\n###";
    let model = |_: &Request| Answer::Completion(testing::completion(answer));
    let prompts = testing::write(&plugin("{}"), &pool(), model).unwrap();
    assert_eq!(prompts[0].text, Text::user("Why?"));
    assert_eq!(prompts[1].text, Text::user("Sum up.\n\na"));
    assert_eq!(prompts[1].tags, ["self-instruct", "round:1"]);
    assert_eq!(prompts.len(), 2);
}

#[test]
fn settings_reach_the_model() {
    let (_, request) = write("{}", &pool(), "");
    assert_eq!(request.model, "policy");
    assert_eq!(request.decoding.temperature, Some(1.0));
    assert_eq!(request.decoding.max_new_tokens, Some(1024));
    assert_eq!(request.decoding.stop, Some(vec!["\n21.".into()]));
    assert!(matches!(request.prompt, Text::Raw(text) if text.ends_with("\n6. Instruction:")));
    let config = r#"{"model": "initial", "render_as": "chat", "stop": [], "top_p": 0.5}"#;
    let (_, request) = write(config, &pool(), "");
    assert_eq!((request.model.as_str(), request.decoding.top_p), ("initial", Some(0.5)));
    assert_eq!(request.decoding.stop, Some(vec![]));
    assert!(matches!(request.prompt, Text::Chat(_)));
}

#[test]
fn each_style_reads_what_it_asks_for() {
    let check = |config: &str, answer: &str| {
        assert_eq!(write(config, &pool(), answer).0, ["Why?", "Who?"], "{config}");
    };
    check(r#"{"style": "classic"}"#, " Why?\n7. Who?");
    check(r#"{"style": "brief"}"#, " Why?\n7. Who?");
    check(r#"{"style": "brief", "render_as": "chat"}"#, "Sure:\n1. Why?\n2. Who?");
    check(r#"{"style": "classic", "render_as": "chat"}"#, "6. Why?\n7. Who?");
    let alpaca =
        "6. Instruction: Why?\n6. Input: <noinput>\n###\n7. Instruction: Who?\n7. Input:\n###\n";
    check(r#"{"render_as": "chat"}"#, alpaca);
}

#[test]
fn lists_show_instructions_without_an_input() {
    for style in ["classic", "brief"] {
        let (_, request) =
            write(&format!(r#"{{"style": "{style}", "examples": 12}}"#), &pool(), "");
        let text = request.prompt.gist();
        assert_eq!(text.matches("Seed ").count(), 12, "{text}");
    }
    let (_, request) = write(r#"{"examples": 18}"#, &pool(), "");
    assert_eq!(request.prompt.gist().matches("Input ").count(), 6);
}

#[test]
fn seeds_stand_in_for_prompts_not_yet_written() {
    let config = r#"{"style": "classic", "examples": 6, "written": 2}"#;
    let count = |pool: &[Prompt]| {
        let (_, request) = write(config, pool, "");
        let text = request.prompt.gist().to_owned();
        (text.matches("Seed ").count(), text.matches("Written ").count())
    };
    assert_eq!(count(&pool()), (6, 2));
    assert_eq!(count(&pool()[..19]), (7, 1));
    assert_eq!(count(&pool()[..18]), (8, 0));
}

#[test]
fn each_slot_draws_anew_and_every_seed_is_drawn() {
    let plugin = plugin(r#"{"examples": 3}"#);
    let draw = |seed| {
        let shown = plugin.shown(&pool(), Rng::new(seed)).unwrap();
        shown.into_iter().map(|task| task.instruction).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let seen: BTreeSet<_> = (0..200).flat_map(draw).collect();
    assert_eq!(seen.len(), 18);
    assert!(seen.iter().all(|it| !it.contains("Written")));
}

#[test]
fn a_round_works_on_what_was_written_in_it() {
    let candidate = |id: &str, tags: &[&str]| Candidate {
        id: id.into(),
        tags: tags.iter().map(|&tag| tag.into()).collect(),
        difficulty: None,
        selected: 0,
    };
    let pool = [
        candidate("s-1", &[]),
        candidate("w-1", &["self-instruct", "round:1"]),
        candidate("w-2", &["round:11"]),
        candidate("w-3", &["self-instruct", "round:1"]),
    ];
    let select = |round| plugin("{}").select(&Context { round, rounds: 12 }, &pool, 1).unwrap();
    assert_eq!(select(1), ["w-1", "w-3"]);
    assert_eq!(select(11), ["w-2"]);
    assert!(select(2).is_empty());
}

#[test]
fn prompts_can_be_given_the_first_exemplars() {
    let slot = Slot { id: "w-1".into(), tags: vec![], seed: 1 };
    let cards: Vec<_> = (0..6).map(|i| Card { id: format!("ex-{i}"), tags: vec![] }).collect();
    let equip = |config: &str, cards: &[Card]| {
        plugin(config).equip(&testing::context(), &slot, cards).map(|it| it.exemplars)
    };
    assert_eq!(equip("{}", &[]), Ok(vec![]));
    assert_eq!(equip(r#"{"exemplars": 2}"#, &cards), Ok(vec!["ex-0".into(), "ex-1".into()]));
    let failed = equip(r#"{"exemplars": 2}"#, &cards[..1]);
    assert!(matches!(failed, Err(Error::Config(text)) if text.contains("`exemplars` is 2")));
}

#[test]
fn a_request_without_an_answer_writes_nothing() {
    let deaf = |_: &Request| Answer::Unanswered("the prompt is too long".into());
    assert_eq!(testing::write(&plugin("{}"), &pool(), deaf), Ok(vec![]));
}

#[test]
fn too_few_seeds_are_an_error() {
    let failed = testing::write(&plugin("{}"), &pool()[..4], testing::no_model);
    assert!(matches!(failed, Err(Error::Input(text)) if text.contains("5 seed prompts are to")));
}

#[test]
fn wrong_configurations_say_what_is_wrong() {
    let check = |config: &str, expected: &str| match testing::plugin::<SelfInstruct>(config) {
        Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
        _ => panic!("{config}"),
    };
    check(r#"{"tasks": 5}"#, "`tasks` is 5, expected 6 to 1000");
    check(r#"{"tasks": 1001}"#, "`tasks` is 1001");
    check(r#"{"examples": 0}"#, "nothing is shown");
    check(r#"{"style": "long"}"#, "key `style`");
}

#[test]
fn awkward_prompts_are_shown_and_awkward_answers_are_read() {
    let pool: Vec<_> = testing::awkward().into_iter().map(|record| record.prompt).collect();
    for style in ["alpaca", "classic", "brief"] {
        for render_as in ["raw", "chat"] {
            let config = format!(
                r#"{{"style": "{style}", "render_as": "{render_as}", "examples": 3, "written": 1}}"#
            );
            for text in testing::awkward_texts() {
                for finish in [Finish::Stop, Finish::Length] {
                    let model = |_: &Request| {
                        let completion = testing::completion(&text);
                        Answer::Completion(aligner_sdk::Completion { finish, ..completion })
                    };
                    for prompt in testing::write(&plugin(&config), &pool, model).unwrap() {
                        assert!(!prompt.text.gist().trim().is_empty());
                    }
                }
            }
        }
    }
}
