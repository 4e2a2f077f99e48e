//! A plugin of every kind. Its configuration, `{"mode":"…"}`, says how it breaks the contract;
//! without a mode it behaves.
//!
//! Modes named `…-on` break it for records whose id holds `poison`, and behave for the rest.

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package tests:guests;
        world everything {
            import aligner:plugin/log@0.1.1;
            export aligner:plugin/meta@0.1.1;
            export aligner:plugin/principle@0.1.1;
            export aligner:plugin/sampler@0.1.1;
            export aligner:plugin/prompt-writer@0.1.1;
            export aligner:plugin/filter@0.1.1;
            export aligner:plugin/set-filter@0.1.1;
            export aligner:plugin/judge@0.1.1;
            export aligner:plugin/difficulty@0.1.1;
        }
    ",
    world: "tests:guests/everything",
    generate_all,
});

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::hint::black_box;

use aligner::plugin::log::{self, Level};
use aligner::plugin::types::{
    Answer, Completion, Context, Decoding, Error, Exemplar, Finish, GenerateRequest, Message, Pair,
    Prompt, Record, Request, Reward, RewardRequest, ScoreRequest, Speaker, Text, Turn, Variant,
    VariantRole,
};
use aligner::plugin::verdicts::{Revision, Verdict};
use exports::aligner::plugin::{
    difficulty, filter, judge, meta, principle, prompt_writer, sampler, set_filter,
};

struct Guest;

thread_local! {
    static MODE: RefCell<String> = const { RefCell::new(String::new()) };
    static CALLS: Cell<u32> = const { Cell::new(0) };
    static SEEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

fn mode() -> String {
    MODE.with_borrow(Clone::clone)
}

impl meta::Guest for Guest {
    fn describe() -> meta::Description {
        meta::Description {
            name: "hostile".into(),
            version: "0.2.0".into(),
            summary: "Breaks the contract on request.".into(),
            config_schema: "{}".into(),
            needs: Vec::new(),
        }
    }

    fn configure(config: String) -> Result<(), Error> {
        std::panic::set_hook(Box::new(|info| log::write(Level::Error, &info.to_string())));
        let mode = match config.split('"').collect::<Vec<_>>()[..] {
            ["{}"] => "",
            ["{", "mode", ":", mode, "}"] => mode,
            _ => return Err(Error::Config("unknown key `mood`, expected `mode`".into())),
        };
        if mode == "configure-loop" {
            forever();
        }
        MODE.set(mode.to_owned());
        Ok(())
    }
}

fn forever() -> ! {
    loop {
        black_box(0);
    }
}

#[inline(never)]
fn deep(n: u64) -> u64 {
    if n == u64::MAX { 0 } else { deep(black_box(n + 1)).rotate_left(1) ^ n }
}

#[inline(never)]
fn deep_with_arrays(n: u64) -> u64 {
    let array = [n; 64];
    black_box(&array);
    if n == u64::MAX { 0 } else { deep_with_arrays(n + 1).wrapping_add(array[(n % 64) as usize]) }
}

/// Does what ends every call in the same way, whatever its kind.
fn misbehave(mode: &str) {
    match mode {
        "loop" => forever(),
        "recurse" => {
            black_box(deep(0));
        }
        "recurse-arrays" => {
            black_box(deep_with_arrays(0));
        }
        "memory" => {
            let mut blocks: Vec<Vec<u8>> = Vec::new();
            loop {
                blocks.push(vec![1; 1 << 20]);
                black_box(&blocks);
            }
        }
        "grow" => while core::arch::wasm32::memory_grow(0, 64) != usize::MAX {},
        "panic" => panic!("the record has no soul"),
        "unreachable" => core::arch::wasm32::unreachable(),
        "out-of-bounds" => {
            // SAFETY: none; that is the point.
            black_box(unsafe { (0xffff_fff0 as *const u8).read_volatile() });
        }
        "log-flood" => loop {
            log::write(Level::Info, "all work and no play makes jack a dull boy");
        },
        "log-gigabyte" => log::write(Level::Info, &"x".repeat(30 << 20)),
        "log-escape" => log::write(Level::Warn, "\x1b[2J\nforged line"),
        _ => {}
    }
}

fn ask(model: &str, max_new_tokens: u32) -> Request {
    Request::Generate(GenerateRequest {
        model: model.into(),
        prompt: Text::Raw("is it good?".into()),
        decoding: Decoding {
            temperature: None,
            top_p: None,
            top_k: None,
            repetition_penalty: None,
            max_new_tokens: Some(max_new_tokens),
            stop: None,
        },
        seed: 7,
    })
}

fn text_of(answer: &Answer) -> String {
    match answer {
        Answer::Completion(completion) => completion.text.clone(),
        Answer::Score(score) => score.tokens.to_string(),
        Answer::Reward(reward) => reward.to_string(),
        Answer::Unanswered(why) => why.clone(),
    }
}

/// A mode that is meant for this record: `x-on` counts where the id holds `poison`.
fn mode_for(record: &Record) -> String {
    let mode = mode();
    match mode.strip_suffix("-on") {
        Some(mode) if record.prompt.id.contains("poison") => mode.to_owned(),
        Some(_) => String::new(),
        None => mode,
    }
}

/// A thousand strings that are all the same 10 MB.
fn aliases() -> Vec<String> {
    let buffer = vec![b'a'; 10_000_000];
    let (pointer, length) = (buffer.as_ptr().cast_mut(), buffer.len());
    std::mem::forget(buffer);
    // SAFETY: none; the host stops before any of them is freed.
    (0..1000).map(|_| unsafe { String::from_raw_parts(pointer, length, length) }).collect()
}

fn not_utf8() -> String {
    // SAFETY: none; that is the point.
    unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe, 0xfd]) }
}

fn revise(name: &str, text: &str) -> Verdict {
    let revision = Revision { variant: name.into(), text: text.into(), finish: Finish::Stop };
    Verdict::Revise(vec![revision])
}

fn verdict(record: &Record) -> filter::Reply {
    let mode = mode_for(record);
    misbehave(&mode);
    let id = &record.prompt.id;
    filter::Reply::Done(match mode.as_str() {
        "utf8" => Verdict::Drop(not_utf8()),
        "long-reason" => Verdict::Drop("x".repeat(201)),
        "two-lines" => Verdict::Drop("one\ntwo".into()),
        "unknown-variant" => revise("nobody", "text"),
        "empty-revision" => revise("a", ""),
        "revise" => revise("a", "new text"),
        _ if id.contains("drop") => Verdict::Drop("short".into()),
        _ => Verdict::Keep,
    })
}

impl filter::Guest for Guest {
    fn filter(context: Context, batch: Vec<Turn>) -> Result<Vec<filter::Reply>, Error> {
        let mode = mode();
        CALLS.set(CALLS.get() + 1);
        let reply = |turn: &Turn| match mode.as_str() {
            "ask-ungranted" => filter::Reply::Ask(vec![ask("judge", 8)]),
            "ask-forever" => filter::Reply::Ask(vec![ask("policy", 1)]),
            "ask-nothing" => filter::Reply::Ask(Vec::new()),
            "ask-much" => filter::Reply::Ask(vec![ask("policy", 1_000_000)]),
            "ask-many" => filter::Reply::Ask(vec![ask("policy", 1); 257]),
            // Two rounds: a generation, then a score of what came back; the verdict shows both.
            "ask" => match &turn.answers[..] {
                [] => filter::Reply::Ask(vec![ask("policy", 8)]),
                [first] => filter::Reply::Ask(vec![Request::Score(ScoreRequest {
                    model: "policy".into(),
                    prompt: Text::Chat(vec![Message {
                        speaker: Speaker::User,
                        content: "really?".into(),
                    }]),
                    completion: text_of(first),
                })]),
                answers => {
                    let words: Vec<_> = answers.iter().map(text_of).collect();
                    filter::Reply::Done(Verdict::Drop(words.join("+")))
                }
            },
            "ask-reward" => match &turn.answers[..] {
                [] => filter::Reply::Ask(vec![Request::Reward(RewardRequest {
                    model: "policy".into(),
                    prompt: turn.record.prompt.text.clone(),
                    completion: "fine".into(),
                })]),
                answers => filter::Reply::Done(Verdict::Drop(text_of(&answers[0]))),
            },
            "seed" => filter::Reply::Done(Verdict::Drop(turn.seed.to_string())),
            "context" => filter::Reply::Done(Verdict::Drop(format!(
                "{} of {}, call {}, {}",
                context.round,
                context.rounds,
                CALLS.get(),
                batch.len()
            ))),
            _ => verdict(&turn.record),
        };
        match mode.as_str() {
            "error-config" => return Err(Error::Config("key `mode` is not to my taste".into())),
            "error-input" => return Err(Error::Input("record has no variants".into())),
            "error-internal" => return Err(Error::Internal("lost my way\n\x1b[31m".into())),
            "aliases" => {
                let drop = |text| filter::Reply::Done(Verdict::Drop(text));
                return Ok(aliases().into_iter().map(drop).collect());
            }
            "many" => return Ok(vec![filter::Reply::Done(Verdict::Keep); 1_000_000]),
            _ => {}
        }
        let mut replies: Vec<_> = batch.iter().map(reply).collect();
        match mode.as_str() {
            "too-few" => drop(replies.pop()),
            "reversed" => replies.reverse(),
            "too-many" => replies.push(filter::Reply::Done(Verdict::Keep)),
            _ => {}
        }
        Ok(replies)
    }
}

impl set_filter::Guest for Guest {
    fn observe(_context: Context, batch: Vec<Record>) -> Result<(), Error> {
        for record in &batch {
            misbehave(&mode_for(record));
            SEEN.with_borrow_mut(|seen| seen.insert(record.prompt.id.clone()));
        }
        Ok(())
    }

    /// Keeps what comes first among all ids seen; the reason of the others says how many there were.
    fn decide(_context: Context, batch: Vec<Record>) -> Result<Vec<Verdict>, Error> {
        let mut verdicts: Vec<_> = SEEN.with_borrow(|seen| {
            let verdict = |record: &Record| {
                if seen.first() == Some(&record.prompt.id) {
                    Verdict::Keep
                } else {
                    Verdict::Drop(format!("one of {}", seen.len()))
                }
            };
            batch.iter().map(verdict).collect()
        });
        match mode().as_str() {
            "too-few" => drop(verdicts.pop()),
            "decide-panic" => panic!("cannot decide"),
            "unknown-variant" => verdicts[1] = revise("nobody", "text"),
            _ => {}
        }
        Ok(verdicts)
    }
}

impl difficulty::Guest for Guest {
    fn score(_context: Context, batch: Vec<Turn>) -> Result<Vec<difficulty::Reply>, Error> {
        let score = |turn: &Turn| {
            let mode = mode_for(&turn.record);
            misbehave(&mode);
            difficulty::Reply::Done(match mode.as_str() {
                "nan" => f64::NAN,
                "infinite" => f64::INFINITY,
                _ => turn.record.prompt.id.len() as f64,
            })
        };
        Ok(batch.iter().map(score).collect())
    }
}

impl judge::Guest for Guest {
    fn judge(_context: Context, batch: Vec<Turn>) -> Result<Vec<judge::Reply>, Error> {
        use judge::Opinion;
        let reward = |name: &str, value| Reward { variant: name.into(), name: "q".into(), value };
        let opinion = |turn: &Turn| {
            judge::Reply::Done(match mode_for(&turn.record).as_str() {
                "nan" => Opinion::Rewards(vec![reward("a", f64::NAN)]),
                "unknown-variant" => Opinion::Rewards(vec![reward("nobody", 1.0)]),
                "no-rewards" => Opinion::Rewards(Vec::new()),
                "itself" => Opinion::Preference(Pair { chosen: "a".into(), rejected: "a".into() }),
                "tie" => Opinion::Tie,
                "unparsable" => Opinion::Unparsable("maybe".into()),
                _ => Opinion::Rewards(vec![reward("a", 1.5)]),
            })
        };
        Ok(batch.iter().map(opinion).collect())
    }
}

impl principle::Guest for Guest {
    fn catalogue() -> Result<Vec<Exemplar>, Error> {
        misbehave(&mode());
        let exemplar = |id: &str| Exemplar {
            id: id.into(),
            tags: vec!["t".into()],
            text: format!("text {id}"),
        };
        Ok(match mode().as_str() {
            "twice" => vec![exemplar("e1"), exemplar("e1")],
            _ => vec![exemplar("e1"), exemplar("e2"), exemplar("e3")],
        })
    }

    fn render(_context: Context, batch: Vec<Turn>) -> Result<Vec<principle::Reply>, Error> {
        let variant = |name: &str, turn: &Turn| Variant {
            name: name.into(),
            role: VariantRole::Good,
            prompt: turn.record.prompt.text.clone(),
            completion: None,
        };
        let render = |turn: &Turn| {
            principle::Reply::Done(match mode_for(&turn.record).as_str() {
                "none" => Vec::new(),
                "twice" => vec![variant("a", turn), variant("a", turn)],
                "completed" => {
                    let completion = Completion {
                        text: "done".into(),
                        tokens: 1,
                        logprob: 0.0,
                        finish: Finish::Stop,
                    };
                    vec![Variant { completion: Some(completion), ..variant("a", turn) }]
                }
                _ => vec![variant("a", turn), variant("b", turn)],
            })
        };
        Ok(batch.iter().map(render).collect())
    }
}

impl sampler::Guest for Guest {
    fn select(
        _context: Context,
        pool: Vec<sampler::Candidate>,
        seed: u64,
    ) -> Result<Vec<String>, Error> {
        let mut ids: Vec<_> = pool.into_iter().rev().map(|candidate| candidate.id).collect();
        match mode().as_str() {
            "twice" => ids.push(ids[0].clone()),
            "unknown" => ids.push("nobody".into()),
            "seed" => return Err(Error::Internal(format!("seed {seed}"))),
            _ => {}
        }
        Ok(ids)
    }

    fn equip(
        _context: Context,
        batch: Vec<sampler::Slot>,
        catalogue: Vec<sampler::Card>,
    ) -> Result<Vec<sampler::Equipment>, Error> {
        let mode = mode();
        let equip = |slot: sampler::Slot| {
            let mut exemplars: Vec<_> =
                catalogue.iter().rev().take(2).map(|card| card.id.clone()).collect();
            match mode.as_str() {
                "twice" => exemplars = vec![exemplars[0].clone(), exemplars[0].clone()],
                "unknown" => exemplars.push("nobody".into()),
                "poison-slot" if slot.id.contains("poison") => panic!("bad slot"),
                _ => {}
            }
            let temperature = if mode == "hot" { 11.0 } else { 0.5 };
            sampler::Equipment {
                exemplars,
                decoding: Decoding {
                    temperature: Some(temperature),
                    top_p: None,
                    top_k: None,
                    repetition_penalty: None,
                    max_new_tokens: None,
                    stop: None,
                },
            }
        };
        Ok(batch.into_iter().map(equip).collect())
    }
}

impl prompt_writer::Guest for Guest {
    fn write(
        _context: Context,
        pool: Vec<Prompt>,
        batch: Vec<prompt_writer::Slot>,
    ) -> Result<Vec<prompt_writer::Reply>, Error> {
        let write = |slot: prompt_writer::Slot| {
            if slot.answers.is_empty() {
                return prompt_writer::Reply::Ask(vec![ask("policy", 8)]);
            }
            let content = match mode().as_str() {
                "empty" => String::new(),
                _ => format!("{} of {}: {}", slot.index, pool.len(), text_of(&slot.answers[0])),
            };
            prompt_writer::Reply::Done(vec![Prompt {
                id: String::new(),
                text: Text::Chat(vec![Message { speaker: Speaker::User, content }]),
                tags: Vec::new(),
            }])
        };
        Ok(batch.into_iter().map(write).collect())
    }
}

export!(Guest);
