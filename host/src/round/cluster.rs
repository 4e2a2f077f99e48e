//! k-means: points are cut into groups of those that lie near each other.
//!
//! The first centres are drawn as k-means++ does (<https://theory.stanford.edu/~sergei/papers/kMeansPP-soda.pdf>),
//! then Lloyd's steps follow. All sums are in f64 and in the order of the points, so threads change
//! nothing.

use rayon::prelude::*;

use crate::run::seed;

/// Lloyd's steps, at most; where nothing moves any more they end.
const STEPS: usize = 50;

/// Returns the number of each point's cluster, counted from 0 in the order in which the points show them.
/// There are `k` clusters at most: as many as there are different points, where these are fewer.
///
/// Points have the same length and are finite.
pub fn clusters(points: &[Vec<f32>], k: usize, seed: u64) -> Vec<u32> {
    if points.is_empty() {
        return Vec::new();
    }
    let mut centres = first_centres(points, k, seed);
    let mut of_points: Vec<usize> = Vec::new();
    for _ in 0..STEPS {
        let now: Vec<usize> = points.par_iter().map(|point| nearest(point, &centres)).collect();
        if now == of_points {
            break;
        }
        of_points = now;
        move_centres(points, &of_points, &mut centres);
    }
    let mut numbers: Vec<Option<u32>> = vec![None; centres.len()];
    let mut next = 0;
    let number = |&centre: &usize| {
        *numbers[centre].get_or_insert_with(|| {
            next += 1;
            next - 1
        })
    };
    of_points.iter().map(number).collect()
}

/// Draws each centre among the points, one as likely as it is far from the centres before, squared.
fn first_centres(points: &[Vec<f32>], k: usize, seed: u64) -> Vec<Vec<f64>> {
    let widened = |index: usize| points[index].iter().copied().map(f64::from).collect::<Vec<f64>>();
    let first = (seed::uniform(seed, 0) * points.len() as f64) as usize;
    let mut centres = vec![widened(first)];
    let mut far = vec![f64::INFINITY; points.len()];
    while centres.len() < k {
        let last = &centres[centres.len() - 1];
        far.par_iter_mut()
            .zip(points)
            .for_each(|(far, point)| *far = far.min(distance(point, last)));
        let total: f64 = far.iter().sum();
        let mut left = seed::uniform(seed, centres.len() as u64) * total;
        let drawn = far.iter().position(|far| {
            left -= far;
            left < 0.0
        });
        // Sums round, so a draw at the very end may find none: then the last that is no centre.
        match drawn.or_else(|| far.iter().rposition(|&far| far > 0.0)) {
            Some(index) => centres.push(widened(index)),
            None => break,
        }
    }
    centres
}

/// Moves each centre to the mean of its points; one without points stays.
fn move_centres(points: &[Vec<f32>], of_points: &[usize], centres: &mut [Vec<f64>]) {
    let mut counts = vec![0usize; centres.len()];
    of_points.iter().for_each(|&centre| counts[centre] += 1);
    for (centre, _) in centres.iter_mut().zip(&counts).filter(|(_, count)| **count > 0) {
        centre.fill(0.0);
    }
    for (point, &centre) in points.iter().zip(of_points) {
        centres[centre].iter_mut().zip(point).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    for (centre, count) in centres.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
        centre.iter_mut().for_each(|sum| *sum /= count as f64);
    }
}

/// Returns the nearest centre, the first of equals.
fn nearest(point: &[f32], centres: &[Vec<f64>]) -> usize {
    let (mut best, mut least) = (0, f64::INFINITY);
    for (index, centre) in centres.iter().enumerate() {
        let distance = distance(point, centre);
        if distance < least {
            (best, least) = (index, distance);
        }
    }
    best
}

/// Returns the squared distance.
fn distance(point: &[f32], centre: &[f64]) -> f64 {
    point.iter().zip(centre).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four heaps of ten points around corners, point after point from another heap.
    fn heaps() -> Vec<Vec<f32>> {
        let point = |i: u64| {
            let (x, y) = [(0.0, 0.0), (9.0, 0.0), (0.0, 9.0), (9.0, 9.0)][i as usize % 4];
            let off = |axis| (seed::uniform(5, 2 * i + axis) - 0.5) as f32;
            vec![x + off(0), y + off(1)]
        };
        (0..40).map(point).collect()
    }

    #[test]
    fn heaps_are_found_and_numbered_as_they_come() {
        let expected: Vec<u32> = (0..40).map(|i| i % 4).collect();
        // k-means may end in a poor optimum; with heaps this far apart the draws rarely miss one.
        let found = (0..20).filter(|&seed| clusters(&heaps(), 4, seed) == expected).count();
        assert!(found >= 18, "{found}");
    }

    #[test]
    fn threads_change_nothing_and_seeds_do() {
        let points: Vec<Vec<f32>> =
            (0..200).map(|i| (0..7).map(|d| seed::uniform(i, d) as f32).collect()).collect();
        let with = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| clusters(&points, 12, seed))
        };
        let one = with(1, 3);
        assert_eq!(one, with(4, 3));
        assert_ne!(one, with(1, 4));
        assert_eq!(one.iter().max(), Some(&11));
    }

    #[test]
    fn there_are_no_more_clusters_than_different_points() {
        assert!(clusters(&[], 3, 1).is_empty());
        let points = |values: &[f32]| values.iter().map(|&v| vec![v]).collect::<Vec<_>>();
        assert_eq!(clusters(&points(&[2.0, 2.0, 2.0]), 2, 1), [0, 0, 0]);
        assert_eq!(clusters(&points(&[5.0, 1.0, 5.0]), 9, 1), [0, 1, 0]);
        assert_eq!(clusters(&points(&[5.0, 1.0, 3.0]), 1, 1), [0, 0, 0]);
    }
}
