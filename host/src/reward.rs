//! Rewards: what the head of a reward model makes of whole sequences.

use std::ops::ControlFlow;

use crate::generate::batch::{Batch, Made, Start};
use crate::generate::read::read;
use crate::generate::{Progress, SequenceError, Settings, Unfit, check_tokens};
use crate::model::backend::Backend;
use crate::model::forward::Engine;
use crate::model::head::product;
use crate::model::weights::LoadedAdapter;

/// An adapter that is known to have a head.
pub struct RewardModel<'a, B: Backend> {
    adapter: &'a LoadedAdapter<B>,
    score: &'a [f32],
}

impl<'a, B: Backend> RewardModel<'a, B> {
    /// Returns the reward model that an adapter is; none where it is a policy's.
    pub fn of(adapter: &'a LoadedAdapter<B>) -> Option<RewardModel<'a, B>> {
        adapter.score().map(|score| RewardModel { adapter, score })
    }
}

/// Returns the reward of each sequence, prompt and completion, in their order: the product of the head with
/// the hidden row of its last token, after the last norm, in f64 from f32. The scale is the model's own, so
/// rewards of one prompt's completions may be compared, and little else.
///
/// Of `settings`, the size of the cache and of a pass are used, and neither changes a reward, nor do the
/// other sequences. Fails before the first pass where a sequence is empty or too long
/// ([`SequenceError::Sequence`] with its place), and where a reward is not finite.
pub fn rewards<B: Backend>(
    engine: &Engine<B>,
    model: &RewardModel<'_, B>,
    sequences: &[Vec<u32>],
    settings: &Settings,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<f64>, SequenceError> {
    for (index, tokens) in sequences.iter().enumerate() {
        check_tokens(engine, tokens, 0).map_err(SequenceError::of(index))?;
    }
    let starts: Vec<Start> = sequences
        .iter()
        .map(|tokens| Start { tokens, wanted_from: tokens.len() - 1, positions: tokens.len() })
        .collect();
    let width = engine.weights.spec.hidden;
    let mut rewards = vec![0.0; sequences.len()];
    let mut note = |batch: &Batch<'_, B>, made: &[Made]| {
        let hidden = engine.backend.view(batch.hidden(), 0..made.len() * width)?;
        for (&Made { index, position }, hidden) in made.iter().zip(hidden.chunks(width)) {
            rewards[index] = product(model.score, hidden);
            if !rewards[index].is_finite() {
                return Err(SequenceError::of(index)(Unfit::NotFinite { position }));
            }
        }
        Ok(())
    };
    read(engine, Some(model.adapter), &starts, settings, 0, &mut note, progress)?;
    Ok(rewards)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Hooks;
    use crate::logprob::Row;
    use crate::model::adapter::Adapter;
    use crate::model::backend::cpu::Cpu;
    use crate::model::tiny;
    use crate::model::weights::Weights;
    use crate::progress::go_on;

    const LONG: [u32; 8] = [3, 1, 4, 1, 5, 9, 2, 6];

    fn engine() -> Engine<Cpu> {
        let checkpoint = tiny::checkpoint(tiny::spec(16, true), 1);
        Engine::new(Cpu::new(), Weights::load(&Cpu::new(), &checkpoint, &mut |_, _| ()).unwrap())
    }

    fn adapter(engine: &Engine<Cpu>) -> Adapter {
        tiny::adapter(&engine.weights.spec, 2).with_score(&engine.weights.spec, 3)
    }

    fn settings(prefill_rows: usize) -> Settings {
        Settings { prefill_rows, ..Settings::default() }
    }

    fn rewards(adapter: &Adapter, sequences: &[&[u32]], rows: usize) -> Result<Vec<f64>, String> {
        let engine = engine();
        let loaded = engine.load_adapter(adapter, 1.0).unwrap();
        let model = RewardModel::of(&loaded).unwrap();
        let sequences: Vec<Vec<u32>> = sequences.iter().map(|tokens| tokens.to_vec()).collect();
        let cancel = std::sync::atomic::AtomicBool::new(false);
        let mut go_on = |_| go_on(&cancel);
        super::rewards(&engine, &model, &sequences, &settings(rows), &mut go_on)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_reward_is_the_last_rows_in_any_company() {
        let engine = engine();
        let adapter = adapter(&engine);
        let sequences = [&LONG[..], &LONG[..3], &[7], &LONG[..], &[7, 8, 3, 250]];
        let all = rewards(&adapter, &sequences, 3).unwrap();
        for (sequence, &reward) in sequences.iter().zip(&all) {
            assert_eq!(rewards(&adapter, &[sequence], 512).unwrap(), [reward]);
        }
        assert_eq!(all[0], all[3]);
        assert!(all[0] != all[1]);
        // The hidden row of the last token is what embeddings are of.
        let loaded = engine.load_adapter(&adapter, 1.0).unwrap();
        let row = Row { tokens: LONG.to_vec(), from: LONG.len() - 1 };
        let cancel = std::sync::atomic::AtomicBool::new(false);
        let mut go_on = |_| go_on(&cancel);
        let rows =
            crate::embedding::embed(&engine, Some(&loaded), &[row], &settings(512), &mut go_on);
        assert_eq!(all[0], product(adapter.score.as_ref().unwrap(), &rows.unwrap()[0]));
        // Twice the head, twice the reward.
        let mut doubled = adapter.clone();
        doubled.score.iter_mut().flatten().for_each(|x| *x *= 2.0);
        assert_eq!(rewards(&doubled, &[&LONG], 512).unwrap(), [2.0 * all[0]]);
    }

    #[test]
    fn what_has_no_reward_is_named_by_its_place() {
        let engine = engine();
        let adapter = adapter(&engine);
        let check = |adapter: &Adapter, sequences: &[&[u32]], expected: &str| {
            assert_eq!(rewards(adapter, sequences, 512).unwrap_err(), expected);
        };
        check(&adapter, &[&LONG, &[]], "sequence 1 has no prompt");
        let limit = engine.weights.spec.context_length;
        let long = vec![1; limit + 1];
        let expected = format!(
            "sequence 0 has {} tokens and up to 0 new ones, but the model's context is {limit} tokens",
            limit + 1
        );
        check(&adapter, &[&long, &LONG], &expected);
        let mut broken = adapter.clone();
        broken.score.as_mut().unwrap()[5] = f32::INFINITY;
        check(&broken, &[&LONG], "sequence 0 gets numbers that are not finite at position 7");
        assert_eq!(rewards(&adapter, &[], 512).unwrap(), [0.0; 0]);
    }

    #[test]
    fn a_policy_has_no_rewards_and_a_reward_model_no_words() {
        let engine = engine();
        let policy = engine.load_adapter(&tiny::adapter(&engine.weights.spec, 2), 1.0).unwrap();
        assert!(RewardModel::of(&policy).is_none());
        let model = engine.load_adapter(&adapter(&engine), 1.0).unwrap();
        let rows = [Row { tokens: LONG.to_vec(), from: 3 }];
        let mut go_on = |_| ControlFlow::Continue(());
        let score = crate::logprob::score(&engine, Some(&model), &rows, &settings(8), &mut go_on);
        assert!(matches!(score, Err(SequenceError::RewardModel)), "{score:?}");
        let hooks = Hooks {
            stop: &|_, _| false,
            on_done: &mut |_, _| ControlFlow::Continue(()),
            progress: &mut go_on,
        };
        let said = crate::generate::generate(&engine, Some(&model), &[], &settings(8), hooks);
        assert!(matches!(said, Err(SequenceError::RewardModel)), "{said:?}");
    }
}
