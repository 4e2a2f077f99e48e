//! From what was typed to what the program needs.
//!
//! One function a table, each naming its keys first: a key that is not in the list is refused before
//! anything is read, so a misspelt required key is called misspelt and not missing.

use std::path::Path;

use serde_json::Value;

use super::{
    After, Ask, CONTRACT, Data, Difficulty, EarlyStop, Embedded, Evaluate, Filter, Generate,
    Limits, Lora, LrScheduler, MODEL_ROLES, Measure, Method, Models, Objective, OnError, Order,
    Plugin, PluginSet, RoundSettings, Run, Scope, Source, Start, Train, TrainData,
    problem::Problem,
    section::{Section, Shape},
    typed::{Node, Place},
};
use crate::model::spec::Linear;

type Checked<T> = Result<T, Problem>;

/// What checking needs besides the tree.
pub(super) struct Surroundings<'a> {
    /// What the binary carries.
    pub embedded: &'a Embedded<'a>,
    /// What relative paths in the file are relative to.
    pub file_folder: &'a Path,
    /// What relative paths in arguments are relative to.
    pub argument_folder: &'a Path,
}

const ROOT: Shape = Shape {
    keys: &[
        "method",
        "models",
        "data",
        "run",
        "principle",
        "sampler",
        "filter",
        "judge",
        "difficulty",
        "generate",
        "train",
        "evaluate",
        "rounds",
    ],
    later: &["extrapolate", "pool", "pair"],
};
const METHOD: Shape = Shape { keys: &["name", "contract", "summary", "paper"], later: &[] };
const DATA: Shape = Shape { keys: &["prompts", "held_out", "limit"], later: &[] };
const RUN: Shape = Shape { keys: &["rounds", "seed"], later: &[] };
const PLUGIN: Shape = Shape {
    keys: &["plugin", "config", "limits", "on_error", "ask"],
    later: &["sha256", "digest"],
};
const FILTER: Shape = Shape {
    keys: &["after", "plugin", "config", "limits", "on_error", "ask"],
    later: &["sha256", "digest"],
};
const DIFFICULTY: Shape = Shape {
    keys: &["plugin", "scope", "order", "config", "limits", "on_error", "ask"],
    later: &["sha256", "digest"],
};
const LIMITS: Shape =
    Shape { keys: &["fuel", "memory", "wall_seconds", "copied_bytes", "log_bytes"], later: &[] };
const ASK: Shape = Shape { keys: &["models", "tokens"], later: &["requests"] };
const GENERATE: Shape = Shape {
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
const TRAIN: Shape = Shape {
    keys: &[
        "objective",
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
        "lora",
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_target_modules",
    ],
    later: &["reference", "beta", "loss_type"],
};
const LORA: Shape = Shape {
    keys: &["r", "alpha", "dropout", "target_modules", "use_rslora", "lora_alpha", "lora_dropout"],
    later: &["use_dora", "bias", "modules_to_save"],
};
const EVALUATE: Shape = Shape { keys: &["measures", "early_stop"], later: &["judge"] };
const EARLY_STOP: Shape = Shape { keys: &["measure", "patience"], later: &[] };
const ROUNDS: Shape = Shape { keys: &["generate", "train"], later: &["save_as"] };

/// The tables of a plugin set with their keys, for hints that a key belongs elsewhere.
pub(super) const TABLES: [(&str, &Shape); 11] = [
    ("[method]", &METHOD),
    ("[data]", &DATA),
    ("[run]", &RUN),
    ("[generate]", &GENERATE),
    ("[train]", &TRAIN),
    ("[evaluate]", &EVALUATE),
    ("[difficulty]", &DIFFICULTY),
    ("[[filter]]", &FILTER),
    ("lora", &LORA),
    ("limits", &LIMITS),
    ("early_stop", &EARLY_STOP),
];

/// Checks the whole tree.
pub(super) fn plugin_set(root: &Node, around: &Surroundings<'_>) -> Checked<PluginSet> {
    let root = Section::open(root, &root.place, "the plugin set", &ROOT)?;
    if root.entries().is_empty() {
        return Err(Problem::new("the plugin set is empty", root.place())
            .label("expected `[method]`, `[models]`, `[data]` and the tables of the method")
            .hint("`aligner methods` lists plugin sets to begin with"));
    }
    let method = method(&root.required_table("method", &METHOD)?)?;
    let models = models(&root, around)?;
    let data = data(&root.required_table("data", &DATA)?, around)?;
    let plugin = |name: &str, kind: &str| match root.table(name, &PLUGIN)? {
        Some(table) => plugin(&table, kind, &models, around).map(Some),
        None => Ok(None),
    };
    let principle = plugin("principle", "principle")?;
    let sampler = plugin("sampler", "sampler")?;
    let judge = plugin("judge", "judge")?;
    let filters = filters(&root, &models, judge.is_some(), around)?;
    let difficulty = difficulty(&root, &models, around)?;
    let generate = match root.table("generate", &GENERATE)? {
        Some(table) => generate(&table, Generate::default(), &models)?,
        None => Generate::default(),
    };
    let train = match root.table("train", &TRAIN)? {
        Some(table) => Some(train(&table, Train::default(), true)?),
        None => None,
    };
    let evaluate = match root.table("evaluate", &EVALUATE)? {
        Some(table) => Some(evaluate(&table, data.held_out.is_some())?),
        None => None,
    };
    let (run, rounds) = rounds(&root, &generate, train.as_ref(), &models)?;
    Ok(PluginSet {
        method,
        models,
        data,
        run,
        principle,
        sampler,
        filters,
        judge,
        difficulty,
        generate,
        train,
        evaluate,
        rounds,
    })
}

fn method(table: &Section<'_>) -> Checked<Method> {
    let name = table.required_text("name", "words joined by hyphens, for example \"soft-plus\"")?;
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name.chars().all(word)
        || name.len() > 64
    {
        return Err(table.wrong("name", "is no name").label(
            "expected lower-case letters, digits and hyphens, a letter first, at most 64 in all",
        ));
    }
    let contract = table.required_text("contract", &format!("\"{CONTRACT}\""))?;
    if contract != CONTRACT {
        let wrong = table.wrong("contract", &format!("is `{contract}`"));
        return Err(wrong
            .label(format!("this aligner speaks contract `{CONTRACT}`"))
            .hint("a plugin set runs with the aligner whose contract it was written for"));
    }
    Ok(Method { name, contract, summary: table.text("summary")?, paper: table.text("paper")? })
}

fn models(root: &Section<'_>, around: &Surroundings<'_>) -> Checked<Models> {
    let example = "an alias, a folder, a GGUF file or \"hf:owner/name@revision\"";
    let table = root.required_free_table("models")?;
    let mut models = Models { policy: String::new(), named: Default::default() };
    for entry in table.entries() {
        let source = table.required_text(&entry.key, example)?;
        let source = model_source(&table, &entry.key, source, around)?;
        match entry.key.as_str() {
            "policy" => models.policy = source,
            role if MODEL_ROLES.contains(&role) => {
                return Err(Problem::new(
                    format!("`{role}` in `[models]` always means a state of the policy"),
                    &entry.place,
                )
                .label("expected another name"));
            }
            name => {
                models.named.insert(name.to_owned(), source);
            }
        }
    }
    if models.policy.is_empty() {
        return Err(table.missing("policy", example));
    }
    Ok(models)
}

/// Makes the paths among model names absolute. A path has a separator, begins with a dot, ends in
/// `.gguf`, or is there; everything else is an alias or an `hf:` name, which the loader knows.
fn model_source(
    table: &Section<'_>,
    key: &str,
    source: String,
    around: &Surroundings<'_>,
) -> Checked<String> {
    if source.is_empty() {
        return Err(table.wrong(key, "is empty").label("expected a model"));
    }
    if let Some((scheme, _)) = source.split_once(':')
        && scheme.len() > 1
        && scheme.chars().all(|c| c.is_ascii_alphanumeric())
    {
        return match scheme {
            "hf" => Ok(source),
            _ => Err(table
                .wrong(key, &format!("begins with `{scheme}:`, which names no model"))
                .label("expected an alias, a folder, a GGUF file or \"hf:owner/name@revision\"")),
        };
    }
    let path = around.folder(table.place_of(key)).join(&source);
    let typed_as_path =
        source.contains(['/', '\\']) || source.starts_with('.') || source.ends_with(".gguf");
    if typed_as_path || path.exists() { utf8(table, key, &path) } else { Ok(source) }
}

fn data(table: &Section<'_>, around: &Surroundings<'_>) -> Checked<Data> {
    let example = "a JSONL file or \"builtin:NAME\"";
    let source = |key: &str| -> Checked<Source> {
        let text = table.required_text(key, example)?;
        source(table, key, &text, "data", around.embedded.data, around)
    };
    Ok(Data {
        prompts: source("prompts")?,
        held_out: if table.has("held_out") { Some(source("held_out")?) } else { None },
        limit: table.integer("limit", 1, u32::MAX.into())?,
    })
}

/// Reads `builtin:NAME` or a path, and sees that it is there.
fn source(
    table: &Section<'_>,
    key: &str,
    text: &str,
    what: &str,
    names: &[&str],
    around: &Surroundings<'_>,
) -> Checked<Source> {
    if let Some(name) = text.strip_prefix("builtin:") {
        if names.contains(&name) {
            return Ok(Source::Builtin(name.to_owned()));
        }
        let wrong = table.wrong(key, &format!("is `{text}`, and no embedded {what} has this name"));
        return Err(wrong.label(one_of(names)).suggest(name, names.iter().copied()));
    }
    for scheme in ["https:", "http:", "oci:", "hf:"] {
        if text.starts_with(scheme) {
            return Err(table
                .wrong(key, &format!("begins with `{scheme}`, which is not in this version"))
                .label("expected \"builtin:NAME\" or a file")
                .hint("download the file, check its digest, and name its path"));
        }
    }
    let path = around.folder(table.place_of(key)).join(text);
    let trouble = match path.metadata() {
        _ if text.is_empty() => "is empty".to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("names `{text}`, which is not there")
        }
        Err(error) => format!("names `{text}`, which cannot be opened: {error}"),
        Ok(metadata) if metadata.is_dir() => format!("names `{text}`, which is a folder"),
        Ok(_) => return utf8(table, key, &path).map(|path| Source::File(path.into())),
    };
    let wrong = table.wrong(key, &trouble).label("expected \"builtin:NAME\" or a file");
    Err(if names.contains(&text) {
        wrong.hint(format!("did you mean `builtin:{text}`?"))
    } else if matches!(table.place_of(key), Place::File(_)) && Path::new(text).is_relative() {
        wrong.hint("paths are relative to the folder of the plugin set")
    } else {
        wrong
    })
}

fn utf8(table: &Section<'_>, key: &str, path: &Path) -> Checked<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| table.wrong(key, "is not UTF-8 as a full path"))
}

fn plugin(
    table: &Section<'_>,
    kind: &str,
    models: &Models,
    around: &Surroundings<'_>,
) -> Checked<Plugin> {
    let text = table.required_text("plugin", "\"builtin:NAME\" or a file")?;
    let source = source(table, "plugin", &text, "plugin", around.embedded.plugins, around)?;
    let config = match table.node("config") {
        Some(node) => {
            Section::free(node, &format!("`config` of this {kind}"))?;
            node.to_json()?
        }
        None => Value::Object(Default::default()),
    };
    let limits = match table.table("limits", &LIMITS)? {
        Some(limits_table) => limits(&limits_table)?,
        None => Limits::default(),
    };
    let on_error = [("stop", OnError::Stop), ("drop", OnError::Drop)];
    Ok(Plugin {
        source,
        config,
        limits,
        on_error: table.choice("on_error", &on_error)?.unwrap_or_default(),
        ask: match table.table("ask", &ASK)? {
            Some(table) => Some(ask(&table, models)?),
            None => None,
        },
    })
}

fn limits(table: &Section<'_>) -> Checked<Limits> {
    let default = Limits::default();
    const GIB: u64 = 1 << 30;
    Ok(Limits {
        fuel: table.count("fuel", 1_000..=u64::MAX >> 1)?.unwrap_or(default.fuel),
        // Less than one page of 64 KiB holds nothing; 256 MiB is what the sandbox sets aside.
        memory_bytes: table.bytes("memory", 64 << 10..=256 << 20)?.unwrap_or(default.memory_bytes),
        wall_seconds: table
            .number("wall_seconds", "a number over 0, at most 3600", |s| s > 0.0 && s <= 3600.0)?
            .unwrap_or(default.wall_seconds),
        copied_bytes: table
            .bytes("copied_bytes", 1 << 10..=4 * GIB)?
            .unwrap_or(default.copied_bytes),
        log_bytes: table.bytes("log_bytes", 0..=GIB)?.unwrap_or(default.log_bytes),
    })
}

fn ask(table: &Section<'_>, models: &Models) -> Checked<Ask> {
    let names = table.required_texts("models", "a list of models, for example [\"initial\"]")?;
    if names.is_empty() {
        return Err(table
            .wrong("models", "is empty")
            .label("expected a list of models, for example [\"initial\"]")
            .hint("a plugin that asks nothing needs no `ask`"));
    }
    for (name, place) in &names {
        known_model(name, place, models)?;
    }
    let mut names: Vec<String> = names.into_iter().map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    let tokens = table.count("tokens", 1..=1 << 50)?.unwrap_or(Ask::DEFAULT_TOKENS);
    Ok(Ask { models: names, tokens })
}

fn known_model(name: &str, place: &Place, models: &Models) -> Checked<()> {
    let known: Vec<&str> =
        MODEL_ROLES.into_iter().chain(models.named.keys().map(String::as_str)).collect();
    if known.contains(&name) {
        return Ok(());
    }
    Err(Problem::new(format!("no model is called `{name}`"), place)
        .label(one_of(&known))
        .suggest(name, known.iter().copied()))
}

fn filters(
    root: &Section<'_>,
    models: &Models,
    judged: bool,
    around: &Surroundings<'_>,
) -> Checked<Vec<Filter>> {
    let places = [
        ("sample", After::Sample),
        ("generate", After::Generate),
        ("judge", After::Judge),
        ("pair", After::Pair),
    ];
    let mut filters = Vec::new();
    for table in root.tables("filter", &FILTER)? {
        let Some(after) = table.choice("after", &places)? else {
            return Err(table.missing("after", &one_of(&places.map(|(name, _)| name))));
        };
        match after {
            After::Judge if !judged => {
                return Err(table
                    .wrong("after", "is `judge`, and the plugin set has no `[judge]`")
                    .label("expected `sample` or `generate`"));
            }
            After::Pair => {
                return Err(table
                    .wrong("after", "is `pair`, and objective `sft` makes no pairs")
                    .label("expected `sample`, `generate` or `judge`"));
            }
            _ => {}
        }
        filters.push(Filter { after, plugin: plugin(&table, "filter", models, around)? });
    }
    Ok(filters)
}

fn difficulty(
    root: &Section<'_>,
    models: &Models,
    around: &Surroundings<'_>,
) -> Checked<Option<Difficulty>> {
    let Some(table) = root.table("difficulty", &DIFFICULTY)? else { return Ok(None) };
    let scopes = [("pool", Scope::Pool), ("round", Scope::Round)];
    let orders = [
        ("easy-to-hard", Order::EasyToHard),
        ("hard-to-easy", Order::HardToEasy),
        ("random", Order::Random),
        ("as-given", Order::AsGiven),
    ];
    Ok(Some(Difficulty {
        scope: table.choice("scope", &scopes)?.unwrap_or_default(),
        order: table.choice("order", &orders)?.unwrap_or_default(),
        plugin: plugin(&table, "difficulty scorer", models, around)?,
    }))
}

fn generate(table: &Section<'_>, base: Generate, models: &Models) -> Checked<Generate> {
    let model = match table.text("model")? {
        Some(name) => {
            known_model(&name, table.place_of("model"), models)?;
            name
        }
        None => base.model,
    };
    let stop = match table.texts("stop")? {
        Some(stops) => {
            if stops.len() > 16 || stops.iter().any(|(stop, _)| stop.is_empty()) {
                return Err(table
                    .wrong("stop", "is no list of stop strings")
                    .label("expected at most 16, none of them empty"));
            }
            stops.into_iter().map(|(stop, _)| stop).collect()
        }
        None => base.stop,
    };
    Ok(Generate {
        model,
        temperature: table
            .number("temperature", "a number from 0 (greedy) to 10", |t| (0.0..=10.0).contains(&t))?
            .unwrap_or(base.temperature),
        top_p: table
            .number("top_p", "a number over 0, at most 1", |p| p > 0.0 && p <= 1.0)?
            .unwrap_or(base.top_p),
        top_k: table.integer("top_k", 0, u32::MAX.into())?.unwrap_or(base.top_k),
        repetition_penalty: table
            .number("repetition_penalty", "a number over 0, at most 10", |p| p > 0.0 && p <= 10.0)?
            .unwrap_or(base.repetition_penalty),
        max_new_tokens: table.integer("max_new_tokens", 1, 1 << 20)?.unwrap_or(base.max_new_tokens),
        stop,
        batch: table.integer("batch", 1, 1 << 16)?.or(base.batch),
    })
}

/// `first` where no settings of the user's lie under these: then `alpha` follows `r`.
fn train(table: &Section<'_>, base: Train, first: bool) -> Checked<Train> {
    let starts = [("previous", Start::Previous), ("initial", Start::Initial)];
    let data = [("round", TrainData::Round), ("all", TrainData::All)];
    let schedulers = [
        ("constant", LrScheduler::Constant),
        ("constant_with_warmup", LrScheduler::ConstantWithWarmup),
        ("linear", LrScheduler::Linear),
        ("cosine", LrScheduler::Cosine),
    ];
    let over_0 = |key, default| -> Checked<f64> {
        Ok(table.number(key, "a number over 0", |x| x > 0.0)?.unwrap_or(default))
    };
    let at_least_0 = |key, default| -> Checked<f64> {
        Ok(table.number(key, "a number, 0 or more", |x| x >= 0.0)?.unwrap_or(default))
    };
    let beta = |key, default| -> Checked<f64> {
        let in_range = |x| (0.0..1.0).contains(&x);
        Ok(table.number(key, "a number from 0 to under 1", in_range)?.unwrap_or(default))
    };
    Ok(Train {
        objective: objective(table)?.unwrap_or(base.objective),
        start: table.choice("start", &starts)?.unwrap_or(base.start),
        data: table.choice("data", &data)?.unwrap_or(base.data),
        learning_rate: over_0("learning_rate", base.learning_rate)?,
        num_train_epochs: table
            .number("num_train_epochs", "a number over 0, at most 1000", |x| {
                x > 0.0 && x <= 1000.0
            })?
            .unwrap_or(base.num_train_epochs),
        per_device_train_batch_size: table
            .integer("per_device_train_batch_size", 1, 1 << 16)?
            .unwrap_or(base.per_device_train_batch_size),
        gradient_accumulation_steps: table
            .integer("gradient_accumulation_steps", 1, 1 << 16)?
            .unwrap_or(base.gradient_accumulation_steps),
        warmup_ratio: table
            .number("warmup_ratio", "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))?
            .unwrap_or(base.warmup_ratio),
        lr_scheduler_type: table
            .choice("lr_scheduler_type", &schedulers)?
            .unwrap_or(base.lr_scheduler_type),
        weight_decay: at_least_0("weight_decay", base.weight_decay)?,
        adam_beta1: beta("adam_beta1", base.adam_beta1)?,
        adam_beta2: beta("adam_beta2", base.adam_beta2)?,
        adam_epsilon: over_0("adam_epsilon", base.adam_epsilon)?,
        max_grad_norm: at_least_0("max_grad_norm", base.max_grad_norm)?,
        max_length: table.integer("max_length", 2, 1 << 24)?.unwrap_or(base.max_length),
        save_steps: table.integer("save_steps", 0, 1 << 30)?.unwrap_or(base.save_steps),
        lora: lora(table, base.lora, first)?,
    })
}

fn objective(table: &Section<'_>) -> Checked<Option<Objective>> {
    const LATER: [&str; 8] = ["dpo", "ipo", "sso", "sso-generator", "kto", "orpo", "simpo", "grpo"];
    if let Some(name) = table.text("objective")?
        && LATER.contains(&name.as_str())
    {
        return Err(table
            .wrong("objective", &format!("is `{name}`, which is not in this version"))
            .label("expected `sft`"));
    }
    table.choice("objective", &[("sft", Objective::Sft)])
}

fn lora(train: &Section<'_>, base: Lora, first: bool) -> Checked<Lora> {
    let table = train.table("lora", &LORA)?;
    // The same setting under PEFT's and under the trainers' names; whoever gives two gets an error
    // rather than a guess.
    let find =
        |in_train: &str, in_lora: &[&'static str]| -> Checked<Option<(&Section<'_>, String)>> {
            let mut found: Vec<(&Section<'_>, String)> = Vec::new();
            if let Some(table) = &table {
                let given = in_lora.iter().filter(|key| table.has(key));
                found.extend(given.map(|key| (table, (*key).to_owned())));
            }
            if train.has(in_train) {
                found.push((train, in_train.to_owned()));
            }
            if let [_, (section, key), ..] = &found[..] {
                return Err(section
                    .wrong(key, "is given twice")
                    .label(format!("expected one of `lora.{}` and `{}`", in_lora[0], in_train)));
            }
            Ok(found.pop())
        };
    let r = match find("lora_r", &["r"])? {
        Some((table, key)) => table.integer(&key, 1, 1024)?,
        None => None,
    };
    let alpha = match find("lora_alpha", &["alpha", "lora_alpha"])? {
        Some((table, key)) => table.number(&key, "a number over 0", |x| x > 0.0)?,
        None => None,
    };
    let dropout = match find("lora_dropout", &["dropout", "lora_dropout"])? {
        Some((table, key)) => {
            table.number(&key, "a number from 0 to under 1", |x| (0.0..1.0).contains(&x))?
        }
        None => None,
    };
    let target_modules = match find("lora_target_modules", &["target_modules"])? {
        Some((table, key)) => Some(target_modules(table, &key)?),
        None => None,
    };
    let use_rslora = match &table {
        Some(table) => table.boolean("use_rslora")?,
        None => None,
    };
    let r = r.unwrap_or(base.r);
    Ok(Lora {
        r,
        alpha: alpha.unwrap_or(if first { f64::from(r) } else { base.alpha }),
        dropout: dropout.unwrap_or(base.dropout),
        target_modules: target_modules.unwrap_or(base.target_modules),
        use_rslora: use_rslora.unwrap_or(base.use_rslora),
    })
}

fn target_modules(table: &Section<'_>, key: &str) -> Checked<Vec<String>> {
    let names = Linear::ALL.map(Linear::name);
    let expected = format!("`all-linear` or a list of {}", super::problem::list(&names));
    if let Some(text) = table.node(key).and_then(Node::as_text) {
        return match text {
            "all-linear" => Ok(Lora::default().target_modules),
            _ => Err(table.wrong(key, &format!("is `{text}`")).label(expected)),
        };
    }
    let chosen = table.required_texts(key, &expected)?;
    if chosen.is_empty() {
        return Err(table.wrong(key, "is empty").label(expected));
    }
    for (name, place) in &chosen {
        if !names.contains(&name.as_str()) {
            return Err(Problem::new(format!("no linear layer is called `{name}`"), place)
                .label(one_of(&names))
                .suggest(name, names));
        }
    }
    let wanted = |name: &&str| chosen.iter().any(|(chosen, _)| chosen == name);
    Ok(names.into_iter().filter(wanted).map(str::to_owned).collect())
}

fn evaluate(table: &Section<'_>, has_held_out: bool) -> Checked<Evaluate> {
    if !has_held_out {
        return Err(Problem::new("`[evaluate]` needs held-out prompts", table.place())
            .label("expected `held_out` in `[data]`")
            .hint("add `held_out = \"FILE.jsonl\"` to `[data]`, with rows of prompt and answer"));
    }
    let names: Vec<&str> = Measure::ALL.iter().map(|measure| measure.as_str()).collect();
    let measure = |name: &str, place: &Place| {
        Measure::ALL.into_iter().find(|measure| measure.as_str() == name).ok_or_else(|| {
            Problem::new(format!("no measure is called `{name}`"), place)
                .label(one_of(&names))
                .suggest(name, names.iter().copied())
        })
    };
    let mut measures = Vec::new();
    for (name, place) in
        table.required_texts("measures", &format!("a list of {}", names.join(", ")))?
    {
        let measure = measure(&name, &place)?;
        if measures.contains(&measure) {
            return Err(Problem::new(format!("measure `{name}` stands twice"), &place));
        }
        measures.push(measure);
    }
    if measures.is_empty() {
        return Err(table.wrong("measures", "is empty").label(one_of(&names)));
    }
    let early_stop = match table.table("early_stop", &EARLY_STOP)? {
        Some(stop) => {
            let name = stop.required_text("measure", "one of `measures`")?;
            let place = stop.place_of("measure");
            let measure = measure(&name, place)?;
            if !measures.contains(&measure) {
                return Err(Problem::new(format!("`{name}` is not measured"), place)
                    .label("expected one of `measures`"));
            }
            if measure.better(0.0, 1.0).is_none() {
                return Err(Problem::new(format!("neither way of `{name}` is better"), place)
                    .label("expected `perplexity` or `distinct-2`"));
            }
            Some(EarlyStop { measure, patience: stop.integer("patience", 1, 1000)?.unwrap_or(1) })
        }
        None => None,
    };
    Ok(Evaluate { measures, early_stop })
}

fn rounds(
    root: &Section<'_>,
    base_generate: &Generate,
    base_train: Option<&Train>,
    models: &Models,
) -> Checked<(Run, Vec<RoundSettings>)> {
    let tables = root.tables("rounds", &ROUNDS)?;
    let run = root.table("run", &RUN)?;
    let mut rounds = None;
    let mut seed = 0;
    if let Some(run) = &run {
        rounds = run.integer("rounds", 1, 1000)?;
        seed = run.large("seed", i64::MAX as u64)?.unwrap_or(0);
    }
    let mut settings = Vec::new();
    let mut previous: Option<Train> = None;
    for (index, table) in tables.iter().enumerate() {
        let generate = match table.table("generate", &GENERATE)? {
            Some(over) => generate(&over, base_generate.clone(), models)?,
            None => base_generate.clone(),
        };
        let train = match table.table("train", &TRAIN)? {
            Some(over) => {
                Some(train(&over, base_train.cloned().unwrap_or_default(), base_train.is_none())?)
            }
            None => base_train.cloned(),
        };
        if let (Some(before), Some(now)) = (&previous, &train) {
            same_adapter(before, now, index + 1, table.place())?;
        }
        previous = train.clone().or(previous);
        settings.push(RoundSettings { generate, train });
    }
    if let (Some(before), Some(now)) = (&previous, base_train)
        && rounds.is_some_and(|rounds: u32| rounds as usize > settings.len())
        && let Some(last) = tables.last()
    {
        same_adapter(before, now, settings.len() + 1, last.place())?;
    }
    if let (Some(rounds), Some(run), Some(extra)) =
        (rounds, &run, rounds.and_then(|rounds| tables.get(rounds as usize)))
    {
        // Trying fewer rounds from the command line is no contradiction in the file.
        if matches!(run.place_of("rounds"), Place::File(_)) {
            let message =
                format!("there are {} `[[rounds]]` and `rounds = {rounds}`", tables.len());
            return Err(
                Problem::new(message, extra.place()).label("expected no more of these than rounds")
            );
        }
        settings.truncate(rounds as usize);
    }
    let rounds = rounds.unwrap_or(settings.len().max(1) as u32);
    Ok((Run { rounds, seed }, settings))
}

/// A round that continues an adapter cannot change its shape or scale.
fn same_adapter(before: &Train, now: &Train, round: usize, place: &Place) -> Checked<()> {
    let shape = |train: &Train| Lora { dropout: 0.0, ..train.lora.clone() };
    if now.start == Start::Previous && shape(before) != shape(now) {
        let message =
            format!("round {round} continues the adapter of the round before with another `lora`");
        return Err(Problem::new(message, place)
            .label("expected the same `lora`, or `start = \"initial\"`"));
    }
    Ok(())
}

fn one_of(names: &[&str]) -> String {
    match names {
        [] => "there are none in this build".to_owned(),
        [name] => format!("expected `{name}`"),
        names => format!("expected one of {}", super::problem::list(names)),
    }
}

impl<'a> Surroundings<'a> {
    fn folder(&self, place: &Place) -> &'a Path {
        match place {
            Place::File(_) => self.file_folder,
            Place::Argument(_) => self.argument_folder,
        }
    }
}
