//! Intervals of held-out measures, from what was asked and answered prompt by prompt.

use std::collections::{BTreeMap, HashMap};

use super::data::{Change, HeldOut, Measure};
use crate::measure::figure::{Interval, bootstrap, normal};
use crate::record::{Answer, Request};
use crate::report::{Measured, Report};
use crate::round::diversity::{mean, words};
use crate::round::rows::Asked;

/// What is known of one held-out prompt.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// What is asked.
    pub prompt: String,
    /// Summed logprob and tokens of the trusted answer.
    score: Option<(f64, f64)>,
    /// The model's own answer, its tokens, and their mean entropy.
    answer: Option<(String, f64, Option<f64>)>,
}

impl Answered {
    /// Adds a line of `evaluate-asks.jsonl`.
    pub fn add(&mut self, asked: Asked) {
        if let Request::Generate { prompt, .. } | Request::Score { prompt, .. } = &asked.request {
            self.prompt = prompt.gist().to_owned();
        }
        match asked.answer {
            Answer::Score(score) if score.tokens > 0 => {
                self.score = Some((score.logprob, f64::from(score.tokens)));
            }
            Answer::Completion(completion) => {
                let tokens = f64::from(completion.tokens);
                self.answer = Some((completion.text, tokens, completion.entropy));
            }
            _ => {}
        }
    }

    /// Returns the number of the model's own answer that a measure is a mean of.
    fn number(&self, measure: &str) -> Option<f64> {
        let (_, tokens, entropy) = self.answer.as_ref()?;
        if measure == "entropy" { *entropy } else { Some(*tokens) }
    }

    /// Returns the model's own answer.
    pub fn text(&self) -> Option<&str> {
        self.answer.as_ref().map(|(text, ..)| text.as_str())
    }
}

/// The answers of one round, by record id; round 0 is the initial model.
pub type Answers = BTreeMap<u32, BTreeMap<String, Answered>>;

/// Returns every measure of a report with what intervals can be found.
pub fn held_out(report: &Report, answers: &Answers) -> Vec<HeldOut> {
    let mut found: Vec<HeldOut> = Vec::new();
    let rounds = report.rounds.iter().map(|row| (row.round, &row.held_out));
    for (round, measured) in std::iter::once((0, &report.before)).chain(rounds) {
        let rows = answers.get(&round);
        for one in measured {
            let (n, interval) = rows.map_or((0, None), |rows| interval(one, rows));
            let point = Measure { round, value: one.value, n, interval };
            match found.iter_mut().find(|it| it.measure == one.measure) {
                Some(measure) => measure.points.push(point),
                None => found.push(HeldOut {
                    measure: one.measure.clone(),
                    method: method(&one.measure).to_owned(),
                    points: vec![point],
                    change: None,
                }),
            }
        }
    }
    for measure in &mut found {
        measure.change = change(report, answers, measure);
        if measure.points.iter().all(|point| point.interval.is_none()) {
            measure.method.clear();
        }
    }
    found
}

/// Says how intervals of a measure are found.
fn method(measure: &str) -> &'static str {
    match measure {
        "perplexity" => "bootstrap over the prompts, 1,000 samples",
        "length" | "entropy" => "normal distribution of the mean over the prompts",
        "distinct-2" => "jackknife over the prompts",
        _ => "",
    }
}

/// Returns how many prompts a measure rests on, and its interval; none where what was answered does not come
/// to the value that was reported.
fn interval(measure: &Measured, rows: &BTreeMap<String, Answered>) -> (usize, Option<Interval>) {
    let (n, value, interval) = match measure.measure.as_str() {
        "perplexity" => {
            let scores: Vec<(f64, f64)> = rows.values().filter_map(|row| row.score).collect();
            let all: Vec<usize> = (0..scores.len()).collect();
            let of = |sample: &[usize]| perplexity(&scores, sample);
            (scores.len(), of(&all), bootstrap(scores.len(), of))
        }
        name @ ("length" | "entropy") => {
            let values: Vec<f64> = rows.values().filter_map(|row| row.number(name)).collect();
            (values.len(), mean(values.iter().copied()).unwrap_or(0.0), normal(&values))
        }
        "distinct-2" => {
            let texts: Vec<&str> = rows.values().filter_map(Answered::text).collect();
            let (value, without) = distinct_without(&texts);
            (texts.len(), value, jackknife(value, &without))
        }
        _ => return (0, None),
    };
    let same = (value - measure.value).abs() <= 1e-6 * measure.value.abs();
    (n, interval.filter(|_| same))
}

/// Returns how the best round differs from the initial model, over the prompts that both have.
fn change(report: &Report, answers: &Answers, measure: &HeldOut) -> Option<Change> {
    let round = report.best_round;
    let at = |round| measure.points.iter().find(|point| point.round == round);
    let (before, after) = (at(0)?, at(round).filter(|_| round > 0)?);
    let known = before.interval.is_some() && after.interval.is_some();
    let interval = (|| {
        let (old, new) = (answers.get(&0)?, answers.get(&round)?);
        let both: Vec<(&Answered, &Answered)> =
            old.iter().filter_map(|(id, row)| Some((row, new.get(id)?))).collect();
        match measure.measure.as_str() {
            "perplexity" => {
                let (old, new): (Vec<_>, Vec<_>) =
                    both.iter().filter_map(|(old, new)| Some((old.score?, new.score?))).unzip();
                bootstrap(old.len(), |sample| perplexity(&new, sample) - perplexity(&old, sample))
            }
            name @ ("length" | "entropy") => {
                let difference = |(old, new): &(&Answered, &Answered)| {
                    Some(new.number(name)? - old.number(name)?)
                };
                normal(&both.iter().filter_map(difference).collect::<Vec<_>>())
            }
            "distinct-2" => {
                let (old, new): (Vec<&str>, Vec<&str>) =
                    both.iter().filter_map(|(old, new)| Some((old.text()?, new.text()?))).unzip();
                let ((old, without_old), (new, without_new)) =
                    (distinct_without(&old), distinct_without(&new));
                let without: Vec<f64> =
                    without_new.iter().zip(&without_old).map(|(new, old)| new - old).collect();
                jackknife(new - old, &without)
            }
            _ => None,
        }
    })();
    let interval = interval.filter(|_| known);
    Some(Change { round, difference: after.value - before.value, interval })
}

fn perplexity(scores: &[(f64, f64)], sample: &[usize]) -> f64 {
    let (logprob, tokens) = sample.iter().fold((0.0, 0.0), |(logprob, tokens), &row| {
        (logprob + scores[row].0, tokens + scores[row].1)
    });
    (-logprob / tokens).exp()
}

/// Returns distinct-2 of texts, and of them without each one in turn. Drawing texts again, as the bootstrap
/// does, would repeat their word pairs and so always find less.
fn distinct_without(texts: &[&str]) -> (f64, Vec<f64>) {
    let pairs: Vec<Vec<(String, String)>> = texts
        .iter()
        .map(|text| {
            let words = words(text);
            words.windows(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
        })
        .collect();
    // The text that alone has a pair, and how often it has it.
    let mut owners: HashMap<&(String, String), Option<usize>> = HashMap::new();
    for (place, pairs) in pairs.iter().enumerate() {
        for pair in pairs {
            owners
                .entry(pair)
                .and_modify(|owner| *owner = owner.filter(|&it| it == place))
                .or_insert(Some(place));
        }
    }
    let mut alone = vec![0usize; texts.len()];
    for owner in owners.values().flatten() {
        alone[*owner] += 1;
    }
    let (all, distinct) = (pairs.iter().map(Vec::len).sum::<usize>(), owners.len());
    let share =
        |distinct: usize, all: usize| if all == 0 { 0.0 } else { distinct as f64 / all as f64 };
    let without = pairs
        .iter()
        .zip(&alone)
        .map(|(pairs, alone)| share(distinct - alone, all - pairs.len()))
        .collect();
    (share(distinct, all), without)
}

/// Returns the jackknife's 95 % interval of a number, from what it is without each case in turn; `None` for
/// fewer than two.
fn jackknife(value: f64, without: &[f64]) -> Option<Interval> {
    if without.len() < 2 {
        return None;
    }
    let n = without.len() as f64;
    let mean = without.iter().sum::<f64>() / n;
    let variance = (n - 1.0) / n * without.iter().map(|it| (it - mean).powi(2)).sum::<f64>();
    let half = 1.96 * variance.sqrt();
    half.is_finite().then_some(Interval { low: value - half, high: value + half })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Repro;
    use crate::record::{Completion, Finish, Score, Text};
    use crate::round::diversity::distinct_2;

    fn asked(record: &str, answer: Answer) -> Asked {
        let (model, prompt) = ("policy".to_owned(), Text::user("?"));
        let request = Request::Score { model, prompt, completion: "a".into() };
        let row = serde_json::json!({
            "record": record, "index": 0, "request": request, "answer": answer,
        });
        serde_json::from_value(row).unwrap()
    }

    fn round(scale: f64, texts: &[&str]) -> BTreeMap<String, Answered> {
        let mut rows = BTreeMap::new();
        for (number, text) in texts.iter().enumerate() {
            let row: &mut Answered = rows.entry(number.to_string()).or_default();
            let logprob = -scale * (number + 1) as f64;
            row.add(asked(
                "",
                Answer::Score(Score { logprob, tokens: 2, entropy: None, repro: Repro::Exact }),
            ));
            let completion = Completion {
                tokens: text.len() as u32,
                ..Completion::unmeasured(text, Finish::Stop)
            };
            row.add(asked("", Answer::Completion(completion)));
        }
        rows
    }

    #[test]
    fn measures_have_intervals_around_them_and_their_change() {
        let texts = ["a b c d", "a b x y z", "q r s", "a b c q r"];
        let answers = Answers::from([(0, round(1.0, &texts)), (1, round(0.5, &texts))]);
        let measured = |values: [f64; 3]| -> Vec<Measured> {
            let named = ["perplexity", "length", "distinct-2"].into_iter().zip(values);
            named.map(|(measure, value)| Measured { measure: measure.into(), value }).collect()
        };
        let distinct = distinct_2(texts);
        let before = measured([(10.0f64 / 8.0).exp(), 7.5, distinct]);
        let mut report = Report::new("m", "m", before);
        let row = serde_json::json!({
            "round": 1, "prompts": 4, "completions": 4, "kept": 4, "dropped": {}, "difficulty": null,
            "mean_length": null, "distinct_2": null, "entropy": null, "loss_first": null,
            "loss_last": null, "held_out": measured([(5.0f64 / 8.0).exp(), 7.5, distinct]),
        });
        report.rounds.push(serde_json::from_value(row).unwrap());
        report.best_round = 1;
        let found = held_out(&report, &answers);
        assert_eq!(found.len(), 3);
        for measure in &found {
            for point in &measure.points {
                let Interval { low, high } = point.interval.unwrap();
                assert!(low <= point.value && point.value <= high, "{measure:?}");
                assert_eq!(point.n, 4);
            }
        }
        let change = found[0].change.unwrap();
        assert!(change.difference < 0.0 && change.interval.unwrap().high < 0.0, "{change:?}");
        let same = found[1].change.unwrap();
        assert_eq!((same.difference, same.interval), (0.0, Some(Interval { low: 0.0, high: 0.0 })));
        assert_eq!(found[2].change.unwrap().difference, 0.0);
        // Without answers there are values alone.
        let bare = held_out(&report, &Answers::new());
        assert!(bare.iter().all(|it| it.method.is_empty() && it.points[1].interval.is_none()));
    }

    #[test]
    fn leaving_a_text_out_is_as_if_it_had_not_been_there() {
        let texts = ["a b c", "b c d", "", "a b c", "x x x x"];
        let (value, without) = distinct_without(&texts);
        assert_eq!(value, distinct_2(texts));
        for (place, without) in without.iter().enumerate() {
            let others = texts.iter().enumerate().filter(|(it, _)| *it != place);
            assert_eq!(*without, distinct_2(others.map(|(_, text)| *text)), "{place}");
        }
        assert_eq!(jackknife(1.0, &[1.0]), None);
        // Of a mean it is the standard error: 1.96 times 1 / sqrt(3) around 2.
        let found = jackknife(2.0, &[2.5, 2.0, 1.5]).unwrap();
        assert!((found.high - 2.0 - 1.96 / 3f64.sqrt()).abs() < 1e-9, "{found:?}");
    }
}
