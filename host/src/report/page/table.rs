//! Tables of a page.

use std::fmt::Write;

use super::escape;

/// A cell of a table.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// What stands in it.
    pub text: String,
    /// What the page draws behind it, in [0, 1].
    pub share: Option<f64>,
    /// Whether the page calls attention to it.
    pub bad: bool,
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text, ..Cell::default() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        text.to_owned().into()
    }
}

/// Returns a table. What is mostly numbers is on the right of its column.
pub fn table(head: &[String], rows: impl Iterator<Item = Vec<Cell>>) -> String {
    let rows: Vec<Vec<Cell>> = rows.collect();
    // A digest may begin with a digit too.
    let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let is_number = |cell: &Cell| cell.text.len() < 60 && begins(&cell.text);
    let numbers = |place: usize| {
        let filled = rows.iter().filter_map(|row| row.get(place)).filter(|it| !it.text.is_empty());
        let (yes, no): (Vec<&Cell>, Vec<&Cell>) = filled.partition(|cell| is_number(cell));
        place > 0 && yes.len() > no.len()
    };
    let class = |place: usize, more: &str| match numbers(place) {
        true => format!(" class=\"number{more}\""),
        false if more.is_empty() => String::new(),
        false => format!(" class=\"{}\"", more.trim()),
    };
    let mut html = String::from("<table><thead><tr>");
    for (place, cell) in head.iter().enumerate() {
        let _ = write!(html, "<th scope=\"col\"{}>{}</th>", class(place, ""), escape(cell));
    }
    html.push_str("</tr></thead><tbody>\n");
    for row in &rows {
        html.push_str("<tr>");
        for (place, cell) in row.iter().enumerate() {
            let mut more = String::new();
            more.push_str(if cell.bad { " bad" } else { "" });
            more.push_str(if cell.share.is_some() { " share" } else { "" });
            more.push_str(if cell.text.len() > 80 { " text" } else { "" });
            let share = cell
                .share
                .map(|share| format!(" style=\"--share:{:.1}%\"", 100.0 * share.clamp(0.0, 1.0)));
            let (class, share) = (class(place, &more), share.unwrap_or_default());
            let text = escape(&cell.text);
            let _ = match place {
                0 => write!(html, "<th scope=\"row\">{text}</th>"),
                _ => write!(html, "<td{class}{share}>{text}</td>"),
            };
        }
        html.push_str("</tr>\n");
    }
    html + "</tbody></table>"
}
