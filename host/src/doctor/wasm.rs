//! Whether plugins load, and say what they should.

use std::time::Instant;

use super::{Finding, PluginError, Tried};
use crate::plugin::{Kind, Limits, NoAnswers, Outcome, Place, Setup};
use crate::record::{
    Completion, Finish, Prompt, Record, Repro, Text, Variant, VariantRole, Verdict,
};

/// Loads `builtin:length` as a run would and lets it judge a completion of two words, of which it is told
/// to want three.
pub fn wasm(tried: &Tried<'_>) -> Finding {
    let hint = "plugins need memory that may be made executable; hardened systems forbid that";
    match verdict(tried) {
        Ok((Some(Verdict::Drop(reason)), milliseconds)) if reason == "too-short" => {
            Finding::ok("wasm", format!("a plugin loads and answers, in {milliseconds:.0} ms"))
                .with("milliseconds", milliseconds)
        }
        Ok((said, _)) => {
            let found =
                format!("`builtin:length` gave {said:?} for a completion that is too short");
            Finding::failed("wasm", found, "please report it with this line")
        }
        Err(error) => Finding::failed("wasm", error.to_string(), hint),
    }
}

fn verdict(tried: &Tried<'_>) -> Result<(Option<Verdict>, f64), PluginError> {
    let begun = Instant::now();
    let loaded = tried.runtime.open(tried.component, &Limits::default())?;
    let config = r#"{"min_words":3}"#.to_owned();
    let plugin = loaded.configure(Setup { config, ..Setup::new(Kind::Filter) })?;
    let completion = Completion {
        text: "two words".into(),
        tokens: 2,
        logprob: -1.0,
        entropy: Some(1.0),
        finish: Finish::Stop,
        repro: Repro::Exact,
    };
    let prompt = Text::Raw("Say something.".into());
    let variant = Variant {
        name: "plain".into(),
        role: VariantRole::Plain,
        prompt: prompt.clone(),
        completion: Some(completion),
    };
    let record = Record::new(Prompt { id: "p-1".into(), text: prompt, tags: Vec::new() });
    let record = Record { variants: vec![variant], ..record };
    let place = Place { run_seed: 0, round: 1, rounds: 1, stage: "filter-generate", position: 0 };
    let stage = plugin.filter(&place, &[record], &mut NoAnswers)?;
    let said = stage.outcomes.into_iter().find_map(|outcome| match outcome {
        Outcome::Done(verdict) => Some(verdict),
        Outcome::Failed(_) => None,
    });
    Ok((said, begun.elapsed().as_secs_f64() * 1e3))
}
