//! What is tried before anything is written: whether the model can read what the principle plugin
//! puts, whether that holds the completions that are compared, whether plugins can work on pairs that
//! are given, and whether the judge gives the rewards that are wanted by name.

mod rewards;

use super::Prepared;
use super::plan::{PROBES, place};
use crate::model::ModelError;
use crate::plugin::{Interface, NoAnswers, OnError, Outcome, Plugin, PluginError, Stage};
use crate::plugin_set::{After, PairBy, Scope};
use crate::record::{Measurement, Record, Speaker, Text, Variant, VariantRole};
use crate::round::{
    Need, Number, RunError, What, abide, check_base, filter_stage, given_variants, needs_of,
    variant_of,
};

/// Fails where round 1 would, on a sample of the pool.
pub(super) fn check(prepared: &Prepared) -> Result<(), RunError> {
    check_base(&prepared.set, &prepared.models["policy"].model)?;
    match (&prepared.plugins.principle, prepared.given.is_empty()) {
        // Nothing is written and nothing compared.
        _ if prepared.aligned.is_some() => Ok(()),
        (Some(principle), true) => {
            check_readable(prepared, principle)?;
            check_compared(prepared, principle)?;
            rewards::check(prepared)
        }
        (None, true) => rewards::check(prepared),
        (_, false) => {
            check_given(prepared)?;
            rewards::check(prepared)
        }
    }
}

/// Fails where the model cannot read what the principle plugin puts, such as a system message that its
/// template has no place for.
fn check_readable(prepared: &Prepared, principle: &Plugin) -> Result<(), RunError> {
    let name = &prepared.set.generate(1).model;
    let model = &prepared.models.get(name).unwrap_or(&prepared.models["policy"]).model;
    for Variant { name, prompt, .. } in prepared.sample()? {
        let error = match model.encode_prompt(prompt) {
            Ok(_) | Err(ModelError::TooLong { .. }) => continue,
            Err(error) => error,
        };
        let hint = if has_system(prompt) {
            "plugins that steer put the text into the user's message where their configuration says so \
             (`system = \"user\"` in `[principle.config]` of `builtin:contrast` and `builtin:sso`)"
                .into()
        } else {
            error.hint().unwrap_or_else(|| "take another model, or another principle plugin".into())
        };
        return Err(RunError::Settings {
            what: format!(
                "{} puts variant `{name}` in a way that `{}` cannot read: {error}",
                principle.identity(),
                model.name
            ),
            hint,
        });
    }
    Ok(())
}

fn has_system(prompt: &Text) -> bool {
    let is_system = |speaker| speaker == Speaker::System;
    matches!(prompt, Text::Chat(messages) if messages.iter().any(|m| is_system(m.speaker)))
}

/// Fails where an objective compares completions of roles that the principle plugin does not give. One
/// that asks a model may give others once it is answered.
fn check_compared(prepared: &Prepared, principle: &Plugin) -> Result<(), RunError> {
    let set = &prepared.set;
    let by_role = set.pair.as_ref().is_some_and(|pairing| pairing.by == PairBy::Role);
    if !by_role || principle.setup().grant.is_some() {
        return Ok(());
    }
    let variants = prepared.sample()?;
    let gives = |role: VariantRole| variants.iter().any(|variant| variant.role == role);
    for preference in (1..=set.run.rounds).filter_map(|round| set.train(round)?.preference()) {
        let plain = preference.tells_by_role().then_some(VariantRole::Plain);
        let mut compared = [VariantRole::Good, VariantRole::Bad].into_iter().chain(plain);
        let Some(lacking) = compared.find(|&role| !gives(role)) else { continue };
        let mut names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        return Err(RunError::Settings {
            what: format!(
                "objective `{}` compares completions by the roles of their variants, and {} gives no \
                 {} variant, but `{}`",
                preference.name(),
                principle.identity(),
                lacking.as_str(),
                names.join("`, `"),
            ),
            hint: match lacking {
                VariantRole::Plain => "let it give the prompt as it is too (`plain = true` in \
                                       `[principle.config]` of `builtin:contrast`), or take another \
                                       objective, such as `dpo`",
                _ => "take a principle plugin that gives a good and a bad variant, such as \
                      `builtin:contrast`, or `train.objective = \"sft\"`",
            }
            .into(),
        });
    }
    Ok(())
}

/// Calls the filters over completions, and the difficulty plugin, with pairs that are given, and fails
/// where one of them cannot work on such records. What a plugin asks is not answered here, and what
/// comes behind it not tried.
fn check_given(prepared: &Prepared) -> Result<(), RunError> {
    let given = prepared.prompts.iter().filter_map(|prompt| {
        let variants = given_variants(prepared.given.get(&prompt.id)?);
        Some(Record { variants, ..Record::new(prompt.clone()) })
    });
    let all: Vec<Record> = given.take(PROBES).collect();
    let at = place(prepared, 1, filter_stage(After::Generate));
    let filters = prepared.plugins.filters.iter().filter(|(after, _)| *after == After::Generate);
    // A filter may look at what another one of the place needs.
    let needs: Vec<Need> = filters.flat_map(|(_, plugin)| needs_of(plugin)).collect();
    let mut left = Some(all.clone());
    for (after, plugin) in &prepared.plugins.filters {
        let (After::Generate, Some(records)) = (after, &left) else { continue };
        let records = measured(&needs, records);
        let stage = match plugin.has(Interface::SetFilter) {
            true => plugin.filter_set(&at, &[], &records),
            false => plugin.filter(&at, &records, &mut NoAnswers),
        };
        left = heard(plugin, stage)?.map(|outcomes| {
            let kept = records.into_iter().zip(outcomes).filter_map(|(mut record, outcome)| {
                let Outcome::Done(verdict) = outcome else { return None };
                abide(&mut record, &verdict).then_some(record)
            });
            kept.collect()
        });
    }
    let (Some(plugin), Some(wanted)) = (&prepared.plugins.difficulty, &prepared.set.difficulty)
    else {
        return Ok(());
    };
    let Some(records) = (if wanted.scope == Scope::Pool { Some(all) } else { left }) else {
        return Ok(());
    };
    let at = place(prepared, 1, "difficulty");
    let records = measured(&needs_of(plugin).collect::<Vec<_>>(), &records);
    heard(plugin, plugin.score(&at, &records, &mut NoAnswers)).map(|_| ())
}

/// Gives records some number for each measurement that they lack and that could be made of them.
fn measured(needs: &[Need], records: &[Record]) -> Vec<Record> {
    let of = |record: &Record| {
        let there = |name: &String| variant_of(record, name).is_some();
        let lacking = needs.iter().filter(|need| !need.is_met(record));
        let made = lacking.filter_map(|Need { name, what }| {
            let (value, possible) = match what {
                What::Scored { completion, prompt, number, .. } => {
                    let value = match number {
                        Number::Logprob => -1.0,
                        Number::Perplexity => 3.0,
                        Number::Entropy => 1.0,
                    };
                    (value, there(completion) && there(prompt))
                }
                What::Cluster { completion } => (0.0, there(completion)),
            };
            possible.then(|| Measurement { name: name.clone(), value })
        });
        let made: Vec<Measurement> = made.collect();
        Record { measurements: [&record.measurements[..], &made].concat(), ..record.clone() }
    };
    records.iter().map(of).collect()
}

/// Returns what a plugin said; nothing where it asks first.
fn heard<T>(
    plugin: &Plugin,
    stage: Result<Stage<T>, PluginError>,
) -> Result<Option<Vec<Outcome<T>>>, RunError> {
    match stage {
        Ok(stage) => Ok(Some(stage.outcomes)),
        Err(PluginError::Answer(_)) => Ok(None),
        Err(error) if error.is_of_input() && plugin.setup().on_error == OnError::Stop => {
            Err(RunError::Settings {
                what: error.to_string(),
                hint: "completions that are given are those of the variants `chosen` (good) and \
                       `rejected` (bad), and with principles of `raw` (plain): where the plugin's \
                       configuration names a variant let it name one of these, or take the plugin out \
                       (`--set filter=[]` takes all filters)"
                    .into(),
            })
        }
        Err(error) => Err(error.into()),
    }
}
