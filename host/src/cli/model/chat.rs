//! `aligner model chat`: talks to a model, with an adapter or without.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    ops::ControlFlow,
};

use super::ChatArgs;
use crate::{
    cli::{CliError, exit, host, output},
    generate::{self, Hooks, Job, Sampling, SequenceError, Settings},
    model::{backend::AnyDevice, weights::LoadedAdapter},
    record::{Message, Speaker, Text},
    round::{Loaded, RunError},
    run::seed,
};

/// Answers one prompt, or each line of standard input in turn, until its end.
pub fn main(args: &ChatArgs) -> Result<(), CliError> {
    let device = args.device.resolve(args.dtype)?;
    let progress = args.shown.open();
    let name = host::model_name(args.model.as_deref(), args.adapter.as_deref())?;
    let opened = host::open(&name, &progress)?;
    let adapter =
        args.adapter.as_deref().map(|it| host::writing_adapter(it, &opened)).transpose()?;
    let (loaded, adapter) =
        host::load_adapted(&opened, adapter.as_ref(), &device, args.dtype, &progress)?;

    let mut messages = Vec::new();
    let say = |speaker, content: &str| Message { speaker, content: content.to_owned() };
    messages.extend(args.system.as_deref().map(|text| say(Speaker::System, text)));
    if let Some(prompt) = &args.prompt {
        messages.push(say(Speaker::User, prompt));
        answer(args, &loaded, adapter.as_ref(), &messages)?;
        return Ok(());
    }
    let stdin = io::stdin();
    let terminal = stdin.is_terminal();
    if terminal {
        progress.note(&format!("talking to {name}; an empty line or Ctrl-D ends it"));
    }
    loop {
        if terminal {
            let _ = write!(io::stderr(), "> ");
        }
        let mut line = String::new();
        let read = stdin.lock().read_line(&mut line).map_err(|error| {
            CliError::new(exit::USAGE, format!("cannot read from standard input: {error}"))
        })?;
        let line = line.trim();
        if read == 0 || (terminal && line.is_empty()) {
            return Ok(());
        }
        if line.is_empty() {
            continue;
        }
        messages.push(say(Speaker::User, line));
        let text = answer(args, &loaded, adapter.as_ref(), &messages)?;
        messages.push(say(Speaker::Assistant, &text));
    }
}

/// Writes the model's answer to stdout as it comes, and returns it.
fn answer(
    args: &ChatArgs,
    loaded: &Loaded,
    adapter: Option<&LoadedAdapter<AnyDevice>>,
    messages: &[Message],
) -> Result<String, CliError> {
    let model = &loaded.model;
    let prompt = model.encode_prompt(&Text::Chat(messages.to_vec()))?;
    let room = model.spec.context_length.saturating_sub(prompt.len());
    let job = Job {
        prompt,
        sampling: Sampling {
            temperature: args.temperature,
            top_p: args.top_p,
            top_k: 0,
            repetition_penalty: 1.0,
            max_new_tokens: (args.max_new_tokens as usize).min(room.max(1)),
        },
        seed: seed::of([args.seed.into(), "chat".into(), (messages.len() as u64).into()]),
    };
    let end_tokens = model.tokenizer.stop_tokens();
    let settings =
        Settings { end_tokens: end_tokens.clone(), ..Settings::on(&loaded.engine.backend) };
    // Tokens are shown as they are drawn; `stop` sees each one, and never stops.
    let shown = std::sync::Mutex::new((model.tokenizer.stream(), String::new()));
    let show = |tokens: &[u32]| {
        let Some(&token) = tokens.last() else { return };
        let mut shown = shown.lock().expect("nothing panics while it is held");
        if end_tokens.contains(&token) {
            return;
        }
        if let Ok(text) = shown.0.push(token) {
            let _ = output::print(&text);
            shown.1.push_str(&text);
        }
    };
    let hooks = Hooks {
        stop: &|_, tokens| {
            show(tokens);
            false
        },
        on_done: &mut |_, _| ControlFlow::Continue(()),
        progress: &mut |_| ControlFlow::Continue(()),
    };
    let result = generate::generate(&loaded.engine, adapter, &[job], &settings, hooks);
    let (stream, mut text) = shown.into_inner().expect("nothing panics while it is held");
    let rest = stream.finish()?;
    output::print(&format!("{rest}\n"))?;
    text.push_str(&rest);
    match result {
        Ok(()) => Ok(text),
        Err(SequenceError::Sequence { problem, .. }) => {
            Err(CliError::new(exit::MODEL_OR_DATA, format!("the conversation {problem}")))
        }
        Err(error) => Err(RunError::Engine(error).into()),
    }
}
