//! The keys that each table may have.

use super::section::Shape;

pub(super) const ROOT: Shape = Shape {
    keys: &[
        "method",
        "models",
        "data",
        "run",
        "chat",
        "principle",
        "sampler",
        "filter",
        "judge",
        "difficulty",
        "generate",
        "measure",
        "pair",
        "train",
        "extrapolate",
        "evaluate",
        "watch",
        "rounds",
    ],
    later: &["pool"],
};
pub(super) const SERVER: Shape = Shape {
    keys: &[
        "server",
        "base",
        "model",
        "embedded",
        "probe_bound",
        "in_flight",
        "timeout_seconds",
        "patience_seconds",
        "tokens",
        "on_budget",
    ],
    later: &[],
};
pub(super) const METHOD: Shape =
    Shape { keys: &["name", "contract", "summary", "paper"], later: &[] };
pub(super) const DATA: Shape =
    Shape { keys: &["prompts", "pairs", "held_out", "anchors", "limit"], later: &[] };
pub(super) const RUN: Shape = Shape { keys: &["rounds", "seed", "dtype", "keep"], later: &[] };
pub(super) const CHAT: Shape = Shape { keys: &["date", "variables"], later: &[] };
pub(super) const PLUGIN: Shape =
    Shape { keys: &["plugin", "sha256", "config", "limits", "on_error", "ask"], later: &[] };
pub(super) const SAMPLER: Shape = Shape {
    keys: &["plugin", "sha256", "write", "config", "limits", "on_error", "ask"],
    later: &[],
};
pub(super) const WRITE: Shape = Shape { keys: &["prompts", "slots"], later: &[] };
pub(super) const FILTER: Shape = Shape {
    keys: &["after", "plugin", "sha256", "config", "limits", "on_error", "ask"],
    later: &[],
};
pub(super) const DIFFICULTY: Shape = Shape {
    keys: &["plugin", "sha256", "scope", "order", "config", "limits", "on_error", "ask"],
    later: &[],
};
pub(super) const LIMITS: Shape = Shape {
    keys: &[
        "fuel",
        "memory",
        "memories",
        "tables",
        "table_elements",
        "instances",
        "wall_seconds",
        "copied_bytes",
        "log_bytes",
        "run_fuel",
        "run_log_bytes",
        "run_wall_seconds",
    ],
    later: &[],
};
pub(super) const ASK: Shape = Shape {
    keys: &["models", "tokens", "requests", "record_requests", "run_tokens", "run_requests"],
    later: &[],
};
pub(super) const GENERATE: Shape = Shape {
    keys: &[
        "model",
        "temperature",
        "top_p",
        "top_k",
        "repetition_penalty",
        "max_new_tokens",
        "stop",
        "batch",
    ],
    later: &["samples"],
};
pub(super) const MEASURE: Shape = Shape { keys: &["clusters"], later: &[] };
/// The keys of `[generate]` that say how one completion is drawn.
pub(super) const DECODING: Shape = Shape {
    keys: &["temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "stop"],
    later: &[],
};
pub(super) const EXTRAPOLATE: Shape = Shape {
    keys: &[
        "alpha",
        "from",
        "grid",
        "refine",
        "prompts",
        "objective",
        "reward",
        "decoding",
        "guard",
    ],
    later: &[],
};
pub(super) const GUARD: Shape = Shape { keys: &["length", "ended", "repetition"], later: &[] };
pub(super) const PAIR: Shape = Shape { keys: &["by", "reward"], later: &[] };
/// The hyper-parameters of each objective.
pub(super) const OBJECTIVES: [(&str, &[&str]); 10] = [
    ("sft", &[]),
    ("dpo", &["beta", "label_smoothing"]),
    ("ipo", &["beta", "length_averaged"]),
    ("hinge", &["beta"]),
    ("simpo", &["beta", "gamma"]),
    ("orpo", &["beta"]),
    ("kto", &["beta", "desirable_weight", "undesirable_weight"]),
    ("reward", &["center_rewards_coefficient"]),
    ("sso", &["base_loss", "beta", "gamma", "alpha", "w_scope", "w_detach"]),
    ("sso-generator", &["base_loss", "beta", "gamma"]),
];
pub(super) const TRAIN: Shape = Shape {
    keys: &[
        "objective",
        "reference",
        "beta",
        "label_smoothing",
        "length_averaged",
        "gamma",
        "desirable_weight",
        "undesirable_weight",
        "center_rewards_coefficient",
        "base_loss",
        "alpha",
        "w_scope",
        "w_detach",
        "start",
        "data",
        "learning_rate",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "warmup_ratio",
        "lr_scheduler_type",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "max_length",
        "save_steps",
        "micro_batch_tokens",
        "gradient_checkpointing",
        "method",
        "backend",
        "trl",
        "lora",
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_target_modules",
    ],
    later: &[],
};
pub(super) const LORA: Shape = Shape {
    keys: &[
        "r",
        "alpha",
        "dropout",
        "target_modules",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "lora_alpha",
        "lora_dropout",
    ],
    later: &["use_dora", "bias", "modules_to_save"],
};
pub(super) const TRL: Shape = Shape {
    keys: &[
        "launch",
        "python",
        "processes",
        "arguments",
        "model",
        "dtype",
        "options",
        "timeout_minutes",
        "poll_seconds",
        "max_restarts",
    ],
    later: &[],
};
pub(super) const EVALUATE: Shape = Shape { keys: &["measures", "early_stop"], later: &["judge"] };
pub(super) const EARLY_STOP: Shape = Shape { keys: &["measure", "patience"], later: &[] };
pub(super) const WATCH: Shape = Shape {
    keys: &[
        "on_alarm",
        "generated-distinct-2",
        "generated-length",
        "generated-entropy",
        "unparsable",
        "perplexity",
        "distinct-2",
        "length",
        "entropy",
        "agreement",
    ],
    later: &[],
};
/// How far a signal of `[watch]` may move.
pub(super) const BOUNDS: Shape =
    Shape { keys: &["min", "max", "max_fall", "max_rise"], later: &[] };
pub(super) const ROUNDS: Shape =
    Shape { keys: &["generate", "judge", "train", "extrapolate", "save_as"], later: &[] };
/// The tables of a plugin set with their keys, for hints that a key belongs elsewhere.
pub(super) const TABLES: [(&str, &Shape); 21] = [
    ("[method]", &METHOD),
    ("[data]", &DATA),
    ("[run]", &RUN),
    ("[chat]", &CHAT),
    ("[generate]", &GENERATE),
    ("[measure]", &MEASURE),
    ("[pair]", &PAIR),
    ("[train]", &TRAIN),
    ("[evaluate]", &EVALUATE),
    ("[watch]", &WATCH),
    ("[difficulty]", &DIFFICULTY),
    ("[[filter]]", &FILTER),
    ("[sampler]", &SAMPLER),
    ("write", &WRITE),
    ("lora", &LORA),
    ("trl", &TRL),
    ("limits", &LIMITS),
    ("early_stop", &EARLY_STOP),
    ("[extrapolate]", &EXTRAPOLATE),
    ("guard", &GUARD),
    ("[models.policy]", &SERVER),
];
