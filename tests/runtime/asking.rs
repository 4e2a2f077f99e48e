//! The ask protocol: who may ask, what it costs, and what comes of the answers.

use std::collections::BTreeSet;

use aligner::plugin::{
    Answerer, Ask, Grant, Kind, NoAnswers, OnError, Outcome, PluginError, Setup, Spent,
};
use aligner::record::{Answer, Completion, Finish, Prompt, Repro, Request, Score, Text, Verdict};

use super::table::{self, Case};
use super::{PLACE, check_error, check_sound, hostile, records};

/// What was asked in one go: record, index, seed and request of each.
type Wave = Vec<(String, usize, u64, Request)>;

/// A model that answers everything in the same way.
#[derive(Default)]
pub struct Model {
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
                entropy: Some(0.5),
                repro: Repro::Exact,
                finish: Finish::Stop,
            }),
            Request::Score { .. } => Answer::Score(Score {
                logprob: -3.0,
                tokens: 6,
                entropy: None,
                repro: Repro::Exact,
            }),
            Request::Reward { .. } => Answer::Reward { value: -0.25, tokens: 9 },
        };
        Ok(asks.iter().map(answer).collect())
    }
}

/// Lets a plugin ask the policy for 10,000 tokens a stage.
pub fn grant(setup: &mut Setup) {
    setup.grant = Some(Grant::new(["policy".to_owned()], 10_000, 128));
}

#[test]
fn a_reward_comes_as_a_number_and_counts_the_tokens_that_were_read() {
    let plugin = hostile(Kind::Filter, "ask-reward", grant);
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
    let plugin = hostile(Kind::Filter, "ask", grant);
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

/// Guests that ask for what they do not get.
pub fn cases() -> Vec<Case> {
    let rust = |mode: &str| Case::rust(mode, mode);
    let tokens = |tokens| move |setup: &mut Setup| setup.grant.as_mut().unwrap().tokens = tokens;
    vec![
        rust("ask-ungranted"),
        Case::rust("ask-another-model", "ask-ungranted").asking(),
        // No record is at fault, so dropping does not hide it.
        Case::rust("ask-ungranted-and-drop", "ask-ungranted")
            .with(|setup| setup.on_error = OnError::Drop),
        rust("ask-much").asking(),
        // Three requests of 8 new tokens each.
        Case::rust("ask-tokens", "ask").asking().with(tokens(23)),
        // 4 tokens for each record were drawn; 6 for each are scored, which nobody knew before.
        Case::rust("ask-tokens-of-scores", "ask").asking().with(tokens(29)),
        Case::rust("ask-tokens-of-the-run", "ask")
            .asking()
            .with(|setup| setup.grant.as_mut().unwrap().run_tokens = Some(23)),
        Case::rust("ask-requests", "ask")
            .asking()
            .with(|setup| setup.grant.as_mut().unwrap().requests = 4),
        Case::rust("ask-requests-of-the-run", "ask")
            .asking()
            .with(|setup| setup.grant.as_mut().unwrap().run_requests = Some(2)),
        Case::rust("ask-requests-of-a-record", "ask")
            .asking()
            .with(|setup| setup.grant.as_mut().unwrap().record_requests = 1),
        rust("ask-forever").asking(),
        rust("ask-nothing").asking(),
        rust("ask-many").asking(),
    ]
}

#[test]
fn guests_that_ask_too_much() {
    table::check(cases());
}

#[test]
fn a_record_that_asks_for_ever_can_be_dropped() {
    let plugin = hostile(Kind::Filter, "ask-forever", |setup| {
        grant(setup);
        setup.on_error = OnError::Drop;
    });
    let stage = plugin.filter(&PLACE, &records(["p-1"]), &mut Model::default()).unwrap();
    assert_eq!(stage.outcomes, [Outcome::Failed("still asks after 64 rounds of answers".into())]);
}

#[test]
fn the_answerers_own_error_comes_through() {
    let plugin = hostile(Kind::Filter, "ask", grant);
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
            Ok(vec![
                Answer::Score(Score {
                    logprob: 0.0,
                    tokens: 1,
                    entropy: None,
                    repro: Repro::Exact
                });
                asks.len()
            ])
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
    let plugin = hostile(Kind::Filter, "ask", grant);
    let stage = plugin.filter(&PLACE, &records(["p-1"]), &mut Short).unwrap();
    assert_eq!(stage.outcomes, [Outcome::Done(Verdict::Drop("too long+too long".into()))]);
    assert_eq!(stage.spent.tokens, 0);
}

#[test]
fn new_prompts_are_written_from_answers() {
    let pool: Vec<_> = records(["s-1", "s-2"]).into_iter().map(|record| record.prompt).collect();
    let plugin = hostile(Kind::Sampler, "", grant);
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

    let plugin = hostile(Kind::Sampler, "empty", grant);
    let nothing = Spent::default();
    let error = plugin.write(&PLACE, &pool, 0..1, nothing, &mut Model::default()).unwrap_err();
    check_error(&error, &["gave a prompt that asks nothing", "record `slot-0`"]);
    check_sound();
}
