use std::collections::BTreeSet;

use aligner_sdk::{Request, testing};

use super::*;

fn plugin(config: &str) -> TopicGuided {
    testing::plugin(config).unwrap()
}

/// Returns the text of a request, and whether it asks for topics.
fn asked(request: &Request) -> (&str, bool) {
    let Request::Generate(request) = request else { panic!("asked for a score") };
    let text = request.prompt.gist();
    (text, text.starts_with("Somebody collects"))
}

fn completion(text: impl AsRef<str>) -> Answer {
    Answer::Completion(testing::completion(text.as_ref()))
}

/// Stands for a model that thinks of two topics and asks a question on each line it is given.
fn obliging(request: &Request) -> Answer {
    let (text, of_topics) = asked(request);
    if of_topics {
        return completion(" Old boats\n- Wild geese");
    }
    let pairs = match text.split_once("\nThe questions:\n\n") {
        Some((before, _)) => before.rsplit_once("for:\n\n").unwrap().1,
        None => text.lines().last().unwrap().strip_suffix(", question:").unwrap(),
    };
    let line = |pair: &str| format!("{pair}, question: Why so?");
    let lines: Vec<_> = pairs.trim().lines().map(line).collect();
    completion(lines.join("\n"))
}

fn written_prompt(kind: &str, topic: &str) -> Prompt {
    let tags = vec!["round:1".into(), format!("type:{kind}"), format!("topic:{topic}")];
    Prompt { id: format!("w-{topic}"), text: Text::user("Why?"), tags }
}

#[test]
fn there_are_twenty_types_each_with_an_example() {
    let types = plugin("{}").types;
    let kinds: BTreeSet<_> = types.iter().map(|it| it.kind.as_str()).collect();
    assert_eq!((types.len(), kinds.len()), (20, 20));
    for Triple { kind, topic, question } in &types {
        // What a topic of the model must be, the example's is too.
        assert_eq!(topics::read(topic, false).first(), Some(topic), "{kind}");
        assert!(!kind.contains([',', ':']) && kind.len() < 100, "{kind}");
        assert!(question.ends_with('?'), "{question}");
    }
}

#[test]
fn each_slot_writes_a_question_for_each_of_its_types() {
    for (targets, render_as) in [(1, "raw"), (5, "raw"), (5, "chat")] {
        let config = format!(r#"{{"targets": {targets}, "render_as": "{render_as}"}}"#);
        let prompts = testing::write(&plugin(&config), &[], obliging).unwrap();
        assert_eq!(prompts.len(), targets);
        let mut kinds = BTreeSet::new();
        for prompt in &prompts {
            assert_eq!(prompt.text, Text::user("Why so?"));
            assert_eq!(prompt.tags[..2], ["topic-guided", "round:1"]);
            kinds.insert(&prompt.tags[2]);
            assert!(["topic:Old boats", "topic:Wild geese"].contains(&prompt.tags[3].as_str()));
        }
        assert_eq!(kinds.len(), targets);
    }
}

#[test]
fn topics_that_are_known_are_not_taken_again() {
    let plugin = plugin("{}");
    let pool: Vec<_> =
        plugin.types.iter().map(|it| written_prompt(&it.kind, "old Boats")).collect();
    let prompts = testing::write(&plugin, &pool, obliging).unwrap();
    assert_eq!(prompts.len(), 5);
    assert!(prompts.iter().all(|prompt| prompt.tags[3] == "topic:Wild geese"));
    let both = plugin.types.iter().map(|it| written_prompt(&it.kind, "Wild geese"));
    let pool: Vec<_> = pool.iter().cloned().chain(both).collect();
    assert_eq!(testing::write(&plugin, &pool, obliging), Ok(vec![]));
}

#[test]
fn of_many_topics_five_are_shown() {
    let plugin = plugin(r#"{"targets": 20}"#);
    let shown = |known: usize| {
        let topics = (0..known).flat_map(|i| {
            plugin.types.iter().map(move |it| written_prompt(&it.kind, &format!("Topic {i}")))
        });
        let pool: Vec<_> = topics.collect();
        let mut counts = BTreeSet::new();
        let model = |request: &Request| {
            let (text, of_topics) = asked(request);
            if of_topics {
                counts.insert(text.matches("\n- ").count());
            }
            obliging(request)
        };
        testing::write(&plugin, &pool, model).unwrap();
        counts
    };
    assert_eq!(shown(0), [1].into());
    assert_eq!(shown(8), [1].into());
    assert_eq!(shown(9), [5].into());
}

#[test]
fn every_type_has_its_turn() {
    let plugin = plugin("{}");
    let mut kinds = BTreeSet::new();
    for seed in 0..60 {
        let write = |ask: &mut Ask| plugin.write(&testing::context(), &[], 0, ask);
        for prompt in testing::run(seed, obliging, write).unwrap() {
            kinds.insert(prompt.tags[2].clone());
        }
    }
    assert_eq!(kinds.len(), 20);
}

#[test]
fn a_model_that_does_not_oblige_writes_nothing() {
    let deaf = |_: &Request| Answer::Unanswered("the prompt is too long".into());
    assert_eq!(testing::write(&plugin("{}"), &[], deaf), Ok(vec![]));
    let no_questions = |request: &Request| match asked(request).1 {
        true => obliging(request),
        false => Answer::Unanswered("the prompt is too long".into()),
    };
    assert_eq!(testing::write(&plugin("{}"), &[], no_questions), Ok(vec![]));
    let no_topics = |request: &Request| match asked(request).1 {
        true => completion("I cannot think of any."),
        false => panic!("asked for questions about nothing"),
    };
    assert_eq!(testing::write(&plugin("{}"), &[], no_topics), Ok(vec![]));
}

#[test]
fn a_round_works_on_what_was_written_in_it_with_the_first_exemplars() {
    let candidate = |id: &str, tag: &str| Candidate {
        id: id.into(),
        tags: vec!["topic-guided".into(), tag.into()],
        difficulty: None,
        selected: 0,
    };
    let pool = [candidate("w-1", "round:1"), candidate("w-2", "round:2")];
    let plugin = plugin("{}");
    assert_eq!(plugin.select(&testing::context(), &pool, 1), Ok(vec!["w-1".into()]));
    let slot = Slot { id: "w-1".into(), tags: vec![], seed: 1 };
    let cards: Vec<_> = (0..48).map(|i| Card { id: format!("ex-{i}"), tags: vec![] }).collect();
    let equipment = plugin.equip(&testing::context(), &slot, &cards).unwrap();
    assert_eq!(equipment.exemplars, ["ex-0", "ex-1", "ex-2", "ex-3", "ex-4"]);
    let failed = plugin.equip(&testing::context(), &slot, &cards[..4]);
    assert!(matches!(failed, Err(Error::Config(text)) if text.contains("has 4")));
}

#[test]
fn wrong_configurations_say_what_is_wrong() {
    let check = |config: &str, expected: &str| match testing::plugin::<TopicGuided>(config) {
        Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
        _ => panic!("{config}"),
    };
    check(r#"{"targets": 21}"#, "`targets` is 21, expected 1 to 20");
    check(r#"{"examples": 0}"#, "`examples` is 0");
    check(r#"{"topics": 101}"#, "`topics` is 101");
    check(r#"{"top_p": 1}"#, "unknown key `top_p`");
}

#[test]
fn awkward_answers_are_read() {
    let pool: Vec<_> = testing::awkward().into_iter().map(|record| record.prompt).collect();
    for text in testing::awkward_texts() {
        let topics_then_it = |request: &Request| match asked(request).1 {
            true => obliging(request),
            false => completion(&text),
        };
        for prompt in testing::write(&plugin("{}"), &pool, topics_then_it).unwrap() {
            assert!(!prompt.text.gist().trim().is_empty());
        }
        let it = |request: &Request| match asked(request).1 {
            true => completion(&text),
            false => obliging(request),
        };
        for prompt in testing::write(&plugin("{}"), &pool, it).unwrap() {
            assert!(prompt.tags.iter().all(|tag| tag.len() <= 200));
        }
    }
}

#[test]
fn questions_end_where_the_next_line_would_be() {
    let stops = |config: &str| {
        let mut stops = None;
        let model = |request: &Request| {
            let Request::Generate(generate) = request else { panic!("asked for a score") };
            stops = generate.decoding.stop.clone();
            obliging(request)
        };
        testing::write(&plugin(config), &[], model).unwrap();
        stops.unwrap()
    };
    assert_eq!(stops(r#"{"targets": 1}"#), ["\n"]);
    assert_eq!(stops(r#"{"targets": 3, "examples": 2}"#), ["\n6.", "\n\n"]);
}
