use std::io::Write;

use super::*;

fn open(name: &str, file: &[u8], columns: Columns) -> (tempfile::TempDir, LabelledFile) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, file).unwrap();
    let file = LabelledFile::open(&path, columns).unwrap();
    (folder, file)
}

fn show(rows: LabelledRows) -> String {
    let one = |row: &Labelled| {
        let finish = if row.finish == Finish::Length { " cut" } else { "" };
        let slices: String = row.slices.iter().map(|(name, it)| format!(" {name}={it}")).collect();
        format!(
            "{} {}: {} {}{finish}{slices}",
            row.line,
            row.prompt.gist(),
            row.completion,
            row.good
        )
    };
    let two = |row: &LabelledPair| {
        let messages = match &row.prompt {
            Text::Chat(messages) => messages.len(),
            Text::Raw(_) => 0,
        };
        let LabelledPair { line, prompt, chosen, rejected, .. } = row;
        let (chosen, rejected) = (chosen.join(" and "), rejected.join(" and "));
        format!("{line} {} ({messages}): {chosen} over {rejected}", prompt.gist())
    };
    match rows {
        LabelledRows::Completions(rows) => rows.iter().map(one).collect::<Vec<_>>().join("; "),
        LabelledRows::Pairs(rows) => rows.iter().map(two).collect::<Vec<_>>().join("; "),
    }
}

fn check_as(columns: &Columns, file: &str, expected: &str) {
    let (_folder, mut found) = open("d.jsonl", file.as_bytes(), columns.clone());
    let shown = match found.chunk(1000) {
        Ok(rows) => rows.map_or_else(|| format!("none, {} undecided", found.undecided()), show),
        Err(error) => error.to_string().split("\n  --> ").next().unwrap().to_owned(),
    };
    assert_eq!(shown, expected, "{file}");
}

fn check(file: &str, expected: &str) {
    check_as(&Columns::default(), file, expected);
}

#[test]
fn labels_are_read_in_many_words() {
    for (label, expected) in [
        ("true", "true"),
        ("0", "false"),
        ("\"Good\"", "true"),
        ("\"drop\"", "false"),
        ("\"1\"", "true"),
        ("1.0", "true"),
    ] {
        let row = format!(r#"{{"prompt": "p", "completion": "c", "label": {label}}}"#);
        check(&row, &format!("1 p: c {expected}"));
    }
    check(r#"{"prompt": "p", "completion": "", "score": 0.5}"#, "1 p:  true");
    check(r#"{"prompt": "p", "response": "c", "score": 0.4}"#, "1 p: c false");
    let expected = "`label` must be true or false, 1 or 0, `good` or `bad`, or `keep` or `drop`; other \
                    numbers are a `score`";
    check(r#"{"prompt": "p", "completion": "c", "label": 3}"#, expected);
    check(r#"{"prompt": "p", "completion": "c", "score": "high"}"#, "`score` must be a number");
    check(r#"{"prompt": "p", "completion": "c"}"#, "the row has no `label`");
    check(r#"{"prompt": "p", "label": 1}"#, "the row has no `completion`");
    check(r#"{"completion": "c", "label": 1}"#, "the row has no prompt");
}

#[test]
fn columns_have_other_names() {
    let names = [("prompt", "ask"), ("completion", "text"), ("score", "stars")];
    let names = names.map(|(role, name)| (role.to_owned(), name.to_owned())).into();
    let columns = Columns { names, threshold: 3.0, slices: vec!["by".into()] };
    check_as(
        &columns,
        r#"{"ask": "p", "text": "c", "stars": 4, "by": "me", "source": "x", "finish": "length"}"#,
        "1 p: c true cut by=me",
    );
    let expected = "the row has no `ask`, which should be its prompt";
    check_as(&columns, r#"{"prompt": "p", "text": "c", "stars": 4}"#, expected);
    check(r#"{"prompt": "p", "completion": "c", "label": 1, "subset": 3}"#, "1 p: c true subset=3");
}

#[test]
fn columns_that_lack_have_the_name_that_the_user_gave() {
    let check = |role: &str, row: &str, expected: &str| {
        let names = [(role.to_owned(), "x".to_owned())].into();
        check_as(&Columns { names, ..Columns::default() }, row, expected);
    };
    let scored = r#"{"prompt": "p", "completion": "c", "messages": [], "label": 1, "score": 1}"#;
    for role in ["completion", "label", "score", "chosen", "rejected"] {
        check(role, scored, &format!("the row has no `x`, which should be its {role}"));
    }
    check("completion", &scored.replace("\"completion\": \"c\"", "\"x\": 1"), "`x` must be a text");
    let pair = r#"{"prompt": "p", "x": ["a", 1], "rejected": "b"}"#;
    check("chosen", pair, "`x` must be a text");
    check("chosen", r#"{"x": [], "rejected": []}"#, "`x` is empty");
}

#[test]
fn pairs_are_texts_or_conversations() {
    check(r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#, "1 p (1): a over b");
    let user = r#"{"role": "user", "content": "q"}"#;
    let says = |words: &str| format!(r#"{{"role": "assistant", "content": "{words}"}}"#);
    let (a, b) = (says("a"), says("b"));
    check(
        &format!(r#"{{"chosen": [{user}, {a}], "rejected": [{user}, {b}]}}"#),
        "1 q (1): a over b",
    );
    let row = format!(r#"{{"prompt": "p", "chosen": [{user}, {a}], "rejected": [{b}]}}"#);
    check(&row, "1 p (1): a over b");
    check(
        &format!(r#"{{"prompt": "p", "chosen": [{user}], "rejected": "b"}}"#),
        "the last message is the user's, expected the assistant's",
    );
    check(
        r#"{"prompt": "p", "chosen": "a"}"#,
        "the row has one of `chosen` and `rejected` without the other",
    );
    check(
        r#"{"prompt": "p", "chosen": ["a"], "rejected": ["b", "", "c"], "subset": "Ties"}"#,
        "1 p (1): a over b and  and c",
    );
    check(r#"{"prompt": "p", "chosen": "a", "rejected": ["b", 3]}"#, "`rejected` must be a text");
    check(
        "{\"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": \"b\"}\n\
         {\"prompt\": \"p\", \"completion\": \"a\", \"label\": 1}",
        MIXED,
    );
}

#[test]
fn known_collections_are_read_as_they_are() {
    check(r#"{"input": "i", "output_1": "x", "output_2": "y", "label": 2}"#, "1 i (1): y over x");
    check(
        r#"{"input": "i", "output_1": "x", "output_2": "y", "label": 3}"#,
        "`label` must be 0, 1 or 2",
    );
    let voted = |votes: [u32; 3]| {
        let [one, two, three] = votes;
        format!(
            r#"{{"instruction": "i", "input": "j", "response1": "x", "response2": "y",
                "annotator1": {one}, "annotator2": {two}, "annotator3": {three}}}"#
        )
        .replace('\n', " ")
    };
    check(&voted([2, 1, 2]), "1 i\nj (1): y over x");
    check(&voted([2, 1, 2]).replace("\"x\"", "true"), "1 i\nj (1): y over true");
    let bare = voted([2, 1, 2]).replace("\"i\"", "\"\"");
    check(&bare, "1 j (1): y over x");
    check(&bare.replace("\"j\"", "\"\""), "none, 1 undecided");
    check(&voted([0, 1, 2]), "none, 1 undecided");
    check(&voted([0, 0, 2]), "none, 1 undecided");
    let dialogue = |answer: &str| {
        format!("\\n\\nHuman: a\\n\\nAssistant: b\\n\\nHuman: c\\n\\nAssistant: {answer}")
    };
    let (x, y) = (dialogue("x"), dialogue("y"));
    check(&format!(r#"{{"chosen": "{x}", "rejected": "{y}"}}"#), "1 c (3): x over y");
    check(&format!(r#"{{"chosen": "{x}", "rejected": "{x}"}}"#), "none, 1 undecided");
    let twice = format!("{x}\\n\\nAssistant: z");
    check(&format!(r#"{{"chosen": "{twice}", "rejected": "{y}"}}"#), "none, 1 undecided");
    check(r#"{"chosen": "x", "rejected": "y"}"#, "the row has no prompt");
}

#[test]
fn lists_gzip_and_chunks() {
    let rows: Vec<String> = (0..10)
        .map(|i| {
            format!("{{\"prompt\": \"p{{[{i}\", \"completion\": \"\\\"}}\\\\\", \"label\": 1}}")
        })
        .collect();
    let all = |name: &str, file: &[u8], most: usize| {
        let (_folder, mut found) = open(name, file, Columns::default());
        let mut shown = Vec::new();
        while let Some(rows) = found.chunk(most).unwrap() {
            shown.push(show(rows));
        }
        shown
    };
    let lines = all("d.jsonl", rows.join("\n\n").as_bytes(), 4);
    assert_eq!(lines.len(), 3);
    assert!(lines[2].ends_with("19 p{[9: \"}\\ true"), "{lines:?}");
    let list = format!("\n [\n{}\n]\n", rows.join(",\n"));
    let found = all("d.json", list.as_bytes(), 100);
    assert!(found[0].starts_with("1 p{[0: \"}\\ true; 2 p{[1"), "{found:?}");
    let marked = all("d.json", format!("\u{feff}{list}").as_bytes(), 100);
    assert_eq!(marked, found);
    let marked = all("d.jsonl", format!("\u{feff}{}", rows.join("\n")).as_bytes(), 100);
    assert!(marked[0].starts_with("1 p{[0: \"}\\ true; 2 p{[1"), "{marked:?}");
    // In one line too, each is told apart.
    assert_eq!(all("d.json", format!("[{}]", rows.join(",")).as_bytes(), 100), found);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(rows.join("\n").as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    assert_eq!(all("d.jsonl.gz", &gzip, 100).len(), 1);
    // What is none, or ends in its first bytes, is no file without rows.
    for broken in [&gzip[..6], &gzip[..gzip.len() - 4], rows[0].as_bytes(), b""] {
        let (_folder, mut found) = open("d.jsonl.gz", broken, Columns::default());
        let error = loop {
            match found.chunk(100) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{} bytes are read as gzip", broken.len()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, DataError::Read { .. }), "{error}");
    }
    let (_folder, mut found) = open("d.jsonl.gz", &gzip, Columns::default());
    found.chunk(3).unwrap();
    assert_eq!(found.bytes_read(), gzip.len() as u64);
}

#[test]
fn broken_files_are_refused_with_their_line() {
    let check = |file: &str, expected: &str| {
        let (_folder, mut found) = open("d.json", file.as_bytes(), Columns::default());
        let error = loop {
            match found.chunk(1) {
                Err(error) => break error.to_string(),
                Ok(rows) => assert!(rows.is_some(), "{file} is read to its end"),
            }
        };
        assert!(error.contains(expected), "{error}\n  lacks\n{expected}");
    };
    let row = r#"{"prompt": "p", "completion": "c", "label": 1}"#;
    check("", "holds no row");
    check("[]", "holds no row");
    check(&format!("{row}\n\n[1]"), "the line is not a JSON object");
    check(&format!("{row}\n{{"), "d.json:2");
    check(&format!("[{row},\n{{\"a\": "), "the object has no end");
    check(&format!("[{row}"), "the list has no end");
    check(&format!("[{row}] x"), "something stands behind the list");
    check(&format!("[{row}, 3]"), "the line is not a JSON object");
}
