//! What is sent to a server, and what may come back: `/v1/completions`, token ids in, text and logprobs out.
//!
//! Every sampling field is sent, since a server takes what is missing from the model's `generation_config.json`
//! or from defaults of its own.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::generate::Sampling;
use crate::record::Finish;

/// The kinds of servers, which differ in the fields that go beyond OpenAI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp's `llama-server`.
    LlamaServer,
    /// The server of `llama-cpp-python`, which takes text alone.
    LlamaCppPython,
    /// Any other: OpenAI's fields and no more.
    Other,
}

impl Dialect {
    /// Returns the kind of the server that says so of who owns its models.
    pub fn of(owned_by: &str) -> Dialect {
        match owned_by {
            "vllm" => Dialect::Vllm,
            "sglang" => Dialect::Sglang,
            "llamacpp" => Dialect::LlamaServer,
            "me" => Dialect::LlamaCppPython,
            _ => Dialect::Other,
        }
    }

    /// Returns what people call it.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Vllm => "vLLM",
            Dialect::Sglang => "SGLang",
            Dialect::LlamaServer => "llama-server",
            Dialect::LlamaCppPython => "llama-cpp-python",
            Dialect::Other => "a server of another kind",
        }
    }

    /// Returns whether prompts go as token ids; else as the text that reads as these.
    pub fn takes_tokens(self) -> bool {
        self != Dialect::LlamaCppPython
    }

    /// Returns whether it can say how likely the tokens of a prompt are.
    pub fn scores(self) -> bool {
        self != Dialect::LlamaServer
    }

    /// Returns the setting that it does not have, where a sampling needs one.
    pub fn lacks(self, sampling: &Sampling, stops: usize) -> Option<&'static str> {
        match self {
            Dialect::Other if sampling.top_k > 0 => Some("top_k"),
            Dialect::Other if sampling.repetition_penalty != 1.0 => Some("repetition_penalty"),
            Dialect::Other if stops > 4 => Some("more than four stop strings"),
            _ => None,
        }
    }
}

/// One thing to ask.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids of the prompt, or of all that is scored.
    pub tokens: Vec<u32>,
    /// The text that reads as these, for a server that takes text.
    pub text: Option<String>,
    /// What is wanted of them.
    pub work: Work,
}

/// What is wanted of some tokens.
#[derive(Clone, Debug)]
pub enum Work {
    /// That they go on.
    Complete {
        /// How tokens are drawn.
        sampling: Sampling,
        /// Texts before which it ends.
        stop: Vec<String>,
        /// Tokens with which it ends.
        end_tokens: Vec<u32>,
        /// Of the draws.
        seed: u64,
    },
    /// The logprob of each token from this place on; at least 1.
    Score {
        /// From 0.
        from: usize,
    },
}

impl Request {
    /// Returns the largest number of tokens that it can make a server read and write.
    pub fn most_tokens(&self) -> u64 {
        self.tokens.len() as u64 + u64::from(self.expected().most)
    }

    /// Returns what its answer is held against.
    pub fn expected(&self) -> Expected {
        let (most, from) = match &self.work {
            Work::Complete { sampling, .. } => (sampling.max_new_tokens as u32, None),
            Work::Score { from } => (1, Some(*from)),
        };
        Expected { tokens: self.tokens.len(), most, from }
    }

    /// Returns it as a server takes it.
    pub fn body(&self, dialect: Dialect, model: &str) -> Value {
        let prompt = match &self.text {
            Some(text) => json!(text),
            None => json!(self.tokens),
        };
        let mut body = json!({
            "model": model,
            "prompt": prompt,
            "n": 1,
            "stream": false,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        });
        let mut add = |key: &str, value: Value| {
            body[key] = value;
        };
        let (sampling, stop, end_tokens, seed) = match &self.work {
            Work::Complete { sampling, stop, end_tokens, seed } => {
                add("echo", json!(false));
                (*sampling, stop.as_slice(), end_tokens.as_slice(), *seed)
            }
            Work::Score { .. } => {
                add("echo", json!(true));
                // One token is written, since many servers write no fewer.
                (Sampling::greedy(1), &[][..], &[][..], 0)
            }
        };
        add("max_tokens", json!(sampling.max_new_tokens));
        add("temperature", json!(sampling.temperature));
        add("top_p", json!(sampling.top_p));
        add("stop", json!(stop));
        // What all of them take: 31 bits.
        add("seed", json!(seed >> 33));
        add("logprobs", json!(1));
        match dialect {
            Dialect::Vllm | Dialect::Sglang => {
                add(
                    "top_k",
                    json!(if sampling.top_k == 0 { -1 } else { i64::from(sampling.top_k) }),
                );
                add("min_p", json!(0.0));
                add("repetition_penalty", json!(sampling.repetition_penalty));
                add("stop_token_ids", json!(end_tokens));
                add("skip_special_tokens", json!(true));
                add("ignore_eos", json!(false));
            }
            Dialect::LlamaServer | Dialect::LlamaCppPython => {
                add("top_k", json!(sampling.top_k));
                add("min_p", json!(0.0));
                add("repeat_penalty", json!(sampling.repetition_penalty));
            }
            Dialect::Other => {}
        }
        match dialect {
            Dialect::Vllm => {
                add("add_special_tokens", json!(false));
                add("include_stop_str_in_output", json!(false));
                add("return_token_ids", json!(true));
            }
            Dialect::LlamaServer => {
                add("typical_p", json!(1.0));
                // All of them, where it would count the last 64.
                add("repeat_last_n", json!(-1));
                add("mirostat", json!(0));
            }
            Dialect::LlamaCppPython => add("mirostat_mode", json!(0)),
            Dialect::Sglang | Dialect::Other => {}
        }
        body
    }
}

/// What the answer to a request is held against.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// How many tokens were sent.
    tokens: usize,
    /// How many may have been written.
    most: u32,
    /// The first token to be scored, where they are.
    from: Option<usize>,
}

/// Tokens that a server may write beyond those that it was allowed: llama.cpp's in Python ends no text within a
/// character, whose bytes can be a token each.
const OF_A_CHARACTER: u32 = 3;

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// How a prompt goes on.
    Completed(Completed),
    /// The logprob of each token that was to be scored, in nats.
    Scored(Vec<f64>),
}

/// How a prompt goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Completed {
    /// As the server spells it, without special tokens.
    pub text: String,
    /// Its tokens, where the server gives them.
    pub token_ids: Option<Vec<u32>>,
    /// How many tokens were drawn.
    pub tokens: u32,
    /// Sum over these of log p, in nats.
    pub logprob: f64,
    /// Why it ends.
    pub finish: Finish,
}

/// What an answer has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens read.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens written.
    #[serde(default)]
    pub completion_tokens: u64,
}

impl Usage {
    /// Returns how many tokens were read and written.
    pub fn tokens(self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is not whole: asking again may help.
    Broken(String),
    /// It cannot be right.
    Wrong(String),
}

#[derive(Deserialize)]
struct Answer {
    model: Option<String>,
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    text: String,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
    token_ids: Option<Vec<u32>>,
}

/// Of OpenAI's completions, or of its chats, which `llama-server` gives for both.
#[derive(Deserialize)]
#[serde(untagged)]
enum Logprobs {
    Completion { token_logprobs: Vec<Option<f64>> },
    Chat { content: Vec<Token> },
}

#[derive(Deserialize)]
struct Token {
    logprob: f64,
}

impl Expected {
    /// Reads the answer of a server that was asked for `model`.
    pub fn read(&self, model: &str, answer: &[u8]) -> Result<(Reply, Usage), Misfit> {
        let answer: Answer = serde_json::from_slice(answer).map_err(|error| {
            let length = answer.len();
            let text = String::from_utf8_lossy(&answer[..length.min(400)]);
            let begins = crate::shown::one_line(&text, 100);
            Misfit::Broken(format!("{length} bytes that are no answer ({error}): `{begins}`"))
        })?;
        let wrong = |why: String| Err(Misfit::Wrong(why));
        if let Some(other) = answer.model.filter(|other| other != model) {
            let other = crate::shown::one_line(&other, 100);
            return wrong(format!("it is of model `{other}`, and `{model}` was asked"));
        }
        let Some(usage) = answer.usage else {
            return wrong("it does not say how many tokens were read (`usage`)".into());
        };
        let mut choices = answer.choices.into_iter();
        let (Some(choice), None) = (choices.next(), choices.next()) else {
            return wrong("it has not one choice".into());
        };
        if usage.prompt_tokens != self.tokens as u64 {
            let (theirs, ours) = (usage.prompt_tokens, self.tokens);
            return wrong(format!("it counts {theirs} tokens in a prompt of {ours}"));
        }
        if usage.completion_tokens > u64::from(self.most + OF_A_CHARACTER) {
            let (theirs, most) = (usage.completion_tokens, self.most);
            return wrong(format!("it has {theirs} tokens, and {most} were allowed"));
        }
        let written = usage.completion_tokens as usize;
        let logprobs = match choice.logprobs {
            None => return wrong("it has no logprobs".into()),
            Some(Logprobs::Completion { token_logprobs }) => token_logprobs,
            Some(Logprobs::Chat { content }) => {
                content.into_iter().map(|token| Some(token.logprob)).collect()
            }
        };
        let reply = match self.from {
            Some(from) => Reply::Scored(self.scored(&logprobs, written, from)?),
            None => {
                let finish = match choice.finish_reason.as_deref() {
                    Some("stop") => Finish::Stop,
                    Some("length") if written >= self.most as usize => Finish::Length,
                    Some("length") => {
                        let most = self.most;
                        return wrong(format!(
                            "it ends for its length after {written} of {most} tokens: its context is shorter"
                        ));
                    }
                    other => {
                        let other = crate::shown::one_line(other.unwrap_or("nothing"), 40);
                        return Err(Misfit::Broken(format!("it ends for `{other}`")));
                    }
                };
                if let Some(ids) = choice.token_ids.as_ref().filter(|ids| ids.len() != written) {
                    let given = ids.len();
                    return wrong(format!("it has {written} tokens and the ids of {given}"));
                }
                // Some count the token that ends a turn, some give its logprob, some neither.
                if logprobs.len().abs_diff(written) > 1 || (written > 1 && logprobs.is_empty()) {
                    let given = logprobs.len();
                    return wrong(format!("it has {written} tokens and logprobs of {given}"));
                }
                Reply::Completed(Completed {
                    text: choice.text,
                    token_ids: choice.token_ids,
                    tokens: (written.max(logprobs.len()) as u32).min(self.most + OF_A_CHARACTER),
                    logprob: sum(&logprobs)?,
                    finish,
                })
            }
        };
        Ok((reply, usage))
    }

    /// Returns the logprobs of the tokens to be scored out of those of prompt and completion. Some leave out
    /// those of begin-of-text tokens, so they are counted from behind.
    fn scored(
        &self,
        logprobs: &[Option<f64>],
        written: usize,
        from: usize,
    ) -> Result<Vec<f64>, Misfit> {
        let wanted = self.tokens - from;
        let end = logprobs.len().checked_sub(written).filter(|&end| end <= self.tokens);
        let range = end.and_then(|end| Some(end.checked_sub(wanted)?..end));
        let Some(range) = range else {
            return Err(Misfit::Wrong(format!(
                "it has logprobs of {} tokens, and {} were to be scored: it does not echo prompts",
                logprobs.len(),
                wanted
            )));
        };
        logprobs[range].iter().map(|&logprob| number(logprob)).collect()
    }
}

fn sum(logprobs: &[Option<f64>]) -> Result<f64, Misfit> {
    logprobs.iter().map(|&logprob| number(logprob)).sum()
}

/// Returns a logprob, which is a number and not above 0 but for rounding.
fn number(logprob: Option<f64>) -> Result<f64, Misfit> {
    match logprob {
        Some(logprob) if logprob.is_finite() && logprob < 1e-3 => Ok(logprob.min(0.0)),
        Some(logprob) => Err(Misfit::Wrong(format!("{logprob} is no logprob"))),
        None => Err(Misfit::Wrong("a token has no logprob".into())),
    }
}
