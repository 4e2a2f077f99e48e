//! Whether the judge gives the rewards that `[pair] reward` and the filters behind it want by name. What
//! a judge calls them is known once it has spoken, so it is shown completions that are made up. One that
//! asks a model to write is not answered, and nothing is known of it.

use std::collections::BTreeSet;

use super::{measured, place};
use crate::plugin::{Answerer, Ask, Interface, NoAnswers, OnError, Outcome, Plugin};
use crate::plugin_set::After;
use crate::record::{
    Answer, Completion, Finish, Opinion, Prompt, Record, Repro, Request, Score, Variant,
};
use crate::round::{self, Need, RunError, filter_stage, given_variants, needs_of};
use crate::run::Prepared;
use crate::run::memory::spread;
use crate::run::plan::{PROBES, put};

/// What the made-up completions say.
const SAYINGS: [&str; 3] = [
    "Yes.",
    "That depends on what is asked for, so here is one of several answers to it.",
    "First:\n\n- one\n- two\n\nThen the rest, because it follows from these.",
];

/// Fails where a reward is wanted that the judge gives to none of the completions. A judge that gives other
/// names for other prompts may give it to one that was not tried, so nothing is said of it.
pub(super) fn check(prepared: &Prepared) -> Result<(), RunError> {
    let (set, plugins) = (&prepared.set, &prepared.plugins);
    let round = (1..=set.run.rounds).find(|&round| set.judge(round).is_some());
    let (Some(judge), Some(round)) = (&plugins.judge, round) else { return Ok(()) };
    let behind = plugins.filters.iter().filter(|(after, _)| *after == After::Judge);
    let behind: Vec<&Plugin> = behind.map(|(_, plugin)| plugin).collect();
    let pairing = set.pairing(round).filter(|pairing| pairing.reward.is_some());
    if pairing.is_none() && behind.is_empty() {
        return Ok(());
    }
    let needs: Vec<Need> = needs_of(judge).collect();
    let mut records = Vec::new();
    for prompt in spread(&prepared.prompts, PROBES) {
        records.extend(made_up(prepared, prompt)?);
    }
    let records = measured(&needs, &records);
    let at = place(prepared, round, "judge");
    // What it makes of completions that no model wrote is no fault of its own.
    let Ok(stage) = judge.judge(&at, &records, &mut Numbers) else { return Ok(()) };
    let judged = records.into_iter().zip(stage.outcomes).filter_map(|(record, outcome)| {
        let Outcome::Done(Opinion::Rewards(rewards)) = outcome else { return None };
        Some(Record { rewards, ..record })
    });
    let judged: Vec<Record> = judged.collect();
    let names = |record: &Record| {
        record.rewards.iter().map(|reward| reward.name.clone()).collect::<BTreeSet<String>>()
    };
    let all_alike = judged.windows(2).all(|pair| names(&pair[0]) == names(&pair[1]));
    if judged.is_empty() || !all_alike {
        return Ok(());
    }
    if let Some(pairing) = &pairing {
        round::check_reward(&judged, pairing)?;
    }
    let needs: Vec<Need> = behind.iter().flat_map(|plugin| needs_of(plugin)).collect();
    let judged = measured(&needs, &judged);
    let at = place(prepared, round, filter_stage(After::Judge));
    let stops = |plugin: &&Plugin| plugin.setup().on_error == OnError::Stop;
    for plugin in behind.into_iter().filter(stops) {
        if plugin.has(Interface::SetFilter) {
            continue;
        }
        let mut fault = None;
        for record in &judged {
            match plugin.filter(&at, std::slice::from_ref(record), &mut NoAnswers) {
                Err(error) if error.is_of_input() => fault = Some(error),
                _ => {
                    fault = None;
                    break;
                }
            }
        }
        if let Some(error) = fault {
            return Err(RunError::Settings {
                what: error.to_string(),
                hint: format!(
                    "this was tried on made-up completions, as {} judges them: let the two agree, or \
                     take the filter out",
                    judge.identity()
                ),
            });
        }
    }
    Ok(())
}

/// Returns records of one prompt with completions that are made up; none where it is not known before
/// how the prompt is put.
fn made_up(prepared: &Prepared, prompt: Prompt) -> Result<Vec<Record>, RunError> {
    let principle = prepared.plugins.principle.as_ref();
    let variants = match prepared.given.get(&prompt.id) {
        Some(given) => return Ok(vec![with(given_variants(given), prompt)]),
        None if principle.is_some_and(|plugin| plugin.setup().grant.is_some()) => {
            return Ok(Vec::new());
        }
        None => put(prepared, std::slice::from_ref(&prompt))?,
    };
    let says = |first: usize| {
        let completed = variants.iter().enumerate().map(|(index, variant)| {
            let text = format!("{} ({index})", SAYINGS[(first + index) % SAYINGS.len()]);
            let (tokens, logprob) = (text.len() as u32 / 4, -(text.len() as f64) / 4.0);
            let finish = Finish::Stop;
            let completion = Completion {
                text,
                tokens,
                logprob,
                entropy: Some(1.0),
                finish,
                repro: Repro::Exact,
            };
            Variant { completion: Some(completion), ..variant.clone() }
        });
        with(completed.collect(), prompt.clone())
    };
    Ok((0..SAYINGS.len()).map(says).collect())
}

fn with(variants: Vec<Variant>, prompt: Prompt) -> Record {
    Record { variants, ..Record::new(prompt) }
}

/// Answers with numbers where numbers are asked for; what a model would write is not known.
struct Numbers;

impl Answerer for Numbers {
    fn answer(
        &mut self,
        asks: &[Ask<'_>],
    ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>> {
        let number = |ask: &Ask<'_>| match ask.request {
            Request::Reward { .. } => Ok(Answer::Reward { value: ask.index as f64, tokens: 1 }),
            Request::Score { .. } => Ok(Answer::Score(Score {
                logprob: -1.0,
                tokens: 1,
                entropy: None,
                repro: Repro::Exact,
            })),
            Request::Generate { .. } => Err("what a model writes is not known here".into()),
        };
        asks.iter().map(number).collect()
    }
}
