//! A filter with the mistakes that authors make. The configuration, `{"mode":"…"}`, says which; without
//! a mode it has none.
//!
//! Unlike the hostile guest it means well: ordinary records by themselves go well in every mode.

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package tests:guests;
        world unfit {
            import aligner:plugin/log@0.1.1;
            export aligner:plugin/meta@0.1.1;
            export aligner:plugin/filter@0.1.1;
        }
    ",
    world: "tests:guests/unfit",
    generate_all,
});

use std::cell::{Cell, RefCell};
use std::hint::black_box;

use aligner::plugin::log::{self, Level};
use aligner::plugin::types::{
    Answer, Context, Decoding, Error, GenerateRequest, Record, Request, Text, Turn,
};
use aligner::plugin::verdicts::Verdict;
use exports::aligner::plugin::{filter, meta};

struct Guest;

thread_local! {
    static MODE: RefCell<String> = const { RefCell::new(String::new()) };
    static CALLED: Cell<u32> = const { Cell::new(0) };
}

const SCHEMA: &str = r#"{"type": "object", "additionalProperties": false, "properties": {
"mode": {"type": "string", "default": ""}}}"#;

impl meta::Guest for Guest {
    fn describe() -> meta::Description {
        meta::Description {
            name: "unfit".into(),
            version: "0.1.0".into(),
            summary: "Has the mistakes that authors make.".into(),
            config_schema: SCHEMA.into(),
            needs: Vec::new(),
        }
    }

    fn configure(config: String) -> Result<(), Error> {
        std::panic::set_hook(Box::new(|info| log::write(Level::Error, &info.to_string())));
        let mode = match config.split('"').collect::<Vec<_>>()[..] {
            ["{}"] => "",
            ["{", "mode", ":", mode, "}"] => mode,
            // Whoever looks for the key alone, and for nothing else.
            ["{", "mode", ":", "careless", ..] => "careless",
            _ => return Err(Error::Config("unknown key, expected `mode`".into())),
        };
        MODE.set(mode.to_owned());
        Ok(())
    }
}

/// The longest completion.
fn text(record: &Record) -> Option<&str> {
    let completions = record.variants.iter().filter_map(|variant| variant.completion.as_ref());
    completions.map(|completion| completion.text.as_str()).max_by_key(|text| text.len())
}

fn ask(prompt: &str) -> filter::Reply {
    filter::Reply::Ask(vec![Request::Generate(GenerateRequest {
        model: "critic".into(),
        prompt: Text::Raw(prompt.into()),
        decoding: Decoding {
            temperature: None,
            top_p: None,
            top_k: None,
            repetition_penalty: None,
            max_new_tokens: Some(8),
            stop: None,
        },
        seed: 7,
    })])
}

fn words(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::Completion(completion) => Some(&completion.text),
        _ => None,
    }
}

fn verdict(mode: &str, turn: &Turn) -> Result<filter::Reply, Error> {
    let text = text(&turn.record);
    let length = text.unwrap_or_default().len();
    let short = |is_short: bool| {
        filter::Reply::Done(match is_short {
            true => Verdict::Drop("short".into()),
            false => Verdict::Keep,
        })
    };
    match mode {
        // Every ninth one, whatever it is.
        "counts" => {
            CALLED.set(CALLED.get() + 1);
            return Ok(short(CALLED.get() % 9 == 0));
        }
        "panics" => {
            if let Some(text) = text {
                let first = text.chars().next().expect("a text has a first letter");
                return Ok(short(first.is_lowercase()));
            }
        }
        // Compares every byte of a long text with every other one.
        "loops" if length > 4096 => {
            let bytes = text.unwrap_or_default().as_bytes();
            let mut pairs = 0_u64;
            for a in bytes {
                for b in bytes {
                    pairs += u64::from(black_box(a == b));
                }
            }
            return Ok(short(pairs < 100));
        }
        "asks" => return Ok(ask("is it good?")),
        // Hopes for a number.
        "reads" => {
            return match turn.answers.first() {
                None => Ok(ask(&format!("Is it good? {}", text.unwrap_or_default()))),
                Some(answer) => {
                    let words = words(answer).expect("the model answers");
                    Ok(short(words.bytes().next().expect("it says something") == b'8'))
                }
            };
        }
        "picky" if text.is_none() => {
            return Err(Error::Input(format!(
                "record `{}` has no completion",
                turn.record.prompt.id
            )));
        }
        "complains" if text.is_some_and(|text| text.trim().is_empty()) => {
            return Err(Error::Input(format!("record `{}` says nothing", turn.record.prompt.id)));
        }
        _ => {}
    }
    Ok(short(length < 20))
}

impl filter::Guest for Guest {
    fn filter(_context: Context, batch: Vec<Turn>) -> Result<Vec<filter::Reply>, Error> {
        let mode = MODE.with_borrow(Clone::clone);
        let replies: Result<Vec<_>, Error> =
            batch.iter().map(|turn| verdict(&mode, turn)).collect();
        let mut replies = replies?;
        match mode.as_str() {
            // As a loop over pairs of neighbours does.
            "few" if replies.len() > 1 => drop(replies.pop()),
            "reorders" => replies.reverse(),
            "first" => {
                let _ = batch[0].seed;
            }
            _ => {}
        }
        Ok(replies)
    }
}

export!(Guest);
