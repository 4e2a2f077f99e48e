//! I-SHEEP's filter by perplexity, in place of a judge: keeps an answer that does not surprise the
//! model, by itself and together with its prompt (Liang et al., 2024,
//! <https://arxiv.org/abs/2408.08072>, section 4.3). For `after = "generate"`.
//!
//! A perplexity is `exp(-logprob / tokens)`. Both texts are scored as they stand, without a chat
//! template, after a line break: not every model has a token that begins a text.

use aligner_sdk::{
    Ask, Context, Error, Filter, Plugin, Record, ScoreRequest, Text, Verdict, export_filter,
};
use serde::Deserialize;

/// What stands under `config` of the filter; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerplexityFilter {
    /// What the answer's perplexity must be under. Reason `output-perplexity`.
    output_under: f64,
    /// What the perplexity of prompt and answer must be under. Reason `pair-perplexity`.
    pair_under: f64,
    /// The model that scores: `policy`, `initial`, `previous` or a name from `[models]`.
    model: String,
}

impl Default for PerplexityFilter {
    fn default() -> Self {
        PerplexityFilter { output_under: 50.0, pair_under: 50.0, model: "policy".into() }
    }
}

impl Plugin for PerplexityFilter {
    type Config = PerplexityFilter;
    const NAME: &'static str = "perplexity-filter";
    const SUMMARY: &'static str =
        "Drops answers that surprise the model, by themselves or together with their prompt.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"output_under": {"type": "number", "exclusiveMinimum": 1, "default": 50},
"pair_under": {"type": "number", "exclusiveMinimum": 1, "default": 50},
"model": {"type": "string", "default": "policy"}}}"#;

    fn new(config: PerplexityFilter) -> Result<Self, Error> {
        for (key, bound) in
            [("output_under", config.output_under), ("pair_under", config.pair_under)]
        {
            if bound <= 1.0 {
                return Err(Error::Config(format!(
                    "`{key}` is {bound}, expected over 1: no perplexity is less"
                )));
            }
        }
        Ok(config)
    }
}

impl Filter for PerplexityFilter {
    /// Every completion of a record counts: one that is dropped takes the record with it.
    fn filter(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<Verdict, Error> {
        let prompt = record.prompt.text.gist().trim();
        let mut bounds = Vec::new();
        let mut requests = Vec::new();
        for (_, completion) in record.completions() {
            let answer = completion.text.trim();
            if answer.is_empty() {
                return Ok(Verdict::Drop("empty".into()));
            }
            for (text, under, reason) in [
                (answer.to_owned(), self.output_under, "output-perplexity"),
                (format!("{prompt}\n{answer}"), self.pair_under, "pair-perplexity"),
            ] {
                let request = ScoreRequest::of(&self.model, Text::Raw("\n".into()), text);
                requests.push(request.into());
                bounds.push((under, reason));
            }
        }
        for ((under, reason), answer) in bounds.into_iter().zip(ask.all(requests)?) {
            match answer.score() {
                Ok(score) if score.perplexity() < under => {}
                Ok(_) => return Ok(Verdict::Drop(reason.into())),
                // A pair may be longer than what the model can read at once.
                Err(Error::Unanswered(_)) => return Ok(Verdict::Drop("not-scored".into())),
                Err(error) => return Err(error),
            }
        }
        Ok(Verdict::Keep)
    }
}

export_filter!(PerplexityFilter);

#[cfg(test)]
mod tests {
    use aligner_sdk::{Answer, Request, Score, VariantRole, testing};

    use super::*;

    /// Filters with a model for which a text that begins with "Odd" has a perplexity of
    /// `exp(4)`, about 54.6, and any other one of `e`.
    fn filter(config: &str, record: &Record) -> Verdict {
        let plugin: PerplexityFilter = testing::plugin(config).unwrap();
        let model = |request: &Request| {
            let Request::Score(request) = request else { panic!("asked for text") };
            assert_eq!(request.prompt, Text::Raw("\n".into()));
            let nats = if request.completion.starts_with("Odd") { 4.0 } else { 1.0 };
            Answer::Score(Score { logprob: -3.0 * nats, tokens: 3 })
        };
        testing::filter(&plugin, record, model).unwrap()
    }

    fn check(config: &str, prompt: &str, answer: &str, expected: Option<&str>) {
        let expected = expected.map_or(Verdict::Keep, |reason| Verdict::Drop(reason.into()));
        assert_eq!(filter(config, &testing::answered("p-1", prompt, answer)), expected);
    }

    #[test]
    fn answer_and_pair_are_both_under_their_bounds() {
        check("{}", "Why?", "Because.", None);
        check("{}", "Why?", "Odd.", Some("output-perplexity"));
        check("{}", "Odd?", "Because.", Some("pair-perplexity"));
        check(r#"{"output_under": 60}"#, "Why?", "Odd.", None);
        check(r#"{"pair_under": 60}"#, "Odd?", "Because.", None);
        check(r#"{"output_under": 2.7}"#, "Why?", "Because.", Some("output-perplexity"));
        check("{}", "Why?", " \n", Some("empty"));
    }

    #[test]
    fn the_pair_is_scored_as_one_text() {
        let mut asked = Vec::new();
        let plugin: PerplexityFilter = testing::plugin(r#"{"model": "initial"}"#).unwrap();
        let record = testing::answered("p-1", " Why? ", " Because.\n");
        let model = |request: &Request| {
            asked.push(request.clone());
            Answer::Score(Score { logprob: -1.0, tokens: 1 })
        };
        testing::filter(&plugin, &record, model).unwrap();
        let expected = ["Because.", "Why?\nBecause."]
            .map(|text| ScoreRequest::of("initial", Text::Raw("\n".into()), text).into());
        assert_eq!(asked, expected);
    }

    #[test]
    fn every_completion_counts() {
        let mut record = testing::answered("p-1", "Why?", "Because.");
        record.variants.push(testing::variant("bad", VariantRole::Bad, "Why?", "Odd."));
        assert_eq!(filter("{}", &record), Verdict::Drop("output-perplexity".into()));
    }

    #[test]
    fn what_cannot_be_scored_is_dropped() {
        let plugin: PerplexityFilter = testing::plugin("{}").unwrap();
        let record = testing::answered("p-1", "Why?", "Because.");
        let deaf = |_: &Request| Answer::Unanswered("too long".into());
        let verdict = testing::filter(&plugin, &record, deaf);
        assert_eq!(verdict, Ok(Verdict::Drop("not-scored".into())));
        let failed = testing::plugin::<PerplexityFilter>(r#"{"pair_under": 1}"#).err();
        assert!(matches!(failed, Some(Error::Config(text)) if text.contains("`pair_under` is 1")));
    }

    #[test]
    fn awkward_records_get_a_verdict() {
        for record in testing::awkward() {
            filter("{}", &record);
        }
    }
}
