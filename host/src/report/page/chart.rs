//! Curves over axes of their own.

use std::fmt::Write;

use super::axis::Axis;
use super::escape;
use super::svg::{begin, colour, dot, head, label, line, polyline, shortened};

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// The ends of its interval.
    pub ends: Option<(f64, f64)>,
}

impl Point {
    /// Returns a point without an interval.
    pub fn at(x: f64, y: f64) -> Point {
        Point { x, y, ends: None }
    }
}

/// A curve: lines of one colour and name that need not hang together.
pub struct Curve<'a> {
    pub name: &'a str,
    /// Curves of one number have one colour, in all plots.
    pub colour: usize,
    /// Each with its points in order.
    pub parts: Vec<Vec<Point>>,
    /// Whether each point has a mark.
    pub marked: bool,
}

/// What a plot is about.
pub struct About<'a> {
    pub title: &'a str,
    /// What goes to the right.
    pub x: &'a str,
    /// Whether only whole numbers stand on that axis, such as rounds.
    pub whole: bool,
    /// Where it is parted, for example where a round begins.
    pub parted: &'a [f64],
    /// A value that is worth a line, such as that of chance.
    pub mark: Option<f64>,
}

const WIDTH: f64 = 336.0;
const TOP: f64 = 26.0;
const HEIGHT: f64 = 150.0;

/// Returns a plot of curves; nothing where no number is finite. Names are shown where there are two or more.
pub fn chart(about: &About<'_>, curves: &[Curve<'_>]) -> String {
    let points = || curves.iter().flat_map(|curve| curve.parts.iter().flatten());
    let finite = |value: &f64| value.is_finite();
    let ends = |point: &Point| point.ends.map_or([point.y; 2], |(low, high)| [low, high]);
    let heights = points().flat_map(|point| std::iter::once(point.y).chain(ends(point)));
    let Some(y) = Axis::over(heights.chain(about.mark)) else { return String::new() };
    let (least, most) = points()
        .map(|point| point.x)
        .filter(finite)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    if least > most {
        return String::new();
    }
    let x = match about.whole {
        true => Axis::whole(least, most),
        false => Axis::over([least, most]).unwrap_or_else(|| Axis::whole(0.0, 1.0)),
    };

    let names = if curves.len() > 1 { 17.0 * curves.len() as f64 + 6.0 } else { 0.0 };
    let labels: Vec<String> = y.ticks.iter().map(|&tick| y.label(tick)).collect();
    let longest = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let left = (6.8 * longest as f64 + 8.0).clamp(24.0, 90.0);
    let (right, bottom) = (WIDTH - 14.0, TOP + HEIGHT);
    let mut svg = begin(about.title, &in_words(about, curves), WIDTH, bottom + 38.0 + names);
    head(&mut svg, about.title);
    let across = |value: f64| left + (right - left) * x.share(value);
    let up = |value: f64| bottom - HEIGHT * y.share(value);
    for (tick, text) in y.ticks.iter().zip(&labels) {
        line(&mut svg, "grid", (left, up(*tick)), (right, up(*tick)));
        label(&mut svg, ("end", "dim"), left - 6.0, up(*tick) + 4.0, text);
    }
    for &at in about.parted {
        line(&mut svg, "parted", (across(at), TOP), (across(at), bottom));
    }
    if let Some(mark) = about.mark {
        line(&mut svg, "chance", (left, up(mark)), (right, up(mark)));
    }
    for (text, at) in apart(&x, left, right) {
        label(&mut svg, ("middle", "dim"), at, bottom + 16.0, &text);
    }
    label(&mut svg, ("end", ""), right, bottom + 32.0, &format!("{} →", about.x));

    for (number, curve) in curves.iter().enumerate() {
        let class = colour(curve.colour);
        for part in &curve.parts {
            let shown: Vec<&Point> =
                part.iter().filter(|point| point.x.is_finite() && point.y.is_finite()).collect();
            let places: Vec<(f64, f64)> =
                shown.iter().map(|point| (across(point.x), up(point.y))).collect();
            for (point, (at, _)) in shown.iter().zip(&places) {
                if let Some((low, high)) = point.ends {
                    line(&mut svg, &format!("range {class}"), (*at, up(low)), (*at, up(high)));
                }
            }
            if places.len() > 1 {
                polyline(&mut svg, &class, &places);
            }
            // One point makes no line.
            for (point, place) in
                shown.iter().zip(&places).filter(|_| curve.marked || shown.len() == 1)
            {
                dot(&mut svg, &class, *place, 3.0, &said(curve.name, point));
            }
        }
        if curves.len() > 1 {
            let row = bottom + 52.0 + 17.0 * number as f64;
            dot(&mut svg, &class, (left + 4.0, row - 4.0), 4.5, curve.name);
            label(&mut svg, ("start", ""), left + 15.0, row, &shortened(curve.name, 36));
        }
    }
    svg + "</svg>"
}

/// Returns the labels of an axis from left to right with their places, without those that would run into
/// the one before them.
pub fn apart(axis: &Axis, left: f64, right: f64) -> Vec<(String, f64)> {
    let mut free = f64::NEG_INFINITY;
    let mut shown = Vec::new();
    for &tick in &axis.ticks {
        let (text, at) = (axis.label(tick), left + (right - left) * axis.share(tick));
        let half = 3.4 * text.chars().count() as f64;
        if at - half > free && at + half <= right + 14.0 {
            free = at + half + 5.0;
            shown.push((text, at));
        }
    }
    shown
}

fn said(name: &str, point: &Point) -> String {
    let ends = point.ends.map(|(low, high)| format!(" ({low:.4} to {high:.4})"));
    format!("{name}: {:.4} at {}{}", point.y, point.x, ends.unwrap_or_default())
}

/// Says what a plot shows, for those who do not see it.
fn in_words(about: &About<'_>, curves: &[Curve<'_>]) -> String {
    let mut text = format!("over {}: ", about.x);
    for (number, curve) in curves.iter().enumerate() {
        let points = || curve.parts.iter().flatten();
        let ends = [points().next(), points().last()].into_iter().flatten();
        let ends: Vec<String> =
            ends.map(|point| format!("{:.4} at {}", point.y, point.x)).collect();
        let gap = if number > 0 { "; " } else { "" };
        let _ = write!(text, "{gap}{} from {}", curve.name, ends.join(" to "));
    }
    text
}

/// Returns a line of names with their colours, for plots that share them.
pub fn legend(names: &[(&str, &str)]) -> String {
    let name = |&(class, name): &(&str, &str)| {
        format!("<span class=\"name {class}\">{}</span>", escape(name))
    };
    format!("<p class=\"legend\">{}</p>\n", names.iter().map(name).collect::<String>())
}
