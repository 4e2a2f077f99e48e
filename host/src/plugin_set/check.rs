//! From what was typed to what the program needs.
//!
//! One function a table, each naming its keys first: a key that is not in the list is refused before
//! anything is read, so a misspelt required key is called misspelt and not missing.

mod extrapolate;
mod models;
mod objective;
mod plugins;
mod server;
mod settings;
mod sources;
mod trainer;
mod watch;

use std::path::Path;

use extrapolate::extrapolation;
pub(super) use models::is_model_path;
use models::{generates_with, known_model, models};
use objective::pairing;
use plugins::{difficulty, filters, plugin, sampler};
use settings::{evaluate, generate, train};
use sources::{component, data_file};

use super::{
    CONTRACT, Chat, Data, Embedded, Generate, Keep, Lora, MOST_ROUNDS, Measuring, Method, Models,
    PluginSet, RoundSettings, Run, Source, Start, Train,
    keys::{CHAT, DATA, EVALUATE, GENERATE, MEASURE, METHOD, PLUGIN, ROOT, ROUNDS, RUN, TRAIN},
    lock::Locking,
    problem::{Problem, list},
    section::Section,
    typed::{Kind, Node, Place},
};
use crate::model::backend::WeightType;
use crate::pack::Pack;

use crate::date::{Date, NoDate};

/// Variables that a chat template gets from the host.
const TEMPLATE_INPUTS: [&str; 4] = ["messages", "add_generation_prompt", "tools", "documents"];

type Checked<T> = Result<T, Problem>;

/// What checking needs besides the tree.
pub(super) struct Surroundings<'a> {
    /// What the binary carries.
    pub embedded: &'a Embedded<'a>,
    /// What relative paths in the file are relative to.
    pub file_folder: &'a Path,
    /// What relative paths in arguments are relative to.
    pub argument_folder: &'a Path,
    /// Where the file lies in a pack: what it names is in there.
    pub pack: Option<&'a Pack>,
    /// What sources must be.
    pub locking: Locking<'a>,
}

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
    let data = data(&root.required_table("data", &DATA)?, models.aligned.is_some(), around)?;
    let chat = match root.table("chat", &CHAT)? {
        Some(table) => chat(&table)?,
        None => Chat::default(),
    };
    let plugin = |name: &str, kind: &str| match root.table(name, &PLUGIN)? {
        Some(table) => plugin(&table, kind, &models, around).map(Some),
        None => Ok(None),
    };
    let principle = plugin("principle", "principle")?;
    let sampler = sampler(&root, &models, data.pairs.is_some(), around)?;
    let writes = sampler.as_ref().is_some_and(|sampler| sampler.write.is_some());
    let judge = plugin("judge", "judge")?;
    let difficulty = difficulty(&root, &models, writes, around)?;
    let generate = match root.table("generate", &GENERATE)? {
        Some(table) => generate(&table, Generate::default(), &models)?,
        None => Generate::default(),
    };
    let measure = match root.table("measure", &MEASURE)? {
        Some(table) => Some(Measuring { clusters: table.integer("clusters", 1, 100_000)? }),
        None => None,
    };
    let train = match root.table("train", &TRAIN)? {
        Some(table) => Some(train(&table, None, around)?),
        None => None,
    };
    let evaluate = match root.table("evaluate", &EVALUATE)? {
        Some(table) => Some(evaluate(&table, data.held_out.is_some())?),
        None => None,
    };
    let (run, rounds) = rounds(&root, &generate, train.as_ref(), &models, around)?;
    let mut set = PluginSet {
        method,
        models,
        data,
        run,
        chat,
        principle,
        sampler,
        filters: Vec::new(),
        judge,
        difficulty,
        generate,
        measure,
        pair: None,
        train,
        extrapolate: None,
        evaluate,
        watch: None,
        rounds,
    };
    set.filters = filters(&root, &set, around)?;
    set.pair = pairing(&root, &set)?;
    extrapolation(&root, &mut set)?;
    judges(&root, &set)?;
    watch::anchors(&root, &set)?;
    set.watch = watch::watch(&root, &set)?;
    server::can_serve(&root, &set)?;
    Ok(set)
}

/// Fails where a round says whether a judge is called that there is not, and where one is called that may
/// ask nothing but what the round, or a later one, saves only once it is done.
fn judges(root: &Section<'_>, set: &PluginSet) -> Checked<()> {
    let tables = root.tables("rounds", &ROUNDS)?;
    let Some(judge) = &set.judge else {
        return match tables.iter().find(|table| table.has("judge")) {
            Some(table) => Err(table
                .wrong("judge", "is given, and the plugin set has no `[judge]`")
                .label("expected a `[judge]`, or no `judge`")),
            None => Ok(()),
        };
    };
    let asked = judge.ask.as_ref().map_or(&[][..], |ask| &ask.models);
    let saved = |name: &String| set.models.saved.get(name).copied();
    for round in (1..=set.run.rounds).filter(|&round| set.judge(round).is_some()) {
        let later = |name: &&String| saved(name).is_some_and(|saving| saving >= round);
        let Some(name) = asked.iter().find(later).filter(|_| asked.iter().all(|it| later(&it)))
        else {
            continue;
        };
        let place = tables.get(round as usize - 1).map_or(root.place_of("judge"), Section::place);
        let saving = saved(name).unwrap_or(round);
        let message = format!(
            "the judge of round {round} asks `{name}`, which round {saving} saves once it is done"
        );
        return Err(Problem::new(message, place)
            .label("expected `judge = false` in the `[[rounds]]` entry of that round"));
    }
    Ok(())
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

fn chat(table: &Section<'_>) -> Checked<Chat> {
    let date = match table.node("date").map(|node| &node.kind) {
        // TOML has days, too.
        Some(Kind::String(text) | Kind::Datetime(text)) => {
            Some(text.parse::<Date>().map_err(|no_date| {
                table.wrong("date", &format!("is `{text}`")).label(no_date.to_string())
            })?)
        }
        Some(_) => return Err(table.wrong("date", "is no day").label(NoDate.to_string())),
        None => None,
    };
    let variables = match table.node("variables") {
        Some(node) => match node.to_json()? {
            serde_json::Value::Object(variables) => variables,
            _ => return Err(table.wrong("variables", "is no table").label("expected a table")),
        },
        None => serde_json::Map::new(),
    };
    if let Some(name) = TEMPLATE_INPUTS.iter().find(|name| variables.contains_key(**name)) {
        return Err(table
            .wrong("variables", &format!("holds `{name}`"))
            .label("aligner itself gives this variable to every template"));
    }
    Ok(Chat { date, variables })
}

/// Where the aligned model is given, rounds have no use for prompts but those that are held out.
fn data(table: &Section<'_>, aligned: bool, around: &Surroundings<'_>) -> Checked<Data> {
    let example = "a JSONL file or \"builtin:NAME\"";
    let source = |key: &str| -> Checked<Source> {
        let text = table.required_text(key, example)?;
        data_file(table, key, &text, around)
    };
    let pairs = if table.has("pairs") { Some(source("pairs")?) } else { None };
    // Whoever tries pairs from the command line leaves the file as it is.
    let both = table.has("prompts") && table.has("pairs");
    if both && matches!(table.place_of("pairs"), Place::File(_)) {
        return Err(table
            .wrong("pairs", "is given, and so is `prompts`")
            .label("expected one of them: pairs have prompts of their own"));
    }
    if aligned && table.has("pairs") {
        return Err(table
            .wrong("pairs", "is given, and so is `aligned` in `[models]`")
            .label("expected one of them: what is aligned already learns from no pairs"));
    }
    let held_out = if table.has("held_out") { Some(source("held_out")?) } else { None };
    let anchors = if table.has("anchors") { Some(source("anchors")?) } else { None };
    Ok(Data {
        prompts: match (&pairs, &held_out) {
            (Some(pairs), _) if !table.has("prompts") => pairs.clone(),
            (_, Some(held_out)) if !table.has("prompts") && aligned => held_out.clone(),
            _ => source("prompts")?,
        },
        pairs,
        held_out,
        anchors,
        limit: table.integer("limit", 1, u32::MAX.into())?,
    })
}

fn utf8(table: &Section<'_>, key: &str, path: &Path) -> Checked<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| table.wrong(key, "is not UTF-8 as a full path"))
}

fn rounds(
    root: &Section<'_>,
    base_generate: &Generate,
    base_train: Option<&Train>,
    models: &Models,
    around: &Surroundings<'_>,
) -> Checked<(Run, Vec<RoundSettings>)> {
    let tables = root.tables("rounds", &ROUNDS)?;
    let run = root.table("run", &RUN)?;
    let mut rounds = None;
    let mut seed = 0;
    let mut dtype = WeightType::default();
    let mut keep = Keep::All;
    if let Some(run) = &run {
        rounds = run.integer("rounds", 1, MOST_ROUNDS.into())?;
        seed = run.large("seed", i64::MAX as u64)?.unwrap_or(0);
        dtype = run.choice("dtype", &WeightType::ALL)?.unwrap_or_default();
        keep = run.choice("keep", &[("all", Keep::All), ("last", Keep::Last)])?.unwrap_or_default();
    }
    let mut settings = Vec::new();
    let mut previous: Option<Train> = None;
    for (index, table) in tables.iter().enumerate() {
        let generate = match table.table("generate", &GENERATE)? {
            Some(over) => generate(&over, base_generate.clone(), models)?,
            None => base_generate.clone(),
        };
        let train = match table.table("train", &TRAIN)? {
            Some(over) => Some(train(&over, base_train, around)?),
            None => base_train.cloned(),
        };
        if let (Some(before), Some(now)) = (&previous, &train) {
            goes_on(before, now, index + 1, table.place())?;
        }
        // After a reward model the next round goes on from the policy before it.
        let policy = train.clone().filter(|train| !train.makes_reward_model());
        previous = policy.or(previous);
        generates_with(&generate.model, index + 1, models, table, root)?;
        let judge = table.boolean("judge")?.unwrap_or(true);
        settings.push(RoundSettings { generate, train, judge, extrapolate: None });
    }
    if let (Some(before), Some(now)) = (&previous, base_train)
        && rounds.is_some_and(|rounds: u32| rounds as usize > settings.len())
        && let Some(last) = tables.last()
    {
        goes_on(before, now, settings.len() + 1, last.place())?;
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
    let tried = run.as_ref().is_some_and(|run| is_argument(run.place_of("rounds")));
    let rounds = rounds.unwrap_or(settings.len().max(1) as u32);
    if let Some(last) = tables.get(rounds as usize - 1)
        && last.has("save_as")
        && !tried
    {
        return Err(last
            .wrong("save_as", &format!("saves what round {rounds} makes, the last one"))
            .label("expected a round after this one: it could use what is saved"));
    }
    let round = |round: u32| settings.get(round as usize - 1);
    let trains = |number| round(number).map_or(base_train, |settings| settings.train.as_ref());
    let generates = |number| round(number).map_or(base_generate, |settings| &settings.generate);
    for number in 1..=rounds {
        let entry = tables.get(number as usize - 1);
        let place = entry.map_or(root.place_of("train"), |entry| entry.place());
        let makes = |round| trains(round).is_some_and(Train::makes_reward_model);
        reward_models(number, rounds, &makes, &generates(number).model, models, place)?;
    }
    if let Some(run) = &run {
        let without_own = if rounds as usize > settings.len() { base_train } else { None };
        let trained = settings.iter().filter_map(|settings| settings.train.as_ref());
        trainable(run, dtype, &trained.chain(without_own).collect::<Vec<_>>())?;
    }
    Ok((Run { rounds, seed, dtype, keep }, settings))
}

/// Weights that are rounded cannot all be trained, and those of eight bits stand under no adapter.
fn trainable(run: &Section<'_>, dtype: WeightType, trained: &[&Train]) -> Checked<()> {
    match dtype {
        WeightType::F32 => Ok(()),
        _ if trained.iter().any(|train| train.lora.is_none()) => Err(run
            .wrong("dtype", &format!("is `{dtype}`, and `method = \"full\"` trains every weight"))
            .label("expected `f32`")
            .hint("steps of training are smaller than what a rounded weight can hold")),
        WeightType::Int8 if !trained.is_empty() => Err(run
            .wrong("dtype", "rounds weights to eight bits, and `[train]` trains")
            .label("expected `f32` or `bf16`")),
        WeightType::Bf16 | WeightType::Int8 => Ok(()),
    }
}

/// A round that goes on from the one before trains the same, and cannot change an adapter's shape or
/// scale.
fn goes_on(before: &Train, now: &Train, round: usize, place: &Place) -> Checked<()> {
    if now.start != Start::Previous {
        return Ok(());
    }
    let shape = |lora: &Lora| Lora { dropout: 0.0, ..lora.clone() };
    let (message, same) = match (&before.lora, &now.lora) {
        (None, None) => return Ok(()),
        (Some(before), Some(now)) if shape(before) == shape(now) => return Ok(()),
        (Some(_), Some(_)) => {
            ("continues the adapter of the round before with another `lora`", "lora")
        }
        (Some(_), None) => {
            ("trains every weight from where the round before left an adapter", "method")
        }
        (None, Some(_)) => {
            ("trains an adapter from where the round before left a whole model", "method")
        }
    };
    Err(Problem::new(format!("round {round} {message}"), place)
        .label(format!("expected the same `{same}`, or `start = \"initial\"`")))
}

/// A reward model is no policy: it is the run's result, or a tool with a name for the rounds after it.
/// No round writes with one.
fn reward_models(
    round: u32,
    rounds: u32,
    makes: &dyn Fn(u32) -> bool,
    writer: &str,
    models: &Models,
    place: &Place,
) -> Checked<()> {
    let saved = models.saved.values().any(|saved| *saved == round);
    if makes(round) && round < rounds && !saved {
        let message =
            format!("round {round} makes a reward model, and round {} needs a policy", round + 1);
        return Err(Problem::new(message, place)
            .label(
                "expected `save_as = \"NAME\"`, or `objective = \"reward\"` in the last round alone",
            )
            .hint(
                "what is saved under a name can be asked for rewards; the next round goes on from the \
                 policy before",
            ));
    }
    match models.saved.get(writer) {
        Some(&saving) if makes(saving) => Err(Problem::new(
            format!("round {round} generates with `{writer}`, which is a reward model"),
            place,
        )
        .label("expected a model that writes")),
        _ => Ok(()),
    }
}

fn is_argument(place: &Place) -> bool {
    matches!(place, Place::Argument(_))
}

fn one_of(names: &[&str]) -> String {
    match names {
        [] => "there are none in this build".to_owned(),
        [name] => format!("expected `{name}`"),
        names => format!("expected one of {}", list(names)),
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
