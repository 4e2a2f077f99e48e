//! Work for several threads.

use rayon::prelude::*;

/// Multiplications below which a task is not worth handing to another thread.
pub(super) const GRAIN: usize = 100_000;

/// Runs `task` for each tile of `work` numbers, several in a go.
pub(super) fn over_tiles(tiles: usize, work: usize, task: impl Fn(usize) + Sync) {
    let each = GRAIN.div_ceil(work.max(1));
    parallel(tiles.div_ceil(each), |group| {
        (group * each..tiles.min((group + 1) * each)).for_each(&task);
    });
}

/// Runs tasks `0..count`, on other threads where there is more than one.
pub(super) fn parallel(count: usize, task: impl Fn(usize) + Sync) {
    if count <= 1 || rayon::current_num_threads() == 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(&task);
    }
}
