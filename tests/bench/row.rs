//! The rows of the table: what is done, by whom, and what is to be reached.

use aligner::model::backend::WeightType;
use serde::{Deserialize, Serialize};

/// What one side of a row is told: the argument of its worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// What to do.
    pub work: Work,
    /// Type of the weights.
    pub weights: WeightType,
    /// Instructions that kernels may use.
    pub isa: Isa,
    /// Threads.
    pub threads: usize,
    /// File with the tokens; what is in it depends on the work (`input.rs`).
    pub input: String,
    /// Folder with the model files of the peers.
    pub models: String,
}

/// A piece of work that both sides do on the same tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Work {
    /// Steps of one token a sequence; the prompts before them are not measured.
    Decode {
        /// Sequences.
        batch: usize,
        /// Tokens of each; the first comes with the prompt.
        new: usize,
    },
    /// Whole prompts, each up to the logits of its last token.
    Prefill {
        /// Prompts.
        sequences: usize,
        /// Tokens of each.
        length: usize,
    },
    /// Logprobs of completions.
    Score {
        /// Rows.
        sequences: usize,
        /// Tokens before the completion.
        prompt: usize,
        /// Tokens that are scored.
        completion: usize,
    },
    /// Completions of prompts that begin alike.
    Stage {
        /// Prompts.
        prompts: usize,
        /// Tokens that all share.
        common: usize,
        /// Tokens after these in all prompts, on average.
        own: usize,
        /// Tokens of each completion.
        new: usize,
    },
    /// One optimiser step.
    Train {
        /// What learns, and from what.
        method: Method,
        /// Examples, or pairs.
        examples: usize,
        /// Tokens of each.
        length: usize,
        /// Tokens of each that are not trained.
        prompt: usize,
        /// Rank of the adapter.
        rank: usize,
    },
    /// A round of the demo's plugin set.
    Round,
}

/// What learns in a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// An adapter on all linear layers, by supervised fine-tuning.
    Lora,
    /// Every weight, by supervised fine-tuning.
    Full,
    /// An adapter, by DPO against the model without it.
    Dpo,
}

/// Returns the bytes of one weight.
pub fn bytes(weights: WeightType) -> f64 {
    match weights {
        WeightType::F32 => 4.0,
        WeightType::Bf16 => 2.0,
        // As in Q8_0: 32 weights and a scale of 16 bits.
        WeightType::Int8 => 34.0 / 32.0,
    }
}

/// Instructions that a side may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// The best that the machine has.
    Best,
    /// AVX2 and FMA.
    Avx2,
    /// What every processor of the architecture has.
    Portable,
}

/// Somebody else's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// llama.cpp through llama-cpp-python.
    LlamaCpp,
    /// transformers, and PEFT for adapters.
    Transformers,
    /// TRL's DPOTrainer.
    Trl,
    /// A script that does what a round does.
    RoundScript,
}

impl Peer {
    /// Its script in tests/peers.
    pub fn script(self) -> &'static str {
        match self {
            Peer::LlamaCpp => "llama_cpp_peer.py",
            Peer::Transformers => "transformers_peer.py",
            Peer::Trl => "trl_peer.py",
            Peer::RoundScript => "soft_plus_round.py",
        }
    }

    /// The modules that it imports.
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            Peer::LlamaCpp => &["llama_cpp", "numpy"],
            Peer::Transformers => &["torch", "transformers", "peft"],
            Peer::Trl => &["torch", "transformers", "peft", "trl"],
            Peer::RoundScript => &["torch", "transformers", "peft"],
        }
    }

    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Peer::LlamaCpp => "llama.cpp",
            Peer::Transformers => "transformers",
            Peer::Trl => "TRL DPOTrainer",
            Peer::RoundScript => "transformers + PEFT script",
        }
    }
}

/// A comparison of a row.
#[derive(Clone, Copy, Debug)]
pub struct Against {
    /// Who else does it.
    pub peer: Peer,
    /// Type of its weights, where it is not that of the row.
    pub weights: Option<WeightType>,
    /// How many times as fast we want to be.
    pub goal: Option<f64>,
    /// How much of its peak memory we want to need at most.
    pub memory: Option<f64>,
}

impl Against {
    /// What the table calls it.
    pub fn name(&self) -> String {
        let name = self.peer.name();
        self.weights.map_or(name.to_owned(), |weights| format!("{name} in {weights}"))
    }
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// For `ROWS=`, which takes every row whose name begins so.
    pub name: String,
    /// For people.
    pub title: String,
    /// What is done.
    pub work: Work,
    /// Type of the weights, the same on all sides.
    pub weights: WeightType,
    /// Instructions, the same on all sides.
    pub isa: Isa,
    /// The others.
    pub against: Vec<Against>,
    /// How many times the limit of the machine we want to need at most.
    pub limit_goal: Option<f64>,
    /// Whether one thread is measured too.
    pub scaling: bool,
    /// Whether `ROWS=quick` takes it.
    pub quick: bool,
}

/// Returns the type in which PyTorch is fastest on this machine.
fn fast_type() -> WeightType {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512bf16") {
        return WeightType::Bf16;
    }
    WeightType::F32
}

/// What two threads are to gain over one.
pub const SCALING_GOAL: f64 = 1.85;

/// Every row, in the order of the table.
pub fn all() -> Vec<Row> {
    use Peer::{LlamaCpp, RoundScript, Transformers, Trl};
    use WeightType::{Bf16, F32, Int8};

    let faster = |peer, goal| Against { peer, weights: None, goal: Some(goal), memory: None };
    let beside = |peer| Against { peer, weights: None, goal: None, memory: None };
    // PyTorch is many times slower in bf16 where the processor cannot multiply it: nobody would use it.
    let careful = |against| Against { weights: Some(fast_type()), ..against };
    let decode = |batch| Work::Decode { batch, new: 48 };
    let prefill = Work::Prefill { sequences: 8, length: 512 };
    let score = Work::Score { sequences: 64, prompt: 42, completion: 64 };
    let stage = |prompts, common, own| Work::Stage { prompts, common, own, new: 64 };
    let train = |method, examples| {
        let (length, prompt, rank) = (128, 40, 16);
        Work::Train { method, examples, length, prompt, rank }
    };

    let mut rows = Vec::new();
    let mut row = |name: &str, title: &str, work, weights, against: Vec<Against>| {
        let (name, title) = (name.to_owned(), title.to_owned());
        let (isa, limit_goal, scaling, quick) = (Isa::Best, None, true, false);
        rows.push(Row { name, title, work, weights, isa, against, limit_goal, scaling, quick });
        rows.len() - 1
    };
    let quick = [
        row(
            "decode-8-bf16",
            "decode, batch 8, bf16",
            decode(8),
            Bf16,
            vec![faster(LlamaCpp, 2.2), beside(Transformers)],
        ),
        row(
            "decode-32-bf16",
            "decode, batch 32, bf16",
            decode(32),
            Bf16,
            vec![faster(LlamaCpp, 2.0)],
        ),
        row(
            "prefill-bf16",
            "prefill, 8 × 512 tokens, bf16",
            prefill,
            Bf16,
            vec![faster(LlamaCpp, 1.6)],
        ),
        row(
            "lora-f32",
            "LoRA step, 8 × 128 tokens, f32",
            train(Method::Lora, 8),
            F32,
            vec![Against { memory: Some(0.4), ..faster(Transformers, 1.8) }],
        ),
    ];
    row(
        "lora-bf16",
        "LoRA step, 8 × 128 tokens, bf16",
        train(Method::Lora, 8),
        Bf16,
        vec![
            Against { memory: Some(0.4), ..faster(Transformers, 1.9) },
            Against { weights: Some(F32), ..beside(Transformers) },
        ],
    );
    row(
        "score-bf16",
        "scoring, 64 × 64 tokens after 42, bf16",
        score,
        Bf16,
        vec![faster(LlamaCpp, 1.6)],
    );
    row("decode-1-int8", "decode, batch 1, 8-bit", decode(1), Int8, vec![faster(LlamaCpp, 1.1)]);
    let few_shot = row(
        "stage-common",
        "generation, 64 prompts, 600 tokens common, 64 new, bf16",
        stage(64, 600, 42),
        Bf16,
        vec![faster(LlamaCpp, 2.3), careful(faster(Transformers, 6.0))],
    );
    row(
        "stage-redrawn",
        "generation, 32 prompts, 200 tokens common and 440 not, 64 new, bf16",
        stage(32, 200, 442),
        Bf16,
        vec![faster(LlamaCpp, 1.5), careful(faster(Transformers, 3.0))],
    );
    row(
        "full-f32",
        "full fine-tuning step, 8 × 128 tokens, f32",
        train(Method::Full, 8),
        F32,
        vec![faster(Transformers, 1.4)],
    );
    row(
        "dpo-f32",
        "DPO step, 4 pairs of 128 tokens, f32",
        train(Method::Dpo, 4),
        F32,
        vec![faster(Trl, 2.0)],
    );
    row(
        "dpo-bf16",
        "DPO step, 4 pairs of 128 tokens, bf16",
        train(Method::Dpo, 4),
        Bf16,
        vec![faster(Trl, 2.0)],
    );
    let rounds = [(F32, "f32"), (Bf16, "bf16")].map(|(weights, name)| {
        let title = format!("round of `soft-plus`, {name}");
        let against = faster(RoundScript, 2.5);
        let against = if weights == Bf16 { careful(against) } else { against };
        row(&format!("round-{name}"), &title, Work::Round, weights, vec![against])
    });
    row(
        "decode-8-f32",
        "decode, batch 8, f32",
        decode(8),
        F32,
        vec![beside(LlamaCpp), beside(Transformers)],
    );
    row("decode-32-f32", "decode, batch 32, f32", decode(32), F32, vec![beside(LlamaCpp)]);
    row(
        "prefill-f32",
        "prefill, 8 × 512 tokens, f32",
        prefill,
        F32,
        vec![beside(LlamaCpp), beside(Transformers)],
    );
    let mut fallbacks = Vec::new();
    for (isa, name, shown) in
        [(Isa::Avx2, "avx2", "AVX2 only"), (Isa::Portable, "portable", "portable")]
    {
        let half = Work::Prefill { sequences: 4, length: 256 };
        let works = [
            ("decode", "decode, batch 8, f32", decode(8)),
            ("prefill", "prefill, 4 × 256 tokens, f32", half),
            ("lora", "LoRA step, 4 × 128 tokens, f32", train(Method::Lora, 4)),
        ];
        for (kind, title, work) in works {
            let against = vec![faster(Transformers, 1.0)];
            let (name, title) = (format!("{name}-{kind}"), format!("{title}, {shown}"));
            fallbacks.push((row(&name, &title, work, F32, against), isa));
        }
    }
    for index in quick {
        rows[index].quick = true;
    }
    for (index, isa) in fallbacks {
        rows[index].isa = isa;
        rows[index].scaling = false;
    }
    rows[few_shot].limit_goal = Some(1.25);
    for index in rounds {
        rows[index].scaling = false;
    }
    rows
}
