//! The parts of plots: shapes and labels as SVG. Colours are the page's, by class.

use std::fmt::Write;

use super::escape;

/// Colours that there are before they begin again.
const COLOURS: usize = 6;

/// Returns the class of a colour.
pub fn colour(number: usize) -> String {
    format!("c{}", number % COLOURS)
}

/// Begins a plot, with what it is and what it shows in words.
pub fn begin(title: &str, about: &str, width: f64, height: f64) -> String {
    let (title, about) = (escape(title), escape(about));
    let size = format!(r#"viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}""#);
    format!(r#"<svg {size} role="img"><title>{title}</title><desc>{about}</desc>"#)
}

/// Puts the title into the corner.
pub fn head(svg: &mut String, title: &str) {
    let _ = write!(svg, r#"<text class="head" x="0" y="13">{}</text>"#, escape(title));
}

/// Adds a line of a class.
pub fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = write!(
        svg,
        r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
        from.0, from.1, to.0, to.1
    );
}

/// Adds a line through points, in a colour.
pub fn polyline(svg: &mut String, class: &str, points: &[(f64, f64)]) {
    let joined: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(svg, r#"<polyline class="line {class}" points="{}"/>"#, joined.join(" "));
}

/// Adds a dot in a colour, which says something where a pointer rests on it.
pub fn dot(svg: &mut String, class: &str, (x, y): (f64, f64), radius: f64, said: &str) {
    let said = escape(said);
    let _ = write!(
        svg,
        r#"<circle class="dot {class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"><title>{said}</title></circle>"#
    );
}

/// Adds a rectangle of a class, given by a corner and its size.
pub fn rect(svg: &mut String, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
    let _ = write!(
        svg,
        r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#
    );
}

/// Adds a text that starts, ends or has its middle at a point.
pub fn label(svg: &mut String, (anchor, class): (&str, &str), x: f64, y: f64, text: &str) {
    let text = escape(text);
    let _ = write!(
        svg,
        r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#
    );
}

/// Returns a name of at most so many characters.
pub fn shortened(name: &str, most: usize) -> String {
    match name.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}
