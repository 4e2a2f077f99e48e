//! The table of measures.

use super::number;
use super::table::{Align, Table};
use crate::measure::figure::Figure;

/// Returns a line for each figure of each measure, with what it is counted over.
pub fn measures<'a>(measures: impl IntoIterator<Item = (&'a str, &'a [Figure])>) -> String {
    let mut table = Table::new();
    for (heading, align) in [
        ("measure", Align::Left),
        ("figure", Align::Left),
        ("value", Align::Right),
        ("95 % interval", Align::Right),
        ("n", Align::Right),
    ] {
        table.column(heading, "", align);
    }
    for (measure, figures) in measures {
        for (place, figure) in figures.iter().enumerate() {
            let interval = figure.interval.map(|ends| [ends.low, ends.high].map(number).join("–"));
            table.row(vec![
                if place == 0 { measure.to_owned() } else { String::new() },
                figure.name.clone(),
                figure.value.map_or_else(|| "none".to_owned(), number),
                interval.unwrap_or_default(),
                figure.n.to_string(),
            ]);
        }
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_under_their_measure() {
        let first = [Figure::share("win", 5, 10), Figure::plain("chance", Some(0.25), 10)];
        let second = [Figure::share("ended", 0, 0)];
        let found = measures([("pairs", first.as_slice()), ("answers", second.as_slice())]);
        assert_eq!(
            found,
            "measure  figure  value  95 % interval   n\n\
             pairs    win     0.500    0.237–0.763  10\n\
             \x20        chance  0.250                 10\n\
             answers  ended    none                  0\n"
        );
    }
}
