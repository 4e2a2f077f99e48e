//! The tables that set the machinery: generation, training, evaluation.

use super::{
    Checked, Surroundings, known_model,
    objective::{objective, reference},
    one_of, trainer,
};
use crate::{
    model::{
        adapter::{AdapterError, LoraConfig, TargetModules, names_a_linear},
        spec::Linear,
    },
    plugin_set::{
        EarlyStop, Evaluate, Generate, Lora, LrScheduler, Measure, Models, Objective, Start, Train,
        TrainData,
        keys::{EARLY_STOP, LORA},
        problem::{Problem, list},
        section::Section,
        typed::{Node, Place},
    },
    record::Decoding,
};

pub(super) fn generate(table: &Section<'_>, base: Generate, models: &Models) -> Checked<Generate> {
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

/// Reads how one completion is drawn; what is not given is as in `base`.
pub(super) fn decoding(table: &Section<'_>, base: Decoding, models: &Models) -> Checked<Decoding> {
    let base = Generate {
        temperature: base.temperature.unwrap_or(0.0),
        top_p: base.top_p.unwrap_or(1.0),
        top_k: base.top_k.unwrap_or(0),
        repetition_penalty: base.repetition_penalty.unwrap_or(1.0),
        max_new_tokens: base.max_new_tokens.unwrap_or(1),
        stop: base.stop.unwrap_or_default(),
        ..Generate::default()
    };
    Ok(generate(table, base, models)?.decoding())
}

/// `base` are the user's settings under these, where there are some.
pub(super) fn train(
    table: &Section<'_>,
    base: Option<&Train>,
    around: &Surroundings<'_>,
) -> Checked<Train> {
    let base_method = base.map_or(Method::Lora, |base| match base.lora {
        Some(_) => Method::Lora,
        None => Method::Full,
    });
    let methods = [("lora", Method::Lora), ("full", Method::Full)];
    let method = table.choice("method", &methods)?.unwrap_or(base_method);
    let under_lora = base.and_then(|base| base.lora.as_ref());
    let lora = match method {
        Method::Lora => Some(lora(table, under_lora)?),
        Method::Full => {
            no_lora(table)?;
            None
        }
    };
    let objective = objective(table, base.map(|base| base.objective))?;
    no_full_reward_model(table, objective, lora.is_some())?;
    let trl = trainer::trl(table, base.and_then(|base| base.trl.as_ref()), around)?;
    let base = match (base, method) {
        (Some(base), _) => base.clone(),
        (None, Method::Lora) => Train::default().under(objective),
        (None, Method::Full) => Train::full().under(objective),
    };
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
    let train = Train {
        objective,
        reference: reference(table, objective, base.reference)?,
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
        micro_batch_tokens: table
            .integer("micro_batch_tokens", 1, 1 << 24)?
            .or(base.micro_batch_tokens)
            .filter(|_| trl.is_none()),
        gradient_checkpointing: table
            .boolean("gradient_checkpointing")?
            .unwrap_or(base.gradient_checkpointing),
        lora,
        trl,
    };
    trainer::trains(table, &train)?;
    let per_step =
        train.per_device_train_batch_size.saturating_mul(train.gradient_accumulation_steps);
    match train.preference() {
        Some(preference) if !preference.is_paired() && per_step < 2 => Err(table
            .wrong("per_device_train_batch_size", "is 1, and an update compares completions")
            .label("expected 2 or more: the reference point of `kto` is a mean over an update")),
        _ => Ok(train),
    }
}

/// A reward model is an adapter with a head.
fn no_full_reward_model(table: &Section<'_>, objective: Objective, lora: bool) -> Checked<()> {
    match objective {
        Objective::Preference(preference) if preference.makes_reward_model() && !lora => Err(table
            .wrong("objective", "is `reward`, and `method = \"full\"` trains every weight")
            .label("expected `method = \"lora\"`: a reward model is an adapter with a head")),
        _ => Ok(()),
    }
}

/// What is trained: an adapter, or every weight.
#[derive(Clone, Copy)]
enum Method {
    Lora,
    Full,
}

/// Refuses settings of an adapter where there is none.
fn no_lora(table: &Section<'_>) -> Checked<()> {
    let keys = ["lora", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"];
    match table.idle("method", &keys) {
        None => Ok(()),
        Some(key) => Err(table
            .wrong(key, "sets an adapter, and every weight is trained")
            .label("expected `method = \"lora\"`, or no settings of an adapter")),
    }
}

/// Without settings of the user's under these, `alpha` follows `r`.
fn lora(train: &Section<'_>, under: Option<&Lora>) -> Checked<Lora> {
    let base = under.cloned().unwrap_or_default();
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
    let patterns = |key| match &table {
        Some(table) => table.free_table(key),
        None => Ok(None),
    };
    let (ranks, alphas) = (patterns("rank_pattern")?, patterns("alpha_pattern")?);
    let r = r.unwrap_or(base.r);
    let lora = Lora {
        r,
        alpha: alpha.unwrap_or(if under.is_none() { f64::from(r) } else { base.alpha }),
        dropout: dropout.unwrap_or(base.dropout),
        target_modules: target_modules.unwrap_or(base.target_modules),
        use_rslora: use_rslora.unwrap_or(base.use_rslora),
        rank_pattern: match &ranks {
            Some(table) => each(table, |key| table.integer(key, 1, 1024))?,
            None => base.rank_pattern,
        },
        alpha_pattern: match &alphas {
            Some(table) => each(table, |key| table.number(key, "a number over 0", |x| x > 0.0))?,
            None => base.alpha_pattern,
        },
    };
    // Which of the model's layers are meant is seen again once the model is known.
    lora.config().check_patterns(MOST_BLOCKS).map_err(|error| {
        let place = match &error {
            AdapterError::UnusedPattern { key, pattern }
            | AdapterError::Pattern { key, pattern, .. } => {
                [("rank_pattern", &ranks), ("alpha_pattern", &alphas)]
                    .into_iter()
                    .find(|(name, _)| name == key)
                    .and_then(|(_, table)| table.as_ref())
                    .map(|table| table.place_of(pattern))
            }
            _ => None,
        };
        let place = place.or(table.as_ref().map(Section::place)).unwrap_or(train.place());
        Problem::new(error.to_string(), place)
            .label("expected the end of a path such as `model.layers.0.self_attn.q_proj`")
    })?;
    Ok(lora)
}

/// More blocks than any model has, for trying patterns before the model is known.
const MOST_BLOCKS: usize = 256;

/// Reads every value of a table whose keys are the user's own.
fn each<T>(
    table: &Section<'_>,
    read: impl Fn(&str) -> Checked<Option<T>>,
) -> Checked<Vec<(String, T)>> {
    let keys = table.entries().iter().map(|entry| entry.key.clone());
    keys.filter_map(|key| read(&key).transpose().map(|value| Ok((key.clone(), value?)))).collect()
}

fn target_modules(table: &Section<'_>, key: &str) -> Checked<TargetModules> {
    let names = Linear::ALL.map(Linear::name);
    let expected = format!("`all-linear`, an expression or a list of {}", list(&names));
    if let Some(text) = table.node(key).and_then(Node::as_text) {
        if text == "all-linear" {
            return Ok(Lora::default().target_modules);
        }
        let regex = TargetModules::Regex(text.to_owned());
        let config = LoraConfig { target_modules: regex.clone(), ..LoraConfig::new(1, 1.0, &[]) };
        return match config.pairs(MOST_BLOCKS) {
            Ok(_) => Ok(regex),
            Err(AdapterError::Empty) => {
                let problem = table
                    .wrong(key, &format!("is `{text}`, which matches no linear layer"))
                    .label(expected);
                Err(match names_a_linear(text) {
                    true => problem.hint(format!("a name goes into a list: `[\"{text}\"]`")),
                    false => problem
                        .hint("an expression matches whole paths, as `.*\\.(q_proj|v_proj)` does"),
                })
            }
            Err(error) => Err(Problem::new(error.to_string(), table.place_of(key)).label(
                "expected an expression over paths such as `model.layers.0.self_attn.q_proj`",
            )),
        };
    }
    let chosen = table.required_texts(key, &expected)?;
    if chosen.is_empty() {
        return Err(table.wrong(key, "is empty").label(expected));
    }
    for (name, place) in &chosen {
        if !names_a_linear(name) {
            return Err(Problem::new(format!("no linear layer is called `{name}`"), place)
                .label(one_of(&names))
                .suggest(name, names));
        }
    }
    // In checkpoint order and once, where all of them are short.
    let position = |name: &String| names.iter().position(|known| known == name);
    let mut chosen: Vec<String> = chosen.into_iter().map(|(name, _)| name).collect();
    chosen.sort_by_key(|name| position(name).unwrap_or(names.len()));
    chosen.dedup();
    Ok(TargetModules::Names(chosen))
}

pub(super) fn evaluate(table: &Section<'_>, has_held_out: bool) -> Checked<Evaluate> {
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
    if !has_held_out && measures.iter().any(|measure| measure.is_held_out()) {
        return Err(Problem::new("`[evaluate]` needs held-out prompts", table.place())
            .label("expected `held_out` in `[data]`")
            .hint("add `held_out = \"FILE.jsonl\"` to `[data]`, with rows of prompt and answer"));
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
                    .label("expected `perplexity`, `distinct-2` or `agreement`"));
            }
            Some(EarlyStop { measure, patience: stop.integer("patience", 1, 1000)?.unwrap_or(1) })
        }
        None => None,
    };
    Ok(Evaluate { measures, early_stop })
}
