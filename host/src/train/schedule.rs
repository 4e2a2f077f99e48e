//! The learning rate over the steps of a run, as transformers has it.

use super::settings::{LrSchedulerType, TrainSettings};

/// The learning rate of every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: LrSchedulerType,
    peak: f64,
    warmup: u64,
    steps: u64,
}

impl Schedule {
    /// Lays a schedule over `steps` optimiser steps, the first `ceil(steps * warmup_ratio)` of which
    /// warm up. As in transformers the very first of these has learning rate 0. Unlike there, one
    /// step is always left to train in: small rounds may be a single step long.
    pub fn new(settings: &TrainSettings, steps: u64) -> Schedule {
        let warmup = (steps as f64 * settings.warmup_ratio).ceil() as u64;
        let warmup = warmup.min(steps.saturating_sub(1));
        Schedule { kind: settings.lr_scheduler_type, peak: settings.learning_rate, warmup, steps }
    }

    /// Returns the learning rate of a step, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let factor = if step < self.warmup {
            step as f64 / self.warmup as f64
        } else {
            let rest = (self.steps - self.warmup).max(1) as f64;
            let progress = (step - self.warmup) as f64 / rest;
            match self.kind {
                LrSchedulerType::Constant => 1.0,
                LrSchedulerType::Linear => (1.0 - progress).max(0.0),
                LrSchedulerType::Cosine => {
                    (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
                }
            }
        };
        self.peak * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_transformers() {
        let check = |kind, warmup_ratio, expected: &[f64]| {
            let settings = TrainSettings {
                learning_rate: 1.0,
                lr_scheduler_type: kind,
                warmup_ratio,
                ..TrainSettings::default()
            };
            let schedule = Schedule::new(&settings, expected.len() as u64);
            for (step, want) in expected.iter().enumerate() {
                let got = schedule.learning_rate(step as u64);
                assert!((got - want).abs() < 1e-12, "{kind:?} step {step}: {got}, not {want}");
            }
        };
        check(LrSchedulerType::Constant, 0.0, &[1.0, 1.0, 1.0]);
        check(LrSchedulerType::Constant, 0.5, &[0.0, 0.5, 1.0, 1.0]);
        check(LrSchedulerType::Linear, 0.0, &[1.0, 0.75, 0.5, 0.25]);
        check(LrSchedulerType::Linear, 0.3, &[0.0, 0.5, 1.0, 0.5]);
        check(
            LrSchedulerType::Cosine,
            0.0,
            &[1.0, 0.853_553_390_593_273_8, 0.5, 0.146_446_609_406_726_2],
        );
        check(LrSchedulerType::Cosine, 0.1, &[0.0, 1.0, 0.75, 0.25]);
        // Of one step, all would be warm-up; of none, nothing is asked.
        check(LrSchedulerType::Cosine, 0.1, &[1.0]);
        check(LrSchedulerType::Cosine, 1.0, &[0.0, 1.0]);
        check(LrSchedulerType::Cosine, 0.1, &[]);
    }
}
