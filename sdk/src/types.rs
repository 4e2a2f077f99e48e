//! The contract's types, with what makes them handy.

use crate::Error;
pub use crate::bindings::common::aligner::plugin::types::{
    Answer, Completion, Context, Decoding, Exemplar, Finish, GenerateRequest, Measurement, Message,
    Pair, Prompt, Record, Request, Reward, RewardRequest, Score, ScoreRequest, Speaker, Text, Turn,
    Variant, VariantRole,
};
pub use crate::bindings::common::aligner::plugin::verdicts::{Revision, Verdict};
pub use crate::bindings::judge::exports::aligner::plugin::judge::Opinion;
pub use crate::bindings::sampler::exports::aligner::plugin::sampler::{
    Candidate, Card, Equipment, Slot,
};

impl Text {
    /// Returns a conversation of one user message.
    pub fn user(content: impl Into<String>) -> Text {
        Text::Chat(vec![Message { speaker: Speaker::User, content: content.into() }])
    }

    /// Returns the words a person would recognise the prompt by: the raw text, or the last message
    /// of the user.
    pub fn gist(&self) -> &str {
        match self {
            Text::Raw(text) => text,
            Text::Chat(messages) => messages
                .iter()
                .rfind(|message| message.speaker == Speaker::User)
                .map_or("", |message| &message.content),
        }
    }

    /// Returns a task as one user message: the instruction and, where there is an input to work on,
    /// a blank line and the input.
    pub fn task(instruction: &str, input: &str) -> Text {
        match input.trim() {
            "" => Text::user(instruction.trim()),
            input => Text::user(format!("{}\n\n{input}", instruction.trim())),
        }
    }

    /// Returns the instruction and the input of a task, each without white space around it. They
    /// part at the first blank line; where there is none, the input is empty.
    pub fn instruction_and_input(&self) -> (&str, &str) {
        let text = self.gist().trim();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            if line.trim().is_empty() {
                return (text[..start].trim_end(), text[start..].trim_start());
            }
            start += line.len();
        }
        (text, "")
    }
}

impl Record {
    /// Returns the variant of that name.
    pub fn variant(&self, name: &str) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.name == name)
    }

    /// Returns every completion there is, each with its variant.
    pub fn completions(&self) -> impl Iterator<Item = (&Variant, &Completion)> {
        self.variants.iter().filter_map(|v| v.completion.as_ref().map(|completion| (v, completion)))
    }

    /// Returns the measurement of that name.
    pub fn measurement(&self, name: &str) -> Option<f64> {
        self.measurements.iter().find(|it| it.name == name).map(|it| it.value)
    }

    /// Returns a judge's number for the completion of a variant.
    pub fn reward(&self, variant: &str, name: &str) -> Option<f64> {
        let found = self.rewards.iter().find(|it| it.variant == variant && it.name == name);
        found.map(|reward| reward.value)
    }
}

impl Variant {
    /// Returns a variant that is still to be completed.
    pub fn new(name: impl Into<String>, role: VariantRole, prompt: Text) -> Variant {
        Variant { name: name.into(), role, prompt, completion: None }
    }
}

impl Decoding {
    /// Returns settings under which the likeliest token is always taken.
    pub fn greedy() -> Decoding {
        Decoding { temperature: Some(0.0), ..Decoding::default() }
    }
}

/// Leaves everything to `[generate]` of the plugin set.
impl Default for Decoding {
    fn default() -> Decoding {
        Decoding {
            temperature: None,
            top_p: None,
            top_k: None,
            repetition_penalty: None,
            max_new_tokens: None,
            stop: None,
        }
    }
}

impl GenerateRequest {
    /// Asks a model (`policy`, `initial`, `previous`, or a name from `[models]`) to complete a
    /// prompt, decoded as in `[generate]`.
    pub fn of(model: impl Into<String>, prompt: Text) -> GenerateRequest {
        GenerateRequest { model: model.into(), prompt, decoding: Decoding::default(), seed: 0 }
    }
}

impl ScoreRequest {
    /// Asks a model (`policy`, `initial`, `previous`, or a name from `[models]`) how likely a
    /// completion of a prompt is.
    pub fn of(
        model: impl Into<String>,
        prompt: Text,
        completion: impl Into<String>,
    ) -> ScoreRequest {
        ScoreRequest { model: model.into(), prompt, completion: completion.into() }
    }
}

impl RewardRequest {
    /// Asks a reward model (a name from `[models]`, or what a round saved) what it gives a completion of
    /// a prompt.
    pub fn of(
        model: impl Into<String>,
        prompt: Text,
        completion: impl Into<String>,
    ) -> RewardRequest {
        RewardRequest { model: model.into(), prompt, completion: completion.into() }
    }
}

impl Answer {
    /// Returns the completion, where one was asked for; [`Error::Unanswered`] where the host could not
    /// carry out the request.
    pub fn completion(self) -> Result<Completion, Error> {
        match self {
            Answer::Completion(completion) => Ok(completion),
            other => Err(other.unasked()),
        }
    }

    /// Returns the score, where one was asked for; otherwise as [`Answer::completion`].
    pub fn score(self) -> Result<Score, Error> {
        match self {
            Answer::Score(score) => Ok(score),
            other => Err(other.unasked()),
        }
    }

    /// Returns the reward, where one was asked for; otherwise as [`Answer::completion`].
    pub fn reward(self) -> Result<f64, Error> {
        match self {
            Answer::Reward(reward) => Ok(reward),
            other => Err(other.unasked()),
        }
    }

    fn unasked(self) -> Error {
        let came = match self {
            Answer::Unanswered(why) => return Error::Unanswered(why),
            Answer::Completion(_) => "a completion",
            Answer::Score(_) => "a score",
            Answer::Reward(_) => "a reward",
        };
        Error::Internal(format!("{came} came for another request"))
    }
}

impl Score {
    /// Returns `exp(-logprob / tokens)`, at least 1.
    pub fn perplexity(&self) -> f64 {
        (-self.logprob / f64::from(self.tokens)).exp()
    }
}

impl From<GenerateRequest> for Request {
    fn from(request: GenerateRequest) -> Request {
        Request::Generate(request)
    }
}

impl From<ScoreRequest> for Request {
    fn from(request: ScoreRequest) -> Request {
        Request::Score(request)
    }
}

impl From<RewardRequest> for Request {
    fn from(request: RewardRequest) -> Request {
        Request::Reward(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_parts_at_its_first_blank_line() {
        let check = |text: &str, instruction: &str, input: &str| {
            assert_eq!(Text::user(text).instruction_and_input(), (instruction, input), "{text:?}");
        };
        check("Why?", "Why?", "");
        check("Sum up.\n\nOne.\n\nTwo.", "Sum up.", "One.\n\nTwo.");
        check("Sum up\nthis.\r\n \t\r\n\n One. \n", "Sum up\nthis.", "One.");
        check("\n\nWhy?\n\n", "Why?", "");
        check("", "", "");
    }

    #[test]
    fn a_task_comes_back_as_it_was_put_together() {
        for (instruction, input) in [("Why?", ""), ("Sum up.", "One.\n\nTwo.")] {
            assert_eq!(
                Text::task(instruction, input).instruction_and_input(),
                (instruction, input)
            );
        }
        assert_eq!(Text::task(" Why? ", " \n"), Text::user("Why?"));
    }
}
