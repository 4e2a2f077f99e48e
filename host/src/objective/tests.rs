//! Losses by hand, against torch and TRL (`tests/fixtures/make_preference.py`), and against their own
//! slopes.

use serde::Deserialize;

use super::*;

fn scored(policy: f64, reference: f64, tokens: usize) -> Scored {
    Scored { policy, reference, tokens }
}

const DPO: Preference = Preference::Dpo { beta: 0.1, label_smoothing: 0.0 };

#[test]
fn losses_are_those_worked_out_by_hand() {
    let check = |objective: Preference, pair: [Scored; 2], expected: f64| {
        let loss = objective.outcome(&pair).loss;
        assert!((loss - expected).abs() < 5e-7, "{objective:?} {loss} {expected}");
    };
    check(DPO, [scored(-10.0, -11.0, 4), scored(-14.0, -13.0, 9)], 0.598139);
    check(DPO, [scored(-50.0, -52.0, 40), scored(-60.0, -59.0, 50)], 0.554355);
    check(DPO, [scored(-7.0, -7.0, 4), scored(-9.0, -9.0, 4)], std::f64::consts::LN_2);
    let mean = [scored(-8.0, -9.0, 10), scored(-5.5, -5.0, 5)];
    let ipo = |beta, length_averaged| Preference::Ipo { beta, length_averaged };
    check(ipo(0.2, true), mean, 5.29);
    check(ipo(0.1, true), mean, 23.04);
    // The margin of the sums is 1.5, aimed at are 2.5.
    check(ipo(0.2, false), mean, 1.0);
    check(Preference::Hinge { beta: 0.1 }, mean, 0.85);
    check(Preference::Hinge { beta: 0.8 }, mean, 0.0);
    // Means are -0.8 and -1.1: rewards -1.6 and -2.2.
    check(Preference::SimPo { beta: 2.0, gamma: 0.6 }, mean, std::f64::consts::LN_2);
}

fn objectives() -> Vec<Preference> {
    vec![
        DPO,
        Preference::Dpo { beta: 0.5, label_smoothing: 0.2 },
        Preference::Ipo { beta: 0.2, length_averaged: true },
        Preference::Ipo { beta: 0.2, length_averaged: false },
        Preference::Hinge { beta: 0.1 },
        Preference::SimPo { beta: 2.0, gamma: 0.5 },
        Preference::Orpo { beta: 0.3 },
    ]
}

#[test]
fn gradients_are_slopes() {
    let pairs = [
        [scored(-10.0, -11.0, 4), scored(-14.0, -13.0, 9)],
        [scored(-30.0, -21.0, 17), scored(-9.0, -12.0, 3)],
        [scored(-0.01, -0.5, 1), scored(-4.0, -1.0, 2)],
    ];
    for objective in objectives() {
        for pair in pairs {
            let outcome = objective.outcome(&pair);
            for (i, &slope) in outcome.slopes.iter().enumerate() {
                let moved = |by: f64| {
                    let mut pair = pair;
                    pair[i].policy += by;
                    objective.outcome(&pair).loss
                };
                let step = 1e-5 * pair[i].policy.abs();
                let rise = (moved(step) - moved(-step)) / (2.0 * step);
                let distance = (rise - slope).abs() / slope.abs().max(1e-3);
                assert!(distance < 1e-6, "{objective:?} {pair:?} {i}: {rise} {slope}");
            }
        }
    }
}

#[test]
fn extremes_stay_numbers() {
    for objective in objectives() {
        for pair in [
            [scored(-1e5, -1.0, 1), scored(-1.0, -1e5, 1)],
            [scored(-1.0, -1e5, 1), scored(-1e5, -1.0, 1)],
            [scored(0.0, 0.0, 1), scored(0.0, 0.0, 3)],
        ] {
            let Outcome { loss, slopes, rewards } = objective.outcome(&pair);
            assert!(loss.is_finite() && loss >= 0.0, "{objective:?} {pair:?} {loss}");
            let numbers = slopes.iter().chain(&rewards);
            assert!(numbers.into_iter().all(|x| x.is_finite()), "{objective:?} {pair:?}");
        }
    }
}

#[derive(Deserialize)]
struct Expected {
    pairs: Vec<[[f64; 3]; 2]>,
    losses: Vec<ExpectedLoss>,
}

#[derive(Deserialize)]
struct ExpectedLoss {
    settings: Preference,
    loss: Vec<f64>,
    slopes: Vec<[f64; 2]>,
}

#[test]
fn losses_and_gradients_are_those_of_torch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/preference/losses.json");
    let expected: Expected = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((expected.pairs.len(), expected.losses.len()), (6, 9));
    let mut worst = 0f64;
    for ExpectedLoss { settings, loss, slopes } in expected.losses {
        for ((pair, loss), slopes) in expected.pairs.iter().zip(loss).zip(slopes) {
            let pair = pair.map(|[policy, reference, n]| scored(policy, reference, n as usize));
            let outcome = settings.outcome(&pair);
            let got = [outcome.loss, outcome.slopes[0], outcome.slopes[1]];
            for (got, want) in got.into_iter().zip([loss, slopes[0], slopes[1]]) {
                let distance = (got - want).abs() / want.abs().max(1e-6);
                assert!(distance < 1e-9, "{settings:?} {pair:?}: {got} {want}");
                worst = worst.max(distance);
            }
        }
    }
    println!("losses and slopes differ from torch by {worst:e} of their size");
}

#[test]
fn hyper_parameters_out_of_range_are_named() {
    let check = |objective: Preference, expected: &str| {
        let error = objective.check().err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(error, expected, "{objective:?}");
    };
    objectives().into_iter().for_each(|objective| check(objective, ""));
    let positive = |value: &str| format!("`beta` is {value}, expected a positive number");
    check(Preference::Dpo { beta: 0.0, label_smoothing: 0.0 }, &positive("0"));
    check(Preference::Dpo { beta: f64::NAN, label_smoothing: 0.0 }, &positive("NaN"));
    check(Preference::Ipo { beta: -0.5, length_averaged: true }, &positive("-0.5"));
    check(Preference::Hinge { beta: f64::INFINITY }, &positive("inf"));
    check(Preference::Orpo { beta: 0.0 }, &positive("0"));
    check(Preference::SimPo { beta: 2.0, gamma: -1.0 }, "`gamma` is -1, expected 0 or more");
    for (label_smoothing, shown) in [(0.5, "0.5"), (-0.1, "-0.1"), (f64::NAN, "NaN")] {
        check(
            Preference::Dpo { beta: 0.1, label_smoothing },
            &format!("`label_smoothing` is {shown}, expected a number from 0 to below 0.5"),
        );
    }
}
