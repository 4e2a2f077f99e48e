//! The segments of a pass on the device, and their rows cut into tasks for attention.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::driver::{Device, Memory};
use super::passes;
use crate::model::backend::{BackendError, Segment};

/// The segments of a pass.
pub struct Plan {
    device: Arc<Device>,
    /// Rows of all segments.
    pub(super) rows: usize,
    /// One more than the last position of any segment.
    pub(super) longest: usize,
    segments: Vec<Place>,
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
}

/// How rows are cut into tasks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Cut {
    /// At most so many rows each, over the cache.
    Cached(usize),
    /// At most so many rows each, within their segment.
    Training(usize),
    /// A tile of so many keys each.
    Keys(usize),
}

/// Tasks on the device; `Task` of the kernels is four numbers.
pub(super) struct Tasks {
    pub(super) memory: Memory,
    pub(super) count: usize,
}

impl Plan {
    pub(super) fn new(device: &Arc<Device>, segments: &[Segment]) -> Result<Plan, BackendError> {
        let (mut positions, mut tables, mut pages) = (vec![], vec![], vec![]);
        let (mut places, mut longest) = (Vec::with_capacity(segments.len()), 0);
        for segment in segments {
            let Segment { rows, position, .. } = *segment;
            let (first_row, first_page) = (positions.len(), pages.len());
            places.push(Place { first_row, rows, position, pages: first_page });
            positions.extend((position..position + rows).map(|position| position as u32));
            tables.extend(std::iter::repeat_n(first_page as u32, rows));
            pages.extend_from_slice(&segment.pages);
            longest = longest.max(position + rows);
        }
        let rows = positions.len();
        positions.append(&mut tables);
        positions.append(&mut pages);
        let memory = passes::bring(device, &positions)?;
        let (device, tasks) = (device.clone(), Mutex::default());
        Ok(Plan { device, rows, longest, segments: places, memory, tasks })
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
        let tasks = self.cut(cut);
        let memory = Memory::or_remember(&self.device, passes::bring(&self.device, &tasks))?;
        let tasks = Arc::new(Tasks { memory, count: tasks.len() });
        known.insert(cut, tasks.clone());
        Some(tasks)
    }

    fn cut(&self, cut: Cut) -> Vec<[u32; 4]> {
        let (Cut::Cached(each) | Cut::Training(each) | Cut::Keys(each)) = cut;
        let mut tasks = Vec::new();
        for place in &self.segments {
            if !matches!(cut, Cut::Cached(_)) {
                assert_eq!(place.position, 0, "a segment in training starts at position 0");
            }
            for start in (0..place.rows).step_by(each) {
                let last = match cut {
                    Cut::Cached(_) => place.pages,
                    Cut::Training(_) => place.first_row,
                    Cut::Keys(_) => place.first_row + place.rows,
                };
                let rows = each.min(place.rows - start);
                let task = [place.first_row + start, rows, place.position + start, last];
                tasks.push(task.map(|number| number as u32));
            }
        }
        // What takes longest comes first: late queries, and early keys.
        match cut {
            Cut::Keys(_) => tasks.sort_by_key(|&[first, _, _, end]| first.abs_diff(end)),
            _ => tasks.sort_by_key(|&[_, _, position, _]| position),
        }
        tasks.reverse();
        tasks
    }
}
