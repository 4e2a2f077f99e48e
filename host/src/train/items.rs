//! What is learnt from: examples, or items of several sequences that are compared.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reference::Reference;
use super::settings::{Example, SettingsError, check_examples};
use super::{TrainError, TrainSettings};
use crate::model::adapter::{Adapter, LoraConfig};
use crate::model::backend::TrainingBackend;
use crate::model::forward::Engine;
use crate::model::spec::Spec;
use crate::objective::Preference;

/// What is learnt from, and what is learnt from it.
#[derive(Clone, Debug)]
pub enum Data {
    /// Supervised fine-tuning on examples.
    Supervised(Vec<Example>),
    /// A preference objective over items.
    Preference {
        /// Each with the sequences that the objective names ([`Preference::roles`]).
        items: Vec<Item>,
        /// Which objective.
        objective: Preference,
        /// What the policy is held to; without effect where the objective has no reference.
        reference: Reference,
    },
}

impl From<Vec<Example>> for Data {
    fn from(examples: Vec<Example>) -> Data {
        Data::Supervised(examples)
    }
}

/// Sequences that one loss is formed of. They go through the model together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Named in errors, and part of the key of its dropout draws.
    pub id: String,
    /// In the order of the objective's roles.
    pub sequences: Vec<Sequence>,
    /// Whether the first sequence is to become likelier; pairs say that by their order, so it matters
    /// only without them.
    pub desirable: bool,
}

/// A prompt with a completion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Prompt, completion and end of turn.
    pub tokens: Vec<u32>,
    /// As long as `tokens`. Where true, the token counts as the completion's, and its logprob given
    /// those before it is part of the sequence's.
    pub trained: Vec<bool>,
}

impl Sequence {
    /// Puts a completion after a prompt.
    pub fn new(prompt: &[u32], completion: &[u32]) -> Sequence {
        let tokens = [prompt, completion].concat();
        let trained = (0..tokens.len()).map(|t| t >= prompt.len()).collect();
        Sequence { tokens, trained }
    }

    /// Returns how many tokens count.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().filter(|&&trained| trained).count()
    }

    /// Returns the tokens before the first that counts.
    pub(super) fn prompt(&self) -> &[u32] {
        let end = self.trained.iter().position(|&trained| trained);
        &self.tokens[..end.unwrap_or(self.tokens.len())]
    }

    fn check(&self, spec: &Spec) -> Result<(), SequenceProblem> {
        let (tokens, limit, vocab) = (self.tokens.len(), spec.context_length, spec.vocab);
        if tokens != self.trained.len() {
            return Err(SequenceProblem::Marks { tokens, marks: self.trained.len() });
        }
        match self.tokens.iter().find(|&&token| token as usize >= vocab) {
            _ if self.trained_tokens() == 0 => Err(SequenceProblem::Empty),
            _ if self.trained[0] => Err(SequenceProblem::NoPrompt),
            _ if tokens > limit => Err(SequenceProblem::TooLong { tokens, limit }),
            Some(&token) => Err(SequenceProblem::Token { token, vocab }),
            None => Ok(()),
        }
    }
}

/// Returns whether the second of a pair shares its prompt with the first in training. Where inputs of the adapter are
/// dropped it does not, as each sequence draws for itself.
pub fn shares_prompts(lora: Option<&LoraConfig>) -> bool {
    lora.is_none_or(|lora| lora.dropout == 0.0)
}

impl Item {
    /// Returns an item of two sequences: chosen and rejected after the same prompt.
    pub fn pair(id: impl Into<String>, prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> Item {
        let sequences = vec![Sequence::new(prompt, chosen), Sequence::new(prompt, rejected)];
        Item { id: id.into(), sequences, desirable: true }
    }

    /// Returns which sequences it has.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.sequences.len()
    }

    /// Returns how many tokens some of its sequences have.
    pub(super) fn tokens(&self, which: Range<usize>) -> usize {
        self.sequences[which].iter().map(|sequence| sequence.tokens.len()).sum()
    }

    /// Returns some of its sequences, each with how many of its first tokens go through the model with the sequence
    /// before: where they may, the second of a pair shares its prompt with the first, but for the last token, whose row
    /// is read by the head (arXiv 2410.20305).
    pub(super) fn shared(
        &self,
        which: Range<usize>,
        may: bool,
    ) -> impl Iterator<Item = (&Sequence, usize)> {
        let begin = which.start;
        which.map(move |nth| {
            let sequence = &self.sequences[nth];
            let prompt = sequence.prompt();
            let second = may && (nth - begin) % 2 == 1;
            let alike = second && self.sequences[nth - 1].tokens.starts_with(prompt);
            (sequence, if alike { prompt.len().saturating_sub(1) } else { 0 })
        })
    }

    /// Returns how many rows of a pass some of its sequences take.
    pub(super) fn rows(&self, which: Range<usize>, may_share: bool) -> usize {
        self.shared(which, may_share).map(|(sequence, shared)| sequence.tokens.len() - shared).sum()
    }

    /// Returns how many tokens count.
    pub fn trained_tokens(&self) -> usize {
        self.sequences.iter().map(Sequence::trained_tokens).sum()
    }

    /// Checks that a model of this shape can learn from it under an objective.
    ///
    /// What makes pairs may call this to drop and count what [`Trainer::new`](super::Trainer::new)
    /// would refuse, identical completions above all.
    pub fn check(&self, objective: &Preference, spec: &Spec) -> Result<(), ItemProblem> {
        let roles = objective.roles();
        if self.sequences.len() != roles.len() {
            let (found, expected) = (self.sequences.len(), roles.len());
            return Err(ItemProblem::Roles { found, expected });
        }
        for (sequence, &role) in self.sequences.iter().zip(roles) {
            let named = |problem| ItemProblem::Sequence { role, problem };
            sequence.check(spec).map_err(named)?;
        }
        for (pair, roles) in self.sequences.chunks_exact(2).zip(roles.chunks_exact(2)) {
            let roles = [roles[0], roles[1]];
            if pair[0].prompt() != pair[1].prompt() {
                return Err(ItemProblem::Prompts { roles });
            }
            if objective.is_paired() && pair[0] == pair[1] {
                return Err(ItemProblem::Identical { roles });
            }
        }
        Ok(())
    }
}

impl From<Example> for Item {
    fn from(Example { id, tokens, trained }: Example) -> Item {
        Item { id, sequences: vec![Sequence { tokens, trained }], desirable: true }
    }
}

/// What a trainer learns from, checked, and how.
pub(super) struct Task {
    pub(super) items: Vec<Item>,
    pub(super) objective: Objective,
    /// Stands for items and objective.
    pub(super) digest: [u8; 32],
}

/// What is learnt, with what is known before the first step.
pub(super) enum Objective {
    Sft,
    Preference {
        objective: Preference,
        /// For each item, of each sequence.
        reference: Vec<Vec<f64>>,
    },
}

impl Objective {
    /// Returns which sequences of an item are learnt from.
    pub(super) fn learnt(&self) -> Range<usize> {
        match self {
            Objective::Sft => 0..1,
            Objective::Preference { objective, .. } => 0..objective.learnt(),
        }
    }

    /// Returns whether the loss of an item is its own; without pairs it takes all items of a step together.
    pub(super) fn is_paired(&self) -> bool {
        match self {
            Objective::Sft => true,
            Objective::Preference { objective, .. } => objective.is_paired(),
        }
    }

    /// Returns whether what is trained is a reward model.
    pub(super) fn makes_reward_model(&self) -> bool {
        match self {
            Objective::Sft => false,
            Objective::Preference { objective, .. } => objective.makes_reward_model(),
        }
    }

    /// Returns which are only looked at.
    pub(super) fn looked_at(&self) -> Range<usize> {
        match self {
            Objective::Sft => 1..1,
            Objective::Preference { objective, .. } => objective.learnt()..objective.roles().len(),
        }
    }
}

impl Task {
    /// Checks data and scores it under the reference.
    pub(super) fn new<B: TrainingBackend>(
        engine: &Engine<B>,
        data: Data,
        settings: &TrainSettings,
    ) -> Result<Task, TrainError> {
        let spec = &engine.weights.spec;
        let digest = data.digest();
        match data {
            Data::Supervised(examples) => {
                check_examples(&examples, spec)?;
                let items = examples.into_iter().map(Item::from).collect();
                Ok(Task { items, objective: Objective::Sft, digest })
            }
            Data::Preference { items, objective, reference } => {
                objective.check()?;
                if items.is_empty() {
                    return Err(SettingsError::NoItems.into());
                }
                for item in &items {
                    let id = || item.id.clone();
                    item.check(&objective, spec)
                        .map_err(|problem| SettingsError::Item { id: id(), problem })?;
                }
                let reference = match objective.needs_reference() {
                    true => reference.logprobs(engine, &objective, &items, settings)?,
                    false => items.iter().map(|item| vec![0.0; item.sequences.len()]).collect(),
                };
                let objective = Objective::Preference { objective, reference };
                Ok(Task { items, objective, digest })
            }
        }
    }
}

impl Data {
    /// Returns the same with logprobs that are known already.
    pub(super) fn with_reference(self, known: Option<Vec<Vec<f64>>>) -> Data {
        match (self, known) {
            (Data::Preference { items, objective, .. }, Some(known)) => {
                Data::Preference { items, objective, reference: Reference::Logprobs(known) }
            }
            (data, _) => data,
        }
    }

    /// Fails where what is trained and the objective do not go together: a reward model is an adapter with
    /// a head, and a policy has none. `start` is none in full training.
    pub(super) fn check_head(&self, start: Option<&Adapter>) -> Result<(), TrainError> {
        let rewards = match self {
            Data::Supervised(_) => false,
            Data::Preference { objective, .. } => objective.makes_reward_model(),
        };
        match (rewards, start.map(|adapter| adapter.score.is_some())) {
            (true, None) => Err(TrainError::Head(
                "a reward model is an adapter with a head, and every weight was to be trained",
            )),
            (true, Some(false)) => {
                Err(TrainError::Head("the adapter has no head, and a reward model needs one"))
            }
            (false, Some(true)) => Err(TrainError::Head(
                "the adapter has the head of a reward model, and a policy was to be trained",
            )),
            (true, Some(true)) | (false, Some(false) | None) => Ok(()),
        }
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut add = |tokens: &[u32], trained: &[bool]| {
            hash.update(format!("{} {}\n", tokens.len(), trained.len()));
            tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
            trained.iter().for_each(|&trained| hash.update([u8::from(trained)]));
        };
        let mut ids: Vec<&str> = Vec::new();
        let mut task = "sft".to_owned();
        match self {
            Data::Supervised(examples) => {
                for Example { id, tokens, trained } in examples {
                    ids.push(id);
                    add(tokens, trained);
                }
            }
            Data::Preference { items, objective, reference } => {
                for item in items {
                    ids.push(&item.id);
                    item.sequences.iter().for_each(|s| add(&s.tokens, &s.trained));
                }
                let lengths: Vec<usize> = items.iter().map(|item| item.sequences.len()).collect();
                let reference = objective.needs_reference().then(|| reference.identity());
                let desirable: Vec<bool> = items.iter().map(|item| item.desirable).collect();
                task = format!("{objective:?} {lengths:?} {desirable:?}\n{reference:?}");
            }
        }
        hash.update(format!("{ids:?}\n{task}"));
        hash.finalize().into()
    }
}

/// Why an item cannot be learnt from.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ItemProblem {
    /// It has more or fewer sequences than the objective compares.
    #[error("it has {found} sequences, the objective compares {expected}")]
    Roles {
        /// How many it has.
        found: usize,
        /// How many it should have.
        expected: usize,
    },
    /// One of its sequences is unusable.
    #[error("`{role}` {problem}")]
    Sequence {
        /// Which one.
        role: &'static str,
        /// What is wrong with it.
        problem: SequenceProblem,
    },
    /// Completions that are compared follow different prompts.
    #[error("`{}` and `{}` follow different prompts", roles[0], roles[1])]
    Prompts {
        /// Which ones.
        roles: [&'static str; 2],
    },
    /// Completions that are compared are the same.
    #[error(
        "`{}` and `{}` are identical\n\n\
         hint: nothing can be learnt from such a pair; leave it out",
        roles[0], roles[1]
    )]
    Identical {
        /// Which ones.
        roles: [&'static str; 2],
    },
    /// It has more or fewer reference logprobs than sequences.
    #[error("it has {found} reference logprobs for {expected} sequences")]
    References {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
}

/// Why a sequence cannot be learnt from.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SequenceProblem {
    /// Tokens and marks do not match.
    #[error("has {tokens} tokens and {marks} marks")]
    Marks {
        /// Number of tokens.
        tokens: usize,
        /// Number of marks.
        marks: usize,
    },
    /// No token counts.
    #[error("has no completion")]
    Empty,
    /// Nothing predicts the first token.
    #[error("begins with its completion, which nothing predicts")]
    NoPrompt,
    /// It does not fit into the model's context.
    #[error("has {tokens} tokens, the model reads {limit}")]
    TooLong {
        /// Number of tokens.
        tokens: usize,
        /// The model's context length.
        limit: usize,
    },
    /// A token that the model does not have.
    #[error("holds token {token}, the model has {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// The reference's logprob is no logprob.
    #[error("has the reference logprob {logprob}, expected a finite number of at most 0")]
    Reference {
        /// What was given.
        logprob: f64,
    },
}
