//! The statistics against scikit-learn, scipy and statsmodels (`tests/fixtures/make_evaluate.py`).

use std::path::Path;

use serde_json::Value;

use super::calibration::calibration;
use super::compare::{Comparison, Paired, correct, mcnemar};
use super::confusion::Confusion;
use super::curve::curve;
use crate::measure::figure::wilson;

fn expected() -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/evaluate");
    serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap()
}

fn near(found: f64, expected: &Value, room: f64) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= room, "{found}, expected {expected} within {room}");
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn confusions_are_as_in_scikit_learn() {
    let expected = expected();
    let cases = expected["confusions"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let counts: Vec<u64> =
            case["counts"].as_array().unwrap().iter().map(|it| it.as_u64().unwrap()).collect();
        let [bad_dropped, good_dropped, bad_kept, good_kept] = counts[..] else { panic!() };
        let figures = Confusion { bad_dropped, good_dropped, bad_kept, good_kept }.figures();
        for (name, expected) in case["figures"].as_object().unwrap() {
            let figure = figures.iter().find(|figure| figure.name == *name).unwrap();
            near(figure.value.unwrap(), &expected["value"], 1e-12);
            // Ends of 1000 samples, against those of 20,000.
            let interval = figure.interval.unwrap();
            let width = expected["high"].as_f64().unwrap() - expected["low"].as_f64().unwrap();
            near(interval.low, &expected["low"], 0.08 * width);
            near(interval.high, &expected["high"], 0.08 * width);
        }
    }
}

#[test]
fn curves_are_as_in_scikit_learn() {
    let expected = expected();
    let cases = expected["curves"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let good = case["good"].as_array().unwrap().iter().map(|it| it.as_bool().unwrap());
        let scored: Vec<(f64, bool)> = numbers(&case["scores"]).into_iter().zip(good).collect();
        let found = curve(&scored).unwrap();
        near(found.roc_auc.value.unwrap(), &case["roc_auc"], 1e-12);
        let interval = found.roc_auc.interval.unwrap();
        near(interval.low, &case["low"], 1e-9);
        near(interval.high, &case["high"], 1e-9);
        near(found.average_precision.value.unwrap(), &case["average_precision"], 1e-12);
        let roc = case["roc"].as_array().unwrap();
        assert_eq!(found.roc.len(), roc.len());
        for (point, expected) in found.roc.iter().zip(roc) {
            near(point.0, &expected[0], 1e-12);
            near(point.1, &expected[1], 1e-12);
        }
    }
}

#[test]
fn tests_are_as_in_statsmodels() {
    let expected = expected();
    let cases = expected["mcnemar"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let [first, second] = ["first_only", "second_only"].map(|it| case[it].as_u64().unwrap());
        near(mcnemar(first, second), &case["p"], 1e-10);
        near(mcnemar(second, first), &case["p"], 1e-10);
    }
    let all = Paired { both: 1, ..Paired::default() }.compare("a", "b").unwrap();
    let mut comparisons: Vec<Comparison> = numbers(&expected["holm"]["p"])
        .into_iter()
        .map(|p| Comparison { p, ..all.clone() })
        .collect();
    correct(&mut comparisons);
    for (comparison, expected) in
        comparisons.iter().zip(expected["holm"]["corrected"].as_array().unwrap())
    {
        near(comparison.p_holm, expected, 1e-12);
    }
    let shares = expected["wilson"].as_array().unwrap();
    assert_eq!(shares.len(), 4);
    for case in shares {
        let [hits, n] = ["hits", "n"].map(|it| case[it].as_u64().unwrap() as usize);
        let found = wilson(hits, n).unwrap();
        near(found.low, &case["ends"][0], 1e-12);
        near(found.high, &case["ends"][1], 1e-12);
    }
    let margins = numbers(&expected["brier"]["margins"]);
    near(calibration(&margins).unwrap().brier, &expected["brier"]["value"], 1e-12);
}
