//! The card of the data that a result was trained on, filled from manifest, journal and report.

use std::fmt::Write;

use super::data::{Cell, Table};
use super::{Cost, seen};
use crate::report::Report;
use crate::run::Prepared;
use crate::run::card::plugin_table;
use crate::shown::one_line;

/// Returns the card: front matter as the Hugging Face hub reads it, then where the rows come from.
pub fn card(
    prepared: &Prepared,
    report: &Report,
    rounds: &[u32],
    tables: &[Table],
    cost: &Cost,
) -> String {
    let manifest = &prepared.manifest;
    let method = &manifest.plugin_set.method;
    let line = |text: &str| one_line(text, 400);
    let mut card =
        format!("---\nlicense: unknown\ntags: [aligner, synthetic, {}]\nconfigs:\n", method.name);
    for table in tables {
        let name = &table.name;
        let _ = write!(
            card,
            "- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}.parquet\n"
        );
    }
    let _ = write!(
        card,
        "---\n\n# Data of {} on {}\n\nWhat the result of a run of aligner {} was trained on: rows of {}. \
         Each file is there as JSONL and as Parquet, with the same rows in the same order.\n\n\
         | file | rows | columns |\n| --- | ---: | --- |\n",
        method.name,
        line(&report.model),
        manifest.aligner,
        seen(prepared, rounds),
    );
    for table in tables {
        let columns: Vec<String> =
            table.columns().iter().map(|(name, _)| format!("`{name}`")).collect();
        let (name, rows) = (&table.name, table.rows.len());
        let _ = writeln!(card, "| {name} | {rows} | {} |", columns.join(", "));
    }
    let columns = || tables.iter().flat_map(Table::columns);
    let chats = columns().any(|(_, cell)| matches!(cell, Cell::Messages(_)));
    let raw = columns().any(|(name, cell)| name == "prompt" && matches!(cell, Cell::Text(_)));
    let form = match (chats, raw) {
        (true, false) => {
            "Prompts and completions are lists of messages with `role` and `content`, TRL's \
             conversational form."
        }
        (true, true) => {
            "Prompts and completions of conversations are lists of messages with `role` and `content`; \
             those of raw text are strings."
        }
        (false, _) => "Prompts and completions are raw text, TRL's standard form.",
    };
    let _ = write!(
        card,
        "\n{form} Prompts stand without the principles and exemplars under which completions were \
         written. `finish` says how a completion ends: `stop` is whole and was trained with the \
         end-of-turn token, `length` was cut. `difficulty` is higher for what is harder.\n\n\
         ## Where it comes from\n\nPrompts: `{}`, {} rows. Completions: {}.\n\n\
         Nobody has said under which licence the rows may be used: that follows from the prompts and from \
         the model that wrote.\n\n\
         ## Rounds\n\n```text\n{}```\n\n",
        line(&manifest.prompts.source),
        manifest.prompts.rows,
        writers(prepared),
        report.table()
    );
    let _ = write!(card, "{}\n{}", plugin_table(manifest), cost.table());
    card
}

/// Says who wrote the completions.
fn writers(prepared: &Prepared) -> String {
    let manifest = &prepared.manifest;
    if let Some(pairs) = &manifest.plugin_set.data.pairs {
        return format!("given in `{}`", one_line(&pairs.to_string(), 400));
    }
    let mut names: Vec<String> = Vec::new();
    for round in 1..=prepared.set.run.rounds {
        let model = &prepared.set.generate(round).model;
        let id = manifest.models.get(model).map(|id| one_line(&id.name, 400));
        let name = match (model.as_str(), id) {
            ("policy", Some(id)) => format!("`{id}` as it was at the start of each round"),
            (_, Some(id)) => format!("`{id}`"),
            (saved, None) => format!("`{saved}`, which an earlier round made"),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join("; ")
}
