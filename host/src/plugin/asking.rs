//! What plugins ask: whether they may, what it costs, and what comes of the answers.

use super::check;
use super::converse::{Answerer, Ask, Items, Place, Spent, failure};
use super::error::{Fault, PluginError, Span};
use super::load::Plugin;
use crate::record::{Answer, Request};
use crate::run::seed;
use crate::shown::one_line;

/// How often a plugin may ask for one record.
const MAX_ROUNDS: usize = 64;
/// How many requests a plugin may make for one record.
pub const MAX_REQUESTS: usize = 256;

/// Checks one record's requests, whoever may be asked.
pub(super) fn check_asking(
    plugin: &Plugin,
    requests: &[Request],
    before: usize,
    rounds: usize,
) -> Result<(), Fault> {
    let most = plugin.setup().grant.as_ref().map_or(MAX_REQUESTS, |grant| grant.record_requests);
    check_requests(requests, before, rounds, most)
}

fn check_requests(
    requests: &[Request],
    before: usize,
    rounds: usize,
    most: usize,
) -> Result<(), Fault> {
    if requests.is_empty() {
        return Err(Fault::Value("asks with an empty list of requests".into()));
    }
    if rounds >= MAX_ROUNDS {
        return Err(Fault::AsksForever { rounds });
    }
    let most = most.min(MAX_REQUESTS);
    if before + requests.len() > most {
        return Err(Fault::Requests {
            wanted: requests.len() as u64,
            left: most.saturating_sub(before) as u64,
            budget: most as u64,
            span: Span::Record,
        });
    }
    requests.iter().try_for_each(|request| check::request(request).map_err(Fault::Value))
}

/// Checks the right and the budget, and has the requests answered.
///
/// `before` is what the stage has spent on other items, `own` what it has on these.
pub(super) fn answer_all(
    (plugin, place, items): (&Plugin, &Place, &Items),
    asking: &[(usize, Vec<Request>)],
    answerer: &mut dyn Answerer,
    answers: &mut [Vec<Answer>],
    before: &Spent,
    own: &mut Spent,
) -> Result<(), PluginError> {
    if asking.is_empty() {
        return Ok(());
    }
    let mut asks = Vec::new();
    for (index, requests) in asking {
        let id = items.ids[*index];
        for (offset, request) in requests.iter().enumerate() {
            let allowed = plugin
                .setup()
                .grant
                .as_ref()
                .is_some_and(|grant| grant.models.contains(request.model()));
            if !allowed {
                let fault = Fault::NoGrant { model: one_line(request.model(), 60) };
                return Err(failure(plugin, place, fault, vec![id]));
            }
            let own = match request {
                Request::Generate { seed, .. } => *seed,
                Request::Score { .. } | Request::Reward { .. } => 0,
            };
            asks.push(Ask {
                record: id,
                index: answers[*index].len() + offset,
                seed: seed::of([place.seed(id).into(), "ask".into(), own.into()]),
                request,
            });
        }
    }
    let Some(grant) = &plugin.setup().grant else {
        return Err(PluginError::Host("requests passed without a grant".into()));
    };
    let all = || asking.iter().map(|(index, _)| items.ids[*index]).collect::<Vec<_>>();
    let run = plugin.used();
    // The budgets of tokens, each with what is used of it.
    let tokens = |own: &Spent| {
        let stage = (Some(grant.tokens), before.tokens + own.tokens, Span::Stage);
        [stage, (grant.run_tokens, run.tokens + own.tokens, Span::Run)]
    };
    let stage = (Some(grant.requests), before.requests + own.requests, Span::Stage);
    let requests = [stage, (grant.run_requests, run.requests + own.requests, Span::Run)];
    if let Some((left, budget, span)) = exceeded(requests, asks.len() as u64) {
        let fault = Fault::Requests { wanted: asks.len() as u64, left, budget, span };
        return Err(failure(plugin, place, fault, all()));
    }
    // Before anything is generated: what the requests may cost at most. What scores and rewards cost is
    // known only after tokenising.
    let wanted: u64 = asks
        .iter()
        .map(|ask| match ask.request {
            Request::Generate { decoding, .. } => {
                u64::from(decoding.max_new_tokens.unwrap_or(grant.default_max_new_tokens))
            }
            Request::Score { .. } | Request::Reward { .. } => 0,
        })
        .sum();
    if let Some((left, budget, span)) = exceeded(tokens(own), wanted) {
        return Err(failure(plugin, place, Fault::Tokens { wanted, left, budget, span }, all()));
    }

    let given = answerer.answer(&asks).map_err(PluginError::Answer)?;
    if given.len() != asks.len() {
        return Err(PluginError::Host(format!(
            "{} answers came back for {} requests",
            given.len(),
            asks.len()
        )));
    }
    let used: u64 = given.iter().map(answer_tokens).sum();
    if let Some((left, budget, span)) = exceeded(tokens(own), used) {
        let fault = Fault::Tokens { wanted: used, left, budget, span };
        return Err(failure(plugin, place, fault, all()));
    }
    own.tokens += used;
    own.requests += asks.len() as u64;
    let fits = asks.iter().zip(&given).all(|(ask, answer)| {
        matches!(
            (ask.request, answer),
            (_, Answer::Unanswered(_))
                | (Request::Generate { .. }, Answer::Completion(_))
                | (Request::Score { .. }, Answer::Score(_))
                | (Request::Reward { .. }, Answer::Reward { .. })
        )
    });
    if !fits {
        return Err(PluginError::Host("an answer is not of its request's kind".into()));
    }
    let mut given = given.into_iter();
    for (index, requests) in asking {
        answers[*index].extend(given.by_ref().take(requests.len()));
    }
    Ok(())
}

/// Returns what is left of the first budget that `wanted` does not fit into, the budget, and its span.
fn exceeded(budgets: [(Option<u64>, u64, Span); 2], wanted: u64) -> Option<(u64, u64, Span)> {
    budgets.into_iter().find_map(|(budget, used, span)| {
        let left = budget?.saturating_sub(used);
        (wanted > left).then_some((left, budget?, span))
    })
}

fn answer_tokens(answer: &Answer) -> u64 {
    match answer {
        Answer::Completion(completion) => completion.tokens.into(),
        Answer::Score(score) => score.tokens.into(),
        Answer::Reward { tokens, .. } => (*tokens).into(),
        Answer::Unanswered(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_bounded() {
        let request = Request::Score {
            model: "policy".into(),
            prompt: crate::record::Text::user("q"),
            completion: "a".into(),
        };
        let check = |count, before, rounds, expected: &str| {
            let asked = vec![request.clone(); count];
            let result = check_requests(&asked, before, rounds, MAX_REQUESTS);
            let message = result.err().map(|fault| fault.to_string()).unwrap_or_default();
            assert!(
                message.contains(expected) && message.is_empty() == expected.is_empty(),
                "{message}"
            );
        };
        check(1, 0, 0, "");
        check(0, 0, 0, "empty list");
        check(256, 0, 0, "");
        check(256, 1, 0, "makes 256 requests, and has 255 left of its 256 for one record");
        check(1, 63, 63, "");
        check(1, 64, 64, "after 64 rounds");
    }
}
