//! Plots as SVG: numbers in, text out. Colours are the page's, by class.

use std::fmt::Write;

use crate::report::page::svg::{begin, colour, dot, head, label, line, polyline, shortened};

/// A line through points, both coordinates in [0, 1].
pub struct Line<'a> {
    pub name: &'a str,
    /// Lines and dots of one number have one colour, in all plots.
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
    /// How the points are shown.
    pub style: Style,
}

/// How the points of a line are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As a line alone.
    Line,
    /// With a mark at each.
    Marked,
    /// As marks alone.
    Marks,
}

/// A value with the ends of its interval.
pub struct Dot<'a> {
    pub name: &'a str,
    pub colour: usize,
    /// Absent where there is none: the row says so.
    pub value: Option<f64>,
    pub ends: Option<(f64, f64)>,
}

/// A bar in parts of one whole, the first of which has the plugin's colour.
pub struct Bar<'a> {
    /// What is told apart.
    pub name: &'a str,
    /// The first part's share, in [0, 1].
    pub share: f64,
    /// What the first part is.
    pub part: &'a str,
}

const LEFT: f64 = 42.0;
const TOP: f64 = 32.0;
const SIDE: f64 = 270.0;

/// Returns a plot of lines in the unit square, with a diagonal where `chance` says that it is what
/// chance would give.
pub fn square(title: &str, (x, y): (&str, &str), chance: bool, lines: &[Line<'_>]) -> String {
    let height = TOP + SIDE + 44.0 + 17.0 * lines.len() as f64;
    let about = |line: &Line<'_>| {
        let ends = [line.points.first(), line.points.last()].into_iter().flatten();
        let ends: Vec<String> = ends.map(|(x, y)| format!("({x:.2}, {y:.2})")).collect();
        format!("{} from {}", line.name, ends.join(" to "))
    };
    let about: Vec<String> = lines.iter().map(about).collect();
    let about = format!("{y} over {x}: {}", about.join("; "));
    let mut svg = begin(title, &about, LEFT + SIDE + 18.0, height);
    head(&mut svg, title);
    let place = |(x, y): (f64, f64)| {
        (LEFT + SIDE * x.clamp(0.0, 1.0), TOP + SIDE * (1.0 - y.clamp(0.0, 1.0)))
    };
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let ((left, top), (right, _)) = (place((0.0, share)), place((1.0, share)));
        line(&mut svg, "grid", (left, top), (right, top));
        label(&mut svg, ("end", "dim"), left - 6.0, top + 4.0, &format!("{share:.2}"));
        let (across, bottom) = place((share, 0.0));
        label(&mut svg, ("middle", "dim"), across, bottom + 16.0, &format!("{share:.2}"));
    }
    if chance {
        line(&mut svg, "chance", place((0.0, 0.0)), place((1.0, 1.0)));
    }
    let wide = LEFT + SIDE;
    label(&mut svg, ("end", ""), wide, TOP + SIDE + 32.0, &format!("{x} →"));
    label(&mut svg, ("end", ""), wide, 13.0, &format!("↑ {y}"));
    for (number, one) in lines.iter().enumerate() {
        let class = colour(one.colour);
        let points: Vec<(f64, f64)> = one.points.iter().map(|&point| place(point)).collect();
        if one.style != Style::Marks {
            polyline(&mut svg, &class, &points);
        }
        let radius = if one.style == Style::Marks { 6.0 } else { 3.0 };
        for (place, (x, y)) in points.iter().enumerate().filter(|_| one.style != Style::Line) {
            let (at, value) = one.points[place];
            let said = format!("{}: {value:.3} at {at:.3}", one.name);
            dot(&mut svg, &class, (*x, *y), radius, &said);
        }
        let y = TOP + SIDE + 54.0 + 17.0 * number as f64;
        dot(&mut svg, &class, (LEFT + 4.0, y - 4.0), 4.5, one.name);
        label(&mut svg, ("start", ""), LEFT + 15.0, y, &shortened(one.name, 40));
    }
    svg + "</svg>"
}

/// Returns a plot of values with their intervals, one below the other, from 0 to 1 or as far below 0 as
/// they go; `mark` is drawn across them.
pub fn dots(title: &str, mark: Option<f64>, dots: &[Dot<'_>]) -> String {
    const NAMES: f64 = 118.0;
    const WIDTH: f64 = 170.0;
    const ROW: f64 = 22.0;
    let about = |dot: &Dot<'_>| {
        let value = dot.value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3}"));
        let ends = dot.ends.map(|(low, high)| format!(" ({low:.3} to {high:.3})"));
        format!("{} {value}{}", dot.name, ends.unwrap_or_default())
    };
    let least = |dot: &Dot<'_>| dot.ends.map(|(low, _)| low).or(dot.value).unwrap_or(0.0);
    let low = if dots.iter().map(least).fold(0.0, f64::min) < 0.0 { -1.0 } else { 0.0 };
    let bottom = TOP + ROW * dots.len() as f64;
    let all: Vec<String> = dots.iter().map(about).collect();
    let mut svg = begin(title, &all.join("; "), NAMES + WIDTH + 56.0, bottom + 20.0);
    head(&mut svg, title);
    let across = |value: f64| NAMES + WIDTH * ((value - low) / (1.0 - low)).clamp(0.0, 1.0);
    for step in 0..=2 {
        let value = low + (1.0 - low) * f64::from(step) / 2.0;
        line(&mut svg, "grid", (across(value), TOP - 6.0), (across(value), bottom));
        label(&mut svg, ("middle", "dim"), across(value), bottom + 15.0, &format!("{value}"));
    }
    if let Some(mark) = mark {
        line(&mut svg, "chance", (across(mark), TOP - 6.0), (across(mark), bottom));
    }
    for (number, one) in dots.iter().enumerate() {
        let (y, class) = (TOP + 8.0 + ROW * number as f64, colour(one.colour));
        label(&mut svg, ("end", ""), NAMES - 12.0, y + 4.0, &shortened(one.name, 13));
        if let Some((low, high)) = one.ends {
            line(&mut svg, &format!("line {class}"), (across(low), y), (across(high), y));
        }
        let shown = match one.value {
            Some(value) => {
                dot(&mut svg, &class, (across(value), y), 5.0, &about(one));
                format!("{value:.3}")
            }
            None => "none".to_owned(),
        };
        label(&mut svg, ("start", ""), NAMES + WIDTH + 12.0, y + 4.0, &shown);
    }
    svg + "</svg>"
}

/// Returns bars below each other, each with what its first part is.
pub fn bars(title: &str, number: usize, bars: &[Bar<'_>]) -> String {
    const WIDTH: f64 = 260.0;
    const ROW: f64 = 36.0;
    let class = colour(number);
    let about = |bar: &Bar<'_>| format!("{}: {:.1} % {}", bar.name, 100.0 * bar.share, bar.part);
    let all: Vec<String> = bars.iter().map(about).collect();
    let mut svg = begin(title, &all.join("; "), WIDTH, ROW * bars.len() as f64);
    for (number, bar) in bars.iter().enumerate() {
        let y = ROW * number as f64;
        let (said, width) = (format!("{:.1} % {}", 100.0 * bar.share, bar.part), WIDTH * bar.share);
        label(&mut svg, ("start", ""), 0.0, y + 12.0, bar.name);
        label(&mut svg, ("end", ""), WIDTH, y + 12.0, &said);
        let top = y + 18.0;
        for (class, width) in [("rest", WIDTH), (&*format!("bar {class}"), width)] {
            let _ = write!(
                svg,
                r#"<rect class="{class}" x="0" y="{top}" width="{width:.1}" height="9" rx="3"/>"#
            );
        }
    }
    svg + "</svg>"
}
