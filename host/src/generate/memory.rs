//! What decoding and scoring take in memory beside the weights.

use super::batch::{Start, page_count};
use super::{Logits, Settings};
use crate::model::backend::{Backend, CacheShape, WeightType};
use crate::model::forward::Workspace;
use crate::model::spec::Spec;

/// What decoding or scoring holds at its height, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeMemory {
    /// Keys and values.
    pub cache: usize,
    /// What a pass works in.
    pub pass: usize,
    /// Logits that tokens are drawn from.
    pub logits: usize,
}

impl DecodeMemory {
    /// Predicts what completing prompts takes.
    ///
    /// - `weight_type`: how the model's weights are kept.
    /// - `prompts`: each with the number of tokens that it gets, at least 1.
    /// - `rank`: the largest rank of the adapter; 0 without one.
    pub fn predict<B: Backend>(
        backend: &B,
        spec: &Spec,
        weight_type: WeightType,
        rank: usize,
        prompts: &[(Vec<u32>, usize)],
        settings: &Settings,
    ) -> DecodeMemory {
        let starts: Vec<Start<'_>> = prompts
            .iter()
            .map(|(prompt, new)| Start::completing(prompt, *new))
            .filter(|start| start.positions <= spec.context_length)
            .collect();
        let most = settings.max_batch.max(1);
        let all: usize = starts.iter().map(|start| start.tokens.len()).sum();
        // Each running sequence has one row at least, and prompts share the others.
        let rows = all.min(settings.prefill_rows + most);
        let longest = starts.iter().map(|start| start.positions).max().unwrap_or(0);
        let shape = |pages| CacheShape::of(spec, weight_type, pages);
        let pages = page_count(&starts, settings, backend.cache_bytes(shape(1)));
        DecodeMemory {
            cache: backend.cache_bytes(shape(pages)),
            pass: Workspace::bytes(backend, spec, rows, rank)
                + backend.attention_bytes(spec.attention(0), rows, longest),
            logits: Logits::bytes(backend, most.min(starts.len()), spec),
        }
    }

    /// Returns the sum.
    pub fn total(&self) -> usize {
        self.cache + self.pass + self.logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::cpu::Cpu;
    use crate::model::tiny;

    fn prompts(count: u32, common: usize, own: usize, new: usize) -> Vec<(Vec<u32>, usize)> {
        let prompt = |i: u32| [vec![7; common], vec![i + 10; own]].concat();
        (0..count).map(|i| (prompt(i), new)).collect()
    }

    fn predict(spec: &Spec, prompts: &[(Vec<u32>, usize)], settings: &Settings) -> DecodeMemory {
        DecodeMemory::predict(&Cpu::new(), spec, WeightType::F32, 0, prompts, settings)
    }

    #[test]
    fn pages_are_those_that_run_together() {
        let spec = tiny::spec(16, true);
        let page = Cpu::new().cache_bytes(CacheShape::of(&spec, WeightType::F32, 1));
        let check = |prompts: &[(Vec<u32>, usize)], max_batch: usize, pages: usize| {
            let settings = Settings { max_batch, ..Settings::default() };
            let found = predict(&spec, prompts, &settings);
            assert_eq!(found.cache / page, pages);
        };
        // 33 positions each: three pages.
        check(&prompts(1, 0, 30, 4), 4, 3);
        check(&prompts(4, 0, 30, 4), 4, 12);
        check(&prompts(9, 0, 30, 4), 4, 12);
        // Two of three are shared.
        check(&prompts(4, 32, 1, 4), 4, 6);
        check(&[], 4, 0);
        // Longer than the context: left out, as a run does.
        check(&prompts(2, 0, 510, 4), 4, 0);
        let settings = Settings { cache_bytes: 5 * page, ..Settings::default() };
        let prompts = prompts(4, 0, 30, 4);
        let found = predict(&spec, &prompts, &settings);
        assert!(found.cache <= 5 * page);
    }
}
