//! The model card of a run's adapter or model, filled from its manifest and report.

use std::fmt::Write;

use super::Prepared;
use super::export::Cost;
use super::manifest::{DataId, Manifest};
use crate::model::adapter::LoraConfig;
use crate::model::peft::{self, Reader};
use crate::model::text::Model;
use crate::plugin_set::{Lora, Train};
use crate::report::Report;
use crate::round::{Aligned, Statement};
use crate::shown::{for_a_shell, one_line};

/// Returns the card: front matter as the Hugging Face hub reads it, then what was done and how to
/// repeat it.
///
/// `trainer` is who trained the best round, where that was not aligner.
pub fn card(
    prepared: &Prepared,
    report: &Report,
    cost: &Cost,
    command: &[String],
    trainer: Option<&Statement>,
) -> String {
    let manifest = &prepared.manifest;
    let method = &manifest.plugin_set.method;
    let model: &Model = &prepared.models["policy"].model;
    let mut card = String::new();
    let (base, _) = model.base_name();
    let tags = format!("[aligner, self-alignment, {}]", method.name);
    let lora = match &prepared.aligned {
        Some(Aligned::Adapter(adapter)) => Some(adapter.config.clone()),
        Some(Aligned::Model(_)) => None,
        None => {
            let train = prepared.set.train(report.best_round);
            train.and_then(|train| train.lora.as_ref()).map(Lora::config)
        }
    };
    let rewards = prepared.set.train(report.best_round).is_some_and(Train::makes_reward_model);
    let (library, what) = match (&lora, &prepared.aligned) {
        (Some(_), _) if rewards => ("peft", "A reward model, a LoRA adapter with a head,"),
        (Some(_), _) => ("peft", "A LoRA adapter"),
        (None, None) => ("transformers", "A model of which every weight was trained,"),
        (None, Some(_)) => ("transformers", "A model"),
    };
    let task = if rewards { "text-classification" } else { "text-generation" };
    let _ = write!(
        card,
        "---\nbase_model: {base}\nlibrary_name: {library}\npipeline_tag: {task}\ntags: {tags}\n---\n\n\
         # {} on {}\n\n",
        method.name, model.name
    );
    if let Some(summary) = &method.summary {
        let _ = writeln!(card, "{summary}\n");
    }
    if let Some(paper) = &method.paper {
        let _ = writeln!(card, "Method: <{paper}>\n");
    }
    let _ = writeln!(
        card,
        "{what} from round {} of {}, made by aligner {}.\n\n## Rounds\n\n```text\n{}```\n",
        report.best_round,
        report.rounds.len(),
        manifest.aligner,
        report.table()
    );
    let best = report.rounds.iter().find(|round| round.round == report.best_round);
    if let Some(extrapolated) = best.and_then(|round| round.extrapolated.as_ref()) {
        let aligned = match &manifest.plugin_set.models.aligned {
            Some(aligned) => format!("`{aligned}`"),
            None => "What the round trained".to_owned(),
        };
        let (alpha, from) = (extrapolated.alpha, &extrapolated.from);
        let _ = writeln!(
            card,
            "{aligned} was extrapolated by alpha {alpha}: `w + alpha (w - w0)`, where `w0` is the {from} \
             model (ExPO, <https://arxiv.org/abs/2404.16792>).\n"
        );
    }
    card.push_str(&made(manifest, cost, command, trainer));
    card.push('\n');
    card.push_str(&plugin_table(manifest));
    card.push_str("\n## Where it loads\n\n");
    let trained = match &lora {
        Some(_) if rewards => {
            card.push_str(
                "PEFT and TRL read this folder beside `AutoModelForSequenceClassification` with \
                 `num_labels=1`. They read a reward at the last token that is not the \
                 padding's: where a rendered chat ends with what the tokenizer pads with, set another \
                 `pad_token_id`.\n",
            );
            "The adapter was trained over these weights in f32"
        }
        Some(lora) => {
            card.push_str(&where_an_adapter_loads(lora, model.spec.layers));
            "The adapter was trained over these weights in f32"
        }
        None => {
            card.push_str(
                "transformers, vLLM, SGLang and llama.cpp's converter read this folder as it is. Its \
                 weights are f32, as they were trained.\n",
            );
            "Training began with these weights in f32"
        }
    };
    let _ = writeln!(
        card,
        "\n## Base\n\n`{}`, SHA-256 `{}`. {trained} (a quantised file is dequantised first).",
        model.name, model.digest
    );
    card
}

/// Says what the run stood on, how it is repeated, and what it has cost.
fn made(
    manifest: &Manifest,
    cost: &Cost,
    command: &[String],
    trainer: Option<&Statement>,
) -> String {
    let set = &manifest.plugin_set;
    let data = |id: &DataId| {
        let source = one_line(&id.source, 400);
        format!("`{source}`, {} rows, SHA-256 `{}`", id.rows, id.digest)
    };
    let mut text = format!("## How it was made\n\n- prompts: {}\n", data(&manifest.prompts));
    if let Some(held_out) = &manifest.held_out {
        let _ = writeln!(text, "- held out: {}", data(held_out));
    }
    if let Some(anchors) = &manifest.anchors {
        let _ = writeln!(text, "- anchors: {}", data(anchors));
    }
    let _ = writeln!(text, "- seed: {}", set.run.seed);
    let _ = writeln!(text, "- engine: {}", manifest.engine);
    if let Some(Statement { processes, device, versions, .. }) = trainer {
        let versions: Vec<String> =
            versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let processes = match processes {
            1 => "1 process".to_owned(),
            many => format!("{many} processes"),
        };
        let _ = writeln!(text, "- trainer: TRL, {processes} on {device} ({})", versions.join(", "));
    }
    if !command.is_empty() {
        let command: Vec<String> = command.iter().map(|argument| for_a_shell(argument)).collect();
        let external = (1..=set.run.rounds)
            .any(|round| set.train(round).is_some_and(|train| train.trl.is_some()));
        let same = match external {
            false => "The same command makes the same files, to the byte, on the same engine:",
            true => {
                "The same command makes it again, but for the last bits, which TRL does not promise:"
            }
        };
        let _ = write!(text, "\n{same}\n\n```sh\n{}\n```\n", command.join(" "));
    }
    let _ = write!(text, "\n{}", cost.table());
    text
}

/// Returns the plugins of a run as a section of a card.
pub(super) fn plugin_table(manifest: &Manifest) -> String {
    let mut text =
        "## Plugins\n\n| kind | name | version | SHA-256 |\n| --- | --- | --- | --- |\n".to_owned();
    for plugin in &manifest.plugins {
        let _ = writeln!(
            text,
            "| {} | {} | {} | `{}` |",
            plugin.kind, plugin.name, plugin.version, plugin.digest
        );
    }
    text
}

/// Says which readers take the adapter as it is, and which would make something else of it.
fn where_an_adapter_loads(config: &LoraConfig, layers: usize) -> String {
    let pairs = config.pairs(layers).unwrap_or_default();
    let rank = pairs.values().map(|pair| pair.r).max().unwrap_or(config.r);
    let mut text = "PEFT, TRL and LLaMA-Factory read this folder as it is.\n\n".to_owned();
    for Reader { name, ignores, option } in peft::readers(config, rank) {
        let line = match (ignores, option) {
            (Some(ignored), _) => format!(
                "does not know {ignored}, and the adapter would have another effect there; give it \
                 the folder that `aligner model merge` writes"
            ),
            (None, Some(option)) => format!("with `{option}`"),
            (None, None) => "as it is".to_owned(),
        };
        let _ = writeln!(text, "- {name}: {line}");
    }
    text
}
