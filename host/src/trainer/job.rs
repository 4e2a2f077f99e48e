//! What a job reads: rows, order, hyper-parameters, the program and what starts it.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::plugin_set::{Launch, Trl};
use crate::shown::for_a_shell;
use crate::train::{Example, Item, Sequence};

/// The program that trains. It is the same for every job.
pub const TRAIN_PY: &str = include_str!("train.py");

/// How many rows both sides score, to see that they have the same model.
pub const PROBE_ROWS: usize = 4;

/// The most that the mean logprob of a row may be apart between two engines, in nats a token. Rounding to bf16
/// comes to hundredths and a file of four bits to tenths; another model is several nats away.
pub const MOST_APART: f64 = 0.25;

/// `config.json`, all that differs between two jobs but for rows and adapters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// `sft`, `dpo`, `ipo` or `sso`.
    pub objective: String,
    /// Its hyper-parameters.
    pub loss: Value,
    /// What transformers loads as the base.
    pub model: String,
    /// Revision on the hub.
    pub revision: Option<String>,
    /// As torch calls it, for example `float32`.
    pub dtype: &'static str,
    /// What the policy is held to; none where the objective has no reference.
    pub reference: Option<Reference>,
    /// Under Hugging Face's names.
    pub training_arguments: TrainingArguments,
    /// What TRL's configuration gets besides.
    pub options: Map<String, Value>,
    /// Rows that both sides score.
    pub probe: Probe,
}

/// What the policy is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reference {
    /// The base.
    Initial,
    /// The base with the adapter in `reference/`.
    Adapter,
}

/// What `TrainingArguments` of transformers takes, and `warmup_ratio`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "they are Hugging Face's")]
pub struct TrainingArguments {
    pub learning_rate: f64,
    pub num_train_epochs: f64,
    pub per_device_train_batch_size: u32,
    pub gradient_accumulation_steps: u32,
    pub warmup_ratio: f64,
    pub lr_scheduler_type: String,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub max_grad_norm: f64,
    pub save_steps: u32,
    pub gradient_checkpointing: bool,
    pub seed: u32,
}

/// Rows that both sides score.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Probe {
    /// Prompts with completions.
    pub rows: Vec<Halves>,
    /// What aligner says of each completion under the adapter to start from: its mean logprob, in nats a
    /// token.
    pub mean_logprobs: Vec<f64>,
    /// See [`MOST_APART`].
    pub bound: f64,
}

/// A prompt and a completion, in tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Halves {
    /// All before what is learnt.
    pub prompt_ids: Vec<u32>,
    /// What is learnt.
    pub completion_ids: Vec<u32>,
}

impl Halves {
    /// Cuts a sequence where its completion begins.
    pub fn of(sequence: &Sequence) -> Halves {
        let begin = sequence.trained.iter().position(|&trained| trained);
        let (prompt, completion) = sequence.tokens.split_at(begin.unwrap_or(sequence.tokens.len()));
        Halves { prompt_ids: prompt.to_vec(), completion_ids: completion.to_vec() }
    }
}

/// The lines of `data.jsonl`, in TRL's tokenised columns.
pub struct Lines {
    /// One a row.
    pub lines: Vec<Value>,
    /// Rows for the probe.
    pub probe: Vec<Sequence>,
    /// Id and number of trained tokens of each row.
    pub rows: Vec<(String, usize)>,
}

impl Lines {
    /// Returns the rows of supervised fine-tuning: `input_ids` and `labels`.
    pub fn of_examples(examples: &[Example]) -> Lines {
        let label =
            |(&token, &trained): (&u32, &bool)| if trained { i64::from(token) } else { -100 };
        let line = |example: &Example| {
            let labels: Vec<i64> = example.tokens.iter().zip(&example.trained).map(label).collect();
            json!({ "record_id": example.id, "input_ids": example.tokens, "labels": labels })
        };
        let sequence = |example: &Example| Sequence {
            tokens: example.tokens.clone(),
            trained: example.trained.clone(),
        };
        Lines {
            lines: examples.iter().map(line).collect(),
            probe: examples.iter().take(PROBE_ROWS).map(sequence).collect(),
            rows: examples.iter().map(|it| (it.id.clone(), it.trained_tokens())).collect(),
        }
    }

    /// Returns the rows of pairs, `prompt_ids`, `chosen_ids` and `rejected_ids`; or where an item has other
    /// sequences, these in the order of the objective's roles.
    pub fn of_items(items: &[Item]) -> Lines {
        let line = |item: &Item| {
            let halves: Vec<Halves> = item.sequences.iter().map(Halves::of).collect();
            match &halves[..] {
                [chosen, rejected] => json!({
                    "record_id": item.id,
                    "prompt_ids": chosen.prompt_ids,
                    "chosen_ids": chosen.completion_ids,
                    "rejected_ids": rejected.completion_ids,
                }),
                sequences => json!({ "record_id": item.id, "sequences": sequences }),
            }
        };
        let first = |item: &Item| item.sequences.first().cloned();
        Lines {
            lines: items.iter().map(line).collect(),
            probe: items.iter().take(PROBE_ROWS).filter_map(first).collect(),
            rows: items.iter().map(|item| (item.id.clone(), item.trained_tokens())).collect(),
        }
    }
}

/// Returns the script that starts the program, which takes the number of the attempt. It tells its process and
/// how it ended in files of the attempt, where whoever follows it finds both.
pub fn launch_script(trl: &Trl) -> String {
    let python = for_a_shell(&trl.python);
    let processes = trl.processes;
    let torchrun = |arguments: &str| {
        format!(
            "{python} -m torch.distributed.run {arguments}--nproc-per-node={processes} train.py \"$attempt\""
        )
    };
    let one = format!("{python} train.py \"$attempt\"");
    let several = torchrun("--standalone ");
    let command = match trl.launch {
        Launch::Local => one,
        Launch::Torchrun => {
            let arguments: String = trl
                .arguments
                .iter()
                .map(|argument| format!("{} ", for_a_shell(argument)))
                .collect();
            let standalone = if trl.arguments.is_empty() { "--standalone " } else { "" };
            torchrun(&format!("{standalone}{arguments}"))
        }
        // One task a machine, each of which starts the processes there.
        Launch::Slurm => format!(
            "if [ \"${{SLURM_NNODES:-1}}\" -gt 1 ]; then\n    \
                 first=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1)\n    \
                 srun --ntasks-per-node=1 {}\n\
             else\n    {}\n\
             fi",
            torchrun(
                "--nnodes=\"$SLURM_NNODES\" --rdzv-id=\"$SLURM_JOB_ID\" --rdzv-backend=c10d \
                 --rdzv-endpoint=\"$first:29500\" "
            ),
            if processes > 1 { several } else { one }
        ),
        Launch::Ray if processes > 1 => several,
        Launch::Ray => one,
    };
    // Slurm runs a copy of the script, in the folder that it was told.
    let (by_hand, to_folder) = match trl.launch {
        Launch::Slurm => ("in this folder: sbatch launch.sh 1", ""),
        _ => ("sh launch.sh 1", "cd \"$(dirname \"$0\")\" || exit 1\n"),
    };
    let command: String = command.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "#!/bin/sh\n\
         # Starts the training of this folder. By hand, {by_hand}\n\
         # Keys such as HF_TOKEN come from the environment.\n\
         {to_folder}attempt=${{1:-1}}\n\
         mkdir -p \"$attempt\"\n\
         echo $$ > \"$attempt/pid\"\n\
         export PYTHONUNBUFFERED=1\n\
         {{\n{command}}} >> \"$attempt/log.txt\" 2>&1\n\
         code=$?\n\
         echo $code > \"$attempt/exit\"\n\
         exit $code\n"
    )
}
