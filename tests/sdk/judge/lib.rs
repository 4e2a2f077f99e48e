//! Rewards completions that the model finds likely after words of its own. For tests.

use aligner_sdk::{
    Ask, Context, Decoding, Error, GenerateRequest, Judge, Opinion, Plugin, Record, Reward,
    ScoreRequest, export_judge, log,
};

/// The plugin.
pub struct Likely;

impl Plugin for Likely {
    type Config = ();
    const NAME: &'static str = "likely";
    const SUMMARY: &'static str = "Rewards likely completions. For tests.";

    fn new(_: ()) -> Result<Self, Error> {
        Ok(Likely)
    }
}

impl Judge for Likely {
    fn judge(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<Opinion, Error> {
        // One request, then several that depend on its answer.
        let decoding =
            Decoding { temperature: Some(0.7), max_new_tokens: Some(3), ..Decoding::default() };
        let request = GenerateRequest::of("policy", record.prompt.text.clone());
        let first = ask.generate(GenerateRequest { decoding, seed: 7, ..request })?;
        let requests = record.completions().map(|(variant, completion)| {
            let text = format!("{}{}", first.text, completion.text);
            ScoreRequest::of("policy", variant.prompt.clone(), text).into()
        });
        let answers = ask.all(requests)?;
        log::info(&format!("{}: {}", record.prompt.id, answers.len()));
        let reward = |(variant, answer): (&aligner_sdk::Variant, aligner_sdk::Answer)| {
            let score = answer.score()?;
            let value = score.logprob / f64::from(score.tokens);
            Ok(Reward { variant: variant.name.clone(), name: "likely".into(), value })
        };
        let judged = record.completions().map(|(variant, _)| variant).zip(answers);
        Ok(Opinion::Rewards(judged.map(reward).collect::<Result<_, Error>>()?))
    }
}

export_judge!(Likely);
