//! An event file as TensorBoard reads it: TFRecords of `Event` messages with scalars.
//!
//! Scalars have the names that TRL and transformers give them: `train/…` for an update, `eval/…` for
//! held-out measures, and `round/…` for what only rounds have. Steps run on over the rounds. An event's
//! `wall_time` has to be there, and stands for no time of day: it is its step in seconds since 1970, so
//! that equal runs have equal files.

use crate::report::{Measured, RoundSummary};
use crate::round::rows::Step;

/// The file's name; TensorBoard wants `tfevents` in it.
pub const NAME: &str = "events.out.tfevents.aligner";

/// Returns the file of a run after these rounds; of one more round it begins with the same bytes.
pub fn file(before: &[Measured], rounds: &[(&RoundSummary, Vec<Step>)]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut version = Message::default();
    version.double(1, 0.0);
    version.bytes(3, b"brain.Event:2");
    record(&mut file, &version.0);

    scalars(&mut file, 0, &held_out(before));
    let (mut done, mut tokens) = (0, 0);
    for (round, steps) in rounds {
        for step in steps {
            tokens += step.num_tokens;
            scalars(&mut file, done + step.step, &of_step(step, tokens));
        }
        done += steps.last().map_or(0, |step| step.step);
        let mut values = of_round(round);
        values.extend(held_out(&round.held_out));
        scalars(&mut file, done, &values);
    }
    file
}

/// A scalar's tag, and its value.
type Scalar = (String, f64);

fn of_step(step: &Step, tokens: u64) -> Vec<Scalar> {
    // The row's own names are transformers' and TRL's.
    let row = serde_json::to_value(step).expect("our own types serialise");
    let mut scalars = Vec::new();
    for (name, value) in row.as_object().into_iter().flatten() {
        let value = match name.as_str() {
            "step" | "max_steps" => None,
            // As TRL has it: all so far.
            "num_tokens" => Some(tokens as f64),
            _ => value.as_f64(),
        };
        scalars.extend(value.map(|value| (format!("train/{name}"), value)));
    }
    scalars
}

fn held_out(measured: &[Measured]) -> Vec<Scalar> {
    measured.iter().map(|row| (format!("eval/{}", row.measure), row.value)).collect()
}

fn of_round(round: &RoundSummary) -> Vec<Scalar> {
    let counts = [
        ("number", Some(f64::from(round.round))),
        ("prompts", Some(round.prompts as f64)),
        ("completions", Some(round.completions as f64)),
        ("kept", Some(round.kept as f64)),
        ("mean_length", round.mean_length),
        ("distinct_2", round.distinct_2),
        ("entropy", round.entropy),
    ];
    let counts = counts.into_iter().filter_map(|(name, value)| Some((name, value?)));
    // The watched ones that are no held-out measures, which `eval/` has.
    let is_measure = |name: &str| round.held_out.iter().any(|row| row.measure == name);
    let watched = round.signals.iter().map(|(name, value)| (name.as_str(), *value));
    let watched = watched.filter(|(name, _)| !is_measure(name));
    counts.chain(watched).map(|(name, value)| (format!("round/{name}"), value)).collect()
}

/// Adds an event with scalars; none where there are none.
fn scalars(file: &mut Vec<u8>, step: u64, scalars: &[Scalar]) {
    if scalars.is_empty() {
        return;
    }
    let mut summary = Message::default();
    for (tag, value) in scalars {
        let mut scalar = Message::default();
        scalar.bytes(1, tag.as_bytes());
        scalar.float(2, *value as f32);
        summary.bytes(1, &scalar.0);
    }
    let mut event = Message::default();
    event.double(1, step as f64);
    event.varint(2, step);
    event.bytes(5, &summary.0);
    record(file, &event.0);
}

/// A protocol buffer.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.number(field << 3 | wire_type);
    }

    fn varint(&mut self, field: u64, number: u64) {
        self.key(field, 0);
        self.number(number);
    }

    fn double(&mut self, field: u64, number: f64) {
        self.key(field, 1);
        self.0.extend(number.to_le_bytes());
    }

    fn float(&mut self, field: u64, number: f32) {
        self.key(field, 5);
        self.0.extend(number.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }
}

/// Adds a TFRecord: length and data, each with its checksum.
fn record(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(data);
    file.extend(masked(data).to_le_bytes());
}

/// TFRecords mask checksums, since one of data that hold checksums says little.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's CRC, bit by bit: a run has a few kilobytes of it.
fn crc32c(data: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !data.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::PreferenceMetrics;

    #[test]
    fn checksums_are_castagnolis() {
        // RFC 3720, B.4.
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
    }

    fn step(step: u64) -> Step {
        Step {
            step,
            max_steps: 2,
            epoch: step as f64 / 2.0,
            loss: 1.5,
            grad_norm: 0.25,
            learning_rate: 1e-4,
            num_tokens: 10,
            preference: PreferenceMetrics {
                rewards_chosen: Some(0.5),
                ..PreferenceMetrics::default()
            },
        }
    }

    fn round(number: u32) -> RoundSummary {
        let held_out = serde_json::json!([{"measure": "perplexity", "value": 16.0}]);
        let row = serde_json::json!({
            "round": number, "prompts": 4, "completions": 4, "kept": 3, "dropped": {}, "held_out": held_out,
            "signals": {"generated-entropy": 1.25, "perplexity": 16.0},
        });
        serde_json::from_value(row).unwrap()
    }

    /// Reads a file back: the step of each event, with its tags.
    fn events(mut file: &[u8]) -> Vec<(u64, Vec<String>)> {
        let mut events = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(file[8..12], masked(&file[..8]).to_le_bytes());
            let (data, rest) = file[12..].split_at(length);
            assert_eq!(rest[..4], masked(data).to_le_bytes());
            let text = String::from_utf8_lossy(data);
            let tags = ["train/", "eval/", "round/"].iter().flat_map(|group| {
                text.match_indices(group).map(|(at, _)| {
                    let tag = text[at..].chars();
                    tag.take_while(|c| c.is_ascii_alphanumeric() || "/_-".contains(*c)).collect()
                })
            });
            // `wall_time`, then the step.
            let second = f64::from_le_bytes(data[1..9].try_into().unwrap());
            events.push((second as u64, tags.collect()));
            file = &rest[4..];
        }
        events
    }

    #[test]
    fn steps_run_on_over_rounds_and_files_only_grow() {
        let before = [Measured { measure: "perplexity".into(), value: 17.0 }];
        let (first, second) = (round(1), round(2));
        let steps = || vec![step(1), step(2)];
        let one = file(&before, &[(&first, steps())]);
        let two = file(&before, &[(&first, steps()), (&second, steps())]);
        assert!(two.starts_with(&one) && two.len() > one.len());
        let found = events(&two);
        let at: Vec<u64> = found.iter().map(|(step, _)| *step).collect();
        assert_eq!(at, [0, 0, 1, 2, 2, 3, 4, 4]);
        assert_eq!(found[0].1, Vec::<String>::new());
        assert_eq!(found[1].1, ["eval/perplexity"]);
        let wanted = [
            "train/epoch",
            "train/loss",
            "train/grad_norm",
            "train/learning_rate",
            "train/num_tokens",
        ];
        for tag in wanted.iter().chain(&["train/rewards/chosen"]) {
            assert!(found[2].1.iter().any(|found| found == tag), "no {tag} in {:?}", found[2].1);
        }
        assert!(found[4].1.contains(&"round/kept".to_owned()), "{:?}", found[4].1);
        assert!(found[4].1.contains(&"eval/perplexity".to_owned()), "{:?}", found[4].1);
        assert!(found[4].1.contains(&"round/generated-entropy".to_owned()), "{:?}", found[4].1);
        assert!(!found[4].1.contains(&"round/perplexity".to_owned()), "{:?}", found[4].1);
    }
}
