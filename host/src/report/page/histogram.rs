//! Histograms: how often numbers occur, in parts that stand on each other.

use serde::Serialize;

use super::axis::{Axis, round_step};
use super::chart::apart;
use super::svg::{begin, head, label, line, rect};

/// Bins that a histogram has at most.
const MOST_BINS: usize = 24;

/// Counts of numbers in bins of one width.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Histogram {
    /// Where the first bin begins.
    pub low: f64,
    /// Of each bin.
    pub width: f64,
    /// For each part the count of each bin; a bin holds its lower end, and the last one its upper end too.
    pub counts: Vec<Vec<u64>>,
}

/// Returns a histogram of several parts over the same bins; `None` where no number is finite.
pub fn histogram(parts: &[&[f64]]) -> Option<Histogram> {
    let all = || parts.iter().flat_map(|part| part.iter().copied()).filter(|v| v.is_finite());
    let (low, high) = all().fold(None, |ends: Option<(f64, f64)>, value| {
        let value = value.clamp(-1e150, 1e150);
        Some(ends.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
    })?;
    let whole = all().all(|value| value.fract() == 0.0);
    let bins = (2.0 * (all().count() as f64).sqrt()).clamp(4.0, MOST_BINS as f64 - 2.0);
    let mut width = round_step((high - low) / bins);
    if whole {
        width = if width.fract() == 0.0 { width } else { (2.0 * width).max(1.0).trunc() };
    }
    let low = (low / width).floor() * width;
    let bins = (((high - low) / width).floor() as usize + 1).min(MOST_BINS);
    let count = |part: &&[f64]| {
        let mut counts = vec![0; bins];
        for value in part.iter().filter(|value| value.is_finite()) {
            counts[(((value - low) / width) as usize).min(bins - 1)] += 1;
        }
        counts
    };
    Some(Histogram { low, width, counts: parts.iter().map(count).collect() })
}

impl Histogram {
    /// Returns the bins as rows: from, to, and the count of each part.
    pub fn rows(&self) -> impl Iterator<Item = Vec<String>> {
        let bins = self.counts.first().map_or(0, Vec::len);
        let edge = |index: usize| format!("{:.6}", self.low + self.width * index as f64);
        let short = |text: String| text.trim_end_matches('0').trim_end_matches('.').to_owned();
        (0..bins).map(move |bin| {
            let counts = self.counts.iter().map(|counts| counts[bin].to_string());
            [short(edge(bin)), short(edge(bin + 1))].into_iter().chain(counts).collect()
        })
    }

    /// Returns the greatest count of a bin over some parts that stand on each other.
    pub fn most(&self, parts: &[usize]) -> u64 {
        let bins = self.counts.first().map_or(0, Vec::len);
        let sum =
            |bin: usize| parts.iter().filter_map(|&part| self.counts.get(part)?.get(bin)).sum();
        (0..bins).map(sum).max().unwrap_or(0)
    }

    /// Returns a plot of some parts, the lowest first; `most` is the count that it has room for.
    pub fn draw(&self, title: &str, x: &str, parts: &[Part<'_>], most: u64) -> String {
        const WIDTH: f64 = 336.0;
        const TOP: f64 = 26.0;
        const HEIGHT: f64 = 120.0;
        let bins = self.counts.first().map_or(0, Vec::len);
        let high = self.low + self.width * bins as f64;
        let up = Axis::counts(most);
        // A bin or two would fill the plot.
        let room = if bins < 4 { 2.0 * self.width } else { 0.0 };
        let Some(across) = Axis::over([self.low - room, high + room]) else {
            return String::new();
        };
        let labels: Vec<(String, f64)> =
            up.ticks.iter().map(|&tick| (up.label(tick), tick)).collect();
        let longest = labels.iter().map(|(text, _)| text.len()).max().unwrap_or(1);
        let (left, right) = (6.8 * longest as f64 + 12.0, WIDTH - 14.0);
        let bottom = TOP + HEIGHT;
        let total = |part: &Part<'_>| {
            let counts = self.counts.get(part.index).map_or(&[][..], Vec::as_slice);
            format!("{} {}", counts.iter().sum::<u64>(), part.name)
        };
        let totals: Vec<String> = parts.iter().map(total).collect();
        let about = format!(
            "{x} from {} to {high} in bins of {}: {}",
            self.low,
            self.width,
            totals.join(", ")
        );
        let mut svg = begin(title, &about, WIDTH, bottom + 38.0);
        head(&mut svg, title);
        let height = |count: f64| HEIGHT * up.share(count);
        for (text, tick) in &labels {
            line(&mut svg, "grid", (left, bottom - height(*tick)), (right, bottom - height(*tick)));
            label(&mut svg, ("end", "dim"), left - 6.0, bottom - height(*tick) + 4.0, text);
        }
        let place = |value: f64| left + (right - left) * across.share(value);
        for bin in 0..bins {
            let from = self.low + self.width * bin as f64;
            let (from, to) = (place(from), place(from + self.width));
            let gap = if to - from > 4.0 { 1.0 } else { 0.0 };
            let mut below = 0.0;
            for part in parts {
                let count = self.counts.get(part.index).map_or(0, |counts| counts[bin]) as f64;
                let (low, high) = (height(below), height(below + count));
                if count > 0.0 {
                    let size = ((to - from - gap).max(0.8), high - low);
                    rect(&mut svg, part.class, (from, bottom - high), size);
                }
                below += count;
            }
        }
        for (text, at) in apart(&across, left, right) {
            label(&mut svg, ("middle", "dim"), at, bottom + 16.0, &text);
        }
        label(&mut svg, ("end", ""), right, bottom + 32.0, &format!("{x} →"));
        svg + "</svg>"
    }
}

/// A part of a histogram in a plot.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its place in [`Histogram::counts`].
    pub index: usize,
    /// Of its bars.
    pub class: &'a str,
    /// What it counts.
    pub name: &'a str,
}
