//! The same items in other calls: what is said of an item must not depend on its neighbours.

use super::report::Report;
use super::said::Said;
use crate::plugin::{Interface, PluginError};

/// Makes calls with these items each, and says what came of all of them, in their order.
pub type Calls<'a> = dyn Fn(&[Vec<usize>]) -> Result<Said, PluginError> + 'a;

/// How items are cut into calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// All in one call, as before, in a fresh instance.
    Repeated,
    /// One by one.
    Alone,
    /// In two calls.
    Halves,
    /// In one call, the last first.
    Reversed,
    /// Every other one, then the rest.
    Neighbours,
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 5] =
        [Way::Repeated, Way::Alone, Way::Halves, Way::Reversed, Way::Neighbours];
    /// Those that keep the order and leave nothing out between two items.
    pub const IN_ORDER: [Way; 3] = [Way::Repeated, Way::Alone, Way::Halves];

    /// Returns the name of the check.
    pub fn as_str(self) -> &'static str {
        match self {
            Way::Repeated => "same when repeated",
            Way::Alone => "same one by one",
            Way::Halves => "same in two halves",
            Way::Reversed => "same in reverse order",
            Way::Neighbours => "same beside other neighbours",
        }
    }

    /// Returns the items of each call.
    pub fn calls(self, items: usize) -> Vec<Vec<usize>> {
        let half = items / 2;
        let calls: Vec<Vec<usize>> = match self {
            Way::Repeated => vec![(0..items).collect()],
            Way::Alone => (0..items).map(|item| vec![item]).collect(),
            Way::Halves => vec![(0..half).collect(), (half..items).collect()],
            Way::Reversed => vec![(0..items).rev().collect()],
            Way::Neighbours => {
                vec![(0..items).step_by(2).collect(), (1..items).step_by(2).collect()]
            }
        };
        calls.into_iter().filter(|call| !call.is_empty()).collect()
    }
}

/// Returns the items of which other calls said something else than at first, with what that was.
///
/// - `first`: what was said of each item.
/// - `again`: what the calls said, one call after the other.
pub fn differing<'a>(
    first: &'a [String],
    calls: &'a [Vec<usize>],
    again: &'a [String],
) -> impl Iterator<Item = (usize, &'a String)> + Clone {
    let items = calls.iter().flatten().copied().zip(again);
    items.filter(|(item, words)| first[*item] != **words)
}

/// Tries `ways` with items of these names. Returns what came of the plain call.
pub fn check(
    report: &mut Report,
    interface: Interface,
    names: &[String],
    ways: &[Way],
    call: &Calls<'_>,
) -> Option<Said> {
    let about = Some(interface);
    let first = match call(&Way::Repeated.calls(names.len())) {
        Ok(first) => first,
        Err(error) => {
            report.note(
                about,
                "other batches",
                format!("not tried, since one batch fails\n{error}"),
            );
            return None;
        }
    };
    for &way in ways {
        let calls = way.calls(names.len());
        match call(&calls) {
            Err(error) => report.fail(about, way.as_str(), format!("the call fails\n{error}")),
            Ok(again) => {
                let mut other = differing(&first.words, &calls, &again.words);
                let differing = other.clone().count();
                match other.next() {
                    None => report.ok(about, way.as_str(), format!("{} items", names.len())),
                    Some((item, words)) => {
                        let (name, before) = (&names[item], shortened(&first.words[item]));
                        let found = format!(
                            "it says something else of {differing} of {}; the first is `{name}`\n\
                             in one batch:  {before}\nthis way:      {}",
                            names.len(),
                            shortened(words)
                        );
                        report.fail(about, way.as_str(), found);
                    }
                }
            }
        }
    }
    Some(first)
}

/// Returns the beginning of what was said, on one line.
fn shortened(words: &str) -> String {
    const MOST: usize = 160;
    let inside = words.strip_prefix("Done(").and_then(|rest| rest.strip_suffix(')'));
    let words = inside.unwrap_or(words);
    let mut short: String = words.chars().take(MOST).collect();
    if short.len() < words.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Verdict;

    #[test]
    fn every_way_calls_every_item_once() {
        for way in Way::ALL {
            for items in [1, 2, 5] {
                let mut all: Vec<usize> = way.calls(items).into_iter().flatten().collect();
                all.sort_unstable();
                assert_eq!(all, (0..items).collect::<Vec<_>>(), "{way:?}");
            }
        }
    }

    #[test]
    fn what_depends_on_its_neighbours_is_found() {
        let names: Vec<String> = (0..4).map(|item| format!("r{item}")).collect();
        let failing = |say: &dyn Fn(&[usize]) -> Vec<usize>| {
            let mut report = Report::default();
            let call = |calls: &[Vec<usize>]| {
                let words = calls.iter().flat_map(|call| say(call)).map(|it| it.to_string());
                Ok(Said { words: words.collect(), ..Said::default() })
            };
            check(&mut report, Interface::Filter, &names, &Way::ALL, &call);
            report.of(Verdict::Fail).map(|line| line.check.clone()).collect::<Vec<_>>()
        };
        assert!(failing(&|call| call.to_vec()).is_empty());
        // Counts through a call.
        assert_eq!(
            failing(&|call| (0..call.len()).collect()),
            [
                "same one by one",
                "same in two halves",
                "same in reverse order",
                "same beside other neighbours"
            ]
        );
        // Answers in another order than it was asked.
        assert_eq!(
            failing(&|call| call.iter().rev().copied().collect()),
            ["same one by one", "same in two halves", "same beside other neighbours"]
        );
    }
}
