//! Prompts of a run as its models read them, token by token, and which tokens train.

use crate::progress::counted;
use crate::shown::{is_hidden, one_line};

/// A prompt of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// The prompt's id.
    pub id: String,
    /// In the order in which a round comes to them.
    pub texts: Vec<PreviewText>,
}

/// One text that a model reads.
#[derive(Clone, Debug, PartialEq)]
pub struct PreviewText {
    /// What becomes of it, for example ``read under variant `plain` ``.
    pub title: String,
    /// In order.
    pub tokens: Vec<PreviewToken>,
}

/// A token of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PreviewToken {
    /// What became whole with it; empty of a part of a character.
    pub text: String,
    /// Whether a loss is formed over it.
    pub trains: bool,
}

const PLAIN: &str = "\u{1b}[0m";
const DIM: &str = "\u{1b}[2m";
/// Two of them, so that tokens are told apart.
const GREEN: [&str; 2] = ["\u{1b}[1;32m", "\u{1b}[4;32m"];

/// Returns prompts as text that ends in a newline: what trains in green where `colour`, in brackets
/// otherwise, each token by itself.
pub fn render(previews: &[Preview], colour: bool) -> String {
    let mut text = String::new();
    for Preview { id, texts } in previews {
        text.push_str(&format!("\nprompt {}\n", one_line(id, 200)));
        for PreviewText { title, tokens } in texts {
            let trained = tokens.iter().filter(|token| token.trains).count() as u64;
            let all = counted(tokens.len() as u64, "tokens");
            let title = one_line(title, 400);
            let mask = match trained {
                0 => all,
                _ => format!("{all}, {trained} of them train"),
            };
            text.push_str(&format!("\n  {title} ({mask}):\n"));
            for line in body(tokens, colour).split('\n') {
                text.push_str(&format!("  | {line}\n"));
            }
        }
    }
    text
}

fn body(tokens: &[PreviewToken], colour: bool) -> String {
    let mut text = String::new();
    // What does not train is one piece, as nobody looks for its tokens.
    let pieces = tokens.chunk_by(|one, next| !one.trains && !next.trains);
    for (number, piece) in pieces.enumerate() {
        let words = printable(&piece.iter().map(|token| token.text.as_str()).collect::<String>());
        let trains = piece.iter().any(|token| token.trains);
        match (trains, colour) {
            (_, _) if words.is_empty() => {}
            (true, true) => text.push_str(&coloured(&words, GREEN[number % 2])),
            (false, true) => text.push_str(&coloured(&words, DIM)),
            (true, false) => text.push_str(&format!("[{words}]")),
            (false, false) => text.push_str(&words),
        }
    }
    text
}

/// Returns text in a colour that ends with each line, so that a pager shows every line right.
fn coloured(text: &str, start: &str) -> String {
    let lines = text.split('\n').map(|line| match line {
        "" => String::new(),
        line => format!("{start}{line}{PLAIN}"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the text with U+FFFD in the place of what cannot be seen, but for line breaks.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preview() -> Vec<Preview> {
        let token = |text: &str, trains| PreviewToken { text: text.into(), trains };
        let texts = vec![
            PreviewText {
                title: "read under variant `plain`".into(),
                tokens: vec![token("<|user|>\nWho", false), token("?\u{1b}[31m", false)],
            },
            PreviewText {
                title: "trained on".into(),
                tokens: vec![token("Who?", false), token("A", true), token("\n<|end|>", true)],
            },
        ];
        vec![Preview { id: "p-1".into(), texts }]
    }

    #[test]
    fn what_trains_stands_in_brackets() {
        assert_eq!(
            render(&preview(), false),
            "
prompt p-1

  read under variant `plain` (2 tokens):
  | <|user|>
  | Who?\u{fffd}[31m

  trained on (3 tokens, 2 of them train):
  | Who?[A][
  | <|end|>]
"
        );
    }

    #[test]
    fn what_trains_is_green_to_the_end_of_each_line() {
        let text = render(&preview(), true);
        let line = format!("  | {DIM}Who?{PLAIN}{}A{PLAIN}\n", GREEN[1]);
        assert!(text.contains(&line), "{text:?}");
        assert!(text.contains(&format!("  | {}<|end|>{PLAIN}\n", GREEN[0])), "{text:?}");
        assert!(!text.contains("[A]"), "{text:?}");
    }
}
