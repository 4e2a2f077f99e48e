//! How well a number tells good rows from bad ones, over all thresholds.

use serde::Serialize;

use crate::measure::figure::{Figure, Interval};

/// The most points of a curve that are kept for drawing.
const POINTS: usize = 200;

/// The curves of a score; good rows are the positive class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// Area under the ROC curve, with DeLong's interval; ties count one half.
    pub roc_auc: Figure,
    /// Mean precision over the recall, as in scikit-learn: a step for each distinct score.
    pub average_precision: Figure,
    /// False positive rate and true positive rate, from (0, 0) to (1, 1); thinned.
    pub roc: Vec<(f64, f64)>,
    /// Recall and precision, by rising recall; thinned.
    pub precision_recall: Vec<(f64, f64)>,
}

/// Returns the curves of scores with their labels; `None` where there are not both labels.
pub fn curve(scored: &[(f64, bool)]) -> Option<Curve> {
    let good = scored.iter().filter(|(_, good)| *good).count();
    let bad = scored.len() - good;
    if good == 0 || bad == 0 {
        return None;
    }
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut hits, mut misses) = (0_usize, 0_usize);
    let (mut average, mut recall_before) = (0.0, 0.0);
    let (mut roc, mut precision_recall) = (vec![(0.0, 0.0)], Vec::new());
    for same in sorted.chunk_by(|a, b| a.0 == b.0) {
        let good_here = same.iter().filter(|(_, good)| *good).count();
        hits += good_here;
        misses += same.len() - good_here;
        let recall = hits as f64 / good as f64;
        let precision = hits as f64 / (hits + misses) as f64;
        average += (recall - recall_before) * precision;
        recall_before = recall;
        roc.push((misses as f64 / bad as f64, recall));
        precision_recall.push((recall, precision));
    }
    let (auc, interval) = area(&sorted, good, bad);
    Some(Curve {
        roc_auc: Figure {
            interval: Some(interval),
            ..Figure::plain("roc-auc", Some(auc), scored.len())
        },
        average_precision: Figure::plain("average-precision", Some(average), scored.len()),
        roc: thinned(roc),
        precision_recall: thinned(precision_recall),
    })
}

/// Returns the area under the ROC curve and its interval (DeLong et al. 1988, by ranks as in Sun and Xu
/// 2014). `sorted` is from the highest score to the lowest.
fn area(sorted: &[(f64, bool)], good: usize, bad: usize) -> (f64, Interval) {
    // For each row, the share of the other class that is below it, ties half.
    let (mut good_above, mut bad_above) = (0, 0);
    let (mut of_good, mut of_bad) = (Vec::with_capacity(good), Vec::with_capacity(bad));
    for same in sorted.chunk_by(|a, b| a.0 == b.0) {
        let good_here = same.iter().filter(|(_, good)| *good).count();
        let bad_here = same.len() - good_here;
        let below = (bad - bad_above - bad_here) as f64 + 0.5 * bad_here as f64;
        let above = good_above as f64 + 0.5 * good_here as f64;
        of_good.extend(std::iter::repeat_n(below / bad as f64, good_here));
        of_bad.extend(std::iter::repeat_n(above / good as f64, bad_here));
        good_above += good_here;
        bad_above += bad_here;
    }
    let auc = of_good.iter().sum::<f64>() / good as f64;
    let spread = |shares: &[f64]| match shares.len() {
        1 => 0.0,
        n => {
            shares.iter().map(|share| (share - auc).powi(2)).sum::<f64>()
                / (n - 1) as f64
                / n as f64
        }
    };
    let half = 1.959_963_984_540_054 * (spread(&of_good) + spread(&of_bad)).sqrt();
    (auc, Interval { low: (auc - half).max(0.0), high: (auc + half).min(1.0) })
}

/// Leaves out points between others, the first and the last never.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points;
    }
    let last = points.len() - 1;
    (0..POINTS).map(|place| points[place * last / (POINTS - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_that_tells_all_has_area_1() {
        let found = curve(&[(0.1, false), (0.2, false), (0.8, true), (0.9, true)]).unwrap();
        assert_eq!(found.roc_auc.value, Some(1.0));
        assert_eq!(found.average_precision.value, Some(1.0));
        assert_eq!(found.roc.last(), Some(&(1.0, 1.0)));
    }

    #[test]
    fn a_score_that_tells_nothing_has_area_half() {
        let found = curve(&[(1.0, false), (1.0, true), (1.0, false), (1.0, true)]).unwrap();
        assert_eq!(found.roc_auc.value, Some(0.5));
        assert_eq!(found.average_precision.value, Some(0.5));
        assert_eq!(curve(&[(1.0, true)]), None);
        assert_eq!(curve(&[]), None);
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_ends() {
        let scored: Vec<(f64, bool)> = (0..1000).map(|i| (f64::from(i), i % 2 == 0)).collect();
        let found = curve(&scored).unwrap();
        assert_eq!(found.roc.len(), POINTS);
        assert_eq!((found.roc[0], found.roc[POINTS - 1]), ((0.0, 0.0), (1.0, 1.0)));
    }
}
