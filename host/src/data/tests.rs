//! Files of rows that are read, and rows that are refused.

use super::*;

fn prompts(file: &[u8]) -> Result<Prompts, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.jsonl");
    std::fs::write(&path, file).unwrap();
    read_prompts(&Source::File(path), &|_| None).map_err(|error| {
        error.to_string().replace(&folder.path().display().to_string(), "").replace("/p", "p")
    })
}

fn check(file: &str, expected: &str) {
    let shown = match prompts(file.as_bytes()) {
        Err(error) => error.replace("\n  --> ", " @ "),
        Ok(read) => {
            let text = |prompt: &Prompt| match &prompt.text {
                Text::Raw(text) => format!("raw {text}"),
                Text::Chat(messages) => messages
                    .iter()
                    .map(|message| format!("{}={}", message.speaker.as_str(), message.content))
                    .collect::<Vec<_>>()
                    .join("|"),
            };
            let mut rows: Vec<String> = read
                .prompts
                .iter()
                .map(|prompt| format!("{}: {}{}", prompt.id, text(prompt), prompt.tags.join("#")))
                .collect();
            if read.duplicates > 0 {
                rows.push(format!("-{}", read.duplicates));
            }
            rows.join("; ")
        }
    };
    assert_eq!(shown, expected, "{file}");
}

#[test]
fn rows_of_all_tools_are_read() {
    check(r#"{"id": "a", "prompt": "x"}"#, "a: user=x");
    check(r#"{"id": 7, "prompt": "x", "lineage": [1], "score": null}"#, "7: user=x");
    check(r#"{"prompt": "x", "id": null}"#, "line-1: user=x");
    check("\n\n{\"prompt\": \"x\"}\n\n", "line-3: user=x");
    check(r#"{"prompt": "x", "tags": ["t"]}"#, "line-1: user=xt");
    check(r#"{"prompt": " x\n"}"#, "line-1: user= x\n");
    check(
        r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}"#,
        "line-1: system=s|user=u",
    );
    check(r#"{"prompt": [{"role": "user", "content": "u", "name": "n"}]}"#, "line-1: user=u");
    check(r#"{"instruction": "i", "input": "x", "output": "o"}"#, "line-1: user=i\nx");
    check(r#"{"instruction": "i", "input": ""}"#, "line-1: user=i");
    check(r#"{"instruction": "i", "input": null}"#, "line-1: user=i");
    check(r#"{"question": "q", "query": "r"}"#, "line-1: user=q");
    check(r#"{"query": "q"}"#, "line-1: user=q");
    check(r#"{"prompt": null, "question": "q"}"#, "line-1: user=q");
    // UltraChat has the first prompt beside the whole conversation.
    check(
        r#"{"prompt": "x", "messages": [{"role": "assistant", "content": "a"}]}"#,
        "line-1: user=x",
    );
}

#[test]
fn files_of_all_systems_are_read() {
    check(
        "\u{feff}{\"prompt\": \"x\"}\r\n{\"prompt\": \"y\"}\r\n",
        "line-1: user=x; line-2: user=y",
    );
    check("{\"prompt\": \"é終🦀\"}", "line-1: user=é終🦀");
    check("{\"prompt\": \"\\ud83e\\udd80\"}", "line-1: user=🦀");
}

#[test]
fn duplicates_are_counted() {
    check("{\"prompt\": \"x\"}\n{\"prompt\": \"x\"}\n{\"query\": \"x\"}", "line-1: user=x; -2");
    check("{\"id\": 1, \"prompt\": \"x\"}\n{\"id\": 1, \"prompt\": \"x\"}", "1: user=x; -1");
    check("{\"prompt\": \"x\"}\n{\"prompt\": \"x \"}", "line-1: user=x; line-2: user=x ");
    check(
        "{\"id\": \"a\", \"prompt\": \"x\"}\n{\"id\": \"a\", \"prompt\": \"y\"}",
        "id `a` stands in line 1 already @ p.jsonl:2",
    );
    check(
        "{\"id\": \"line-2\", \"prompt\": \"x\"}\n{\"prompt\": \"y\"}",
        "id `line-2` stands in line 1 already @ p.jsonl:2",
    );
}

#[test]
fn bad_rows_are_refused_with_their_line() {
    check("", "data file `p.jsonl` holds no row");
    check("\n \r\n", "data file `p.jsonl` holds no row");
    check("{\"prompt\": \"x\"}\n[1]", "the line is not a JSON object @ p.jsonl:2");
    check("[", "the line is not JSON: EOF while parsing a list at column 1 @ p.jsonl:1");
    check(
        "{\"prompt\": \"x\"",
        "the line is not JSON: EOF while parsing an object at column 14 @ p.jsonl:1",
    );
    check(
        "{\"prompt\": \"x\"} {}",
        "the line is not JSON: trailing characters at column 17 @ p.jsonl:1",
    );
    check("hello", "the line is not JSON: expected value at column 1 @ p.jsonl:1");
    check(
        "{\"prompt\": \"\\ud83e\"}",
        "the line is not JSON: unexpected end of hex escape at column 19 @ p.jsonl:1",
    );
    check("{}", "the row has no prompt @ p.jsonl:1");
    check(r#"{"text": "x"}"#, "the row has no prompt @ p.jsonl:1");
    check(r#"{"prompt": null}"#, "the row has no prompt @ p.jsonl:1");
    check(r#"{"prompt": ""}"#, "`prompt` is empty @ p.jsonl:1");
    check(r#"{"prompt": " \n\t"}"#, "`prompt` is empty @ p.jsonl:1");
    check(r#"{"prompt": 3}"#, "`prompt` must be a text or a list of messages @ p.jsonl:1");
    check(r#"{"prompt": []}"#, "`prompt` is empty @ p.jsonl:1");
    check(r#"{"messages": "x"}"#, "`messages` must be a list of messages @ p.jsonl:1");
    check(
        r#"{"messages": ["x"]}"#,
        "`messages[0]` must be an object with `role` and `content` @ p.jsonl:1",
    );
    check(
        r#"{"messages": [{"role": "user", "content": 1}]}"#,
        "`messages[0].content` must be a text @ p.jsonl:1",
    );
    check(
        r#"{"messages": [{"role": "user", "content": " "}]}"#,
        "`messages[0].content` is empty @ p.jsonl:1",
    );
    check(
        r#"{"messages": [{"role": "human", "content": "x"}]}"#,
        "`messages[0]` has role `human`, expected `system`, `user` or `assistant` @ p.jsonl:1",
    );
    check(
        r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}"#,
        "the last message is the assistant's, expected the user's @ p.jsonl:1",
    );
    check(r#"{"instruction": "i", "input": 3}"#, "`input` must be a text @ p.jsonl:1");
    check(r#"{"prompt": "x", "tags": "t"}"#, "`tags` must be a list of texts @ p.jsonl:1");
    check(r#"{"prompt": "x", "tags": [1]}"#, "`tags` must be a list of texts @ p.jsonl:1");
    check(r#"{"prompt": "x", "id": 1.5}"#, "`id` must be a text or an integer @ p.jsonl:1");
    check(r#"{"prompt": "x", "id": " "}"#, "`id` is empty @ p.jsonl:1");
    check(
        r#"{"prompt": "x", "id": "a\nb"}"#,
        "`id` has more than 200 bytes or a control character @ p.jsonl:1",
    );
}

#[test]
fn bytes_that_are_no_text_and_endless_lines_are_refused() {
    let error = prompts(b"{\"prompt\": \"x\"}\n{\"prompt\": \"caf\xe9\"}").unwrap_err();
    assert_eq!(error, "the line is not UTF-8\n  --> p.jsonl:2");
    let long = format!("{{\"prompt\": \"{}\"}}", "x".repeat(LONGEST_LINE));
    let error = prompts(long.as_bytes()).unwrap_err();
    assert_eq!(error, "the line has more than 16 MiB\n  --> p.jsonl:1");
    let just = format!("{{\"prompt\": \"{}\"}}\n", "x".repeat(LONGEST_LINE - 16));
    assert_eq!(prompts(just.as_bytes()).unwrap().prompts.len(), 1);
    // A hundred bytes of memory for every two of the file.
    let many = format!("{{\"prompt\": \"x\", \"more\": [0{}]}}", ",0".repeat(MOST_VALUES));
    let error = prompts(many.as_bytes()).unwrap_err();
    assert_eq!(error, "the line has more than 200000 values\n  --> p.jsonl:1");
    let texts = format!("{{\"prompt\": \"x\\\"{}\"}}", ",[{".repeat(MOST_VALUES));
    assert_eq!(prompts(texts.as_bytes()).unwrap().prompts.len(), 1);
    let deep = format!("{{\"prompt\": {}", "[".repeat(100_000));
    assert!(prompts(deep.as_bytes()).unwrap_err().contains("recursion limit"));
}

#[test]
fn files_that_are_none_are_named() {
    let error = |source| read_prompts(&source, &|_| None).unwrap_err().to_string();
    assert_eq!(error(Source::File("/".into())), "data file `/` is a folder");
    assert_eq!(error(Source::Builtin("x".into())), "no embedded data is called `x`");
    assert!(
        error(Source::File("/nowhere.jsonl".into()))
            .starts_with("cannot read data file `/nowhere.jsonl`: ")
    );
    let read = read_prompts(&Source::Builtin("x".into()), &|_| Some("{\"prompt\": \"y\"}"));
    assert_eq!(read.unwrap().prompts.len(), 1);
}

#[test]
fn held_out_rows_have_answers() {
    let read = |text: &str| {
        read_held_out(&Source::Builtin("x".into()), &|_| Some(text))
            .map(|rows| rows.into_iter().map(|row| row.answer).collect::<Vec<_>>().join(";"))
            .unwrap_or_else(|error| error.to_string())
    };
    assert_eq!(read(r#"{"prompt": "x", "answer": "y"}"#), "y");
    assert_eq!(read(r#"{"instruction": "x", "input": "", "output": "y"}"#), "y");
    assert_eq!(read(r#"{"prompt": "x", "answer": null, "completion": "y"}"#), "y");
    assert_eq!(read(r#"{"prompt": "x"}"#), "the row has no `answer`\n  --> builtin:x:1");
    assert_eq!(read(r#"{"prompt": "x", "answer": ""}"#), "`answer` is empty\n  --> builtin:x:1");
    assert_eq!(
        read(r#"{"prompt": "x", "answer": 4}"#),
        "`answer` must be a text\n  --> builtin:x:1"
    );
}

#[test]
fn score_rows_are_raw_or_chat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.jsonl");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        match read_score_rows(&Source::File(path.clone())) {
            Err(error) => error.to_string().lines().next().unwrap().to_owned(),
            Ok(rows) => rows
                .iter()
                .map(|row| {
                    let kind = if matches!(row.prompt, Text::Raw(_)) { "raw" } else { "chat" };
                    format!("{} {kind} {:?} {:?}", row.id, row.prompt.gist(), row.completion)
                })
                .collect::<Vec<_>>()
                .join("; "),
        }
    };
    let user = r#"{"role": "user", "content": "u"}"#;
    let assistant = r#"{"role": "assistant", "content": "a"}"#;
    let check = |text: String, expected: &str| assert_eq!(read(&text), expected, "{text}");
    check(r#"{"prompt": " p", "completion": " c "}"#.into(), r#"line-1 raw " p" " c ""#);
    check(r#"{"id": 3, "prompt": "", "completion": "c"}"#.into(), r#"3 raw "" "c""#);
    check(r#"{"prompt": "p", "completion": "\n"}"#.into(), r#"line-1 raw "p" "\n""#);
    check(format!("{{\"messages\": [{user}, {assistant}]}}"), r#"line-1 chat "u" "a""#);
    check(format!("{{\"prompt\": [{user}], \"completion\": \"a\"}}"), r#"line-1 chat "u" "a""#);
    check(
        format!("{{\"prompt\": [{user}], \"completion\": [{assistant}]}}"),
        r#"line-1 chat "u" "a""#,
    );
    check(r#"{"prompt": "p", "completion": ""}"#.into(), "`completion` is empty");
    check(r#"{"prompt": "p"}"#.into(), "the row has no `completion`");
    check("{}".into(), "the row has no prompt");
    check(
        format!("{{\"messages\": [{user}]}}"),
        "the last message is the user's, expected the assistant's",
    );
    check(format!("{{\"messages\": [{assistant}]}}"), "the row has no prompt");
    check(
        format!("{{\"messages\": [{user}, {assistant}, {assistant}]}}"),
        "the last message is the assistant's, expected the user's",
    );
}
