//! `[extrapolate]`, the rounds that it stands after, and `[models] aligned`.

use super::{Checked, settings::decoding};
use crate::{
    plugin_set::{
        Alpha, Extrapolate, Goal, Guard, Origin, PluginSet, Search, Start,
        extrapolate::GRID,
        keys::{DECODING, EXTRAPOLATE, GUARD, ROUNDS, RUN},
        problem::Problem,
        section::Section,
        typed::Kind,
    },
    record::Decoding,
};

/// Most that alpha may be.
const MOST: f64 = 100.0;

/// Reads which rounds extrapolate, and how: the last one by the plugin set's table, and others where their
/// `[[rounds]]` entry says so. All else of the set is known.
pub(super) fn extrapolation(root: &Section<'_>, set: &mut PluginSet) -> Checked<()> {
    let table = root.table("extrapolate", &EXTRAPOLATE)?;
    set.extrapolate = match &table {
        Some(table) => Some(extrapolate(table, None, set)?),
        None => None,
    };
    let last = set.run.rounds;
    if let (Some(table), Some(base)) = (&table, &set.extrapolate)
        && last as usize > set.rounds.len()
    {
        fits(table, base, set, last)?;
    }
    let entries = root.tables("rounds", &ROUNDS)?;
    for (index, entry) in entries.iter().enumerate().take(set.rounds.len()) {
        let (round, base) = (index as u32 + 1, set.extrapolate.as_ref());
        let said = match entry.node("extrapolate").map(|node| &node.kind) {
            Some(&Kind::Boolean(said)) => Some(said),
            _ => None,
        };
        let in_round = match said {
            Some(_) => None,
            None => entry.table("extrapolate", &EXTRAPOLATE)?,
        };
        let own = match (&in_round, said) {
            (Some(in_round), _) => Some(extrapolate(in_round, base, set)?),
            (None, Some(false)) => None,
            (None, Some(true)) if base.is_none() => {
                return Err(entry
                    .wrong("extrapolate", "is true, and there is no `[extrapolate]`")
                    .label("expected a table, for example `{ alpha = 0.3 }`"));
            }
            (None, Some(true)) => base.cloned(),
            (None, None) => base.filter(|_| round == last).cloned(),
        };
        if let Some(own) = &own {
            let blamed = in_round.as_ref().or(table.as_ref()).unwrap_or(entry);
            fits(blamed, own, set, round)?;
        }
        set.rounds[index].extrapolate = own;
    }
    aligned(root, set)
}

/// `base` are the user's settings under these, where there are some.
fn extrapolate(
    table: &Section<'_>,
    base: Option<&Extrapolate>,
    set: &PluginSet,
) -> Checked<Extrapolate> {
    let origins = [("initial", Origin::Initial), ("previous", Origin::Previous)];
    let from = table.choice("from", &origins)?;
    let searches = match table.node("alpha") {
        None if base.is_none() => {
            return Err(table.missing("alpha", "a number, or \"search\""));
        }
        None => base.is_some_and(|base| base.search().is_some()),
        Some(node) => match node.as_text() {
            None => false,
            Some("search") => true,
            Some(text) => {
                return Err(table
                    .wrong("alpha", &format!("is `{text}`"))
                    .label("expected a number, or \"search\""));
            }
        },
    };
    let alpha = match searches {
        true => Alpha::Search(search(table, base.and_then(Extrapolate::search), set)?),
        false => {
            no_search(table)?;
            let fits = |alpha: f64| (-1.0..=MOST).contains(&alpha);
            let given = table.number("alpha", "a number from -1 to 100, or \"search\"", fits)?;
            match (given, base) {
                (Some(alpha), _) => Alpha::Fixed(alpha),
                (None, Some(base)) => base.alpha.clone(),
                (None, None) => return Err(table.missing("alpha", "a number, or \"search\"")),
            }
        }
    };
    let from = from.or(base.map(|base| base.from)).unwrap_or(Origin::Initial);
    Ok(Extrapolate { alpha, from })
}

/// Refuses settings of the search where alpha is given.
fn no_search(table: &Section<'_>) -> Checked<()> {
    let keys = ["grid", "refine", "prompts", "objective", "reward", "decoding", "guard"];
    match table.idle("alpha", &keys) {
        None => Ok(()),
        Some(key) => Err(table
            .wrong(key, "sets a search, and `alpha` is given")
            .label("expected `alpha = \"search\"`, or no settings of a search")),
    }
}

fn search(table: &Section<'_>, base: Option<&Search>, set: &PluginSet) -> Checked<Search> {
    if set.data.held_out.is_none() {
        return Err(Problem::new("a search for alpha needs held-out prompts", table.place())
            .label("expected `held_out` in `[data]`")
            .hint("add `held_out = \"FILE.jsonl\"` to `[data]`, with rows of prompt and answer"));
    }
    let base = base.cloned().unwrap_or(Search {
        grid: GRID.to_vec(),
        refine: 2,
        prompts: 16,
        objective: match &set.judge {
            Some(_) => Goal::Judge(None),
            None => Goal::Perplexity,
        },
        decoding: Decoding::greedy(set.generate.max_new_tokens),
        guard: Guard::default(),
    });
    Ok(Search {
        grid: grid(table)?.unwrap_or(base.grid),
        refine: table.integer("refine", 0, 8)?.unwrap_or(base.refine),
        prompts: table.integer("prompts", 1, 1 << 20)?.unwrap_or(base.prompts),
        objective: goal(table, base.objective, set.judge.is_some())?,
        decoding: match table.table("decoding", &DECODING)? {
            Some(table) => decoding(&table, base.decoding, &set.models)?,
            None => base.decoding,
        },
        guard: match table.table("guard", &GUARD)? {
            Some(table) => guard(&table, base.guard)?,
            None => base.guard,
        },
    })
}

fn goal(table: &Section<'_>, base: Goal, has_judge: bool) -> Checked<Goal> {
    let choices =
        [("judge", Goal::Judge(None).as_str()), ("perplexity", Goal::Perplexity.as_str())];
    let named = match &base {
        Goal::Judge(reward) => reward.clone(),
        Goal::Perplexity => None,
    };
    let reward = table.text("reward")?;
    match table.choice("objective", &choices)?.unwrap_or(base.as_str()) {
        "perplexity" if reward.is_some() => Err(table
            .wrong("reward", "names a reward, and `objective` is `perplexity`")
            .label("expected `objective = \"judge\"`, or no `reward`")),
        "perplexity" => Ok(Goal::Perplexity),
        _ if !has_judge => Err(table
            .wrong("objective", "is `judge`, and the plugin set has no `[judge]`")
            .label("expected `perplexity`")),
        _ => Ok(Goal::Judge(reward.or(named))),
    }
}

fn guard(table: &Section<'_>, base: Guard) -> Checked<Guard> {
    let share = |key, default| -> Checked<f64> {
        let fits = |x| (0.0..=1.0).contains(&x);
        Ok(table.number(key, "a number from 0 to 1", fits)?.unwrap_or(default))
    };
    Ok(Guard {
        length: table.number("length", "a number, 1 or more", |x| x >= 1.0)?.unwrap_or(base.length),
        ended: share("ended", base.ended)?,
        repetition: share("repetition", base.repetition)?,
    })
}

fn grid(table: &Section<'_>) -> Checked<Option<Vec<f64>>> {
    let Some(node) = table.node("grid") else { return Ok(None) };
    let expected = "expected 1 to 32 numbers over 0, at most 100, none of them twice";
    let wrong = || table.wrong("grid", "is no list of alphas").label(expected);
    let Kind::Array(items) = &node.kind else { return Err(wrong()) };
    let mut grid = Vec::new();
    for item in items {
        let alpha = match item.kind {
            Kind::Float(number) => number,
            Kind::Integer(Some(number)) => number as f64,
            _ => return Err(wrong()),
        };
        if !(alpha > 0.0 && alpha <= MOST) || grid.contains(&alpha) {
            return Err(wrong());
        }
        grid.push(alpha);
    }
    grid.sort_by(f64::total_cmp);
    match grid.len() {
        1..=32 => Ok(Some(grid)),
        _ => Err(wrong()),
    }
}

/// Fails where a round cannot go beyond what it trains, because it trains nothing, or because the line
/// to it does not begin at the weights that its adapter stands on.
fn fits(
    table: &Section<'_>,
    extrapolate: &Extrapolate,
    set: &PluginSet,
    round: u32,
) -> Checked<()> {
    if set.models.aligned.is_some() {
        return Ok(());
    }
    let Some(train) = set.train(round) else {
        let message = format!("round {round} extrapolates, and trains nothing");
        return Err(Problem::new(message, table.place())
            .label("expected `[train]`, or `aligned` in `[models]`"));
    };
    if train.makes_reward_model() {
        let message = format!("round {round} extrapolates, and trains a reward model");
        return Err(Problem::new(message, table.place())
            .label("expected the round of a policy: the head of a reward model has one strength"));
    }
    let goes_on = train.start == Start::Previous && round > 1;
    if extrapolate.from == Origin::Previous && train.lora.is_some() && goes_on {
        let is = format!("is `previous`, and round {round} trains on from an adapter");
        return Err(table
            .wrong("from", &is)
            .label("expected `initial`, `start = \"initial\"` in `[train]`, or `method = \"full\"`")
            .hint(
                "an adapter is extrapolated by its scale, which leads away from the initial model",
            ));
    }
    Ok(())
}

/// An aligned model that is given stands for what the one round would train.
fn aligned(root: &Section<'_>, set: &PluginSet) -> Checked<()> {
    let Some(models) = root.free_table("models")?.filter(|_| set.models.aligned.is_some()) else {
        return Ok(());
    };
    if set.run.rounds > 1 {
        let rounds = root.table("run", &RUN)?;
        let place = rounds.as_ref().filter(|run| run.has("rounds"));
        let place = place.map_or(models.place_of("aligned"), |run| run.place_of("rounds"));
        let message =
            format!("`aligned` stands for what rounds make, and there are {}", set.run.rounds);
        return Err(Problem::new(message, place).label("expected one round"));
    }
    match set.extrapolate(1) {
        Some(_) => Ok(()),
        None => Err(models
            .wrong("aligned", "is given, and the plugin set does not extrapolate")
            .label("expected a table `[extrapolate]`")),
    }
}
