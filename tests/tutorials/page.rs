//! A page of `docs/plugins/` as steps: what it says to type, the files that it gives, what it says is printed.
//!
//! - An indented block is typed, in the folder that the one before ended in.
//! - A fenced block whose info string goes on after the language gives a file: `rust src/lib.rs` all of it,
//!   `toml at the end of run.toml` what comes after what is there.
//! - A fenced block of `text` right after an indented one is among what was printed. `…` stands for
//!   anything within a line, or, alone, for any lines. Where it begins with `error: `, the commands are to
//!   fail. `text of the default model` is that only where the default model itself is run.
//! - Other fenced blocks are for reading.

use fancy_regex::Regex;

/// One thing to do, and the line of the page that it begins in.
#[derive(Debug, PartialEq)]
pub struct Step {
    pub line: usize,
    pub what: What,
}

#[derive(Debug, PartialEq)]
pub enum What {
    Type(String),
    Write { path: String, text: String },
    Append { path: String, text: String },
    Expect { text: String, of_the_default_model: bool },
}

/// Returns the steps of a page.
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = (1..).zip(page.lines()).peekable();
    let (mut blank, mut typed) = (true, false);
    while let Some((line, text)) = lines.next() {
        if let Some(info) = text.strip_prefix("```") {
            let inside: Vec<&str> =
                lines.by_ref().map(|(_, text)| text).take_while(|it| *it != "```").collect();
            let inside: String = inside.iter().map(|it| format!("{it}\n")).collect();
            steps.extend(fenced(info, inside, typed).map(|what| Step { line, what }));
            typed = false;
        } else if blank && let Some(first) = text.strip_prefix("    ") {
            let mut lines_typed = vec![first];
            while let Some((_, next)) = lines.next_if(|(_, it)| it.starts_with("    ")) {
                lines_typed.push(&next[4..]);
            }
            steps.push(Step { line, what: What::Type(lines_typed.join("\n")) });
            typed = true;
        } else if !text.trim().is_empty() {
            typed = false;
        }
        blank = text.trim().is_empty();
    }
    steps
}

/// Returns what a fenced block is for. `typed`: an indented one stands right before it.
fn fenced(info: &str, text: String, typed: bool) -> Option<What> {
    let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
    match (language, rest) {
        ("text", "") if typed => Some(What::Expect { text, of_the_default_model: false }),
        ("text", "of the default model") => Some(What::Expect { text, of_the_default_model: true }),
        (_, "") => None,
        (_, path) => Some(match path.strip_prefix("at the end of ") {
            Some(path) => What::Append { path: path.into(), text },
            None => What::Write { path: path.into(), text },
        }),
    }
}

/// Says whether what was printed has the expected lines in it, one after the other.
pub fn printed(output: &str, expected: &str) -> bool {
    let lines = expected.lines().map(|line| match line {
        "…" => r"(?:.*\n)*?".into(),
        line => fancy_regex::escape(line).replace('…', ".*?") + r"[ \t]*\n",
    });
    let pattern: String = std::iter::once(String::from("(?m)^")).chain(lines).collect();
    let found = Regex::new(&pattern).unwrap().is_match(&format!("{output}\n"));
    found.unwrap_or_else(|error| panic!("{error} in\n{expected}"))
}

#[test]
fn a_page_is_read_as_steps() {
    let page = "\
# A page

    make it
    and test it

```text
fine
```

Some words, `src/lib.rs`:

```rust src/lib.rs
fn main() {

}
```
```rust
// For reading.
```
```toml at the end of a.toml
[x]
```
```text
For reading.
```
```text of the default model
1
```

    see it

Some words.

```text
For reading.
```

- a list
    goes on
";
    let step = |line, what| Step { line, what };
    let typed = "make it\nand test it";
    let expect =
        |text: &str, of_the_default_model| What::Expect { text: text.into(), of_the_default_model };
    assert_eq!(
        steps(page),
        [
            step(3, What::Type(typed.into())),
            step(6, expect("fine\n", false)),
            step(12, What::Write { path: "src/lib.rs".into(), text: "fn main() {\n\n}\n".into() }),
            step(20, What::Append { path: "a.toml".into(), text: "[x]\n".into() }),
            step(26, expect("1\n", true)),
            step(30, What::Type("see it".into())),
        ]
    );
}

#[test]
fn what_is_printed_is_compared_line_by_line() {
    let check = |expected: &str, found: bool| {
        let output = "made a/\n\nkind   filter  \nfile   88365 bytes, sha256 5644\nbuilt  ./a.wasm";
        assert_eq!(printed(output, expected), found, "{expected}");
    };
    check("kind   filter\n", true);
    check("made a/\n\nkind   filter\n", true);
    check("made a/\nkind   filter\n", false);
    check("made a/\n…\nbuilt  ./a.wasm\n", true);
    check("built  ./a.wasm\n…\nmade a/\n", false);
    check("file   … bytes, sha256 …\n", true);
    check("kind   filt\n", false);
    check("ind   filter\n", false);
    check("built  ./a.wasm!\n", false);
}
