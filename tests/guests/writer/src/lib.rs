//! A sampler that lets the model write prompts, and a filter over the whole stage that drops what was seen
//! before. Each slot gives the model's words and a copy of the first seed; with `copies` in the
//! configuration the copy alone, with `nothing` none at all.

use std::cell::RefCell;
use std::collections::BTreeMap;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package tests:guests;
        world writer {
            import aligner:plugin/log@0.1.1;
            export aligner:plugin/meta@0.1.1;
            export aligner:plugin/sampler@0.1.1;
            export aligner:plugin/prompt-writer@0.1.1;
            export aligner:plugin/set-filter@0.1.1;
        }
    ",
    world: "tests:guests/writer",
    generate_all,
});

use aligner::plugin::types::{
    Answer, Context, Decoding, Error, GenerateRequest, Message, Prompt, Record, Request, Speaker,
    Text,
};
use aligner::plugin::verdicts::Verdict;
use exports::aligner::plugin::{meta, prompt_writer, sampler, set_filter};

thread_local! {
    static CONFIG: RefCell<String> = const { RefCell::new(String::new()) };
    /// The first record with each text.
    static SEEN: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

struct Writer;

impl meta::Guest for Writer {
    fn describe() -> meta::Description {
        meta::Description {
            name: "writer".into(),
            version: "0.3.1".into(),
            summary: "Lets the model write prompts.".into(),
            config_schema: String::new(),
            needs: Vec::new(),
        }
    }

    fn configure(config: String) -> Result<(), Error> {
        CONFIG.set(config);
        Ok(())
    }
}

impl sampler::Guest for Writer {
    fn select(
        context: Context,
        pool: Vec<sampler::Candidate>,
        _seed: u64,
    ) -> Result<Vec<String>, Error> {
        let new = |candidate: &sampler::Candidate| candidate.tags.contains(&tag(context.round));
        Ok(pool.into_iter().filter(new).map(|candidate| candidate.id).collect())
    }

    fn equip(
        _context: Context,
        batch: Vec<sampler::Slot>,
        _catalogue: Vec<sampler::Card>,
    ) -> Result<Vec<sampler::Equipment>, Error> {
        let bare = |_| sampler::Equipment { exemplars: Vec::new(), decoding: decoding(None) };
        Ok(batch.into_iter().map(bare).collect())
    }
}

impl prompt_writer::Guest for Writer {
    fn write(
        context: Context,
        pool: Vec<Prompt>,
        batch: Vec<prompt_writer::Slot>,
    ) -> Result<Vec<prompt_writer::Reply>, Error> {
        let copy = || say(context.round, words(&pool[0].text));
        let reply = |slot: prompt_writer::Slot| match slot.answers.first() {
            _ if has("nothing") => prompt_writer::Reply::Done(Vec::new()),
            _ if has("copies") => prompt_writer::Reply::Done(vec![copy()]),
            None => {
                let last = pool.last().map_or("", |prompt| words(&prompt.text));
                let prompt =
                    say(0, &format!("{} so far. Write another one: {last}", pool.len())).text;
                prompt_writer::Reply::Ask(vec![Request::Generate(GenerateRequest {
                    model: "policy".into(),
                    prompt,
                    decoding: decoding(Some(6)),
                    seed: 0,
                })])
            }
            Some(Answer::Completion(completion)) => {
                let text = format!("{}.{} {}", context.round, slot.index, completion.text);
                prompt_writer::Reply::Done(vec![say(context.round, &text), copy()])
            }
            Some(_) => prompt_writer::Reply::Done(Vec::new()),
        };
        Ok(batch.into_iter().map(reply).collect())
    }
}

impl set_filter::Guest for Writer {
    fn observe(_context: Context, batch: Vec<Record>) -> Result<(), Error> {
        SEEN.with_borrow_mut(|seen| {
            for Record { prompt, .. } in batch {
                seen.entry(words(&prompt.text).to_owned()).or_insert(prompt.id);
            }
        });
        Ok(())
    }

    fn decide(_context: Context, batch: Vec<Record>) -> Result<Vec<Verdict>, Error> {
        let verdict = |Record { prompt, .. }: &Record| {
            let first = SEEN.with_borrow(|seen| seen.get(words(&prompt.text)).cloned());
            if first.as_ref() == Some(&prompt.id) {
                Verdict::Keep
            } else {
                Verdict::Drop("seen".into())
            }
        };
        Ok(batch.iter().map(verdict).collect())
    }
}

fn has(word: &str) -> bool {
    CONFIG.with_borrow(|config| config.contains(word))
}

fn tag(round: u32) -> String {
    format!("round:{round}")
}

fn say(round: u32, content: &str) -> Prompt {
    let message = Message { speaker: Speaker::User, content: content.into() };
    Prompt { id: String::new(), text: Text::Chat(vec![message]), tags: vec![tag(round)] }
}

fn words(text: &Text) -> &str {
    match text {
        Text::Raw(text) => text,
        Text::Chat(messages) => messages.last().map_or("", |message| &message.content),
    }
}

fn decoding(max_new_tokens: Option<u32>) -> Decoding {
    Decoding {
        temperature: None,
        top_p: None,
        top_k: None,
        repetition_penalty: None,
        max_new_tokens,
        stop: None,
    }
}

export!(Writer);
