//! The ask protocol: who may ask, what it costs, and what comes of the answers.

use std::collections::BTreeSet;

use aligner::plugin::{
    Answerer, Ask, Grant, Kind, NoAnswers, OnError, Outcome, PluginError, Setup, Spent,
};
use aligner::record::{Answer, Completion, Finish, Prompt, Request, Score, Text, Verdict};

use super::{PLACE, check_error, check_sound, hostile, records};

/// What was asked in one go: record, index, seed and request of each.
type Wave = Vec<(String, usize, u64, Request)>;

/// A model that answers everything in the same way.
#[derive(Default)]
struct Model {
    waves: Vec<Wave>,
}

impl Answerer for Model {
    fn answer(
        &mut self,
        asks: &[Ask<'_>],
    ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>> {
        let seen = |ask: &Ask| (ask.record.to_owned(), ask.index, ask.seed, ask.request.clone());
        self.waves.push(asks.iter().map(seen).collect());
        let answer = |ask: &Ask| match ask.request {
            Request::Generate { .. } => Answer::Completion(Completion {
                text: format!("yes {}", ask.record),
                tokens: 4,
                logprob: -2.0,
                entropy: 0.5,
                finish: Finish::Stop,
            }),
            Request::Score { .. } => {
                Answer::Score(Score { logprob: -3.0, tokens: 6, entropy: None })
            }
            Request::Reward { .. } => Answer::Reward { value: -0.25, tokens: 9 },
        };
        Ok(asks.iter().map(answer).collect())
    }
}

fn granted(setup: &mut Setup) {
    setup.grant = Some(Grant {
        models: BTreeSet::from(["policy".to_owned()]),
        tokens: 10_000,
        default_max_new_tokens: 128,
    });
}

#[test]
fn a_reward_comes_as_a_number_and_counts_the_tokens_that_were_read() {
    let plugin = hostile(Kind::Filter, "ask-reward", granted);
    let mut model = Model::default();
    let stage = plugin.filter(&PLACE, &records(&["p-1".to_owned()]), &mut model).unwrap();
    assert_eq!(stage.outcomes, [Outcome::Done(Verdict::Drop("-0.25".into()))]);
    assert_eq!((stage.spent.requests, stage.spent.tokens), (1, 9));
    let request = &model.waves[0][0].3;
    assert!(matches!(request, Request::Reward { completion, .. } if completion == "fine"));
}

#[test]
fn requests_of_the_whole_stage_are_answered_in_one_go() {
    let ids: Vec<_> = (0..300).map(|i| format!("p-{i}")).collect();
    let plugin = hostile(Kind::Filter, "ask", granted);
    let mut model = Model::default();
    let stage = plugin.filter(&PLACE, &records(&ids), &mut model).unwrap();

    for (id, outcome) in ids.iter().zip(&stage.outcomes) {
        assert_eq!(*outcome, Outcome::Done(Verdict::Drop(format!("yes {id}+6"))));
    }
    let [first, second] = &model.waves[..] else { panic!("{} waves", model.waves.len()) };
    assert!(first.iter().map(|ask| &ask.0).eq(&ids) && second.iter().map(|ask| &ask.0).eq(&ids));
    assert!(first.iter().all(|ask| ask.1 == 0) && second.iter().all(|ask| ask.1 == 1));
    // The plugin gives every request the same seed; what is drawn differs all the same.
    let seeds: BTreeSet<u64> = first.iter().map(|ask| ask.2).collect();
    assert_eq!(seeds.len(), ids.len());
    let scored = Request::Score {
        model: "policy".into(),
        prompt: Text::user("really?"),
        completion: "yes p-0".into(),
    };
    assert_eq!(second[0].3, scored);
    assert_eq!((stage.spent.requests, stage.spent.tokens), (600, 3000));
}

fn check(mode: &str, change: impl FnOnce(&mut Setup), expected: &[&str], waves: usize) {
    let plugin = hostile(Kind::Filter, mode, change);
    let mut model = Model::default();
    let error = plugin
        .filter(&PLACE, &records(["p-1", "p-2"]), &mut model)
        .expect_err(&format!("mode {mode} is refused"));
    check_error(&error, &["filter `hostile` 0.2.0 ", "\n  in round 2, stage filter, record"]);
    check_error(&error, expected);
    assert_eq!(model.waves.len(), waves);
    check_sound();
}

#[test]
fn asking_needs_a_grant_for_the_model() {
    let hint = r#"ask = { models = ["judge"], tokens = 1000000 }"#;
    let expected = ["asks the model `judge` without the right to", "record `p-1`", hint];
    check("ask-ungranted", |_| {}, &expected, 0);
    check("ask-ungranted", granted, &expected, 0);
    // No record is at fault, so dropping does not hide it.
    check("ask-ungranted", |setup| setup.on_error = OnError::Drop, &expected, 0);
}

#[test]
fn asking_has_a_budget() {
    let expected = ["asks for up to 2000000 tokens, and has 10000 left of its 10000 for the stage"];
    check("ask-much", granted, &expected, 0);
    let poor = |setup: &mut Setup| {
        granted(setup);
        setup.grant.as_mut().unwrap().tokens = 15;
    };
    // Two requests of 8 new tokens each.
    check("ask", poor, &["asks for up to 16 tokens, and has 15 left of its 15"], 0);
}

#[test]
fn scores_count_too() {
    let poor = |setup: &mut Setup| {
        granted(setup);
        setup.grant.as_mut().unwrap().tokens = 19;
    };
    // 4 tokens for each record were drawn; 6 for each are scored, which nobody knew before.
    check("ask", poor, &["asks for up to 12 tokens, and has 11 left of its 19"], 2);
}

#[test]
fn asking_ends() {
    check("ask-forever", granted, &["still asks after 64 rounds of answers", "record `p-1`"], 64);
    check("ask-nothing", granted, &["asks with an empty list of requests"], 0);
    check("ask-many", granted, &["made 257 requests for one record; 256 at most"], 0);
}

#[test]
fn a_record_that_asks_for_ever_can_be_dropped() {
    let plugin = hostile(Kind::Filter, "ask-forever", |setup| {
        granted(setup);
        setup.on_error = OnError::Drop;
    });
    let stage = plugin.filter(&PLACE, &records(["p-1"]), &mut Model::default()).unwrap();
    assert_eq!(stage.outcomes, [Outcome::Failed("still asks after 64 rounds of answers".into())]);
}

#[test]
fn the_answerers_own_error_comes_through() {
    let plugin = hostile(Kind::Filter, "ask", granted);
    let error = plugin.filter(&PLACE, &records(["p-1"]), &mut NoAnswers).unwrap_err();
    assert!(matches!(error, PluginError::Answer(_)), "{error:?}");
    check_error(&error, &["there is no model here to ask"]);

    struct Forgetful;
    impl Answerer for Forgetful {
        fn answer(
            &mut self,
            _: &[Ask<'_>],
        ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>> {
            Ok(Vec::new())
        }
    }
    let error = plugin.filter(&PLACE, &records(["p-1"]), &mut Forgetful).unwrap_err();
    check_error(&error, &["0 answers came back for 1 requests"]);

    struct Confused;
    impl Answerer for Confused {
        fn answer(
            &mut self,
            asks: &[Ask<'_>],
        ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>> {
            Ok(vec![Answer::Score(Score { logprob: 0.0, tokens: 1, entropy: None }); asks.len()])
        }
    }
    let error = plugin.filter(&PLACE, &records(["p-1"]), &mut Confused).unwrap_err();
    check_error(&error, &["not of its request's kind"]);
}

#[test]
fn what_cannot_be_answered_is_the_plugins_to_judge() {
    struct Short;
    impl Answerer for Short {
        fn answer(
            &mut self,
            asks: &[Ask<'_>],
        ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>> {
            Ok(vec![Answer::Unanswered("too long".into()); asks.len()])
        }
    }
    let plugin = hostile(Kind::Filter, "ask", granted);
    let stage = plugin.filter(&PLACE, &records(["p-1"]), &mut Short).unwrap();
    assert_eq!(stage.outcomes, [Outcome::Done(Verdict::Drop("too long+too long".into()))]);
    assert_eq!(stage.spent.tokens, 0);
}

#[test]
fn new_prompts_are_written_from_answers() {
    let pool: Vec<_> = records(["s-1", "s-2"]).into_iter().map(|record| record.prompt).collect();
    let plugin = hostile(Kind::Sampler, "", granted);
    let mut model = Model::default();
    let stage = plugin.write(&PLACE, &pool, 5..7, Spent::default(), &mut model).unwrap();
    let written: Vec<_> = stage
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Done(prompts) => prompts[0].text.gist().to_owned(),
            Outcome::Failed(text) => panic!("{text}"),
        })
        .collect();
    assert_eq!(written, ["5 of 2: yes slot-5", "6 of 2: yes slot-6"]);
    // What earlier slots of the stage have spent counts into its budget.
    let more = plugin.write(&PLACE, &pool, 7..8, stage.spent, &mut model).unwrap();
    assert_eq!(more.spent.tokens, stage.spent.tokens / 2 * 3);
    let spent = Spent { tokens: plugin.setup().grant.as_ref().unwrap().tokens, ..Spent::default() };
    let error = plugin.write(&PLACE, &pool, 7..8, spent, &mut model).unwrap_err();
    check_error(&error, &["has 0 left of its 10000"]);

    // A pool of thousands is within the limits of a call.
    let many: Vec<_> = (0..8000)
        .map(|i| Prompt {
            id: format!("s-{i}"),
            text: Text::user("word ".repeat(80)),
            tags: vec![],
        })
        .collect();
    let stage = plugin.write(&PLACE, &many, 0..64, Spent::default(), &mut model).unwrap();
    let Outcome::Done(last) = &stage.outcomes[63] else { panic!("{:?}", stage.outcomes[63]) };
    assert_eq!(last[0].text.gist(), "63 of 8000: yes slot-63");

    let plugin = hostile(Kind::Sampler, "empty", granted);
    let nothing = Spent::default();
    let error = plugin.write(&PLACE, &pool, 0..1, nothing, &mut Model::default()).unwrap_err();
    check_error(&error, &["gave a prompt that asks nothing", "record `slot-0`"]);
    check_sound();
}
