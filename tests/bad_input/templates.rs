//! Chat templates that would take all memory, all time or all depth: they end the process that renders them, and nothing
//! else.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aligner::model::template::{self, Template};
use aligner::record::{Message, Speaker};
use serde_json::{Value, json};

use crate::runs::{Place, tests};

/// Makes templates render in the real program.
pub fn isolate() {
    template::isolate(env!("CARGO_BIN_EXE_aligner").into());
}

#[test]
fn a_hostile_template_ends_its_own_process_alone() {
    isolate();
    let content = "Hi".to_owned();
    let messages = [Message { speaker: Speaker::User, content }];
    let wrapped = |hostile: &str| {
        let source = format!("{{{{ messages[0].content }}}}{{% if bad %}}{hostile}{{% endif %}}");
        Template::new("m", &source, Vec::new()).unwrap()
    };
    let memory = "it takes too much memory, or nests too deeply";
    let time = "it takes over 10 s";
    for (hostile, expected) in [
        ("{% set n = namespace() %}{% set n.x = n %}{{ n }}", "takes too many steps"),
        ("{% set n = namespace() %}{% set n.x = n %}{{ n == n.x ~ '' }}", memory),
        ("{{ (['x' * 1000000] * (100000 if bad)) ~ '' }}", memory),
        ("{{ ([0] * (100000000 if bad)) | string | length }}", ""),
        (
            "{% for i in range(9999) %}{{ ([[''] * (100000000 if bad)] == [[''] * 100000000]) }}{% endfor %}",
            time,
        ),
        ("{% for a in [1] %}{{ loop.cycle() }}{% endfor %}", "it makes no sense to its reader"),
        ("{{ raise_exception('no') }}", "refuses user: no"),
    ] {
        let mut template = wrapped(hostile);
        assert_eq!(template.render(&messages, true).unwrap(), "Hi", "{hostile}");
        let variables = serde_json::json!({ "bad": true });
        let variables = variables.as_object().unwrap().clone();
        let settings = template::ChatSettings { variables, ..Default::default() };
        template.set(settings);
        let begun = Instant::now();
        let error = template.render(&messages, true).unwrap_err().to_string();
        assert!(error.contains(expected), "{hostile}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{hostile}: {:?}", begun.elapsed());
        // The next one has a process again.
        template.set(template::ChatSettings::default());
        assert_eq!(template.render(&messages, true).unwrap(), "Hi", "after {hostile}");
    }
    // What is hostile when it is read is refused then.
    let error = Template::new("m", "{{ ([0] * 100000000) ~ '' }}", Vec::new()).err();
    let error = error.map(|error| error.to_string());
    assert!(error.is_none_or(|said| said.contains("cannot be read")));
}

#[test]
fn a_signal_to_all_of_a_run_leaves_the_child_until_its_input_ends() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_aligner"))
        .arg(template::ARGUMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut ask = |question: serde_json::Value| -> serde_json::Value {
        let question = question.to_string();
        input.write_all(&u32::try_from(question.len()).unwrap().to_le_bytes()).unwrap();
        input.write_all(question.as_bytes()).unwrap();
        let mut length = [0; 4];
        output.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_le_bytes(length) as usize];
        output.read_exact(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    };
    let settings = json!({ "date": null, "variables": {} });
    let source = "{{ messages[0].content }}";
    assert_eq!(
        ask(json!({ "source": source, "tokens": [], "settings": settings })),
        json!({ "Ok": null })
    );
    let hi = json!({ "messages": [{ "role": "user", "content": "Hi" }], "start": true });
    for signal in ["INT", "TERM", "HUP", "QUIT"] {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        assert_eq!(ask(hi.clone()), json!({ "Ok": "Hi" }), "{signal}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn one_child_renders_many_and_from_many_threads() {
    isolate();
    let template = Template::new("m", "{{ messages[0].content }}!", Vec::new()).unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let template = &template;
            scope.spawn(move || {
                for number in 0..250 {
                    let content = format!("{thread} {number}");
                    let messages = [Message { speaker: Speaker::User, content: content.clone() }];
                    assert_eq!(template.render(&messages, true).unwrap(), format!("{content}!"));
                }
            });
        }
    });
    println!("1000 renderings in {:?}", begun.elapsed());
    // As long as a request may be, and more than a pipe holds.
    let content = "long ".repeat(1_000_000);
    let messages = [Message { speaker: Speaker::User, content }];
    assert_eq!(template.render(&messages, true).unwrap().len(), 5_000_001);
}

#[test]
fn a_slow_template_shows_that_prompts_are_checked_and_ctrl_c_ends_it() {
    let place = Place::new();
    let model = place.path("slow");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(tests().join("fixtures/tiny-llama")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let slow = "{% if messages and [[''] * (10000000 if messages)] == [[''] * 10000000] %}{{ \
                messages[0].content }}{% endif %}";
    let config = model.join("tokenizer_config.json");
    let mut settings: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    settings["chat_template"] = slow.into();
    std::fs::write(&config, settings.to_string()).unwrap();
    place.write_set("mine.toml", "");
    let rows = (0..200).map(|n| format!("{{\"id\": \"p-{n}\", \"prompt\": \"{n}?\"}}\n"));
    std::fs::write(place.path("many.jsonl"), rows.collect::<String>()).unwrap();

    let prompts = format!("data.prompts={}", place.path("many.jsonl").display());
    let policy = format!("models.policy={}", model.display());
    let mut child = place
        .command(&["--plugins", "mine.toml", "--out", "run", "--set", &prompts, "--set", &policy])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = lines.find(|line| line.contains("checking prompts"));
    let begun = Instant::now();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    // With those that are held out.
    assert_eq!(told.as_deref(), Some("checking prompts: 203 prompts"));
    assert!(rest.iter().any(|line| line.contains("this start has done nothing")), "{rest:?}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(!place.path("run").exists());
}
