//! What is changed in a template's text before it is read: `{% generation %}`, which Jinja does not have, and what a
//! namespace may be given.

use minijinja::machinery::{Span, Token, Tokenizer};
use minijinja::{Error, ErrorKind};

use super::{GENERATION, NAME, held, syntax};

/// A template's text, as the environment reads it.
pub(super) struct Rewritten {
    pub(super) text: String,
    /// Whether there was a block `{% generation %}`.
    pub(super) marks_generation: bool,
}

/// Makes of the block tag `generation` the call of a function, which is what Hugging Face's extension makes of it too,
/// and puts what is assigned to an attribute through [`held::FUNCTION`]. No line moves.
pub(super) fn rewrite(source: &str) -> Result<Rewritten, Error> {
    let mut edits = Edits { source, done: 0, text: String::with_capacity(source.len()) };
    let mut marks_generation = false;
    let mut tokenizer = Tokenizer::new(source, NAME, false, syntax()?);
    let mut tag = Vec::new();
    while let Some((token, span)) = tokenizer.next_token()? {
        match token {
            Token::BlockStart => tag.clear(),
            Token::BlockEnd => match tag.as_slice() {
                [(Token::Ident("generation"), name)] => {
                    marks_generation = true;
                    edits.replace(*name, &format!("call {GENERATION}()"));
                }
                [(Token::Ident("endgeneration"), name)] => edits.replace(*name, "endcall"),
                [(Token::Ident("set"), _), rest @ ..] => assignment(rest, span, &mut edits)?,
                _ => {}
            },
            token => tag.push((token, span)),
        }
    }
    edits.until(source.len());
    Ok(Rewritten { text: edits.text, marks_generation })
}

/// Rewrites `TARGET = EXPRESSION` and `TARGET | FILTERS` of a tag `set` where an attribute is among the targets.
fn assignment(tag: &[(Token<'_>, Span)], end: Span, edits: &mut Edits<'_>) -> Result<(), Error> {
    let target = |(token, _): &(Token, Span)| matches!(token, Token::Assign | Token::Pipe);
    let Some(at) = tag.iter().position(target) else { return Ok(()) };
    let (targets, [by, given @ ..]) = tag.split_at(at) else { return Ok(()) };
    if !targets.iter().any(|(token, _)| matches!(token, Token::Dot)) {
        return Ok(());
    }
    if matches!(by.0, Token::Pipe) {
        edits.insert(end.start_offset, &format!(" | {} ", held::FUNCTION));
        return Ok(());
    }
    // A parenthesis that closes what the text did not open would close the one that is put in.
    let mut open = 0_u32;
    for (token, span) in given {
        match token {
            Token::ParenOpen => open += 1,
            Token::ParenClose => {
                open = open.checked_sub(1).ok_or_else(|| {
                    let line = span.start_line;
                    let what = format!("unexpected `)` in line {line}");
                    Error::new(ErrorKind::SyntaxError, what)
                })?
            }
            _ => {}
        }
    }
    if !given.is_empty() {
        edits.insert(by.1.end_offset, &format!(" {}((", held::FUNCTION));
        edits.insert(end.start_offset, "))");
    }
    Ok(())
}

/// A text with changes that come in the order of their places.
struct Edits<'a> {
    source: &'a str,
    /// What of the source is in the text already, in bytes.
    done: usize,
    text: String,
}

impl Edits<'_> {
    fn until(&mut self, end: usize) {
        self.text.push_str(&self.source[self.done..end]);
        self.done = end;
    }

    fn insert(&mut self, at: u32, text: &str) {
        self.until(at as usize);
        self.text.push_str(text);
    }

    fn replace(&mut self, span: Span, text: &str) {
        self.insert(span.start_offset, text);
        self.done = span.end_offset as usize;
    }
}
