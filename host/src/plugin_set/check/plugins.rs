//! The tables that name a plugin.

use serde_json::Value;

use super::{Checked, Surroundings, component, is_argument, known_model, one_of};
use crate::plugin;
use crate::plugin_set::{
    After, Ask, Difficulty, Filter, Limits, Models, OnError, Order, Plugin, PluginSet, Sampler,
    Scope, Write,
    keys::{ASK, DIFFICULTY, FILTER, LIMITS, SAMPLER, WRITE},
    section::Section,
};

pub(super) fn plugin(
    table: &Section<'_>,
    kind: &str,
    models: &Models,
    around: &Surroundings<'_>,
) -> Checked<Plugin> {
    let (source, pin) = component(table, around)?;
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
        pin,
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
    const MOST: u64 = u64::MAX >> 1;
    let parts =
        |key: &str, most: usize| Ok(table.count(key, 1..=most as u64)?.map(|number| number as u32));
    let limits = Limits {
        fuel: table.count("fuel", 1_000..=MOST)?.unwrap_or(default.fuel),
        // Less than one page of 64 KiB holds nothing; 256 MiB is what the sandbox sets aside.
        memory_bytes: table.bytes("memory", 64 << 10..=256 << 20)?.unwrap_or(default.memory_bytes),
        memories: parts("memories", plugin::MAX_MEMORIES)?,
        tables: parts("tables", plugin::MAX_TABLES)?,
        table_elements: parts("table_elements", plugin::MAX_TABLE_ELEMENTS)?,
        instances: parts("instances", plugin::MAX_INSTANCES)?,
        wall_seconds: table
            .number("wall_seconds", "a number over 0, at most 3600", |s| s > 0.0 && s <= 3600.0)?
            .unwrap_or(default.wall_seconds),
        copied_bytes: table
            .bytes("copied_bytes", 1 << 10..=4 * GIB)?
            .unwrap_or(default.copied_bytes),
        log_bytes: table.bytes("log_bytes", 0..=GIB)?.unwrap_or(default.log_bytes),
        run_fuel: table.count("run_fuel", 1_000..=MOST)?,
        run_log_bytes: table.bytes("run_log_bytes", 0..=GIB)?,
        run_wall_seconds: table.number(
            "run_wall_seconds",
            "a number over 0, at most 1e9",
            |s| s > 0.0 && s <= 1e9,
        )?,
    };
    // A budget for the run that is less than that of a call would never let the call use its own.
    if limits.run_fuel.is_some_and(|run| run < limits.fuel) {
        return Err(table
            .wrong("run_fuel", "is less than `fuel`, which one call has")
            .label(format!("expected {} or more", limits.fuel))
            .hint("lower `fuel` too"));
    }
    Ok(limits)
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
    const MOST: u64 = 1 << 50;
    let most = plugin::MAX_REQUESTS as u64;
    Ok(Ask {
        models: names,
        tokens,
        run_tokens: table.count("run_tokens", 1..=MOST)?,
        requests: table.count("requests", 1..=MOST)?,
        run_requests: table.count("run_requests", 1..=MOST)?,
        record_requests: table.integer("record_requests", 1, most)?,
    })
}

pub(super) fn sampler(
    root: &Section<'_>,
    models: &Models,
    given: bool,
    around: &Surroundings<'_>,
) -> Checked<Option<Sampler>> {
    let Some(table) = root.table("sampler", &SAMPLER)? else { return Ok(None) };
    let plugin = plugin(&table, "sampler", models, around)?;
    let write = match table.table("write", &WRITE)? {
        Some(_) if given => {
            return Err(table
                .wrong("write", "asks for new prompts, and `[data] pairs` gives completions")
                .label("expected no `write`: nobody would complete what is written"));
        }
        Some(write) => Some(self::write(&write)?),
        None => None,
    };
    Ok(Some(Sampler { plugin, write }))
}

fn write(table: &Section<'_>) -> Checked<Write> {
    let count = |key: &str, most: u64, expected: &str| {
        table.integer(key, 1, most)?.ok_or_else(|| table.missing(key, expected))
    };
    Ok(Write {
        prompts: count("prompts", 100_000, "how many a round works on, for example 64")?,
        slots: count("slots", 1_000_000, "how many a round may use for them, for example 200")?,
    })
}

pub(super) fn filters(
    root: &Section<'_>,
    set: &PluginSet,
    around: &Surroundings<'_>,
) -> Checked<Vec<Filter>> {
    let places = [
        ("sample", After::Sample),
        ("generate", After::Generate),
        ("judge", After::Judge),
        ("pair", After::Pair),
    ];
    // Whoever tries an aligned model from the command line leaves the file as it is.
    let models = root.required_free_table("models")?;
    let aligned = models.has("aligned") && !is_argument(models.place_of("aligned"));
    let mut filters = Vec::new();
    for table in root.tables("filter", &FILTER)? {
        let Some(after) = table.choice("after", &places)? else {
            return Err(table.missing("after", &one_of(&places.map(|(name, _)| name))));
        };
        match after {
            After::Judge if set.judge.is_none() => {
                return Err(table
                    .wrong("after", "is `judge`, and the plugin set has no `[judge]`")
                    .label("expected `sample` or `generate`"));
            }
            After::Pair if aligned => {
                return Err(table
                    .wrong("after", "is `pair`, and `[models] aligned` leaves no round to pair in")
                    .label("expected no filter: nothing is generated and nothing trained"));
            }
            After::Pair if !set.compares() => {
                return Err(table
                    .wrong("after", "is `pair`, and objective `sft` makes no pairs")
                    .label("expected `sample`, `generate` or `judge`"));
            }
            _ => {}
        }
        filters.push(Filter { after, plugin: plugin(&table, "filter", &set.models, around)? });
    }
    Ok(filters)
}

pub(super) fn difficulty(
    root: &Section<'_>,
    models: &Models,
    writes: bool,
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
    let scope = table.choice("scope", &scopes)?.unwrap_or_default();
    if writes && scope == Scope::Pool {
        return Err(table
            .wrong(
                "scope",
                "is `pool`, which is scored before round 1, and `[sampler]` writes prompts",
            )
            .label("expected `scope = \"round\"`")
            .hint("prompts that a round writes come too late for the scores of the pool"));
    }
    Ok(Some(Difficulty {
        scope,
        order: table.choice("order", &orders)?.unwrap_or_default(),
        plugin: plugin(&table, "difficulty scorer", models, around)?,
    }))
}
