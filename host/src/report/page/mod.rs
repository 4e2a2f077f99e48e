//! What the pages of reports have in common: the document with its style, sections, tables and plots.
//!
//! A page is one file for light and dark screens, for phones and for paper. It loads nothing and runs
//! nothing. Everything here is a pure function from numbers and texts to HTML.

pub mod axis;
pub mod bars;
pub mod chart;
pub mod flow;
pub mod histogram;
pub mod svg;
pub mod table;

use std::fmt::Write;

use crate::shown::is_hidden;
use table::{Cell, table};

const STYLE: &str = include_str!("page.css");

/// What browsers may do with a page: nothing but its own style.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Returns a whole page; `body` is HTML.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title>\n<style>\n{STYLE}</style></head><body>\n{body}</body></html>\n",
        escape(title),
    )
}

/// Escapes what HTML would read, and shows hidden characters, such as those that turn the direction of text
/// around, as `\u{fffd}`.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if is_hidden(c) && c != '\n' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// Adds a heading with what is below it, which may be wider than the page; nothing where that is empty.
pub fn section(page: &mut String, title: &str, content: &str) {
    if !content.is_empty() {
        let _ = write!(page, "<h2>{}</h2>\n<div class=\"wide\">{content}</div>\n", escape(title));
    }
}

/// Returns a plot with its numbers as a table that opens below it.
pub fn figure(svg: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let cells = rows.map(|row| row.into_iter().map(Cell::from).collect());
    format!("<figure>{svg}{}</figure>\n", folded("Numbers", &table(&head, cells)))
}

/// Returns what is shown once it is opened.
pub fn folded(summary: &str, content: &str) -> String {
    format!("<details><summary>{}</summary>{}</details>", escape(summary), wide(summary, content))
}

/// Returns what may be wider than the page and then scrolls by itself, by keyboard too.
pub fn wide(name: &str, content: &str) -> String {
    let name = escape(name);
    format!(
        "<div class=\"wide\" role=\"group\" aria-label=\"{name}\" tabindex=\"0\">{content}</div>"
    )
}

/// Returns items in at most `most` groups of neighbours of about one size.
pub fn thinned<T>(items: &[T], most: usize) -> impl Iterator<Item = &[T]> {
    items.chunks(items.len().div_ceil(most.max(1)).max(1))
}

/// Returns a whole number with its thousands apart.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
