//! The segments of a pass on the device, and their rows cut into tasks for attention.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::driver::{Device, Memory};
use super::{CHUNK, passes};
use crate::model::backend::{BackendError, PAGE, Segment};

/// The segments of a pass.
pub struct Plan {
    device: Arc<Device>,
    /// Rows of all segments.
    pub(super) rows: usize,
    /// One more than the last position of any segment.
    pub(super) longest: usize,
    segments: Vec<Place>,
    positions: Vec<u32>,
    /// Each row's position, then where each row's pages begin, then the pages.
    memory: Memory,
    tasks: Mutex<HashMap<Cut, Arc<Tasks>>>,
}

/// A segment and where it lies.
struct Place {
    first_row: usize,
    rows: usize,
    position: usize,
    pages: usize,
    /// The first chunks of positions whose pages are those of the segment before.
    shared: usize,
    /// In training, the row of position 0: its own first, or that of the segment that it branches off.
    stem: usize,
}

/// How rows are cut into tasks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Cut {
    /// At most so many rows each, over the cache.
    Cached(usize),
    /// At most so many rows each that read the same pages for a chunk of positions, of which they see those of a
    /// window.
    Chunks(usize, Option<usize>),
    /// At most so many rows each, in a training pass.
    Training(usize),
    /// A tile of so many keys each, in a training pass.
    Keys(usize),
}

/// Tasks on the device: `Task`, `Reading`, `Section` or `Tile` of the kernels.
pub(super) struct Tasks {
    pub(super) memory: Memory,
    pub(super) count: usize,
}

impl Plan {
    pub(super) fn new(device: &Arc<Device>, segments: &[Segment]) -> Result<Plan, BackendError> {
        let (mut positions, mut tables, mut pages) = (vec![], vec![], vec![]);
        let (mut places, mut longest) = (Vec::with_capacity(segments.len()), 0);
        let mut before: &[u32] = &[];
        let stems = match segments.iter().all(|segment| segment.pages.is_empty()) {
            true => Segment::stems(segments),
            false => vec![0; segments.len()],
        };
        for (segment, stem) in segments.iter().zip(stems) {
            let Segment { rows, position, .. } = *segment;
            let (first_row, first_page) = (positions.len(), pages.len());
            if rows == 0 {
                continue;
            }
            let shared = common_chunks(before, &segment.pages);
            before = &segment.pages;
            places.push(Place { first_row, rows, position, pages: first_page, shared, stem });
            positions.extend((position..position + rows).map(|position| position as u32));
            tables.extend(std::iter::repeat_n(first_page as u32, rows));
            pages.extend_from_slice(&segment.pages);
            longest = longest.max(position + rows);
        }
        let rows = positions.len();
        let memory = passes::bring(device, &[&positions[..], &tables[..], &pages[..]].concat())?;
        let (device, tasks) = (device.clone(), Mutex::default());
        Ok(Plan { device, rows, longest, segments: places, positions, memory, tasks })
    }

    /// Returns the address of each row's position.
    pub(super) fn positions(&self) -> u64 {
        self.memory.address()
    }

    /// Returns the address of where each row's pages begin.
    pub(super) fn tables(&self) -> u64 {
        self.memory.address() + (size_of::<u32>() * self.rows) as u64
    }

    /// Returns the address of all pages.
    pub(super) fn pages(&self) -> u64 {
        self.memory.address() + (2 * size_of::<u32>() * self.rows) as u64
    }

    /// Returns the tasks of a cut; none where there is no room, which is remembered.
    pub(super) fn tasks(&self, cut: Cut) -> Option<Arc<Tasks>> {
        let mut known = self.tasks.lock().expect("nothing panics while it is held");
        if let Some(tasks) = known.get(&cut) {
            return Some(tasks.clone());
        }
        let (memory, count) = match cut {
            Cut::Chunks(each, window) => {
                let tasks = self.cut_chunks(each, window);
                (passes::bring(&self.device, &tasks), tasks.len())
            }
            Cut::Cached(each) => {
                let tasks = self.cut_cached(each);
                (passes::bring(&self.device, &tasks), tasks.len())
            }
            Cut::Training(each) => {
                let tasks = self.cut_rows(each);
                (passes::bring(&self.device, &tasks), tasks.len())
            }
            Cut::Keys(each) => {
                let (tiles, seeing) = self.cut_keys(each);
                let all = [tiles.as_flattened(), seeing.as_flattened()].concat();
                (passes::bring(&self.device, &all), tiles.len())
            }
        };
        let memory = Memory::or_remember(&self.device, memory)?;
        let tasks = Arc::new(Tasks { memory, count });
        known.insert(cut, tasks.clone());
        Some(tasks)
    }

    fn cut_cached(&self, each: usize) -> Vec<[u32; 4]> {
        let mut tasks = Vec::new();
        for &Place { first_row, rows, position, pages, .. } in &self.segments {
            for start in (0..rows).step_by(each) {
                let rows = each.min(rows - start);
                let task = [first_row + start, rows, position + start, pages];
                tasks.push(task.map(|number| number as u32));
            }
        }
        // What takes longest comes first: late queries.
        tasks.sort_by_key(|&[_, _, position, _]| Reverse(position));
        tasks
    }

    /// Returns each `Section`.
    fn cut_rows(&self, each: usize) -> Vec<[u32; 5]> {
        let mut tasks = Vec::new();
        for &Place { first_row, rows, position, stem, .. } in &self.segments {
            for start in (0..rows).step_by(each) {
                let rows = each.min(rows - start);
                let task = [first_row + start, rows, position + start, stem, position];
                tasks.push(task.map(|number| number as u32));
            }
        }
        tasks.sort_by_key(|&[_, _, position, ..]| Reverse(position));
        tasks
    }

    /// Returns each `Tile` and each `Seeing`.
    fn cut_keys(&self, each: usize) -> (Vec<[u32; 5]>, Vec<[u32; 4]>) {
        /// All keys.
        const ANY: usize = i32::MAX as usize;
        let (mut tiles, mut seeing) = (Vec::new(), Vec::new());
        for &Place { first_row, rows, position, .. } in &self.segments {
            let off = |other: &&Place| other.stem == first_row && other.position > 0;
            let branches: Vec<&Place> = self.segments.iter().filter(off).collect();
            for start in (0..rows).step_by(each) {
                let (row, at, first) = (first_row + start, position + start, seeing.len());
                seeing.push([row, rows - start, at, ANY]);
                let further = branches.iter().filter(|branch| branch.position > at);
                seeing.extend(further.map(|of| [of.first_row, of.rows, of.position, of.position]));
                tiles.push([row, each.min(rows - start), at, first, seeing.len() - first]);
            }
        }
        let rows = |&[.., first, count]: &[usize; 5]| {
            seeing[first..first + count].iter().map(|&[_, rows, ..]| rows).sum::<usize>()
        };
        tiles.sort_by_key(|tile| Reverse(rows(tile)));
        let tiles = tiles.into_iter().map(|tile| tile.map(|number| number as u32)).collect();
        (tiles, seeing.into_iter().map(|rows| rows.map(|number| number as u32)).collect())
    }

    fn cut_chunks(&self, each: usize, window: Option<usize>) -> Vec<[u32; 6]> {
        let mut tasks = Vec::new();
        for chunk in 0..self.longest.div_ceil(CHUNK) {
            let (start, end) = (chunk * CHUNK, (chunk + 1) * CHUNK);
            // Rows in a row that read the same pages, and where these pages begin.
            let mut runs: Vec<(Range<usize>, usize)> = Vec::new();
            for place in &self.segments {
                // Rows before the chunk do not see it, nor those whose window lies behind it.
                let first = start.saturating_sub(place.position);
                let behind = window.map_or(usize::MAX, |window| (end - 1).saturating_add(window));
                let last = place.rows.min(behind.saturating_sub(place.position));
                if first >= last {
                    continue;
                }
                let rows = place.first_row + first..place.first_row + last;
                match runs.last_mut() {
                    Some((run, _)) if run.end == rows.start && place.shared > chunk => {
                        run.end = rows.end;
                    }
                    _ => runs.push((rows, place.pages)),
                }
            }
            for (run, pages) in runs {
                for first in run.clone().step_by(each) {
                    let rows = first..run.end.min(first + each);
                    let seen = |row: usize| {
                        let end = self.positions[row] as usize + 1;
                        let start = window.map_or(0, |window| end.saturating_sub(window));
                        (start, end)
                    };
                    let from = rows.clone().map(|row| seen(row).0).min().unwrap_or(0).max(start);
                    let to = rows.clone().map(|row| seen(row).1).max().unwrap_or(0).min(end);
                    let task = [rows.start, rows.len(), chunk, pages, from, to];
                    tasks.push(task.map(|number| number as u32));
                }
            }
        }
        tasks.sort_by_key(|&[_, rows, _, _, from, to]| Reverse(rows * (to - from)));
        // A few that have no rows, so that there are as many for the next token, where one more sequence has come to
        // another chunk: passes that ask for the same are replayed.
        let step = (tasks.len() / 8).next_power_of_two();
        tasks.resize(tasks.len().next_multiple_of(step), [0; 6]);
        tasks
    }
}

/// Returns for how many chunks of positions, from the first on, two sequences have the same pages.
fn common_chunks(a: &[u32], b: &[u32]) -> usize {
    const PAGES: usize = CHUNK / PAGE;
    a.chunks_exact(PAGES).zip(b.chunks_exact(PAGES)).take_while(|(a, b)| a == b).count()
}
