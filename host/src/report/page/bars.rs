//! Bars below each other, each with its name and what it says.

use super::svg::{begin, head, label, rect, shortened};

/// A bar.
pub struct Bar<'a> {
    pub name: &'a str,
    /// At least 0.
    pub value: f64,
    /// How the value reads.
    pub said: String,
}

/// Returns bars that begin at 0 and are as long, next to each other, as their values.
pub fn bars(title: &str, class: &str, bars: &[Bar<'_>]) -> String {
    const WIDTH: f64 = 336.0;
    const NAMES: f64 = 118.0;
    const ROOM: f64 = 140.0;
    const ROW: f64 = 20.0;
    const TOP: f64 = 26.0;
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let about: Vec<String> = bars.iter().map(|bar| format!("{} {}", bar.name, bar.said)).collect();
    let mut svg = begin(title, &about.join("; "), WIDTH, TOP + ROW * bars.len() as f64 + 2.0);
    head(&mut svg, title);
    for (number, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        let long = if most > 0.0 { (ROOM * bar.value / most).clamp(1.0, ROOM) } else { 1.0 };
        label(&mut svg, ("end", ""), NAMES - 10.0, y + 12.0, &shortened(bar.name, 17));
        rect(&mut svg, class, (NAMES, y + 2.0), (long, 12.0));
        label(&mut svg, ("start", "dim"), NAMES + long + 6.0, y + 12.0, &bar.said);
    }
    svg + "</svg>"
}
