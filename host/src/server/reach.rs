//! Single calls: the address, the key, what went wrong in words, and the list of models.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::ServerError;
use crate::plugin_set::Server as Settings;
use crate::shown::{chain, one_line};

/// What an answer may have. The logprobs of a context of a million tokens have a tenth of that.
const MAX_ANSWER_BYTES: usize = 1 << 26;
/// What is read of a refusal.
const MAX_REFUSAL_BYTES: usize = 1 << 16;
/// How long a server may take to take a connection up.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a list of models may take.
const LIST: Duration = Duration::from_secs(20);
/// What is read of a connection at a time: there are as many as requests under way.
const READ_BYTES: usize = 2048;
const AGENT: &str = concat!("aligner/", env!("CARGO_PKG_VERSION"));

/// How a server is called. Where it sends elsewhere nobody follows: it would get the key.
#[derive(Clone)]
pub(super) struct Reach {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    server: String,
    key: Option<String>,
    patience: Duration,
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
        if key.is_some_and(|key| HeaderValue::from_str(&format!("Bearer {key}")).is_err()) {
            return Err(format!("its key in {} is not one that can be sent", super::KEYS));
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_platform_verifier(rustls::crypto::ring::default_provider())
            .map_err(|error| error.to_string())?
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .http1_read_buf_exact_size(READ_BYTES)
            .build(https);
        let patience = Duration::from_secs(settings.timeout_seconds.into());
        let (server, key) = (settings.server.clone(), key.map(str::to_owned));
        Ok(Reach { client, server, key, patience })
    }

    /// Sends a body to a path, and returns what comes of it.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Called {
        self.call(Method::POST, path, body, self.patience).await
    }

    /// Returns the models that the server lists.
    pub async fn models(&self) -> Result<Vec<Listed>, ServerError> {
        let server = || self.server.clone();
        let (what, seconds) = ("the list of models".to_owned(), 0);
        match self.call(Method::GET, "/v1/models", Vec::new(), LIST).await {
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

    async fn call(&self, method: Method, path: &str, body: Vec<u8>, patience: Duration) -> Called {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header(USER_AGENT, AGENT)
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {key}"))
        {
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = match request.body(Full::from(body)) {
            Ok(request) => request,
            Err(error) => return Called::Failed(error.to_string()),
        };
        match timeout(patience, self.exchange(request)).await {
            Ok(called) => called,
            Err(_) => Called::Slow(format!("it has not answered within {} s", patience.as_secs())),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Called {
        let mut answer = match self.client.request(request).await {
            Ok(answer) => answer,
            Err(error) => return Called::Away(unreached(&chain(&error))),
        };
        let status = answer.status();
        let most = if status.is_success() { MAX_ANSWER_BYTES } else { MAX_REFUSAL_BYTES };
        let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok());
        let after = after.and_then(|after| after.trim().parse().ok()).map(Duration::from_secs);
        let to = answer.headers().get(LOCATION).filter(|_| status.is_redirection());
        let to = to.map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
        let mut bytes = Vec::new();
        while let Some(frame) = answer.frame().await {
            match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) if bytes.len() + data.len() <= most => bytes.extend(data),
                Ok(Ok(_)) if status.is_success() => {
                    return Called::Failed(format!("the answer has more than {most} bytes"));
                }
                Ok(Ok(_)) => break,
                // What comes after the answer.
                Ok(Err(_)) => {}
                Err(error) if status.is_success() => {
                    return Called::Away(one_line(&chain(&error), 300));
                }
                Err(_) => break,
            }
        }
        if status.is_success() {
            return match self.holds_key(&bytes) {
                true => Called::Failed("its answer holds the key that it was sent".to_owned()),
                false => Called::Answered(bytes),
            };
        }
        let message = match to {
            Some(to) => {
                format!("it sends to `{}`, where nobody follows", one_line(&self.masked(&to), 200))
            }
            None => words(&self.masked(&String::from_utf8_lossy(&bytes))),
        };
        let why = match message.as_str() {
            "" => format!("status {status}"),
            message => format!("status {status}: \"{message}\""),
        };
        match status.as_u16() {
            // What stands before a server says the last two while that starts.
            429 | 503 | 502 | 504 => Called::Busy { after, why },
            408 | 500..=599 => Called::Failed(why),
            status => Called::Refused { status, message },
        }
    }

    /// Returns what a server says without the key, which nobody keeps: some servers repeat it.
    fn masked(&self, text: &str) -> String {
        match self.key.as_deref().filter(|key| !key.is_empty()) {
            None => text.to_owned(),
            Some(key) => text.replace(key, "KEY"),
        }
    }

    /// Returns whether an answer repeats the key. A short one, such as `test`, is a word like any other and no secret.
    fn holds_key(&self, bytes: &[u8]) -> bool {
        const SECRET: usize = 16;
        let key = self.key.as_deref().filter(|key| key.len() >= SECRET);
        key.is_some_and(|key| bytes.windows(key.len()).any(|window| window == key.as_bytes()))
    }
}

/// Says why a server was not reached.
fn unreached(why: &str) -> String {
    let why = one_line(why, 300);
    // What a server without TLS says to who begins with it.
    match why.contains("InvalidContentType") {
        true => format!("it does not speak TLS, so its address begins with `http:` ({why})"),
        false => why,
    }
}

/// Returns what a server says of a refusal, on one line.
fn words(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let places = [&value["error"]["message"], &value["message"], &value["detail"], &value["error"]];
    let found = places.into_iter().find_map(|place| place.as_str().map(str::to_owned));
    let structured = match &value["detail"] {
        detail @ Value::Array(_) => Some(detail.to_string()),
        _ => None,
    };
    let words = found.or(structured).unwrap_or_else(|| text.to_owned());
    one_line(&words, 300)
}

/// Returns whether a model's name is that of an adapter of some run.
fn is_adapter(name: &str) -> bool {
    let digest = name.strip_prefix(super::ADAPTER);
    digest.is_some_and(|it| it.len() == 16 && it.bytes().all(|byte| byte.is_ascii_hexdigit()))
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
    // Adapters, of which one may be what a run that was killed has left.
    let is_model = |model: &Model| model.parent.is_none() && !is_adapter(&model.id);
    let models = list.data.into_iter().filter(is_model);
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
