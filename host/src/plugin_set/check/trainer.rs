//! `[train] backend` and `trl` of `[train]`: who trains.

use super::{Checked, Surroundings, is_argument, models::model_source};
use crate::{
    model::backend::WeightType,
    objective::Preference,
    plugin_set::{
        Launch, Objective, Train, Trl,
        keys::TRL,
        section::Section,
        typed::{Kind, Place},
    },
};

/// What TRL's configuration gets from elsewhere in the plugin set, or from aligner alone.
const TAKEN: [&str; 21] = [
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "beta",
    "bf16",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "learning_rate",
    "loss_type",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_length",
    "num_train_epochs",
    "output_dir",
    "per_device_train_batch_size",
    "save_steps",
    "seed",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
    "max_steps",
];

/// Reads how TRL trains; none where the native trainer does. `base` is the user's under this.
pub(super) fn trl(
    train: &Section<'_>,
    base: Option<&Trl>,
    around: &Surroundings<'_>,
) -> Checked<Option<Trl>> {
    if around.pack.is_some() {
        starts_nothing(train)?;
    }
    let backends = [("native", false), ("trl", true)];
    let by_trl = train.choice("backend", &backends)?.unwrap_or(base.is_some());
    if !by_trl {
        return match train.idle("backend", &["trl"]) {
            None => Ok(None),
            Some(key) => Err(train
                .wrong(key, "says how TRL trains, and the native trainer does")
                .label("expected `backend = \"trl\"`, or no `trl`")),
        };
    }
    let base = base.cloned().unwrap_or_default();
    let Some(table) = train.table("trl", &TRL)? else { return Ok(Some(base)) };
    let python = table.text("python")?.unwrap_or(base.python);
    if python.is_empty() || python.starts_with('-') || python.contains('\0') {
        return Err(table
            .wrong("python", "is no program")
            .label("expected a name or a path, for example \"python3\""));
    }
    let arguments = match table.texts("arguments")? {
        Some(arguments) => arguments.into_iter().map(|(argument, _)| argument).collect(),
        None => base.arguments,
    };
    let launch = table.choice("launch", &Launch::ALL)?.unwrap_or(base.launch);
    let processes = table.integer("processes", 1, 1024)?.unwrap_or(base.processes);
    for (key, given) in [("arguments", !arguments.is_empty()), ("processes", processes > 1)] {
        if launch == Launch::Local && given {
            return Err(table
                .wrong(key, "is given, and `launch = \"local\"` starts one process of Python")
                .label("expected `launch = \"torchrun\"`, \"slurm\" or \"ray\""));
        }
    }
    let dtypes = [("f32", WeightType::F32), ("bf16", WeightType::Bf16)];
    Ok(Some(Trl {
        launch,
        python,
        processes,
        arguments,
        model: model(&table, around)?.or(base.model),
        dtype: table.choice("dtype", &dtypes)?.or(base.dtype),
        options: options(&table)?.unwrap_or(base.options),
        timeout_minutes: table
            .number("timeout_minutes", "a number of minutes, 0 or more", |x| x >= 0.0)?
            .unwrap_or(base.timeout_minutes),
        poll_seconds: table.integer("poll_seconds", 1, 3600)?.unwrap_or(base.poll_seconds),
        max_restarts: table.integer("max_restarts", 0, 1000)?.unwrap_or(base.max_restarts),
    }))
}

/// Who packed a plugin set starts no programs on the machine of who opens it.
fn starts_nothing(train: &Section<'_>) -> Checked<()> {
    let of_pack = |key: &&str| train.has(key) && !is_argument(train.place_of(key));
    match ["trl", "backend"].into_iter().find(of_pack) {
        Some("backend") if train.text("backend")?.is_some_and(|name| name == "native") => Ok(()),
        Some(key) => Err(train
            .wrong(key, "is given, and a pack starts no programs")
            .label("expected the native trainer")
            .hint("`--set train.backend=trl` hands the training to a TRL of yours")),
        None => Ok(()),
    }
}

fn model(table: &Section<'_>, around: &Surroundings<'_>) -> Checked<Option<String>> {
    let Some(text) = table.text("model")? else { return Ok(None) };
    let expected = "expected a folder in Hugging Face layout, or \"hf:owner/name@revision\"";
    let source = model_source(table, "model", text, around)?;
    let is_folder = source.contains('/') && !source.ends_with(".gguf");
    match source.starts_with("hf:") || is_folder {
        true => Ok(Some(source)),
        false => Err(table
            .wrong("model", &format!("is `{source}`, which transformers does not load"))
            .label(expected)),
    }
}

fn options(table: &Section<'_>) -> Checked<Option<serde_json::Map<String, serde_json::Value>>> {
    let Some(options) = table.free_table("options")? else { return Ok(None) };
    for entry in options.entries() {
        if TAKEN.contains(&entry.key.as_str()) {
            return Err(options
                .wrong(&entry.key, "is not TRL's alone to know")
                .label("expected what `[train]` has no setting for, such as `deepspeed`"));
        }
    }
    let node = table.node("options").expect("it was a table just now");
    match (&node.kind, node.to_json()?) {
        (Kind::Table(_), serde_json::Value::Object(options)) => Ok(Some(options)),
        _ => Ok(None),
    }
}

/// Refuses what TRL does not train, and settings that mean nothing there.
pub(super) fn trains(table: &Section<'_>, train: &Train) -> Checked<()> {
    if train.trl.is_none() {
        return Ok(());
    }
    let refused = |key: &str, is: &str, expected: &str| {
        let place: &Place = table.place_of(if table.has(key) { key } else { "backend" });
        Err(crate::plugin_set::problem::Problem::new(
            format!("{is}, and `backend = \"trl\"` hands the training to TRL"),
            place,
        )
        .label(format!("expected {expected}, or `backend = \"native\"`")))
    };
    if train.lora.is_none() {
        return refused("method", "`method` is `full`", "`method = \"lora\"`");
    }
    if table.idle("backend", &["micro_batch_tokens"]).is_some() {
        return refused(
            "micro_batch_tokens",
            "`micro_batch_tokens` cuts the native trainer's passes",
            "`per_device_train_batch_size` and `gradient_accumulation_steps`",
        );
    }
    match train.objective {
        Objective::Sft => Ok(()),
        Objective::Preference(Preference::Dpo { label_smoothing: 0.0, .. }) => Ok(()),
        Objective::Preference(Preference::Dpo { .. }) => refused(
            "label_smoothing",
            "`label_smoothing` is set, which TRL's `sigmoid` loss does not know",
            "`label_smoothing = 0`",
        ),
        Objective::Preference(Preference::Ipo { length_averaged: true, .. }) => Ok(()),
        Objective::Preference(Preference::Ipo { .. }) => refused(
            "length_averaged",
            "`length_averaged` is false, and TRL's IPO is of mean logprobs",
            "`length_averaged = true`",
        ),
        Objective::Preference(Preference::Sso(_)) => Ok(()),
        Objective::Preference(other) => refused(
            "objective",
            &format!("`objective` is `{}`", other.name()),
            "one of `sft`, `dpo`, `ipo`, `sso`",
        ),
    }
}
