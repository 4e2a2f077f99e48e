//! A template that is read and rendered in this process.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use serde::{Deserialize, Serialize};

use super::{ChatSettings, MARKS, python, stack};
use crate::record::Message;

/// Steps that a template may take. A long conversation takes thousands; so does its text, of which each 64 bytes
/// are a step whenever they are made or printed. What is rendered has 16 MB at most, and stands in memory thrice
/// where a message has to be looked for.
const FUEL: u64 = 250_000;

/// The longest template, in bytes; those of models have a few kilobytes.
pub(super) const MAX_BYTES: usize = 64 << 10;

/// The name under which the environment knows the template; errors show it with the line.
const NAME: &str = "chat template";

/// What a template is, besides the conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    /// The Jinja text.
    pub(super) source: String,
    /// Names and texts of special tokens.
    pub(super) tokens: Vec<(String, String)>,
    pub(super) settings: ChatSettings,
}

/// Why a template could not be read or rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fault {
    pub(super) cause: Cause,
    pub(super) line: Option<usize>,
    /// All that the engine says.
    pub(super) said: String,
}

/// What a fault comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Cause {
    /// It took more than [`FUEL`] steps.
    Steps,
    /// It called a function that is not there.
    Unknown(String),
    /// It refused, in these words.
    Raised(String),
    /// What rendered it came to an end: says how.
    Broken,
    /// Anything else.
    Other,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        let detail = error.detail().unwrap_or_default();
        let cause = match error.kind() {
            ErrorKind::OutOfFuel => Cause::Steps,
            ErrorKind::UnknownFunction => Cause::Unknown(detail.to_owned()),
            _ => match detail.strip_prefix(RAISED) {
                Some(said) => Cause::Raised(said.to_owned()),
                None => Cause::Other,
            },
        };
        Fault { cause, line: error.line(), said: error.to_string() }
    }
}

/// A template that has been read.
pub(super) struct Engine {
    environment: Environment<'static>,
    tokens: Vec<(String, String)>,
    settings: ChatSettings,
}

impl Engine {
    pub(super) fn new(setup: &Setup) -> Result<Engine, Fault> {
        if setup.source.len() > MAX_BYTES {
            let long = format!("it has more than {MAX_BYTES} bytes");
            return Err(Error::new(ErrorKind::InvalidOperation, long).into());
        }
        let mut environment = Environment::new();
        environment.set_syntax(syntax()?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(100);
        python::add_to(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function(GENERATION, mark_generation);
        // It prints all there is.
        environment.remove_global("debug");
        let (rewritten, _) = generation_as_call(&setup.source);
        stack::deep(|| environment.add_template_owned(NAME, rewritten))?;
        let (tokens, settings) = (setup.tokens.clone(), ChatSettings::default());
        let mut engine = Engine { environment, tokens, settings };
        engine.set(setup.settings.clone());
        Ok(engine)
    }

    /// Renders with other settings from here on.
    pub(super) fn set(&mut self, settings: ChatSettings) {
        match settings.date {
            Some(date) => self.environment.add_function("strftime_now", python::clock(date)),
            None => self.environment.remove_global("strftime_now"),
        }
        self.settings = settings;
    }

    /// Renders a conversation; with `start`, up to where the assistant begins.
    pub(super) fn render(&self, messages: &[Message], start: bool) -> Result<String, Fault> {
        Ok(stack::deep(|| self.render_here(messages, start))?)
    }

    fn render_here(&self, messages: &[Message], start: bool) -> Result<String, Error> {
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
            add_generation_prompt => start,
            tools => (),
            documents => (),
            ..further
        };
        self.environment.get_template(NAME)?.render(variables)
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

/// Replaces the block tag `generation`, which Jinja does not have, by a call of a function, which
/// is what Hugging Face's extension makes of it too; also returns whether there was one.
pub(super) fn generation_as_call(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut found) = (source, false);
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{#")).min() {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let close = if tag.starts_with("{%") { "%}" } else { "#}" };
        let end = tag.find(close).map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        match tag.trim_matches(['{', '}', '%', '-', '+']).trim() {
            "generation" => {
                found = true;
                out.push_str(&tag.replace("generation", &format!("call {GENERATION}()")));
            }
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endcall")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    (out, found)
}
