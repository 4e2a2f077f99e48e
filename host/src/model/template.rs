//! Chat templates: a conversation becomes the text that the model was trained on.
//!
//! Templates come with the model and are not trusted: they run with a limited number of steps and
//! without a clock. The environment is the one of Hugging Face's `apply_chat_template`, so what is
//! rendered is the same, byte for byte. `strftime_now` tells the day that the plugin set names
//! (`chat.date`). Where it names none, the function is not there: a prompt that changes with the
//! day cannot be repeated, and templates that test for it fall back to a day of their own.

mod held;
mod python;
mod rewrite;
mod stack;

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use serde::Serialize;

use super::error::ModelError;
use crate::date::Date;
use crate::record::{Message, Speaker};

/// Steps that a template may take. A long conversation takes thousands; so does its text, of which each 64 bytes
/// are a step whenever they are made or printed. What is rendered has 16 MB at most, and stands in memory thrice
/// where a message has to be looked for.
const FUEL: u64 = 250_000;

/// The longest template, in bytes; those of models have a few kilobytes.
const MAX_BYTES: usize = 64 << 10;

/// The name under which the environment knows the template; errors show it with the line.
const NAME: &str = "chat template";

/// Stand before and after what `{% generation %}` encloses while a template renders; Unicode keeps
/// them free of any meaning.
const MARKS: [char; 2] = ['\u{FDD0}', '\u{FDD1}'];

/// What a plugin set says about the rendering of chats.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChatSettings {
    /// The day that `strftime_now` tells; where absent the template falls back to its own.
    pub date: Option<Date>,
    /// Further variables, such as `enable_thinking`. They go before special tokens of the same
    /// name, and after what [`Template::render`] itself gives, such as `messages`.
    pub variables: serde_json::Map<String, serde_json::Value>,
}

/// A chat template, ready to render.
pub struct Template {
    environment: Environment<'static>,
    model: String,
    source: String,
    tokens: Vec<(String, String)>,
    settings: ChatSettings,
    marks_generation: bool,
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
        let unreadable = |error: Error| ModelError::Template {
            model: model.to_owned(),
            message: format!("cannot be read: {error}"),
            hint: String::new(),
        };
        if source.len() > MAX_BYTES {
            let long = format!("it has more than {MAX_BYTES} bytes");
            return Err(unreadable(Error::new(ErrorKind::InvalidOperation, long)));
        }
        let mut environment = Environment::new();
        environment.set_syntax(syntax().map_err(unreadable)?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(100);
        python::add_to(&mut environment);
        held::add_to(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function(GENERATION, mark_generation);
        let rewritten = rewrite::rewrite(source).map_err(unreadable)?;
        stack::deep(|| environment.add_template_owned(NAME, rewritten.text)).map_err(unreadable)?;
        Ok(Template {
            environment,
            model: model.to_owned(),
            source: source.to_owned(),
            tokens,
            settings: ChatSettings::default(),
            marks_generation: rewritten.marks_generation,
        })
    }

    /// Makes the template render with the settings of a plugin set.
    pub fn set(&mut self, settings: ChatSettings) {
        match settings.date {
            Some(date) => self.environment.add_function("strftime_now", python::clock(date)),
            None => self.environment.remove_global("strftime_now"),
        }
        self.settings = settings;
    }

    /// Returns the Jinja text, as it came with the model.
    pub fn source(&self) -> &str {
        &self.source
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

    fn run(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        stack::deep(|| self.run_here(messages, add_generation_prompt))
    }

    fn run_here(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        let list: Vec<Value> = messages
            .iter()
            .map(|message| {
                context! { role => message.speaker.as_str(), content => message.content.as_str() }
            })
            .collect();
        let tokens = self.tokens.iter().map(|(name, text)| (name.as_str(), Value::from(text)));
        let own = self.settings.variables.iter();
        let own = own.map(|(name, value)| (name.as_str(), python::value(value)));
        // Of two with one name the last counts, so the user's come after the model's.
        let further = Value::from_pairs(tokens.chain(own));
        let variables = context! {
            messages => list,
            add_generation_prompt => add_generation_prompt,
            tools => (),
            documents => (),
            ..further
        };
        self.environment.get_template(NAME)?.render(variables)
    }

    fn refused(&self, messages: &[Message], error: &Error) -> ModelError {
        let system = messages.iter().any(|m| m.speaker == Speaker::System);
        let detail = error.detail().unwrap_or_default();
        let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
        let (message, hint) = match error.kind() {
            ErrorKind::OutOfFuel => {
                (format!("takes too many steps{line}"), "the template may be broken or hostile")
            }
            ErrorKind::UnknownFunction if detail.contains("strftime_now") => (
                format!("asks for today's date{line}"),
                "give it one that stays: `date = \"2026-11-22\"` in `[chat]` of the plugin set",
            ),
            _ if detail.starts_with(RAISED) => {
                let said = detail.trim_start_matches(RAISED);
                let roles: Vec<_> = messages.iter().map(|m| m.speaker.as_str()).collect();
                let message = format!("refuses {}: {said}", roles.join(", "));
                (message, if system { "system" } else { "" })
            }
            _ => (format!("cannot be rendered: {error}"), ""),
        };
        let hint = if hint == "system" { hint_for("system") } else { hint.to_owned() };
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

fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

/// Begins errors that the template itself raised.
const RAISED: &str = "raised: ";

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// The function that stands for the block tag `generation`.
const GENERATION: &str = "aligner_generation";

/// Renders the block and puts marks around it.
fn mark_generation(state: &mut State, options: Kwargs) -> Result<String, Error> {
    let block: Value = options.get("caller")?;
    let text = block.call(state, &[])?;
    let [begin, end] = MARKS;
    Ok(format!("{begin}{text}{end}"))
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
