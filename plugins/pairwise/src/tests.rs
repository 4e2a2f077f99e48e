use aligner_sdk::testing;

use super::*;

fn plugin(config: &str) -> Pairwise {
    testing::plugin(config).unwrap()
}

/// Makes a record with completed variants: their names are their roles.
fn record(texts: &[(&str, &str)]) -> Record {
    let mut record = testing::record("p-1", "How many days has a week?");
    for (name, text) in texts {
        let role = match *name {
            "good" => VariantRole::Good,
            "bad" => VariantRole::Bad,
            _ => VariantRole::Plain,
        };
        record.variants.push(testing::variant(name, role, "", text));
    }
    record
}

fn pair() -> Record {
    record(&[("good", "Seven."), ("bad", "Six.")])
}

/// Returns the answers that a question shows, in order.
fn shown(request: &Request) -> [&str; 2] {
    let prompt = match request {
        Request::Generate(request) => &request.prompt,
        Request::Score(request) => &request.prompt,
        Request::Reward(_) => panic!("asked for a reward"),
    };
    let between = |from: &str, to: &str| {
        let text = prompt.gist();
        let start = text.find(from).unwrap() + from.len();
        text[start..start + text[start..].find(to).unwrap()].trim()
    };
    [between("[Answer A]", "[Answer B]"), between("[Answer B]", "[End]")]
}

/// Judges with a model that writes a letter, given what it is shown.
fn judged(config: &str, record: &Record, choose: impl Fn([&str; 2]) -> &'static str) -> Opinion {
    let answer =
        |request: &Request| Answer::Completion(testing::completion(choose(shown(request))));
    testing::judge(&plugin(config), record, answer).unwrap()
}

fn preferred(chosen: &str, rejected: &str) -> Opinion {
    Opinion::Preference(Pair { chosen: chosen.into(), rejected: rejected.into() })
}

fn rewards(values: &[(&str, f64)]) -> Opinion {
    let reward = |&(variant, value): &(&str, f64)| Reward {
        variant: variant.to_owned(),
        name: "wins".into(),
        value,
    };
    Opinion::Rewards(values.iter().map(reward).collect())
}

fn longer([a, b]: [&str; 2]) -> &'static str {
    if a.len() > b.len() { "Answer A" } else { "Answer B" }
}

#[test]
fn what_wins_in_both_orders_is_preferred() {
    assert_eq!(judged("{}", &pair(), longer), preferred("good", "bad"));
    let swapped = r#"{"between": ["bad", "good"]}"#;
    assert_eq!(judged(swapped, &pair(), longer), preferred("good", "bad"));
    let shorter = |texts: [&str; 2]| longer([texts[1], texts[0]]);
    assert_eq!(judged("{}", &pair(), shorter), preferred("bad", "good"));
}

#[test]
fn who_prefers_a_place_prefers_nothing() {
    assert_eq!(judged("{}", &pair(), |_| "A"), Opinion::Tie);
    assert_eq!(judged("{}", &pair(), |_| "B"), Opinion::Tie);
    let both = rewards(&[("good", 0.5), ("bad", 0.5)]);
    assert_eq!(judged(r#"{"rewards": true}"#, &pair(), |_| "A"), both);
}

#[test]
fn what_cannot_be_read_is_said() {
    let once = |[a, _]: [&str; 2]| if a == "Six." { "Neither." } else { "A" };
    let opinion = judged("{}", &pair(), once);
    assert_eq!(opinion, Opinion::Unparsable("neither A nor B: Neither.".into()));
    for config in ["{}", r#"{"read": "logprob"}"#, r#"{"read": "message"}"#] {
        let too_long = |_: &Request| Answer::Unanswered("too long".into());
        let opinion = testing::judge(&plugin(config), &pair(), too_long).unwrap();
        assert!(matches!(opinion, Opinion::Unparsable(why) if why.ends_with("too long")));
    }
}

#[test]
fn the_question_holds_all_that_is_compared() {
    let config = r#"{"model": "judge", "rubric": "Be strict. "}"#;
    let mut asked = Vec::new();
    let answer = |request: &Request| {
        asked.push(request.clone());
        Answer::Completion(testing::completion("A"))
    };
    testing::judge(&plugin(config), &pair(), answer).unwrap();
    let [Request::Generate(first), Request::Generate(second)] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!((first.model.as_str(), first.decoding.temperature), ("judge", Some(0.0)));
    assert_eq!(
        first.prompt,
        Text::user(
            "Two assistants answered the same message. Decide which answer is better. Be strict.\n\n\
             [Message]\nHow many days has a week?\n\n[Answer A]\nSeven.\n\n[Answer B]\nSix.\n\n\
             [End]\n\nWhich answer is better? Reply with one letter, A or B, and nothing else."
        )
    );
    assert_eq!(shown(&asked[1]), ["Six.", "Seven."]);
    assert_eq!(second.model, "judge");
}

#[test]
fn the_likelier_letter_decides() {
    // In nats: what A has over B where the good answer comes first, and where it comes second.
    let judged = |config: &str, first: f64, second: f64| {
        let answer = |request: &Request| {
            let Request::Score(score) = request else { panic!("asked to write") };
            let over = if shown(request)[0] == "Seven." { first } else { second };
            let logprob = if score.completion.trim() == "A" { -5.0 + over } else { -5.0 };
            Answer::Score(Score { logprob, tokens: 2 })
        };
        testing::judge(&plugin(config), &pair(), answer).unwrap()
    };
    let config = r#"{"read": "logprob"}"#;
    assert_eq!(judged(config, 1.0, -1.0), preferred("good", "bad"));
    assert_eq!(judged(config, -1.0, 0.1), preferred("bad", "good"));
    assert_eq!(judged(config, 1.0, 2.0), Opinion::Tie);
    assert_eq!(judged(config, 1.0, 0.0), Opinion::Tie);
    let raw = r#"{"read": "logprob", "render_as": "raw", "rewards": true}"#;
    let three_to_one = 3.0f64.ln();
    let Opinion::Rewards(rewards) = judged(raw, three_to_one, 0.0) else { panic!("no rewards") };
    // (3/4 + 1/2) / 2 and (1/4 + 1/2) / 2
    assert!((rewards[0].value - 0.625).abs() < 1e-12, "{rewards:?}");
    assert!((rewards[1].value - 0.375).abs() < 1e-12, "{rewards:?}");
    assert_eq!(judged(config, -1e300, 1e300), preferred("bad", "good"));
}

/// Judges by the message with a model that has a logprob for it after each answer; returns what it was
/// asked too.
fn guessed(
    config: &str,
    record: &Record,
    logprobs: &[(&str, f64)],
) -> (Opinion, Vec<ScoreRequest>) {
    let mut asked = Vec::new();
    let answer = |request: &Request| {
        let Request::Score(request) = request else { panic!("asked to write") };
        asked.push(request.clone());
        let shown = |(answer, _): &&(&str, f64)| request.prompt.gist().contains(answer);
        let (_, logprob) = logprobs.iter().find(shown).unwrap();
        Answer::Score(Score { logprob: *logprob, tokens: 7 })
    };
    let opinion = testing::judge(&plugin(config), record, answer).unwrap();
    (opinion, asked)
}

#[test]
fn the_message_tells_which_answer_keeps_to_it() {
    let config = r#"{"read": "message"}"#;
    let (opinion, asked) = guessed(config, &pair(), &[("Seven.", -20.0), ("Six.", -21.5)]);
    assert_eq!(opinion, preferred("good", "bad"));
    // Each answer is shown once, and by itself.
    let [first, _] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(first.completion, "How many days has a week?");
    assert_eq!(
        first.prompt,
        Text::user(
            "An assistant answered a message. Write the message that it answered, and nothing else.\n\n\
             [Answer]\nSeven."
        )
    );
    let check = |seven: f64, six: f64, expected: Opinion| {
        assert_eq!(guessed(config, &pair(), &[("Seven.", seven), ("Six.", six)]).0, expected);
    };
    check(-21.5, -20.0, preferred("bad", "good"));
    check(-20.0, -20.0, Opinion::Tie);
    check(-1e300, 0.0, preferred("bad", "good"));
}

#[test]
fn the_message_gives_rewards_too() {
    let record = record(&[("plain", "7"), ("good", "Seven days."), ("bad", "Six.")]);
    let config = r#"{"read": "message", "render_as": "raw", "rewards": true, "between": ["plain", "good", "bad"]}"#;
    let three_to_one = 3.0f64.ln();
    let logprobs = [("Seven days.", -5.0), ("Six.", -5.0), ("7", -5.0 - three_to_one)];
    let (Opinion::Rewards(rewards), asked) = guessed(config, &record, &logprobs) else {
        panic!("no rewards")
    };
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].prompt, Text::Raw("[Answer]\n7\n\n[The message that it answers]\n".into()));
    // Against the two others: 1/4 and 1/4; 3/4 and 1/2; 3/4 and 1/2.
    for (reward, expected) in rewards.iter().zip([0.25, 0.625, 0.625]) {
        assert!((reward.value - expected).abs() < 1e-12, "{rewards:?}");
    }
}

#[test]
fn several_are_compared_each_with_each() {
    let record = record(&[("plain", "7"), ("good", "Seven days."), ("bad", "Six.")]);
    let config = r#"{"rewards": true, "between": ["plain", "good", "bad"]}"#;
    let expected = rewards(&[("plain", 0.0), ("good", 1.0), ("bad", 0.5)]);
    assert_eq!(judged(config, &record, longer), expected);
}

#[test]
fn names_come_before_roles() {
    let mut record = pair();
    record.variants.push(testing::variant("bad-2", VariantRole::Bad, "", "Six days a week."));
    let named = r#"{"between": ["good", "bad-2"]}"#;
    assert_eq!(judged(named, &record, longer), preferred("bad-2", "good"));
    record.variants[0].name = "steered".into();
    assert_eq!(judged("{}", &record, longer), preferred("steered", "bad"));
}

#[test]
fn what_is_not_there_is_named() {
    let check = |config: &str, record: Record, expected: &str| {
        let failed = testing::judge(&plugin(config), &record, testing::no_model);
        assert_eq!(failed, Err(Error::Input(expected.into())));
    };
    check(
        "{}",
        record(&[("good", "Seven.")]),
        "no completed variant named `bad` or of that role; there are: good",
    );
    let mut renamed = pair();
    renamed.variants[0].name = "x".into();
    check(
        r#"{"between": ["good", "x"]}"#,
        renamed,
        "`between` names variant `x` twice, by name or role",
    );
}

#[test]
fn awkward_records_get_an_opinion() {
    let mut answers = testing::awkward_texts().into_iter().cycle();
    for config in ["{}", r#"{"render_as": "raw", "rewards": true}"#] {
        for mut record in testing::awkward() {
            let answer =
                |_: &Request| Answer::Completion(testing::completion(&answers.next().unwrap()));
            let failed = testing::judge(&plugin(config), &record, testing::no_model);
            let there = record.completions().count() == 1;
            assert!(
                matches!(failed, Err(Error::Input(text)) if text.contains("few-shot") == there)
            );
            let text = record.prompt.text.gist().to_owned();
            record.variants = vec![
                testing::variant("good", VariantRole::Good, "", &text),
                testing::variant("bad", VariantRole::Bad, "", &text),
            ];
            let opinion = testing::judge(&plugin(config), &record, answer).unwrap();
            assert!(matches!(opinion, Opinion::Unparsable(_)));
        }
    }
}

#[test]
fn wrong_configurations_name_the_key() {
    let check = |config: &str, expected: &str| match testing::plugin::<Pairwise>(config) {
        Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
        _ => panic!("{config} was taken"),
    };
    check(r#"{"between": ["good"]}"#, "`between` has 1 entries, expected 2; with");
    check(r#"{"between": ["a", "b", "c"]}"#, "`between` has 3 entries, expected 2; with");
    let nine = r#"{"rewards": true, "between": ["1", "2", "3", "4", "5", "6", "7", "8", "9"]}"#;
    check(nine, "`between` has 9 entries, expected 2 to 8");
    check(r#"{"read": "letter"}"#, "expected one of `answer`, `logprob`, `message`");
    check(r#"{"rubrik": ""}"#, "unknown key `rubrik`");
}

#[test]
fn the_schema_is_json_and_names_every_key() {
    let schema: serde_json::Value = serde_json::from_str(Pairwise::CONFIG_SCHEMA).unwrap();
    assert_eq!(schema["properties"].as_object().unwrap().len(), 7);
}
