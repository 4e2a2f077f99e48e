//! The model card of a run's adapter, filled from its manifest and report.

use std::fmt::Write;

use super::Prepared;
use crate::model::text::Model;
use crate::report::Report;

/// Returns the card: front matter as the Hugging Face hub reads it, then what was done and how to
/// repeat it.
pub fn card(prepared: &Prepared, report: &Report) -> String {
    let manifest = &prepared.manifest;
    let method = &manifest.plugin_set.method;
    let model: &Model = &prepared.models["policy"].model;
    let mut card = String::new();
    let (base, _) = model.base_name();
    let tags = format!("[aligner, self-alignment, {}]", method.name);
    let _ = write!(
        card,
        "---\nbase_model: {base}\nlibrary_name: peft\npipeline_tag: text-generation\ntags: {tags}\n---\n\n\
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
        "A LoRA adapter from round {} of {}, made by aligner {}.\n\n## Rounds\n\n```text\n{}```\n",
        report.best_round,
        report.rounds.len(),
        manifest.aligner,
        report.table()
    );
    card.push_str("## Plugins\n\n| kind | name | version | SHA-256 |\n| --- | --- | --- | --- |\n");
    for plugin in &manifest.plugins {
        let _ = writeln!(
            card,
            "| {} | {} | {} | `{}` |",
            plugin.kind, plugin.name, plugin.version, plugin.digest
        );
    }
    let _ = writeln!(
        card,
        "\n## Base\n\n`{}`, SHA-256 `{}`. The adapter was trained over these weights in f32 \
         (a quantised file is dequantised first).",
        model.name, model.digest
    );
    card
}
