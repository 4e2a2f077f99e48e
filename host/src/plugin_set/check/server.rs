//! A model of `[models]` that is a table: a server, and what it stands in for.

use super::{Checked, Surroundings, is_argument};
use crate::plugin_set::keys::{EVALUATE, SERVER, TRAIN, WATCH};
use crate::plugin_set::problem::Problem;
use crate::plugin_set::section::Section;
use crate::plugin_set::server::{EmbeddedWork, OnBudget, Server, checked_address};
use crate::plugin_set::typed::{Entry, Kind};
use crate::plugin_set::{Measure, PluginSet, Signal};

/// Reads the server of a model; `None` where the model is no table.
pub(super) fn server(
    models: &Section<'_>,
    entry: &Entry,
    around: &Surroundings<'_>,
) -> Checked<Option<Server>> {
    let Kind::Table(_) = entry.value.kind else { return Ok(None) };
    let Some(table) = models.table(&entry.key, &SERVER)? else { return Ok(None) };
    let example = "an address such as \"http://127.0.0.1:8000\"";
    let address = table.required_text("server", example)?;
    if around.pack.is_some() && !is_argument(table.place_of("server")) {
        return Err(table
            .wrong("server", "is given, and a pack names no servers")
            .hint(format!("`--set models.{}.server=URL` names one of yours", entry.key)));
    }
    let server = checked_address(&address)
        .map_err(|is| table.wrong("server", is).label(format!("expected {example}")))?;
    if !table.has("base") {
        return Err(
            table.missing("base", "the model that it serves, for tokenizer and chat template")
        );
    }
    let mut embedded = Vec::new();
    for (name, place) in table.texts("embedded")?.unwrap_or_default() {
        match name.as_str() {
            "adapters" => embedded.push(EmbeddedWork::Adapters),
            "scores" => embedded.push(EmbeddedWork::Scores),
            other => {
                let message =
                    format!("`{other}` is nothing that the embedded engine does for a server");
                return Err(Problem::new(message, &place)
                    .label("expected `adapters` or `scores`")
                    .suggest(other, ["adapters", "scores"]));
            }
        }
    }
    embedded.sort();
    embedded.dedup();
    let default = Server::at(&server);
    let on_budget = [("stop", OnBudget::Stop), ("drop", OnBudget::Drop)];
    if let (None, true) = (table.node("tokens"), table.has("on_budget")) {
        return Err(table.wrong("on_budget", "is given, and there is no `tokens` to use up"));
    }
    Ok(Some(Server {
        server,
        model: table.text("model")?,
        embedded,
        probe_bound: table
            .number("probe_bound", "a number of nats above 0", |bound| bound > 0.0)?
            .unwrap_or(default.probe_bound),
        in_flight: table.integer("in_flight", 1, 100_000)?.unwrap_or(default.in_flight),
        timeout_seconds: table
            .integer("timeout_seconds", 1, 86_400)?
            .unwrap_or(default.timeout_seconds),
        patience_seconds: table
            .integer("patience_seconds", 1, 604_800)?
            .unwrap_or(default.patience_seconds),
        tokens: table.count("tokens", 1..=1_000_000_000_000)?,
        on_budget: table.choice("on_budget", &on_budget)?.unwrap_or(default.on_budget),
    }))
}

/// Fails where a set needs of the policy's server what none does: to load every weight anew, or to say how sure
/// it was of the tokens that it drew.
pub(super) fn can_serve(root: &Section<'_>, set: &PluginSet) -> Checked<()> {
    if !set.models.servers.contains_key("policy") {
        return Ok(());
    }
    let mut rounds = 1..=set.run.rounds;
    if rounds.any(|round| set.train(round).is_some_and(|train| train.lora.is_none())) {
        let place =
            root.table("train", &TRAIN)?.map_or(root.place(), |table| table.place_of("method"));
        return Err(Problem::new("every weight is trained, and the policy is on a server", place)
            .label("expected `method = \"lora\"`: a server loads adapters")
            .hint("the embedded engine generates with what it trains where `models.policy` is no server"));
    }
    let measured = set.evaluate.as_ref().is_some_and(|it| it.measures.contains(&Measure::Entropy));
    if measured {
        let place = root.table("evaluate", &EVALUATE)?;
        let place = place.as_ref().map_or(root.place(), |table| table.place_of("measures"));
        return Err(Problem::new("`entropy` is measured, and the policy is on a server", place)
            .label("servers do not say how sure they were of a token"));
    }
    let watched =
        set.watch.as_ref().is_some_and(|it| it.limits.contains_key(&Signal::GeneratedEntropy));
    if watched {
        let place = root.table("watch", &WATCH)?;
        let place =
            place.as_ref().map_or(root.place(), |table| table.place_of("generated-entropy"));
        return Err(Problem::new(
            "`generated-entropy` is watched, and the policy is on a server",
            place,
        )
        .label("servers do not say how sure they were of a token"));
    }
    Ok(())
}
