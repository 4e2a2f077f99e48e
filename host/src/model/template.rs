//! Chat templates: a conversation becomes the text that the model was trained on.
//!
//! Templates come with the model and are not trusted: they run with a limited number of steps and
//! without a clock. The environment is the one of Hugging Face's `apply_chat_template`, so what is
//! rendered is the same, byte for byte. `strftime_now` is not there: a prompt that changes with the
//! date cannot be repeated, and templates that test for it fall back to a date of their own.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, context};
use serde_json::ser::{PrettyFormatter, Serializer};

use super::error::ModelError;
use crate::record::{Message, Speaker};

/// Steps that a template may take, and by 64 bytes each the memory; a long conversation takes
/// thousands.
const FUEL: u64 = 2_000_000;

/// A chat template, ready to render.
pub struct Template {
    environment: Environment<'static>,
    model: String,
    source: String,
    tokens: Vec<(String, String)>,
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
        let mut environment = Environment::new();
        environment.set_syntax(syntax().map_err(unreadable)?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(100);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(print_as_python);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned("chat template", without_generation_marks(source))
            .map_err(unreadable)?;
        Ok(Template { environment, model: model.to_owned(), source: source.to_owned(), tokens })
    }

    /// Returns the Jinja text, as it came with the model.
    pub fn source(&self) -> &str {
        &self.source
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
        let list: Vec<Value> = messages
            .iter()
            .map(|message| {
                context! { role => message.speaker.as_str(), content => message.content.as_str() }
            })
            .collect();
        let tokens = Value::from_pairs(
            self.tokens.iter().map(|(name, text)| (name.as_str(), text.as_str())),
        );
        let variables = context! {
            messages => list,
            add_generation_prompt => add_generation_prompt,
            tools => (),
            documents => (),
            ..tokens
        };
        let text = self
            .environment
            .get_template("chat template")
            .and_then(|template| template.render(variables))
            .map_err(|error| self.refused(messages, &error))?;
        for message in messages {
            let content = message.content.trim();
            if message.speaker != Speaker::Assistant && !text.contains(content) {
                let role = message.speaker.as_str();
                return Err(ModelError::Template {
                    model: self.model.clone(),
                    message: format!("leaves out the {role} message"),
                    hint: hint_for(role),
                });
            }
        }
        Ok(text)
    }

    fn refused(&self, messages: &[Message], error: &Error) -> ModelError {
        let system = messages.iter().any(|m| m.speaker == Speaker::System);
        let detail = error.detail().unwrap_or_default();
        let (message, hint) = match error.kind() {
            ErrorKind::OutOfFuel => {
                ("takes too many steps".to_owned(), "the template may be broken or hostile")
            }
            ErrorKind::UnknownFunction if detail.contains("strftime_now") => (
                "asks for today's date".to_owned(),
                "put a template without `strftime_now` beside the model as `chat_template.jinja`",
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

/// Marks errors that the template itself raised.
const RAISED: &str = "raised: ";

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// Prints truth values and nothing as Python does.
fn print_as_python(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        ValueKind::None => "None",
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(Error::from)
}

/// Python's `json.dumps(value, ensure_ascii=False)`: a space after commas and colons, and nothing
/// escaped for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let fail = |error: serde_json::Error| {
        Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON").with_source(error)
    };
    let value = json(value)?;
    let mut bytes = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            serde::Serialize::serialize(
                &value,
                &mut Serializer::with_formatter(&mut bytes, formatter),
            )
        }
        None => serde::Serialize::serialize(
            &value,
            &mut Serializer::with_formatter(&mut bytes, OneLine),
        ),
    }
    .map_err(fail)?;
    String::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON"))
}

fn json(value: &Value) -> Result<serde_json::Value, Error> {
    let compact =
        minijinja::filters::tojson(value, None, Kwargs::from_iter::<[(&str, Value); 0]>([]))?;
    serde_json::from_str(compact.as_str().unwrap_or("null")).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON").with_source(error)
    })
}

/// One line with a space after commas and colons.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Replaces the block tag `generation`, which marks what the assistant wrote and prints nothing,
/// by a condition that always holds.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let word = tag.trim_matches(['{', '}', '%', '-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(speaker: Speaker, content: &str) -> Message {
        Message { speaker, content: content.to_owned() }
    }

    fn template(source: &str) -> Template {
        Template::new("m", source, vec![("bos_token".to_owned(), "<s>".to_owned())]).unwrap()
    }

    #[test]
    fn renders_what_hugging_face_renders() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/templates.json");
        let fixtures: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let mut count = 0;
        for fixture in fixtures.as_array().unwrap() {
            let name = fixture["name"].as_str().unwrap();
            let tokens = fixture["tokens"].as_object().unwrap();
            let tokens =
                tokens.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned())).collect();
            let template =
                Template::new(name, fixture["template"].as_str().unwrap(), tokens).unwrap();
            for case in fixture["cases"].as_array().unwrap() {
                let messages: Vec<Message> =
                    serde_json::from_value(case["messages"].clone()).unwrap();
                let start = case["add_generation_prompt"].as_bool().unwrap();
                match (template.render(&messages, start), case["text"].as_str()) {
                    (Ok(found), Some(expected)) => assert_eq!(found, expected, "{name}"),
                    (Err(error), None) => {
                        let said = case["error"].as_str().unwrap();
                        assert!(error.to_string().ends_with(said), "{name}: {error}");
                    }
                    (found, expected) => panic!("{name}: {found:?} instead of {expected:?}"),
                }
                count += 1;
            }
        }
        assert_eq!(count, 6 * 14);
    }

    fn check_error(source: &str, expected: &str) {
        let messages = [say(Speaker::System, "Be brief."), say(Speaker::User, "Hi")];
        let error = template(source).render(&messages, true).unwrap_err().to_string();
        assert_eq!(error, format!("the chat template of `m` {expected}"));
    }

    #[test]
    fn a_message_is_never_left_out() {
        check_error("{{ messages[1].content }}", "leaves out the system message");
        check_error("{{ messages[0].content }}", "leaves out the user message");
        check_error("{{ raise_exception('no') }}", "refuses system, user: no");
    }

    #[test]
    fn a_hostile_template_ends() {
        let too_many = "takes too many steps";
        let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}\
                     {% endfor %}";
        check_error(loops, too_many);
        let grows = "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}\
                     {% set n.x = n.x ~ n.x %}{% endfor %}";
        check_error(grows, too_many);
        check_error("{{ 'a' * 100000000000 }}", too_many);
        let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        let messages = [say(Speaker::User, "Hi")];
        assert!(template(recursion).render(&messages, true).is_err());
    }

    #[test]
    fn there_is_no_clock() {
        let messages = [say(Speaker::User, "Hi")];
        let asks = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024\
                    {% endif %} {{ messages[0].content }}";
        assert_eq!(template(asks).render(&messages, true).unwrap(), "2024 Hi");
        check_error("{{ strftime_now('%Y') }}", "asks for today's date");
    }

    #[test]
    fn a_broken_template_says_where() {
        let error = Template::new("m", "{% for x %}", Vec::new()).err().unwrap().to_string();
        assert!(
            error.starts_with("the chat template of `m` cannot be read: syntax error"),
            "{error}"
        );
    }

    #[test]
    fn json_is_pythons() {
        let messages = [say(Speaker::User, "<a href=\"é\">&'")];
        assert_eq!(
            template("{{ messages | tojson }} {{ messages[0].content }}")
                .render(&messages, true)
                .unwrap(),
            "[{\"role\": \"user\", \"content\": \"<a href=\\\"é\\\">&'\"}] <a href=\"é\">&'"
        );
    }
}
