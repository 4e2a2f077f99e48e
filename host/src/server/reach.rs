//! Single calls: the address, the key, what went wrong in words, and the list of models.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, redirect};
use serde::Deserialize;
use serde_json::Value;

use super::ServerError;
use crate::plugin_set::Server as Settings;
use crate::shown::one_line;

/// What an answer may have. The logprobs of a context of a million tokens have a tenth of that.
const MAX_ANSWER_BYTES: usize = 1 << 30;
/// What is read of a refusal.
const MAX_REFUSAL_BYTES: usize = 1 << 16;
/// How long a server may take to take a connection up.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a list of models may take.
const LIST: Duration = Duration::from_secs(20);
const USER_AGENT: &str = concat!("aligner/", env!("CARGO_PKG_VERSION"));

/// How a server is called.
#[derive(Clone)]
pub(super) struct Reach {
    client: Client,
    server: String,
    key: Option<String>,
}

/// What came of a call.
pub(super) enum Called {
    /// An answer, which may be no good.
    Answered(Vec<u8>),
    /// It has too much to do.
    Busy {
        /// When it wants to be asked again.
        after: Option<Duration>,
        why: String,
    },
    /// It did not get through, or not to the end.
    Away(String),
    /// It took longer than it may.
    Slow(String),
    /// It failed over this.
    Failed(String),
    /// It says no.
    Refused { status: u16, message: String },
}

/// A model that a server lists.
pub(super) struct Listed {
    pub id: String,
    pub owned_by: String,
    pub context: Option<usize>,
}

impl Reach {
    /// Fails where there can be no client, in words.
    pub fn new(settings: &Settings, key: Option<&str>) -> Result<Reach, String> {
        // Another one may be there already, which will do as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if key.is_some_and(|key| HeaderValue::from_str(&format!("Bearer {key}")).is_err()) {
            return Err(format!("its key in {} is not one that can be sent", super::KEYS));
        }
        // A server that sends elsewhere would send the key along.
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(Duration::from_secs(settings.timeout_seconds.into()))
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none())
            .http1_only()
            .build()
            .map_err(|error| chain(&error))?;
        Ok(Reach { client, server: settings.server.clone(), key: key.map(str::to_owned) })
    }

    /// Sends a body to a path, and returns what comes of it.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Called {
        let request = self.client.post(format!("{}{path}", self.server));
        let json = ("content-type", "application/json");
        self.call(request.header(json.0, json.1).body(body)).await
    }

    /// Returns the models that the server lists.
    pub async fn models(&self) -> Result<Vec<Listed>, ServerError> {
        let request = self.client.get(format!("{}/v1/models", self.server)).timeout(LIST);
        let server = || self.server.clone();
        let (what, seconds) = ("the list of models".to_owned(), 0);
        match self.call(request).await {
            Called::Answered(bytes) => listed(&bytes).map_err(|why| ServerError::Broken {
                server: server(),
                what,
                tries: 1,
                why,
            }),
            Called::Refused { status, message } => {
                Err(ServerError::Refused { server: server(), what, status, message })
            }
            Called::Busy { why, .. }
            | Called::Away(why)
            | Called::Slow(why)
            | Called::Failed(why) => Err(ServerError::Away { server: server(), seconds, why }),
        }
    }

    async fn call(&self, mut request: RequestBuilder) -> Called {
        if let Some(key) = &self.key
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {key}"))
        {
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return away(&error),
        };
        let status = answer.status();
        let most = if status.is_success() { MAX_ANSWER_BYTES } else { MAX_REFUSAL_BYTES };
        let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok());
        let after = after.and_then(|after| after.trim().parse().ok()).map(Duration::from_secs);
        let mut bytes = Vec::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() <= most => bytes.extend(chunk),
                Ok(Some(_)) if status.is_success() => {
                    return Called::Failed(format!("the answer has more than {most} bytes"));
                }
                Ok(Some(_)) | Ok(None) => break,
                Err(error) if status.is_success() => return away(&error),
                Err(_) => break,
            }
        }
        let message = self.words(&bytes);
        let why = match message.as_str() {
            "" => format!("status {status}"),
            message => format!("status {status}: \"{message}\""),
        };
        match status.as_u16() {
            200..=299 => Called::Answered(bytes),
            429 | 503 => Called::Busy { after, why },
            408 | 500..=599 => Called::Failed(why),
            status => Called::Refused { status, message },
        }
    }

    /// Returns what a server says of a refusal, on one line, without the key: some repeat it.
    fn words(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let places =
            [&value["error"]["message"], &value["message"], &value["detail"], &value["error"]];
        let found = places.into_iter().find_map(|place| place.as_str().map(str::to_owned));
        let structured = match &value["detail"] {
            detail @ Value::Array(_) => Some(detail.to_string()),
            _ => None,
        };
        let words = found.or(structured).unwrap_or_else(|| text.into_owned());
        let words = match &self.key {
            Some(key) if !key.is_empty() => words.replace(key.as_str(), "KEY"),
            _ => words,
        };
        one_line(&words, 300)
    }
}

/// Says how a call did not get through.
fn away(error: &reqwest::Error) -> Called {
    match error.is_timeout() && !error.is_connect() {
        true => Called::Slow("it has not answered within `timeout_seconds`".into()),
        false => Called::Away(chain(error)),
    }
}

/// Returns an error with what is behind it, without the address, which is said already.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&words);
        }
        cause = error.source();
    }
    match text.is_empty() {
        true => one_line(&error.to_string(), 300),
        false => one_line(&text, 300),
    }
}

fn listed(bytes: &[u8]) -> Result<Vec<Listed>, String> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
        #[serde(default)]
        owned_by: String,
        #[serde(default)]
        max_model_len: Option<usize>,
        /// Of an adapter, the model that it goes beside.
        #[serde(default)]
        parent: Option<String>,
    }
    let list: List =
        serde_json::from_slice(bytes).map_err(|error| one_line(&error.to_string(), 200))?;
    let models = list.data.into_iter().filter(|model| model.parent.is_none());
    let listed = models.map(|model| Listed {
        id: model.id,
        owned_by: model.owned_by,
        context: model.max_model_len,
    });
    Ok(listed.collect())
}

/// Returns the model that is wanted: the one that is named, or the only one.
pub(super) fn choose(settings: &Settings, listed: Vec<Listed>) -> Result<Listed, ServerError> {
    let names: Vec<String> =
        listed.iter().take(8).map(|model| format!("`{}`", one_line(&model.id, 100))).collect();
    let model = |what: String, hint: &str| ServerError::Model {
        server: settings.server.clone(),
        what,
        hint: hint.to_owned(),
    };
    match &settings.model {
        Some(wanted) => listed.into_iter().find(|model| model.id == *wanted).ok_or_else(|| {
            let serves = match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            };
            model(
                format!("does not serve `{wanted}`: it serves {serves}"),
                "`model` of the model's table in `[models]` is what the server calls it",
            )
        }),
        None => {
            let count = listed.len();
            let mut listed = listed.into_iter();
            match (listed.next(), count) {
                (Some(only), 1) => Ok(only),
                (None, _) => Err(model("serves no model".into(), "start it with one")),
                _ => Err(model(
                    format!("serves several models: {}", names.join(", ")),
                    "`model` of the model's table in `[models]` says which one is meant",
                )),
            }
        }
    }
}
