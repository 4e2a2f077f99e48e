//! A model on a server: `[models] policy = { server = "http://…", base = "…" }`.

use serde::{Deserialize, Serialize};
use url::Url;

/// An OpenAI-compatible server that answers for a model.
///
/// What the embedded engine needs to know of the model (tokenizer, chat template, sizes) comes from its base,
/// which `[models]` holds under the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where it is, without `/v1`, for example `http://10.0.0.7:8000`.
    pub server: String,
    /// What the server calls the model. Default: the one that it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What the embedded engine does in its place. Default: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embedded: Vec<EmbeddedWork>,
    /// How far the logprobs of a token may be from the embedded engine's, on average over what the server is
    /// tried with, in nats. Default: 0.1.
    pub probe_bound: f64,
    /// Requests that are under way at once. Default: 256.
    pub in_flight: u32,
    /// How long one request may take, in seconds. Default: 600.
    pub timeout_seconds: u32,
    /// How long the server may answer nothing before the run stops, in seconds. Default: 300.
    pub patience_seconds: u32,
    /// How many tokens the run may have read and written there. Default: as many as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// What becomes of a run that has used them up. Default: it stops.
    pub on_budget: OnBudget,
}

/// What the embedded engine can do in the place of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmbeddedWork {
    /// Whatever a policy with an adapter does: the server cannot load any.
    Adapters,
    /// Scoring: the server gives no logprobs of prompts, or other ones.
    Scores,
}

/// What becomes of a run whose budget of tokens on a server is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBudget {
    /// It stops, and goes on where it is given more.
    Stop,
    /// What is not done by then is left out.
    Drop,
}

impl Server {
    /// Returns a server with every setting at its default.
    pub fn at(server: &str) -> Server {
        Server {
            server: server.to_owned(),
            model: None,
            embedded: Vec::new(),
            probe_bound: 0.1,
            in_flight: 256,
            timeout_seconds: 600,
            patience_seconds: 300,
            tokens: None,
            on_budget: OnBudget::Stop,
        }
    }

    /// Returns it without what may differ between the starts of one run: where it is, how patient one is with
    /// it, and how much it may still do.
    pub fn deciding(&self) -> Server {
        let Server { model, embedded, .. } = self.clone();
        Server { model, embedded, ..Server::at("") }
    }

    /// Returns whether the embedded engine does something in its place.
    pub fn leaves(&self, what: EmbeddedWork) -> bool {
        self.embedded.contains(&what)
    }
}

/// Returns the address of a server without `/v1` and slashes at its end, or what is wrong with it.
pub fn checked_address(address: &str) -> Result<String, &'static str> {
    let url = Url::parse(address).map_err(|_| "is no address")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("is no `http:` or `https:` address");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "holds a login, and plugin sets hold no secrets: keys come from the environment",
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment");
    }
    let text = url.as_str().trim_end_matches('/');
    Ok(text.strip_suffix("/v1").unwrap_or(text).trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let check = |address: &str, expected: Result<&str, &str>| {
            assert_eq!(checked_address(address), expected.map(str::to_owned), "{address}");
        };
        check("http://127.0.0.1:8000", Ok("http://127.0.0.1:8000"));
        check("http://127.0.0.1:8000/v1/", Ok("http://127.0.0.1:8000"));
        check("https://api.example.org/v1", Ok("https://api.example.org"));
        check("https://example.org/models/a/", Ok("https://example.org/models/a"));
        check("127.0.0.1:8000", Err("is no address"));
        check("localhost:8000", Err("is no `http:` or `https:` address"));
        check("ftp://example.org", Err("is no `http:` or `https:` address"));
        check(
            "https://a:b@example.org",
            Err("holds a login, and plugin sets hold no secrets: keys come from the environment"),
        );
        check("https://example.org/?key=1", Err("has a query or a fragment"));
    }
}
