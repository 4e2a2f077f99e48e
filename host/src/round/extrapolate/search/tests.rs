use super::*;
use crate::record::Decoding;

fn settings(objective: Goal) -> Search {
    Search {
        grid: vec![0.1, 0.2, 0.3],
        refine: 2,
        prompts: 4,
        objective,
        decoding: Decoding::greedy(8),
        guard: Guard::default(),
    }
}

fn found(objective: f64) -> Found {
    Found { objective: Some(objective), answers: 4, length: 10.0, ended: 1.0, repeated: 0.1 }
}

fn chosen(rows: &[Candidate]) -> f64 {
    rows.iter().find(|row| row.chosen).unwrap().alpha
}

#[test]
fn the_best_is_chosen_and_its_better_side_halved() {
    let check = |goal: Goal, tried: &[(f64, f64)], best: f64, expected: f64| {
        let tried: Vec<_> = tried.iter().map(|&(alpha, value)| (alpha, found(value))).collect();
        let rows = candidates(&tried, &settings(goal.clone()));
        assert_eq!(chosen(&rows), best, "{tried:?}");
        assert_eq!(next(&rows, &goal), Some(expected), "{tried:?}");
    };
    let judge = || Goal::Judge(None);
    check(judge(), &[(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)], 1.0, 1.5);
    check(judge(), &[(0.0, 2.0), (1.0, 3.0), (2.0, 1.0)], 1.0, 0.5);
    check(judge(), &[(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)], 2.0, 1.5);
    check(judge(), &[(0.0, 5.0), (1.0, 4.0), (2.0, 3.0)], 0.0, 0.5);
    // Of equals the smaller alpha, and the smaller side.
    check(judge(), &[(0.0, 1.0), (1.0, 1.0)], 0.0, 0.5);
    check(judge(), &[(0.0, 1.0), (1.0, 2.0), (2.0, 1.0)], 1.0, 0.5);
    check(Goal::Perplexity, &[(0.0, 3.0), (1.0, 1.0), (2.0, 2.0)], 1.0, 1.5);
    let alone = candidates(&[(0.0, found(1.0))], &settings(judge()));
    assert_eq!(next(&alone, &judge()), None);
}

#[test]
fn guards_refuse_what_collapses() {
    let check = |change: fn(&mut Found), expected: Option<&str>| {
        let mut other = found(9.0);
        change(&mut other);
        let rows = candidates(&[(0.0, found(1.0)), (0.5, other)], &settings(Goal::Judge(None)));
        assert_eq!(rows[1].refused.as_deref(), expected);
        assert_eq!(chosen(&rows), if expected.is_some() { 0.0 } else { 0.5 });
    };
    check(|_| (), None);
    check(|found| found.length = 15.0, None);
    check(|found| found.length = 15.1, Some("too-long"));
    check(|found| found.ended = 0.98, None);
    check(|found| found.ended = 0.97, Some("not-ended"));
    check(|found| found.repeated = 0.12, None);
    check(|found| found.repeated = 0.13, Some("repetition"));
    check(|found| found.objective = None, Some("not-judged"));
    // A refused neighbour is the side that is not looked at, unless there is no other.
    let long = |value: f64| Found { length: 99.0, ..found(value) };
    let goal = Goal::Judge(None);
    let rows = |tried: &[(f64, Found)]| candidates(tried, &settings(Goal::Judge(None)));
    let between = rows(&[(0.0, found(1.0)), (1.0, found(2.0)), (2.0, long(9.0))]);
    assert_eq!((chosen(&between), next(&between, &goal)), (1.0, Some(0.5)));
    let beyond = rows(&[(0.0, found(1.0)), (1.0, long(9.0))]);
    assert_eq!((chosen(&beyond), next(&beyond, &goal)), (0.0, Some(0.5)));
}
