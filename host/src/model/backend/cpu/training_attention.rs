//! Attention in training, without a cache: forward, and backward from the saved log sums.
//!
//! A task is one key and value head of one segment with all its query heads. Weights are never kept:
//! the backward pass forms them again from scores and log sums, a block of rows at a time. A segment that branches off
//! another works on a copy of the keys and values of both; the gradients of what it shares are added to the other's when
//! all tasks are done, in the order of the segments.

use std::borrow::Cow;
use std::ops::Range;

use super::product::{Left, PANEL, Panels, Target, View, product};
use super::simd::{Isa, Kernel, Lanes, Shared, exp, sum8};
use super::threads::parallel;
use super::{Buffer, CpuPlan};
use crate::model::backend::training::{AttentionGradients, AttentionSaved};
use crate::model::backend::{AttentionShape, Segment, Write};

/// Query rows whose scores are held at a time. Small blocks waste little above the diagonal, large
/// ones read keys and values less often.
const BLOCK: usize = 32;

/// Causal attention of each segment, over its window; see
/// [`TrainingBackend::attention`](crate::model::backend::TrainingBackend::attention).
#[expect(clippy::too_many_arguments, reason = "three operands, their shape and two results")]
pub(super) fn attention(
    isa: Isa,
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    shape: AttentionShape,
    plan: &CpuPlan,
    y: &mut [f32],
    log_sums: &mut [f32],
) {
    let (rows, AttentionShape { heads, kv_heads, head_dim, .. }) = (plan.positions.len(), shape);
    let queries = &queries[..rows * heads * head_dim];
    let keys = &keys[..rows * kv_heads * head_dim];
    let values = &values[..rows * kv_heads * head_dim];
    let y = Shared::new(&mut y[..rows * heads * head_dim]);
    let log_sums = Shared::new(&mut log_sums[..rows * heads]);
    let places = places(plan, shape);
    parallel(places.len() * kv_heads, |i| {
        let task = Place { kv_head: i % kv_heads, ..places[i / kv_heads] };
        let (y, log_sums) = (y.get(), log_sums.get());
        isa.run(Forward { task, queries, keys, values, y, log_sums });
    });
}

/// The gradients of [`attention`].
pub(super) fn attention_backward(
    isa: Isa,
    dy: &[f32],
    saved: AttentionSaved<'_, Buffer>,
    shape: AttentionShape,
    plan: &CpuPlan,
    gradients: AttentionGradients<'_, Buffer>,
) {
    let (rows, AttentionShape { heads, kv_heads, head_dim, .. }) = (plan.positions.len(), shape);
    let (wide, narrow) = (rows * heads * head_dim, rows * kv_heads * head_dim);
    let dqueries = Shared::new(&mut gradients.dqueries[..wide]);
    let dkeys = Shared::new(&mut gradients.dkeys[..narrow]);
    let dvalues = Shared::new(&mut gradients.dvalues[..narrow]);
    let places = places(plan, shape);
    // What each branch has for the rows that it shares, one segment after the other.
    let shared = |place: &Place| place.position * kv_heads * head_dim;
    let mut len = 0;
    let start = |place| {
        len += shared(place);
        len - shared(place)
    };
    let starts: Vec<usize> = places.iter().map(start).collect();
    let (mut of_keys, mut of_values) = (vec![0f32; len], vec![0f32; len]);
    let (to_keys, to_values) = (Shared::new(&mut of_keys), Shared::new(&mut of_values));
    parallel(places.len() * kv_heads, |i| {
        let (segment, kv_head) = (i / kv_heads, i % kv_heads);
        let task = Place { kv_head, ..places[segment] };
        let start = starts[segment] + kv_head * head_dim;
        isa.run(Backward {
            task,
            dy: &dy[..wide],
            queries: &saved.queries[..wide],
            keys: &saved.keys[..narrow],
            values: &saved.values[..narrow],
            y: &saved.y[..wide],
            log_sums: saved.log_sums,
            dqueries: dqueries.get(),
            dkeys: [dkeys.get(), to_keys.get().wrapping_add(start)],
            dvalues: [dvalues.get(), to_values.get().wrapping_add(start)],
        });
    });
    for (place, &start) in places.iter().zip(&starts) {
        let (from, to) = (start..start + shared(place), place.stem * kv_heads * head_dim);
        let add = |dx: &mut Buffer, of: &[f32]| {
            dx[to..][..from.len()].iter_mut().zip(&of[from.clone()]).for_each(|(x, y)| *x += y);
        };
        add(gradients.dkeys, &of_keys);
        add(gradients.dvalues, &of_values);
    }
}

/// Returns where each segment is, for its first head.
fn places(plan: &CpuPlan, shape: AttentionShape) -> Vec<Place> {
    let mut first = 0;
    let place = |(segment, stem): (&Segment, usize)| {
        let Segment { rows, position, .. } = *segment;
        first += rows;
        Place { shape, first: first - rows, rows, position, stem, kv_head: 0 }
    };
    plan.segments.iter().zip(Segment::stems(&plan.segments)).map(place).collect()
}

/// One key and value head of one segment.
#[derive(Clone, Copy)]
struct Place {
    shape: AttentionShape,
    /// Its first row in the pass.
    first: usize,
    rows: usize,
    /// That row's position.
    position: usize,
    /// The row of position 0.
    stem: usize,
    kv_head: usize,
}

impl Place {
    /// Numbers from one row to the next in queries.
    fn stride(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    /// Numbers from one row to the next in keys and values.
    fn kv_stride(&self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }

    /// Which of all rows and query heads the one at a position is.
    fn vector(&self, position: usize, head: usize) -> usize {
        (self.first + position - self.position) * self.shape.heads + head
    }

    /// Where a query head's row begins.
    fn at(&self, position: usize, head: usize) -> usize {
        self.vector(position, head) * self.shape.head_dim
    }

    /// Where this head's own first key and value begin.
    fn kv_at(&self) -> usize {
        (self.first * self.shape.kv_heads + self.kv_head) * self.shape.head_dim
    }

    /// One more than the last position.
    fn end(&self) -> usize {
        self.position + self.rows
    }

    /// Returns this head's keys or values from position 0 on, and the numbers from one to the next.
    fn positions<'a>(&self, x: &'a [f32]) -> (Cow<'a, [f32]>, usize) {
        let AttentionShape { kv_heads, head_dim, .. } = self.shape;
        if self.position == 0 {
            return (Cow::Borrowed(&x[self.kv_at()..]), self.kv_stride());
        }
        let rows = (self.stem..self.stem + self.position).chain(self.first..self.first + self.rows);
        let row = |row: usize| &x[(row * kv_heads + self.kv_head) * head_dim..][..head_dim];
        (Cow::Owned(rows.flat_map(row).copied().collect()), head_dim)
    }

    /// The query heads that attend to this key and value head.
    fn heads(&self) -> std::ops::Range<usize> {
        let group = self.shape.heads / self.shape.kv_heads;
        self.kv_head * group..(self.kv_head + 1) * group
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// Blocks of query rows.
    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let (Place { shape, position, .. }, last) = (*self, self.end());
        (position..last).step_by(BLOCK).map(move |start| Block {
            start,
            end: last.min(start + BLOCK),
            seen: shape.first_seen(start) / PANEL * PANEL,
        })
    }

    /// Some rows of queries, or of a gradient of their shape, as a left operand.
    fn left(&self, values: &[f32], head: usize, start: usize, end: usize) -> Left {
        let (row_stride, rows) = (self.stride(), end - start);
        Left { from: values[self.at(start, head)..].as_ptr(), row_stride, step: 1, rows }
    }
}

/// Query rows whose scores are held together, by their positions.
#[derive(Clone, Copy)]
struct Block {
    /// The first.
    start: usize,
    /// One more than the last.
    end: usize,
    /// The first key that a score is formed for: the first that one of them sees, or
    /// before it by less than a panel.
    seen: usize,
}

struct Forward<'a> {
    task: Place,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    y: *mut f32,
    log_sums: *mut f32,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Forward { task, queries, keys, values, y, log_sums } = self;
        let (head_dim, last) = (task.shape.head_dim, task.end());
        let (mut keys_across, mut packed) = (Panels::default(), Panels::default());
        if task.rows == 0 {
            return;
        }
        let (keys, stride) = task.positions(keys);
        keys_across.fill_transposed(&keys, stride, head_dim, last);
        let keys_across = View::from(&keys_across);
        let (values, stride) = task.positions(values);
        let values_along = View::of(&values, stride, last, head_dim, 1.0, &mut packed);
        let width = last.next_multiple_of(PANEL);
        let mut scores = vec![0f32; BLOCK.min(task.rows) * width];
        for head in task.heads() {
            for Block { start, end, seen } in task.blocks() {
                let padded = end.next_multiple_of(PANEL) - seen;
                // SAFETY: `scores` has a row of `width` numbers for each row of the block; `y` and
                // `log_sums` are as long as the plan asks for, and these rows of this head are this
                // task's alone.
                unsafe {
                    let left = task.left(queries, head, start, end);
                    let to = scores.as_mut_ptr();
                    let target = Target { to, stride: width, columns: padded, write: Write::Set };
                    product::<L>(left, keys_across.columns_from(seen), head_dim, target);
                    for row in start..end {
                        let scores = &mut scores[(row - start) * width..][..padded];
                        let own = task.shape.first_seen(row) - seen..row + 1 - seen;
                        let log_sum = softmax::<L>(scores, own, task.scale());
                        *log_sums.add(task.vector(row, head)) = log_sum;
                    }
                    let left = Left {
                        from: scores.as_ptr(),
                        row_stride: width,
                        step: 1,
                        rows: end - start,
                    };
                    let to = y.add(task.at(start, head));
                    let target =
                        Target { to, stride: task.stride(), columns: head_dim, write: Write::Set };
                    product::<L>(left, values_along.rows_from(seen), end - seen, target);
                }
            }
        }
    }
}

/// Turns scores into weights: softmax of `scale` times those that are `seen`, zeros elsewhere.
/// Returns the log of the sum of exponentials.
///
/// # Safety
///
/// `scores` has whole panels; the machine has the lanes.
#[inline(always)]
unsafe fn softmax<L: Lanes>(scores: &mut [f32], seen: Range<usize>, scale: f32) -> f32 {
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    // SAFETY: a chunk has eight numbers.
    unsafe {
        let mut max = L::splat(f32::MIN);
        for chunk in scores.chunks_exact(8) {
            max = L::load(chunk.as_ptr()).max(max);
        }
        let max = scale * max.array().into_iter().fold(f32::MIN, f32::max);
        let mut sum = L::splat(0.0);
        for chunk in scores.chunks_exact_mut(8) {
            let score = L::load(chunk.as_ptr());
            let weight = exp(score.mul_add(L::splat(scale), L::splat(-max)));
            sum = sum.add(weight);
            weight.store(chunk.as_mut_ptr());
        }
        let sum = sum8(sum.array());
        let inverse = 1.0 / sum;
        scores.iter_mut().for_each(|weight| *weight *= inverse);
        max + sum.ln()
    }
}

struct Backward<'a> {
    task: Place,
    dy: &'a [f32],
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    y: &'a [f32],
    log_sums: &'a [f32],
    dqueries: *mut f32,
    /// For all rows of the pass, and of this head for the rows that are shared.
    dkeys: [*mut f32; 2],
    dvalues: [*mut f32; 2],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Backward { task, dy, queries, keys, values, y, log_sums, .. } = self;
        let (head_dim, last) = (task.shape.head_dim, task.end());
        if task.rows == 0 {
            return;
        }
        let mut panels: [Panels; 5] = Default::default();
        let [keys_across, values_across, packed_keys, packed_queries, packed_dy] = &mut panels;
        let (keys, stride) = task.positions(keys);
        let (values, _) = task.positions(values);
        keys_across.fill_transposed(&keys, stride, head_dim, last);
        values_across.fill_transposed(&values, stride, head_dim, last);
        let (keys_across, values_across) = (View::from(&*keys_across), View::from(&*values_across));
        let keys_along = View::of(&keys, stride, last, head_dim, 1.0, packed_keys);
        let width = last.next_multiple_of(PANEL);
        let mut weights = vec![0f32; BLOCK.min(task.rows) * width];
        let mut dscores = weights.clone();
        let gradients = [self.dkeys, self.dvalues].map(|to| Along { task, to });
        // Those of rows that are shared are zero already.
        let own = task.position..last;
        for row in gradients.iter().flat_map(|to| own.clone().map(|position| to.row(position))) {
            // SAFETY: rows of this head are this task's alone.
            unsafe { std::slice::from_raw_parts_mut(row, head_dim).fill(0.0) }
        }
        let [dkeys, dvalues] = gradients;
        for head in task.heads() {
            for Block { start, end, seen } in task.blocks() {
                let (count, padded) = (end - start, end.next_multiple_of(PANEL) - seen);
                let at = task.at(start, head);
                let queries_along =
                    View::of(&queries[at..], task.stride(), count, head_dim, 1.0, packed_queries);
                let dy_along = View::of(&dy[at..], task.stride(), count, head_dim, 1.0, packed_dy);
                // SAFETY: `weights` and `dscores` have a row of `width` numbers for each row of the
                // block; the gradients are as long as the plan asks for, and these rows of these
                // heads are this task's alone.
                unsafe {
                    let block =
                        |to| Target { to, stride: width, columns: padded, write: Write::Set };
                    let left = task.left(queries, head, start, end);
                    let keys = keys_across.columns_from(seen);
                    product::<L>(left, keys, head_dim, block(weights.as_mut_ptr()));
                    let left = task.left(dy, head, start, end);
                    let values = values_across.columns_from(seen);
                    product::<L>(left, values, head_dim, block(dscores.as_mut_ptr()));
                    for row in start..end {
                        let at = task.at(row, head);
                        let rows = (row - start) * width..(row - start) * width + padded;
                        score_gradient::<L>(
                            &mut weights[rows.clone()],
                            &mut dscores[rows],
                            task.shape.first_seen(row) - seen..row + 1 - seen,
                            task.scale(),
                            log_sums[task.vector(row, head)],
                            dot::<L>(&dy[at..at + head_dim], &y[at..at + head_dim]),
                        );
                    }
                    let rows = |from| Left { from, row_stride: width, step: 1, rows: count };
                    let target = Target {
                        to: self.dqueries.add(at),
                        stride: task.stride(),
                        columns: head_dim,
                        write: Write::Set,
                    };
                    let keys = keys_along.rows_from(seen);
                    product::<L>(rows(dscores.as_ptr()), keys, end - seen, target);
                    // Those that are shared, then its own.
                    let border = task.position.clamp(seen, end);
                    for part in
                        [seen..border, border..end].into_iter().filter(|part| !part.is_empty())
                    {
                        let columns = |from: &[f32]| Left {
                            from: from.as_ptr().add(part.start - seen),
                            row_stride: 1,
                            step: width,
                            rows: part.len(),
                        };
                        let sum = |gradient: &Along| Target {
                            to: gradient.row(part.start),
                            stride: task.kv_stride(),
                            columns: head_dim,
                            write: Write::Add,
                        };
                        product::<L>(columns(&dscores), queries_along, count, sum(&dkeys));
                        product::<L>(columns(&weights), dy_along, count, sum(&dvalues));
                    }
                }
            }
        }
    }
}

/// The gradients of a task's keys or values, by their positions.
struct Along {
    task: Place,
    /// Those of all rows of the pass, and those of this head that are shared.
    to: [*mut f32; 2],
}

impl Along {
    /// Returns where that of a position begins. The next begins a [stride](Place::kv_stride) further, where it is shared
    /// too, or neither is.
    fn row(&self, position: usize) -> *mut f32 {
        let (Along { task, to: [own, shared] }, stride) = (self, self.task.kv_stride());
        match position.checked_sub(task.position) {
            None => shared.wrapping_add(position * stride),
            Some(row) => own.wrapping_add(task.kv_at() + row * stride),
        }
    }
}

/// Turns a row of scores into weights and a row of their gradients into that of the scores.
///
/// `offset` is the sum of weight times gradient over the row, which equals `dy · y`.
///
/// # Safety
///
/// Both rows are whole panels of equal length; the machine has the lanes.
#[inline(always)]
unsafe fn score_gradient<L: Lanes>(
    weights: &mut [f32],
    gradients: &mut [f32],
    seen: Range<usize>,
    scale: f32,
    log_sum: f32,
    offset: f32,
) {
    weights[..seen.start].fill(f32::NEG_INFINITY);
    weights[seen.end..].fill(f32::NEG_INFINITY);
    for (weight, gradient) in weights.chunks_exact_mut(8).zip(gradients.chunks_exact_mut(8)) {
        // SAFETY: chunks have eight numbers.
        unsafe {
            let score = L::load(weight.as_ptr());
            let p = exp(score.mul_add(L::splat(scale), L::splat(-log_sum)));
            let d = L::load(gradient.as_ptr()).sub(L::splat(offset)).mul(L::splat(scale)).mul(p);
            p.store(weight.as_mut_ptr());
            d.store(gradient.as_mut_ptr());
        }
    }
}

/// The sum of products, in eight lanes and then the rest.
///
/// # Safety
///
/// The slices are equally long; the machine has the lanes.
#[inline(always)]
pub(super) unsafe fn dot<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    let (wide_a, wide_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = wide_a.remainder().iter().zip(wide_b.remainder());
    // SAFETY: chunks have eight numbers.
    unsafe {
        let mut sum = L::splat(0.0);
        for (a, b) in wide_a.zip(wide_b) {
            sum = L::load(a.as_ptr()).mul_add(L::load(b.as_ptr()), sum);
        }
        rest.fold(sum8(sum.array()), |sum, (a, b)| sum + a * b)
    }
}
