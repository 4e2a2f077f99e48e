use super::engine::MAX_BYTES;
use super::*;

fn say(speaker: Speaker, content: &str) -> Message {
    Message { speaker, content: content.to_owned() }
}

fn template(source: &str) -> Template {
    Template::new("m", source, vec![("bos_token".to_owned(), "<s>".to_owned())]).unwrap()
}

/// What `make_templates.py` wrote.
pub(in crate::model) fn fixtures() -> serde_json::Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/templates.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Returns a template of the fixtures with its name and special tokens.
pub(in crate::model) fn of_fixture(fixture: &serde_json::Value) -> Template {
    let name = fixture["name"].as_str().unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/templates");
    let source = std::fs::read_to_string(format!("{folder}/{name}.jinja")).unwrap();
    let tokens = ["bos_token", "eos_token"]
        .map(|role| (role.to_owned(), fixture[role].as_str().unwrap().to_owned()));
    Template::new(name, &source, tokens.into()).unwrap()
}

pub(in crate::model) fn conversations(fixtures: &serde_json::Value) -> Vec<Vec<Message>> {
    serde_json::from_value(fixtures["conversations"].clone()).unwrap()
}

fn check_rendering(template: &Template, messages: &[Message], start: bool, expected: &Expected) {
    let name = &template.model;
    match (template.render(messages, start), expected) {
        (Ok(found), Ok(expected)) => assert_eq!(&found, expected, "{name}: {messages:?}"),
        // What is no error there is one here.
        (Err(ModelError::Template { message, .. }), Ok(expected)) => {
            let role = message
                .strip_prefix("leaves out the ")
                .and_then(|rest| rest.strip_suffix(" message"))
                .unwrap_or_else(|| panic!("{name}: {message}: {messages:?}"));
            let left_out = messages
                .iter()
                .any(|m| m.speaker.as_str() == role && !expected.contains(m.content.trim()));
            assert!(left_out, "{name}: {message}: {expected}");
        }
        (Err(error), Err(said)) => {
            assert!(error.to_string().ends_with(said.as_str()), "{name}: {error}");
        }
        (found, expected) => panic!("{name}: {found:?} instead of {expected:?}"),
    }
}

type Expected = Result<String, String>;

#[test]
fn renders_what_hugging_face_renders() {
    let fixtures = fixtures();
    let conversations = conversations(&fixtures);
    let date: Date = fixtures["date"].as_str().unwrap().parse().unwrap();
    let text = |value: &serde_json::Value, before: &Expected| match value {
        serde_json::Value::String(text) => Ok(text.clone()),
        value => match (value["adds"].as_str(), before) {
            (Some(adds), Ok(before)) => Ok(format!("{before}{adds}")),
            _ => Err(value["error"].as_str().unwrap().to_owned()),
        },
    };
    let (mut count, mut dates) = (0, 0);
    for fixture in fixtures["templates"].as_array().unwrap() {
        let mut template = of_fixture(fixture);
        dates += usize::from(template.source().contains("strftime_now"));
        for rendering in fixture["renderings"].as_array().unwrap() {
            let variables = rendering["variables"].as_object().unwrap().clone();
            template.set(ChatSettings { date: Some(date), variables });
            let texts = rendering["texts"].as_array().unwrap();
            for (messages, pair) in conversations.iter().zip(texts) {
                let whole = text(&pair[0], &Err(String::new()));
                check_rendering(&template, messages, false, &whole);
                check_rendering(&template, messages, true, &text(&pair[1], &whole));
                count += 2;
            }
        }
    }
    assert_eq!((count, dates), ((28 + 6) * 13 * 2, 2));
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
    let forged = "{{ raise_exception('\u{1b}]0;x\n\nerror: all fine\u{202e}') }}";
    check_error(forged, "refuses system, user: ]0;x error: all fine");
}

#[test]
fn a_hostile_template_ends() {
    let too_many = "takes too many steps (line 1)";
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
fn a_hostile_template_takes_little_memory() {
    let fails = |source: &str, expected: &str| {
        let messages = [say(Speaker::User, "Hi")];
        let made = Template::new("m", source, Vec::new());
        let error = made.and_then(|template| template.render(&messages, true)).unwrap_err();
        let said = format!("{error}");
        assert!(said.contains(expected), "{said}\n  lacks\n{expected}");
    };
    let too_many = "takes too many steps";
    fails("{{ ('x' * 100000).replace('x', 'y' * 3000) }}", too_many);
    fails("{{ ('x' * 100000).replace('x', 'y' * 3000, 99999) }}", too_many);
    fails("{{ ('y' * 1000000).join([0] * 1000) }}", too_many);
    fails("{{ '{:>1000000000}'.format(1) }}", too_many);
    let nested = |times: usize, then: &str| {
        format!(
            "{{% set n = namespace(x=[0] * 9999) %}}{{% for i in range({times}) %}}\
             {{% set n.x = [n.x] %}}{{% endfor %}}{{{{ n.x{then} }}}}"
        )
    };
    fails(&nested(90, " | tojson(indent=16)"), "cannot be written as JSON");
    // Deep enough to go through the stack of a usual thread, as values and as expressions.
    fails(&nested(20_000, " | length"), "");
    fails(&nested(20_000, ""), "");
    fails(&format!("{{{{ 1{} }}}}", "+1".repeat(30_000)), "leaves out the user message");
    fails(&format!("{{{{ {}1 }}}}", "-".repeat(60_000)), "");
    fails(&format!("{{{{ a{} }}}}", ".a".repeat(30_000)), "");
    fails(&"{% if 1 %}".repeat(6_000), "cannot be read");
    fails(&"x".repeat(MAX_BYTES + 1), "it has more than 65536 bytes");
}

#[test]
fn methods_of_texts_are_python_s() {
    let messages = [say(Speaker::User, "Hi")];
    let source = "{{ messages[0].content }} {{ 'a-b-c'.replace('-', '+') }} {{ 'a-b-c'.replace('-', '', 1) }} \
                  {{ ', '.join(['a', 1, none]) }} {{ 'in 123456: {:>3}'.format(7) }}";
    let rendered = template(source).render(&messages, true).unwrap();
    assert_eq!(rendered, "Hi a+b+c ab-c a, 1, None in 123456:   7");
}

#[test]
fn the_day_is_the_one_of_the_plugin_set() {
    let messages = [say(Speaker::User, "Hi")];
    let asks = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024\
                {% endif %} {{ messages[0].content }}";
    let settings = |date: &str| ChatSettings { date: date.parse().ok(), ..ChatSettings::default() };
    let mut template = template(asks);
    assert_eq!(template.render(&messages, true).unwrap(), "2024 Hi");
    template.set(settings("2026-11-22"));
    assert_eq!(template.render(&messages, true).unwrap(), "2026 Hi");
    template.set(ChatSettings::default());
    assert_eq!(template.render(&messages, true).unwrap(), "2024 Hi");

    check_error("\n{{ strftime_now('%Y') }}", "asks for today's date (line 2)");
    let mut template = self::template("{{ strftime_now('%Z') }}");
    template.set(settings("2026-11-22"));
    let error = template.render(&messages, true).unwrap_err().to_string();
    assert!(error.contains("asks `strftime_now` for `%Z`, which is not known here"), "{error}");
}

#[test]
fn variables_of_the_plugin_set_reach_the_template() {
    let messages = [say(Speaker::User, "Hi")];
    let mut template = template("{{ bos_token }}{{ thinking }}{{ messages[0].content }}");
    let variables = serde_json::json!({
        "thinking": false, "bos_token": "<b>", "messages": [], "add_generation_prompt": 1,
    });
    template.set(ChatSettings { date: None, variables: variables.as_object().unwrap().clone() });
    assert_eq!(template.render(&messages, true).unwrap(), "<b>FalseHi");
}

#[test]
fn what_the_template_marks_is_told() {
    let check = |source: &str, text: &str, generated: &[&str]| {
        let messages = [say(Speaker::User, "é?"), say(Speaker::Assistant, "ja")];
        let rendered = template(source).render_marked(&messages, false).unwrap();
        assert_eq!(rendered.text, text);
        let found: Vec<&str> =
            rendered.generated.iter().map(|r| &rendered.text[r.clone()]).collect();
        assert_eq!(found, generated);
    };
    let both = "{{ messages[0].content }} {% generation %}{{ messages[1].content }}\
                {% endgeneration %}!";
    check(both, "é? ja!", &["ja"]);
    check("{{ messages[0].content }}{# {% generation %} #}", "é?", &[]);
    let lines = "{%- for m in messages %}\n    {%- generation %}\n    {%- set x = m.content %}\n\
                 {{- x ~ loop.index }}\n    {%- endgeneration -%}\n{% endfor %}{{ x }}";
    check(lines, "é?1ja2", &["é?1", "ja2"]);

    let unclosed = "{{ messages[0].content }}{% generation %}";
    assert!(Template::new("m", unclosed, Vec::new()).is_err());
    let messages = [say(Speaker::User, "\u{FDD0}")];
    assert!(template(both).render(&messages, true).is_err());
}

#[test]
fn a_switch_in_a_message_is_not_left_out() {
    let source = "{{ messages[0].content.replace('/no_think', '') }}\
                  {% if '/no_think' in messages[0].content %} quick{% endif %}";
    let messages = [say(Speaker::User, "Why? /no_think now")];
    assert_eq!(template(source).render(&messages, true).unwrap(), "Why?  now quick");
}

#[test]
fn a_broken_template_says_where() {
    let error = Template::new("m", "{% for x %}", Vec::new()).err().unwrap().to_string();
    assert!(error.starts_with("the chat template of `m` cannot be read: syntax error"), "{error}");
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
    let options = "{{ {'b': 'é👩', 'a': []} | tojson(sort_keys=true, ensure_ascii=true) }}\
                   {{ messages[0].content }}";
    assert_eq!(
        template(options).render(&messages, true).unwrap(),
        "{\"a\": [], \"b\": \"\\u00e9\\ud83d\\udc69\"}<a href=\"é\">&'"
    );
}
