//! Plots as SVG: numbers in, text out. Colours are the page's, by class.

use std::fmt::Write;

/// A line through points, both coordinates in [0, 1].
pub struct Line<'a> {
    pub name: &'a str,
    /// Lines and dots of one number have one colour, in all plots.
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
    /// Whether each point has a mark.
    pub marked: bool,
}

/// A value with the ends of its interval.
pub struct Dot<'a> {
    pub name: &'a str,
    pub colour: usize,
    pub value: f64,
    pub ends: Option<(f64, f64)>,
}

/// Colours that lines have before they begin again.
const COLOURS: usize = 6;
const LEFT: f64 = 46.0;
const SIDE: f64 = 240.0;

/// Escapes what HTML would read.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() && c != '\n' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// Returns a plot of lines in the unit square, with a diagonal where `chance` says that it is what
/// chance would give.
pub fn square(title: &str, x: &str, y: &str, chance: bool, lines: &[Line<'_>]) -> String {
    let height = SIDE + 62.0 + 16.0 * lines.len() as f64;
    let mut svg = begin(title, LEFT + SIDE + 14.0, height);
    let place = |(x, y): (f64, f64)| {
        (LEFT + SIDE * x.clamp(0.0, 1.0), 24.0 + SIDE * (1.0 - y.clamp(0.0, 1.0)))
    };
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let ((left, top), (right, _)) = (place((0.0, share)), place((1.0, share)));
        line(&mut svg, "grid", (left, top), (right, top));
        label(&mut svg, "end", left - 5.0, top + 4.0, &format!("{share:.2}"));
        let (across, bottom) = place((share, 0.0));
        label(&mut svg, "middle", across, bottom + 15.0, &format!("{share:.2}"));
    }
    if chance {
        line(&mut svg, "chance", place((0.0, 0.0)), place((1.0, 1.0)));
    }
    label(&mut svg, "middle", LEFT + SIDE / 2.0, 24.0 + SIDE + 30.0, x);
    label(&mut svg, "start", 2.0, 14.0, y);
    for (number, one) in lines.iter().enumerate() {
        let colour = one.colour % COLOURS;
        let points: Vec<String> = one
            .points
            .iter()
            .map(|&point| place(point))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = write!(svg, r#"<polyline class="line c{colour}" points="{}"/>"#, points.join(" "));
        for &point in one.points.iter().filter(|_| one.marked) {
            let (x, y) = place(point);
            let _ = write!(svg, r#"<circle class="dot c{colour}" cx="{x:.1}" cy="{y:.1}" r="3"/>"#);
        }
        let y = SIDE + 74.0 + 16.0 * number as f64;
        let _ =
            write!(svg, r#"<circle class="dot c{colour}" cx="{LEFT}" cy="{:.1}" r="4"/>"#, y - 4.0);
        label(&mut svg, "start", LEFT + 10.0, y, one.name);
    }
    svg + "</svg>"
}

/// Returns a plot of values with their intervals, one below the other, from 0 to 1 or as far below 0 as
/// they go.
pub fn dots(title: &str, dots: &[Dot<'_>]) -> String {
    const NAMES: f64 = 150.0;
    const WIDTH: f64 = 300.0;
    let least = |dot: &Dot<'_>| dot.ends.map_or(dot.value, |(low, _)| low.min(dot.value));
    let low = if dots.iter().map(least).fold(0.0, f64::min) < 0.0 { -1.0 } else { 0.0 };
    let height = 44.0 + 22.0 * dots.len() as f64;
    let mut svg = begin(title, NAMES + WIDTH + 20.0, height);
    let across = |value: f64| NAMES + WIDTH * ((value - low) / (1.0 - low)).clamp(0.0, 1.0);
    let bottom = height - 20.0;
    for step in 0..=4 {
        let value = low + (1.0 - low) * f64::from(step) / 4.0;
        line(&mut svg, "grid", (across(value), 18.0), (across(value), bottom));
        label(&mut svg, "middle", across(value), bottom + 14.0, &format!("{value:.2}"));
    }
    label(&mut svg, "start", 2.0, 13.0, title);
    for (number, dot) in dots.iter().enumerate() {
        let (y, colour) = (33.0 + 22.0 * number as f64, dot.colour % COLOURS);
        label(&mut svg, "end", NAMES - 8.0, y + 4.0, &shortened(dot.name));
        if let Some((low, high)) = dot.ends {
            line(&mut svg, &format!("line c{colour}"), (across(low), y), (across(high), y));
        }
        let x = across(dot.value);
        let _ = write!(svg, r#"<circle class="dot c{colour}" cx="{x:.1}" cy="{y:.1}" r="4"/>"#);
    }
    svg + "</svg>"
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(20) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

fn begin(title: &str, width: f64, height: f64) -> String {
    format!(
        r#"<svg viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" role="img" aria-label="{}">"#,
        escape(title)
    )
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = write!(
        svg,
        r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
        from.0, from.1, to.0, to.1
    );
}

fn label(svg: &mut String, anchor: &str, x: f64, y: f64, text: &str) {
    let text = escape(text);
    let _ = write!(svg, r#"<text text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#);
}
