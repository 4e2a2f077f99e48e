//! Losses by hand, against torch and TRL (`tests/fixtures/make_preference.py`), and against their own
//! slopes.

use serde::Deserialize;

use super::sso::{BaseLoss, Sso, SsoGenerator, WeightScope, likelihood_weight};
use super::*;

fn scored(policy: f64, reference: f64, tokens: usize) -> Scored {
    Scored { policy, reference, tokens }
}

const DPO: Preference = Preference::Dpo { beta: 0.1, label_smoothing: 0.0 };

const SSO: Sso = Sso {
    base_loss: BaseLoss::Ipo,
    beta: 0.2,
    gamma: 0.1,
    alpha: 0.66,
    w_scope: WeightScope::All,
    w_detach: false,
};

fn outcome(objective: Preference, item: &[Scored]) -> Outcome {
    objective.outcome(item, true, 0.0)
}

#[test]
fn losses_are_those_worked_out_by_hand() {
    let check = |objective: Preference, pair: [Scored; 2], expected: f64| {
        let loss = outcome(objective, &pair).loss;
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
    // Odds of e^-0.8 and e^-1.1 are 0.815965 and 0.498961: 0.8 - 0.1·log σ(0.491837).
    check(Preference::Orpo { beta: 0.1 }, mean, 0.847716);
}

#[test]
fn rewards_are_worked_out_by_hand() {
    let check = |rewards: [f64; 2], center_rewards_coefficient: f64, expected: f64| {
        let pair = rewards.map(|reward| scored(reward, 0.0, 3));
        let objective = Preference::Reward { center_rewards_coefficient };
        let outcome = outcome(objective, &pair);
        assert!((outcome.loss - expected).abs() < 5e-7, "{rewards:?} {}", outcome.loss);
        assert_eq!(outcome.rewards, rewards.map(Some));
    };
    check([0.0, 0.0], 0.0, std::f64::consts::LN_2);
    // -log σ(2) is 0.126928, -log σ(-2) the same and 2 more.
    check([1.5, -0.5], 0.0, 0.126928);
    check([-0.5, 1.5], 0.0, 2.126928);
    // The sum of both is 1, whichever is the larger.
    check([1.5, -0.5], 0.25, 0.126928 + 0.25);
    check([-0.5, 1.5], 0.25, 2.126928 + 0.25);
}

#[test]
fn what_is_not_paired_is_worked_out_by_hand() {
    let kto = Preference::Kto { beta: 0.1, desirable_weight: 1.5, undesirable_weight: 0.5 };
    let completion = scored(-10.0, -14.0, 7);
    let check = |desirable: bool, point: f64, expected: f64, reward: [Option<f64>; 2]| {
        let Outcome { loss, rewards, .. } = kto.outcome(&[completion], desirable, point);
        assert!((loss - expected).abs() < 5e-7, "{desirable} {point}: {loss} {expected}");
        assert_eq!(rewards, reward);
    };
    // σ(-0.4) is 0.401312, σ(-0.3) is 0.425557.
    check(true, 0.0, 1.5 * 0.401312340, [Some(0.4), None]);
    check(false, 0.0, 0.5 * 0.598687660, [None, Some(0.4)]);
    check(true, 1.0, 1.5 * 0.425557483, [Some(0.4), None]);
    check(true, 4.0, 1.5 * 0.5, [Some(0.4), None]);
    let far = scored(-9.0, -3.0, 4);
    assert_eq!(kto::reference_point(&[completion, scored(-2.0, -1.0, 1)]), 1.5);
    assert_eq!(kto::reference_point(&[completion, far]), 0.0);
    assert_eq!(kto::reference_point(&[completion, completion, far]), 2.0 / 3.0);
}

#[test]
fn the_weight_of_sso_is_worked_out_by_hand() {
    let check = |chosen: f64, rejected: f64, expected: f64| {
        let pair = [chosen, rejected].map(|mean| scored(4.0 * mean, 0.0, 4));
        let (weight, _) = likelihood_weight(pair[0], pair[1], 0.66);
        assert!((weight - expected).abs() < 5e-7, "{weight} {expected}");
    };
    check(-0.5, -0.5, 0.622459);
    check(-1.0, -2.0, 0.792490);
    check(0.0, 0.0, 0.5);
    check(-3.0, -3.0, 0.952574);
}

#[test]
fn both_methods_of_sso_are_worked_out_by_hand() {
    let good = [scored(-40.0, -44.0, 50), scored(-55.0, -52.0, 60)];
    let bad = [scored(-60.0, -61.0, 48), scored(-58.0, -57.0, 50)];
    let generator = SsoGenerator { base_loss: BaseLoss::Dpo, beta: 0.1, gamma: 0.0 };
    let generated = |gamma: f64| {
        let settings = Preference::SsoGenerator(SsoGenerator { gamma, ..generator });
        outcome(settings, &[good, bad].concat()).loss
    };
    assert!((generated(0.1) - 1.206325).abs() < 5e-7);
    assert!((generated(0.0) - (0.403186 + 0.598139)).abs() < 1e-6);
    // The preferred completion of the pair under bad principles is the plain one.
    let swapped = [good, [bad[1], bad[0]]].concat();
    let loss = outcome(Preference::SsoGenerator(generator), &swapped).loss;
    assert!((loss - (0.403186 + 0.798139)).abs() < 1e-6, "{loss}");

    // Means of -1 and -2 weigh 0.792490. The plain pair's margin of sums is 3.
    let plain = [scored(-10.0, -11.0, 10), scored(-20.0, -18.0, 10)];
    let base = |margin: f64| (1.0 + (-0.1 * margin).exp()).ln();
    let (first, guided) = (base(3.0), 0.403186 + 0.598139);
    let dpo = Sso { base_loss: BaseLoss::Dpo, beta: 0.1, ..SSO };
    let item = [plain, good, bad].concat();
    let check = |settings: Sso, expected: f64| {
        let loss = outcome(Preference::Sso(settings), &item).loss;
        assert!((loss - expected).abs() < 2e-6, "{settings:?} {loss} {expected}");
    };
    check(dpo, 0.792490 * (first + 0.1 * guided));
    check(Sso { w_scope: WeightScope::GOnly, ..dpo }, first + 0.792490 * 0.1 * guided);
    check(Sso { w_scope: WeightScope::None, ..dpo }, first + 0.1 * guided);
    check(Sso { w_scope: WeightScope::None, gamma: 0.0, ..dpo }, first);
    check(Sso { w_detach: true, ..dpo }, 0.792490 * (first + 0.1 * guided));
    check(Sso { gamma: 0.0, ..dpo }, 0.792490 * first);
    let rewards = outcome(Preference::Sso(dpo), &item).rewards;
    assert!((rewards[0].unwrap() - 0.1).abs() + (rewards[1].unwrap() + 0.2).abs() < 1e-12);
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
        Preference::Kto { beta: 0.2, desirable_weight: 1.0, undesirable_weight: 1.3 },
        Preference::Reward { center_rewards_coefficient: 0.0 },
        Preference::Reward { center_rewards_coefficient: 0.01 },
        Preference::Sso(SSO),
        Preference::Sso(Sso { w_scope: WeightScope::GOnly, gamma: 0.6, ..SSO }),
        Preference::Sso(Sso { w_scope: WeightScope::None, ..SSO }),
        Preference::Sso(Sso { base_loss: BaseLoss::Dpo, alpha: 0.2, ..SSO }),
        Preference::SsoGenerator(SsoGenerator { base_loss: BaseLoss::Dpo, beta: 0.1, gamma: 0.1 }),
        Preference::SsoGenerator(SsoGenerator { base_loss: BaseLoss::Ipo, beta: 0.3, gamma: 0.7 }),
    ]
}

/// As many sequences as the objective asks for: these pairs, each time a little likelier.
fn item(objective: &Preference, pair: [Scored; 2]) -> Vec<Scored> {
    let sequences = (0..objective.learnt()).map(|i| {
        let of = pair[i % 2];
        Scored { policy: of.policy * 0.9f64.powi(i as i32 / 2), ..of }
    });
    sequences.collect()
}

#[test]
fn gradients_are_slopes() {
    let pairs = [
        [scored(-10.0, -11.0, 4), scored(-14.0, -13.0, 9)],
        [scored(-30.0, -21.0, 17), scored(-9.0, -12.0, 3)],
        [scored(-0.01, -0.5, 1), scored(-4.0, -1.0, 2)],
    ];
    for objective in objectives() {
        for (pair, desirable) in pairs.into_iter().flat_map(|pair| [(pair, true), (pair, false)]) {
            let item = item(&objective, pair);
            let outcome = |item: &[Scored]| objective.outcome(item, desirable, 0.8);
            let slopes = outcome(&item).slopes;
            assert_eq!(slopes.len(), objective.learnt());
            for (i, slope) in slopes.into_iter().enumerate() {
                let moved = |by: f64| {
                    let mut item = item.clone();
                    item[i].policy += by;
                    outcome(&item).loss
                };
                let step = 1e-5 * item[i].policy.abs();
                let rise = (moved(step) - moved(-step)) / (2.0 * step);
                let distance = (rise - slope).abs() / slope.abs().max(1e-3);
                assert!(distance < 1e-6, "{objective:?} {item:?} {i}: {rise} {slope}");
            }
        }
    }
}

#[test]
fn a_detached_weight_is_a_number() {
    let pair = [scored(-10.0, -11.0, 4), scored(-14.0, -13.0, 9)];
    let item = item(&Preference::Sso(SSO), pair);
    for w_scope in [WeightScope::All, WeightScope::GOnly] {
        let slopes = |settings: Sso| outcome(Preference::Sso(settings), &item).slopes;
        let settings = Sso { w_scope, gamma: 0.5, ..SSO };
        let detached = slopes(Sso { w_detach: true, ..settings });
        let whole = slopes(settings);
        let (weight, of_weight) = likelihood_weight(item[0], item[1], SSO.alpha);
        let plain = outcome(Preference::Ipo { beta: 0.2, length_averaged: true }, &item[..2]);
        let scale = if w_scope == WeightScope::All { weight } else { 1.0 };
        let (_, of_all) = sso::sso(&item.clone().try_into().unwrap(), &settings);
        assert_eq!(whole, of_all);
        for i in 0..6 {
            let own = if i < 2 { scale * plain.slopes[i] } else { whole[i] };
            assert!((detached[i] - own).abs() < 1e-12, "{w_scope:?} {i}");
            let differ = detached[i] != whole[i];
            assert_eq!(differ, i < 2 && of_weight[i] != 0.0, "{w_scope:?} {i}");
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
            let Outcome { loss, slopes, rewards } = outcome(objective, &item(&objective, pair));
            assert!(loss.is_finite() && loss >= 0.0, "{objective:?} {pair:?} {loss}");
            let numbers = slopes.iter().chain(rewards.iter().flatten());
            assert!(numbers.into_iter().all(|x| x.is_finite()), "{objective:?} {pair:?}");
        }
    }
}

/// Logprobs under policy and reference, and tokens.
type Numbers = [f64; 3];

#[derive(Deserialize)]
struct Expected {
    pairs: Vec<[Numbers; 2]>,
    losses: Vec<ExpectedLoss<[f64; 2]>>,
    unpaired: Vec<ExpectedLoss<f64>>,
    steered: Steered,
    trl: Vec<ExpectedLoss<()>>,
}

#[derive(Deserialize)]
struct Steered {
    items: Vec<[Numbers; 6]>,
    losses: Vec<ExpectedLoss<Vec<f64>>>,
}

#[derive(Deserialize)]
struct ExpectedLoss<S> {
    settings: Preference,
    #[serde(default)]
    kl: f64,
    loss: Vec<f64>,
    #[serde(default = "Vec::new")]
    slopes: Vec<S>,
}

fn expected() -> Expected {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/preference/losses.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn of_numbers(numbers: &[Numbers]) -> Vec<Scored> {
    numbers.iter().map(|&[policy, reference, n]| scored(policy, reference, n as usize)).collect()
}

#[test]
fn losses_and_gradients_are_those_of_torch() {
    let Expected { pairs, losses, unpaired, steered, .. } = expected();
    let counts = (pairs.len(), losses.len(), unpaired.len(), steered.losses.len());
    assert_eq!(counts, (6, 9, 4, 7));
    let mut worst = 0f64;
    let mut check = |outcome: Outcome, loss: f64, slopes: &[f64], what: &dyn std::fmt::Debug| {
        assert_eq!(outcome.slopes.len(), slopes.len(), "{what:?}");
        let got = std::iter::once(outcome.loss).chain(outcome.slopes);
        for (got, &want) in got.zip(std::iter::once(&loss).chain(slopes)) {
            let distance = (got - want).abs() / want.abs().max(1e-6);
            assert!(distance < 1e-9, "{what:?}: {got} {want}");
            worst = worst.max(distance);
        }
    };
    for ExpectedLoss { settings, loss, slopes, .. } in &losses {
        for ((pair, &loss), slopes) in pairs.iter().zip(loss).zip(slopes) {
            check(outcome(*settings, &of_numbers(pair)), loss, slopes, &(settings, pair));
        }
    }
    for ExpectedLoss { settings, kl, loss, slopes } in &unpaired {
        let completions = pairs.iter().flatten().enumerate();
        for (((i, one), &loss), &slope) in completions.zip(loss).zip(slopes) {
            let outcome = settings.outcome(&of_numbers(&[*one]), i % 2 == 0, *kl);
            check(outcome, loss, &[slope], &(settings, one, kl));
        }
    }
    for ExpectedLoss { settings, loss, slopes, .. } in &steered.losses {
        for ((item, &loss), slopes) in steered.items.iter().zip(loss).zip(slopes) {
            let item = &item[6 - settings.learnt()..];
            check(outcome(*settings, &of_numbers(item)), loss, slopes, &(settings, item));
        }
    }
    println!("losses and slopes differ from torch by {worst:e} of their size");
}

#[test]
fn losses_of_rewards_are_those_of_torch() {
    #[derive(Deserialize)]
    struct Fixture {
        losses: Vec<OfRewards>,
    }
    #[derive(Deserialize)]
    struct OfRewards {
        center: f64,
        rewards: Vec<[f64; 2]>,
        loss: Vec<f64>,
        slopes: Vec<[f64; 2]>,
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/reward/expected.json");
    let Fixture { losses } = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(losses.len(), 3);
    for OfRewards { center, rewards, loss, slopes } in losses {
        assert_eq!(rewards.len(), 5);
        for ((rewards, loss), slopes) in rewards.into_iter().zip(loss).zip(slopes) {
            let got = reward::reward(rewards[0], rewards[1], center);
            let got = [got.loss, got.slopes[0], got.slopes[1]];
            for (got, want) in got.into_iter().zip([loss, slopes[0], slopes[1]]) {
                let distance = (got - want).abs() / want.abs().max(1e-6);
                assert!(distance < 1e-9, "{center} {rewards:?}: {got} {want}");
            }
        }
    }
}

#[test]
fn losses_without_a_reference_are_those_of_trl() {
    let Expected { pairs, trl, .. } = expected();
    assert_eq!(trl.len(), 2);
    for ExpectedLoss { settings, loss, .. } in trl {
        for (pair, want) in pairs.iter().zip(loss) {
            let got = outcome(settings, &of_numbers(pair)).loss;
            // TRL's odds are in f32.
            assert!((got - want).abs() / want.abs() < 1e-5, "{settings:?} {pair:?}: {got} {want}");
        }
    }
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
    let kto = |beta, desirable_weight, undesirable_weight| Preference::Kto {
        beta,
        desirable_weight,
        undesirable_weight,
    };
    check(kto(0.0, 1.0, 1.0), &positive("0"));
    check(kto(0.1, 0.0, 1.0), "`desirable_weight` is 0, expected a positive number");
    check(kto(0.1, 1.0, -2.0), "`undesirable_weight` is -2, expected a positive number");
    check(Preference::Sso(Sso { beta: 0.0, ..SSO }), &positive("0"));
    check(Preference::Sso(Sso { gamma: -0.5, ..SSO }), "`gamma` is -0.5, expected 0 or more");
    check(
        Preference::Sso(Sso { alpha: 1.5, ..SSO }),
        "`alpha` is 1.5, expected a number from 0 to 1",
    );
    let generator = SsoGenerator { base_loss: BaseLoss::Dpo, beta: 0.1, gamma: f64::INFINITY };
    check(Preference::SsoGenerator(generator), "`gamma` is inf, expected 0 or more");
    for (label_smoothing, shown) in [(0.5, "0.5"), (-0.1, "-0.1"), (f64::NAN, "NaN")] {
        check(
            Preference::Dpo { beta: 0.1, label_smoothing },
            &format!("`label_smoothing` is {shown}, expected a number from 0 to below 0.5"),
        );
    }
}
