//! The tables that set the machinery: generation, training, evaluation.
//!
//! Every default stands in a `Default` of this file and nowhere else.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    model::{
        adapter::{LoraConfig, TargetModules},
        backend::WeightType,
        spec::Linear,
    },
    objective::{
        Preference,
        sso::{BaseLoss, Sso, SsoGenerator, WeightScope},
    },
    record::Decoding,
};

/// `[generate]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// `policy` (the model that the round before left), `initial`, `previous`, a name from `[models]`, or
    /// what an earlier round saved. Default: `policy`.
    pub model: String,
    /// In [0, 10]; 0 is greedy. Default: 1.
    pub temperature: f64,
    /// In (0, 1]; 1 keeps every token. Default: 1.
    pub top_p: f64,
    /// 0 keeps every token. Default: 0.
    pub top_k: u32,
    /// Over 0; 1 is none. Default: 1.
    pub repetition_penalty: f64,
    /// At least 1. Default: 256.
    pub max_new_tokens: u32,
    /// The completion ends before the first of these; at most 16, none empty. Default: none.
    pub stop: Vec<String>,
    /// Rows that are decoded at once, on a GPU at most 1024; changes speed and memory, never a token.
    /// Absent: the host chooses.
    pub batch: Option<u32>,
}

impl Default for Generate {
    fn default() -> Generate {
        Generate {
            model: "policy".to_owned(),
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            max_new_tokens: 256,
            stop: Vec::new(),
            batch: None,
        }
    }
}

impl Generate {
    /// Returns the decoding settings, all of them present.
    pub fn decoding(&self) -> Decoding {
        Decoding {
            temperature: Some(self.temperature),
            top_p: Some(self.top_p),
            top_k: Some(self.top_k),
            repetition_penalty: Some(self.repetition_penalty),
            max_new_tokens: Some(self.max_new_tokens),
            stop: Some(self.stop.clone()),
        }
    }
}

/// `[train]`, under Hugging Face's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The loss. Default: `sft`.
    pub objective: Objective,
    /// What the policy is held to; absent where the objective has no reference. Default: `initial`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// Where each round's training begins. Default: `previous`.
    pub start: Start,
    /// What each round trains on. Default: `round`.
    pub data: TrainData,
    /// The peak of the schedule; over 0. Default: 1e-4 for `sft` and `reward`, and 1e-5 for what else
    /// compares completions; where every weight is trained 2e-5 and 1e-6.
    pub learning_rate: f64,
    /// Over 0; a part of an epoch ends early. Default: 1.
    pub num_train_epochs: f64,
    /// Rows in one forward pass; at least 1. Default: 8.
    pub per_device_train_batch_size: u32,
    /// Passes in one update; at least 1. Default: 1.
    pub gradient_accumulation_steps: u32,
    /// Part of all steps in which the rate rises; in [0, 1]. Default: 0.03.
    pub warmup_ratio: f64,
    /// How the rate falls after the warm-up. Default: `cosine`.
    pub lr_scheduler_type: LrScheduler,
    /// Decoupled, as in AdamW; at least 0. Default: 0.
    pub weight_decay: f64,
    /// In [0, 1). Default: 0.9.
    pub adam_beta1: f64,
    /// In [0, 1). Default: 0.999.
    pub adam_beta2: f64,
    /// Over 0. Default: 1e-8.
    pub adam_epsilon: f64,
    /// The norm that gradients are clipped to; 0 clips nothing. Default: 1.
    pub max_grad_norm: f64,
    /// Longest row in tokens, prompt and completion; at least 2. Default: 1024.
    pub max_length: u32,
    /// Updates between two checkpoints that a killed training goes on from; 0 writes none within a
    /// round. Default: 10, and 50 where every weight is trained. A checkpoint is three times what is
    /// trained, and where updates are short, one after each takes a good tenth of the time.
    pub save_steps: u32,
    /// Most tokens that go through the model at once; a longer example goes alone. More of them need more
    /// memory, and change an update by no more than rounding. A reference is asked about as many. Default: 1024 on the processor, 4096 on a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<u32>,
    /// Keeps only the input of each block and computes the rest again: less memory, more work, and
    /// the same result. Default: false.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// The adapter that is trained; absent: every weight is (`method = "full"`). Default: an adapter.
    pub lora: Option<Lora>,
    /// How TRL trains in the place of the native trainer (`backend = "trl"`); absent: it does not. Default: absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trl: Option<Trl>,
}

impl Default for Train {
    fn default() -> Train {
        Train {
            objective: Objective::Sft,
            reference: None,
            start: Start::Previous,
            data: TrainData::Round,
            learning_rate: 1e-4,
            num_train_epochs: 1.0,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            warmup_ratio: 0.03,
            lr_scheduler_type: LrScheduler::Cosine,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            max_length: 1024,
            save_steps: 10,
            micro_batch_tokens: None,
            gradient_checkpointing: false,
            lora: Some(Lora::default()),
            trl: None,
        }
    }
}

impl Train {
    /// Returns the defaults where every weight is trained. A rate that suits an adapter's few weights
    /// is too much for all of them; this one is TRL's.
    pub fn full() -> Train {
        Train { learning_rate: 2e-5, save_steps: 50, lora: None, ..Train::default() }
    }

    /// Returns the same for an objective: what compares completions takes smaller steps, but for a reward
    /// model, as TRL does.
    pub fn under(self, objective: Objective) -> Train {
        let (learning_rate, reference) = match objective {
            Objective::Sft => (self.learning_rate, None),
            Objective::Preference(preference) => {
                let rate = match self.lora {
                    // It is the head that has to learn most.
                    Some(_) if preference.makes_reward_model() => 1e-4,
                    Some(_) => 1e-5,
                    None => 1e-6,
                };
                (rate, preference.needs_reference().then_some(Reference::Initial))
            }
        };
        Train { objective, reference, learning_rate, ..self }
    }

    /// Returns the objective that compares completions, where this is one.
    pub fn preference(&self) -> Option<Preference> {
        match self.objective {
            Objective::Sft => None,
            Objective::Preference(preference) => Some(preference),
        }
    }

    /// Returns whether it makes a reward model, which is no policy.
    pub fn makes_reward_model(&self) -> bool {
        self.preference().is_some_and(|preference| preference.makes_reward_model())
    }
}

/// The loss of the training stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Minus the mean logprob of the completion's tokens.
    Sft,
    /// One that compares completions.
    Preference(Preference),
}

impl Objective {
    /// Returns the objective of a name with its defaults: TRL's for what TRL has, else the authors'.
    pub fn named(name: &str) -> Option<Objective> {
        Some(Objective::Preference(match name {
            "sft" => return Some(Objective::Sft),
            "dpo" => Preference::Dpo { beta: 0.1, label_smoothing: 0.0 },
            "ipo" => Preference::Ipo { beta: 0.1, length_averaged: true },
            "hinge" => Preference::Hinge { beta: 0.1 },
            "simpo" => Preference::SimPo { beta: 2.0, gamma: 0.5 },
            "orpo" => Preference::Orpo { beta: 0.1 },
            "reward" => Preference::Reward { center_rewards_coefficient: 0.0 },
            "kto" => Preference::Kto { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 },
            "sso" => Preference::Sso(Sso {
                base_loss: BaseLoss::Ipo,
                beta: base_beta(BaseLoss::Ipo),
                gamma: 0.1,
                alpha: 0.66,
                w_scope: WeightScope::All,
                w_detach: false,
            }),
            "sso-generator" => Preference::SsoGenerator(SsoGenerator {
                base_loss: BaseLoss::Dpo,
                beta: base_beta(BaseLoss::Dpo),
                gamma: 0.1,
            }),
            _ => return None,
        }))
    }

    /// Returns its name.
    pub fn name(&self) -> &'static str {
        match self {
            Objective::Sft => "sft",
            Objective::Preference(preference) => preference.name(),
        }
    }
}

/// Returns the default of `beta` for a loss that SSO builds upon. IPO's is in nats a token.
pub(super) fn base_beta(base: BaseLoss) -> f64 {
    match base {
        BaseLoss::Dpo => 0.1,
        BaseLoss::Ipo => 0.2,
    }
}

/// What the policy is held to while it trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reference {
    /// The initial model.
    Initial,
    /// The policy as the round before left it.
    Previous,
}

/// `[pair]`: which of a record's completions is chosen, and which is rejected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pairing {
    /// What decides. Default: `judge` where the set has one and the completions are its own, else
    /// `role`.
    pub by: PairBy,
    /// The judge's reward that decides; absent: their sum, or the judge's preference.
    pub reward: Option<String>,
}

/// What decides between completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairBy {
    /// The first good variant is chosen, the first bad one rejected.
    Role,
    /// The judge's preference, or the greatest and the least of its rewards.
    Judge,
}

/// Where a round's training begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// At the adapter, or the weights, that the round before left.
    Previous,
    /// At a fresh adapter on the initial model, or at its weights.
    Initial,
}

/// What a round trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainData {
    /// The records it kept.
    Round,
    /// These and all that earlier rounds kept.
    All,
}

/// How the learning rate changes, under Hugging Face's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Stays at its peak, without a warm-up.
    Constant,
    /// Stays at its peak after the warm-up.
    ConstantWithWarmup,
    /// Falls to 0 along a line.
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
}

/// `lora` of `[train]`, under PEFT's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rank, in 1..=1024. Default: 16.
    pub r: u32,
    /// Numerator of the scale; over 0. Default: equal to `r`, a scale of 1.
    pub alpha: f64,
    /// In [0, 1). Default: 0.
    pub dropout: f64,
    /// Names of linear layers such as `q_proj` or `layers.0.mlp.up_proj`, or an expression over their
    /// paths; matches at least one. Default: all seven (`all-linear`).
    pub target_modules: TargetModules,
    /// Scale by `alpha / sqrt(r)` instead of `alpha / r`. Default: false.
    pub use_rslora: bool,
    /// Ranks in 1..=1024 of the layers whose path ends in a match; the first counts. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rank_pattern: Vec<(String, u32)>,
    /// The same for `alpha`, each over 0. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpha_pattern: Vec<(String, f64)>,
}

impl Default for Lora {
    fn default() -> Lora {
        Lora {
            r: 16,
            alpha: 16.0,
            dropout: 0.0,
            target_modules: Linear::ALL[..].into(),
            use_rslora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
        }
    }
}

impl Lora {
    /// Returns the adapter's hyper-parameters as the model takes them.
    pub fn config(&self) -> LoraConfig {
        let rank = |(pattern, r): &(String, u32)| (pattern.clone(), *r as usize);
        LoraConfig {
            r: self.r as usize,
            alpha: self.alpha,
            dropout: self.dropout,
            target_modules: self.target_modules.clone(),
            use_rslora: self.use_rslora,
            rank_pattern: self.rank_pattern.iter().map(rank).collect(),
            alpha_pattern: self.alpha_pattern.clone(),
        }
    }
}

/// `trl` of `[train]`: how a round's training is handed to TRL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trl {
    /// What starts the job. Default: `local`.
    pub launch: Launch,
    /// The Python that has TRL, by name or path; on a cluster, there. Default: `python3`.
    pub python: String,
    /// Processes on each machine, one for a GPU; an update takes so many times
    /// `per_device_train_batch_size` rows. At least 1. Default: 1.
    pub processes: u32,
    /// What `torchrun`, `sbatch` or `ray job submit` is told besides. Default: nothing.
    pub arguments: Vec<String>,
    /// What transformers loads as the base, a folder or a name on the hub; absent: the policy's folder, or
    /// its name on the hub. Default: absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `f32` or `bf16`: what the base is loaded in. Default: `run.dtype`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<WeightType>,
    /// What TRL's configuration gets besides, under its own names, such as `deepspeed`. Default: nothing.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub options: Map<String, Value>,
    /// Without an update for so long, a job that runs is taken to hang and ended; 0 waits for ever.
    /// Default: 60.
    pub timeout_minutes: f64,
    /// Between two questions to the scheduler; at least 1. Default: 5.
    pub poll_seconds: u32,
    /// How often a job that dies or hangs is started again, from its last checkpoint, before the run
    /// stops. Default: 0.
    pub max_restarts: u32,
}

impl Default for Trl {
    fn default() -> Trl {
        Trl {
            launch: Launch::Local,
            python: "python3".to_owned(),
            processes: 1,
            arguments: Vec::new(),
            model: None,
            dtype: None,
            options: Map::new(),
            timeout_minutes: 60.0,
            poll_seconds: 5,
            max_restarts: 0,
        }
    }
}

/// What starts the job of an external trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Launch {
    /// One process on this machine.
    Local,
    /// `processes` of them on this machine, by `torchrun`.
    Torchrun,
    /// A batch job of Slurm, by `sbatch`.
    Slurm,
    /// A job of a Ray cluster, by `ray job submit`.
    Ray,
}

impl Launch {
    /// Every one with its name.
    pub const ALL: [(&'static str, Launch); 4] = [
        ("local", Launch::Local),
        ("torchrun", Launch::Torchrun),
        ("slurm", Launch::Slurm),
        ("ray", Launch::Ray),
    ];
}

/// `[measure]`: how measurements are made that plugins need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measuring {
    /// Into how many clusters completions are cut, at least 1. Default: a third of the records.
    pub clusters: Option<u32>,
}

/// `[evaluate]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// What is measured after each round, in the order given, none twice; not empty.
    pub measures: Vec<Measure>,
    /// When to stop before the last round; absent: never.
    pub early_stop: Option<EarlyStop>,
}

/// What is measured on held-out prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Of the trusted answers, over all their tokens; lower is better.
    Perplexity,
    /// Distinct word pairs over all word pairs of the model's own answers; higher is better.
    #[serde(rename = "distinct-2")]
    Distinct2,
    /// Mean tokens of the model's own answers; neither way is better.
    Length,
    /// Mean token entropy of the model's own answers, in nats; neither way is better.
    Entropy,
    /// How often the judge prefers the better completion of an anchor, in [0, 1], a tie counting a half;
    /// higher is better.
    Agreement,
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 5] = [
        Measure::Perplexity,
        Measure::Distinct2,
        Measure::Length,
        Measure::Entropy,
        Measure::Agreement,
    ];

    /// Returns the name that plugin sets and reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Measure::Perplexity => "perplexity",
            Measure::Distinct2 => "distinct-2",
            Measure::Length => "length",
            Measure::Entropy => "entropy",
            Measure::Agreement => "agreement",
        }
    }

    /// Returns whether it is of the model's own answers to held-out prompts.
    pub fn is_of_answers(self) -> bool {
        matches!(self, Measure::Distinct2 | Measure::Length | Measure::Entropy)
    }

    /// Returns whether it is measured on held-out prompts.
    pub fn is_held_out(self) -> bool {
        self != Measure::Agreement
    }

    /// Returns whether `new` is better than `old`; `None` where neither way is better.
    pub fn better(self, new: f64, old: f64) -> Option<bool> {
        match self {
            Measure::Perplexity => Some(new < old),
            Measure::Distinct2 | Measure::Agreement => Some(new > old),
            Measure::Length | Measure::Entropy => None,
        }
    }
}

/// When a run stops before its last round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// One of `measures` that has a better direction; it also chooses the best round.
    pub measure: Measure,
    /// Rounds without improvement before stopping; at least 1. Default: 1.
    pub patience: u32,
}
