//! Chat templates: a conversation becomes the text that the model was trained on.
//!
//! Templates come with the model and are not trusted: they run with a limited number of steps, without a clock, and in a
//! process of their own, so that one that takes all memory ends that process alone (`process`). The environment is the one of Hugging Face's `apply_chat_template`, so what is
//! rendered is the same, byte for byte. `strftime_now` tells the day that the plugin set names
//! (`chat.date`). Where it names none, the function is not there: a prompt that changes with the
//! day cannot be repeated, and templates that test for it fall back to a day of their own.

mod engine;
mod process;
mod python;
mod stack;

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use engine::{Cause, Engine, Fault, Setup};
use process::Process;
pub use process::{ARGUMENT, child_main, isolate};

use super::error::ModelError;
use crate::date::Date;
use crate::record::{Message, Speaker};
use crate::shown::one_line;

/// Characters of its own that a template may put into an error.
const MOST_SAID: usize = 300;

/// Stand before and after what `{% generation %}` encloses while a template renders; Unicode keeps
/// them free of any meaning.
const MARKS: [char; 2] = ['\u{FDD0}', '\u{FDD1}'];

/// What a plugin set says about the rendering of chats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatSettings {
    /// The day that `strftime_now` tells; where absent the template falls back to its own.
    pub date: Option<Date>,
    /// Further variables, such as `enable_thinking`. They go before special tokens of the same
    /// name, and after what [`Template::render`] itself gives, such as `messages`.
    pub variables: serde_json::Map<String, serde_json::Value>,
}

/// A chat template, ready to render.
pub struct Template {
    model: String,
    setup: Setup,
    renderer: Renderer,
    marks_generation: bool,
}

/// Where a template renders.
enum Renderer {
    /// In this process.
    Here(Box<Engine>),
    /// In children of this program.
    Child(&'static Path, Mutex<Running>),
}

impl Renderer {
    fn new(setup: &Setup) -> Result<Renderer, Fault> {
        Ok(match process::program() {
            None => Renderer::Here(Box::new(Engine::new(setup)?)),
            Some(program) => {
                let process = Process::start(program, setup)?;
                Renderer::Child(program, Mutex::new(Running::Alive(process)))
            }
        })
    }
}

/// A child that renders.
enum Running {
    /// It is started by the next conversation.
    None,
    Alive(Process),
    /// It died, and says how: a template that took all time or memory once is not given more.
    Dead(Fault),
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// What the template printed.
    pub text: String,
    /// The bytes of `text` that stand in `{% generation %}` blocks, in their order: what the
    /// assistant writes, as the template's author marked it.
    pub generated: Vec<Range<usize>>,
}

impl Template {
    /// Compiles a template.
    ///
    /// - `model`: the model's name, for errors.
    /// - `source`: the Jinja text.
    /// - `tokens`: names and texts of special tokens, such as `("bos_token", "<s>")`.
    pub fn new(
        model: &str,
        source: &str,
        tokens: Vec<(String, String)>,
    ) -> Result<Template, ModelError> {
        let (source, settings) = (source.to_owned(), ChatSettings::default());
        let setup = Setup { source, tokens, settings };
        let renderer = Renderer::new(&setup).map_err(|fault| ModelError::Template {
            model: model.to_owned(),
            message: format!("cannot be read: {}", one_line(&fault.said, MOST_SAID)),
            hint: String::new(),
        })?;
        let (_, marks_generation) = engine::generation_as_call(&setup.source);
        Ok(Template { model: model.to_owned(), setup, renderer, marks_generation })
    }

    /// Makes the template render with the settings of a plugin set.
    pub fn set(&mut self, settings: ChatSettings) {
        // A child need not be started again for what it was told.
        if settings == self.setup.settings {
            return;
        }
        match &mut self.renderer {
            Renderer::Here(engine) => engine.set(settings.clone()),
            // The next one is told of them.
            Renderer::Child(_, process) => {
                *process.get_mut().unwrap_or_else(PoisonError::into_inner) = Running::None;
            }
        }
        self.setup.settings = settings;
    }

    /// Returns the Jinja text, as it came with the model.
    pub fn source(&self) -> &str {
        &self.setup.source
    }

    /// Returns whether the template itself marks what the assistant writes.
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// Renders a conversation; with `add_generation_prompt`, up to where the assistant begins.
    ///
    /// Fails where the template refuses the conversation, and where it leaves out a message of the
    /// system or the user.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        Ok(self.render_marked(messages, add_generation_prompt)?.text)
    }

    /// Renders as [`Template::render`] does, and tells what stands in `{% generation %}` blocks.
    pub fn render_marked(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Rendered, ModelError> {
        if messages.iter().any(|message| message.content.contains(MARKS)) {
            return Err(ModelError::Conversation(
                "a message holds U+FDD0 or U+FDD1, which Unicode says are no characters",
            ));
        }
        let marked = self
            .run(messages, add_generation_prompt)
            .map_err(|error| self.refused(messages, &error))?;
        let rendered = without_marks(&marked);
        for (at, message) in messages.iter().enumerate() {
            let there = message.speaker == Speaker::Assistant
                || rendered.text.contains(message.content.trim())
                || self.heeds(messages, at, add_generation_prompt, &marked);
            if !there {
                let role = message.speaker.as_str();
                return Err(ModelError::Template {
                    model: self.model.clone(),
                    message: format!("leaves out the {role} message"),
                    hint: hint_for(role),
                });
            }
        }
        Ok(rendered)
    }

    /// Returns whether a message that the text does not hold as it is has an effect at all: some
    /// templates read switches in it, such as `/no_think`, and leave them out.
    fn heeds(&self, messages: &[Message], at: usize, start: bool, marked: &str) -> bool {
        let mut without = messages.to_vec();
        without[at].content.clear();
        self.run(&without, start).map_or(true, |text| text != marked)
    }

    fn run(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Fault> {
        let (program, running) = match &self.renderer {
            Renderer::Here(engine) => return engine.render(messages, add_generation_prompt),
            Renderer::Child(program, running) => (program, running),
        };
        // Whoever panicked with it left none.
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = match std::mem::replace(&mut *running, Running::None) {
            Running::None => Process::start(program, &self.setup)?,
            Running::Alive(process) => process,
            Running::Dead(fault) => {
                *running = Running::Dead(fault.clone());
                return Err(fault);
            }
        };
        let rendered = process.render(messages, add_generation_prompt);
        *running = match &rendered {
            Err(fault) if fault.cause == Cause::Broken => Running::Dead(fault.clone()),
            _ => Running::Alive(process),
        };
        rendered
    }

    fn refused(&self, messages: &[Message], fault: &Fault) -> ModelError {
        let system = messages.iter().any(|m| m.speaker == Speaker::System);
        let line = fault.line.map(|line| format!(" (line {line})")).unwrap_or_default();
        const HOSTILE: &str = "the template may be broken or hostile";
        let (message, hint) = match &fault.cause {
            Cause::Steps => (format!("takes too many steps{line}"), HOSTILE.to_owned()),
            Cause::Broken => (format!("cannot be rendered: {}", fault.said), HOSTILE.to_owned()),
            Cause::Unknown(function) if function.contains("strftime_now") => (
                format!("asks for today's date{line}"),
                "give it one that stays: `date = \"2026-11-22\"` in `[chat]` of the plugin set"
                    .to_owned(),
            ),
            Cause::Raised(said) => {
                let said = one_line(said, MOST_SAID);
                let roles: Vec<_> = messages.iter().map(|m| m.speaker.as_str()).collect();
                let message = format!("refuses {}: {said}", roles.join(", "));
                (message, if system { hint_for("system") } else { String::new() })
            }
            Cause::Unknown(_) | Cause::Other => {
                (format!("cannot be rendered: {}", one_line(&fault.said, MOST_SAID)), String::new())
            }
        };
        ModelError::Template { model: self.model.clone(), message, hint }
    }
}

fn hint_for(role: &str) -> String {
    match role {
        "system" => "this model may not take a system message; put its text into the first \
                     message of the user"
            .to_owned(),
        _ => String::new(),
    }
}

/// Takes the marks out of a rendered text and notes where they stood.
fn without_marks(marked: &str) -> Rendered {
    let mut rendered =
        Rendered { text: String::with_capacity(marked.len()), generated: Vec::new() };
    let mut begun = None;
    for piece in marked.split_inclusive(MARKS) {
        let plain = piece.trim_end_matches(MARKS);
        rendered.text.push_str(plain);
        match piece[plain.len()..].chars().next() {
            Some(mark) if mark == MARKS[0] => begun = Some(rendered.text.len()),
            Some(_) => {
                rendered.generated.extend(begun.take().map(|from| from..rendered.text.len()))
            }
            None => {}
        }
    }
    rendered
}

#[cfg(test)]
pub(super) mod tests;
