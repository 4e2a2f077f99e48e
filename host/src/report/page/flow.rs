//! A Sankey diagram that goes down the page: what flows from stage to stage, and what leaves it on the way.

use super::svg::{begin, head, label, rect, shortened};
use std::fmt::Write;

/// A stage of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage<'a> {
    pub name: &'a str,
    /// How many come in.
    pub enters: u64,
    /// What leaves it there, with how many; together no more than come in.
    pub leaves: Vec<(String, u64)>,
}

const WIDTH: f64 = 336.0;
/// Of the widest flow.
const BAND: f64 = 118.0;
/// Where texts begin.
const TEXTS: f64 = 150.0;
const TOP: f64 = 34.0;
const HEADING: f64 = 20.0;
const ROW: f64 = 17.0;

/// Returns the diagram: a heading for each stage with what enters it, and below what leaves it there. `end` is
/// what those are that stay to the end.
pub fn flow(title: &str, stages: &[Stage<'_>], end: &str) -> String {
    let most = stages.iter().map(|stage| stage.enters).max().unwrap_or(0).max(1) as f64;
    let wide = |count: u64| BAND * count as f64 / most;
    let left = |stage: &Stage<'_>| stage.leaves.iter().map(|(_, count)| count).sum::<u64>();
    let stays = |stage: &Stage<'_>| stage.enters.saturating_sub(left(stage));
    let ends = stages.last().map_or(0, stays);
    // Ribbons end as thick as they begin.
    let row = |count: u64| (wide(count) + 4.0).max(ROW);
    let height = |stage: &Stage<'_>| {
        HEADING + stage.leaves.iter().map(|(_, count)| row(*count)).sum::<f64>() + 8.0
    };
    let whole = TOP + stages.iter().map(height).sum::<f64>() + HEADING + 4.0;
    let mut svg = begin(title, &in_words(stages, end, ends), WIDTH, whole);
    head(&mut svg, title);
    let mut y = TOP;
    for stage in stages {
        let (next, stay) = (y + height(stage), wide(stays(stage)));
        rect(&mut svg, "flow", (0.0, y), (stay, next - y));
        label(&mut svg, ("start", "strong"), TEXTS, y + 13.0, &shortened(stage.name, 20));
        label(&mut svg, ("end", "strong"), WIDTH, y + 13.0, &stage.enters.to_string());
        let (mut right, mut at) = (wide(stage.enters), y + HEADING);
        for (reason, count) in &stage.leaves {
            let (thick, middle) = (wide(*count), at + row(*count) / 2.0);
            ribbon(
                &mut svg,
                (right - thick, right),
                y,
                (middle - thick / 2.0, middle + thick / 2.0),
            );
            label(&mut svg, ("start", "dim"), TEXTS, middle + 4.0, &shortened(reason, 24));
            label(&mut svg, ("end", "dim"), WIDTH, middle + 4.0, &count.to_string());
            (right, at) = (right - thick, at + row(*count));
        }
        rect(&mut svg, "stage", (0.0, y - 1.5), (wide(stage.enters), 3.0));
        y = next;
    }
    rect(&mut svg, "stage", (0.0, y - 1.5), (wide(ends), 3.0));
    label(&mut svg, ("start", "strong"), TEXTS, y + 13.0, end);
    label(&mut svg, ("end", "strong"), WIDTH, y + 13.0, &ends.to_string());
    svg + "</svg>"
}

/// Adds what turns from a piece of a band, which goes down, to the right.
fn ribbon(svg: &mut String, (x1, x2): (f64, f64), y: f64, (y1, y2): (f64, f64)) {
    let end = TEXTS - 8.0;
    let _ = write!(
        svg,
        r#"<path class="drop" d="M{x1:.1} {y:.1}Q{x1:.1} {y2:.1} {end:.1} {y2:.1}L{end:.1} {y1:.1}Q{x2:.1} {y1:.1} {x2:.1} {y:.1}Z"/>"#
    );
}

fn in_words(stages: &[Stage<'_>], end: &str, ends: u64) -> String {
    let stage = |stage: &Stage<'_>| {
        let leaves =
            stage.leaves.iter().map(|(reason, count)| format!(", {count} leave: {reason}"));
        format!("{} enter {}{}", stage.enters, stage.name, leaves.collect::<String>())
    };
    let stages: Vec<String> = stages.iter().map(stage).collect();
    format!("{}; {ends} {end}", stages.join("; "))
}
