//! The rows of a pass, sequence by sequence.

use std::collections::HashMap;

/// Consecutive positions of one sequence: some rows of a pass.
///
/// The rows of a pass are those of its first segment, then those of its second, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row in its sequence.
    pub position: usize,
    /// The sequence's pages from position 0 on, at least to the segment's end: position `p` is in
    /// slot `p % PAGE` of `pages[p / PAGE]`. Empty where no cache is used, as in training.
    pub pages: Vec<u32>,
    /// Where no cache is used, the first row of the segment that this one branches off: positions before `position`
    /// are the rows from there on. That segment is an earlier one, starts at position 0 and has as many rows. A segment
    /// at position 0 has none.
    pub stem: Option<usize>,
}

impl Segment {
    /// Returns a segment whose keys and values go into pages.
    pub fn cached(rows: usize, position: usize, pages: Vec<u32>) -> Segment {
        Segment { rows, position, pages, stem: None }
    }

    /// Returns the row of position 0 of each segment of a training pass, whose stems are as they must be.
    pub(crate) fn stems(segments: &[Segment]) -> Vec<usize> {
        // How many rows the segments at position 0 have, by their first.
        let mut trunks = HashMap::new();
        let mut first = 0;
        let stem = |segment: &Segment| {
            let Segment { rows, position, stem, .. } = *segment;
            match stem {
                None => {
                    assert_eq!(
                        position, 0,
                        "a segment in training starts at position 0 or has a stem"
                    );
                    trunks.insert(first, rows);
                }
                Some(stem) => {
                    let before = trunks.get(&stem).copied();
                    let known = before.is_some_and(|before| (1..=before).contains(&position));
                    assert!(known, "a stem starts at position 0 and has what is shared");
                }
            }
            first += rows;
            stem.unwrap_or(first - rows)
        };
        segments.iter().map(stem).collect()
    }
}
