//! What is asked of a registry before a component is there: who it lets in, a manifest, a layer.
//!
//! `oci-client` reads the answers to these whole, and a registry may be anybody's. Here an answer has an end, a
//! token is one before it becomes a header, and nothing leads from `https:` to plain `http:`.

use std::time::Duration;

use http_auth::ChallengeParser;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciEnvelope};
use oci_client::manifest::OCI_IMAGE_MEDIA_TYPE;
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::{RegistryToken, RegistryTokenType};
use oci_client::{Reference, RegistryOperation};
use reqwest::header::{ACCEPT, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode, redirect};
use url::Url;

use super::super::{Fault, Fetcher, Patience, login};
use super::failed;
use crate::plugin_set::{check_url, is_loopback};
use crate::shown::chain;

/// What a registry may answer to anything but the wish for a layer. A manifest with a layer and a token have a
/// few kilobytes at most.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// How often a registry may send elsewhere.
const REDIRECTS: usize = 5;
const USER_AGENT: &str = concat!("aligner/", env!("CARGO_PKG_VERSION"));

/// A registry that says who it lets in, and what it was told.
pub(super) struct Session {
    client: reqwest::Client,
    patience: Patience,
    reference: Reference,
    /// `SCHEME://REGISTRY/v2/`
    base: String,
    is_here: bool,
    login: RegistryAuth,
}

impl Session {
    /// Logs in to the registry of a reference, where it wants a login and there is one.
    pub async fn open(
        reference: &Reference,
        fetcher: &Fetcher,
        operation: RegistryOperation,
    ) -> Result<Session, Fault> {
        let registry = reference.resolve_registry();
        // Another one may be there already, which will do as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let is_here = Url::parse(&format!("http://{registry}/"))
            .is_ok_and(|url| url.host().is_some_and(|host| is_loopback(&host)));
        let elsewhere = redirect::Policy::custom(|attempt| match check_url(attempt.url()) {
            Ok(()) if attempt.previous().len() <= REDIRECTS => attempt.follow(),
            Ok(()) => attempt.error(format!("it sends elsewhere more than {REDIRECTS} times")),
            Err(error) => attempt.error(format!("it sends to an address which {error}")),
        });
        let client = reqwest::Client::builder()
            .connect_timeout(fetcher.patience.connect)
            .read_timeout(fetcher.patience.silence)
            .user_agent(USER_AGENT)
            .https_only(!is_here)
            .redirect(elsewhere)
            .build()
            .map_err(|error| no_client(&chain(&error)))?;
        let scheme = if is_here { "http" } else { "https" };
        let mut session = Session {
            client,
            patience: fetcher.patience,
            reference: reference.clone(),
            base: format!("{scheme}://{registry}/v2/"),
            is_here,
            login: login::of(registry, fetcher.variable),
        };
        session.login = session.within(session.let_in(operation)).await?;
        Ok(session)
    }

    /// Returns the manifest that the reference names.
    pub async fn manifest(&self) -> Result<Vec<u8>, Fault> {
        let name = self.reference.digest().or(self.reference.tag()).unwrap_or("latest");
        self.within(async { whole(self.get("manifests", name, OCI_IMAGE_MEDIA_TYPE).await?).await })
            .await
    }

    /// Returns the beginning of the answer that is a layer.
    pub async fn layer(&self, digest: &str) -> Result<Response, Fault> {
        self.within(self.get("blobs", digest, "*/*")).await
    }

    /// Returns a client that pushes. It was let in already, and asks for no token of its own.
    pub async fn pusher(&self) -> Result<Client, Fault> {
        let config = ClientConfig {
            protocol: if self.is_here { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(self.patience.connect),
            read_timeout: Some(self.patience.silence),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| no_client(&chain(&error)))?;
        let token = match self.login.clone() {
            RegistryAuth::Anonymous => return Ok(client),
            RegistryAuth::Bearer(token) => {
                RegistryTokenType::Bearer(RegistryToken::Token { token })
            }
            RegistryAuth::Basic(user, password) => RegistryTokenType::Basic(user, password),
        };
        client.store_auth_if_needed(self.reference.resolve_registry(), &self.login).await;
        for operation in [RegistryOperation::Pull, RegistryOperation::Push] {
            client.tokens.insert(&self.reference, operation, token.clone()).await;
        }
        Ok(client)
    }

    /// Returns what requests carry from here on: a token of the registry where it gives them, else name and
    /// password where it wants them.
    async fn let_in(&self, operation: RegistryOperation) -> Result<RegistryAuth, Fault> {
        if let RegistryAuth::Bearer(token) = &self.login {
            return bearer(token);
        }
        let answer = self.client.get(&self.base).send().await.map_err(unreached)?;
        let Some(wants) = answer.headers().get(WWW_AUTHENTICATE) else {
            return Ok(RegistryAuth::Anonymous);
        };
        let Some((realm, service)) = token_server(wants) else {
            return Ok(self.login.clone());
        };
        let nowhere = |why: String| {
            Fault::new(format!("names a place for tokens that {why}"), "tell who runs the registry")
        };
        let mut url = Url::parse(&realm).map_err(|error| nowhere(format!("is none: {error}")))?;
        check_url(&url).map_err(|error| nowhere(error.to_string()))?;
        let actions = match operation {
            RegistryOperation::Pull => "pull",
            RegistryOperation::Push => "pull,push",
        };
        let scope = format!("repository:{}:{actions}", self.reference.repository());
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let answer = self.asking(self.client.get(url)).send().await.map_err(unreached)?;
        if answer.status() != StatusCode::OK {
            return Err(failed(&OciDistributionError::AuthenticationFailure(String::new())));
        }
        let token: serde_json::Value = serde_json::from_slice(&whole(answer).await?)
            .map_err(|error| no_token(&error.to_string()))?;
        let token = ["token", "access_token"].into_iter().find_map(|name| token[name].as_str());
        bearer(token.ok_or_else(|| no_token("it has none in it"))?)
    }

    /// Asks for something, and returns an answer that is it.
    async fn get(&self, what: &str, name: &str, accept: &str) -> Result<Response, Fault> {
        let url = format!("{}{}/{what}/{name}", self.base, self.reference.repository());
        let request = self.asking(self.client.get(&url)).header(ACCEPT, accept);
        let answer = request.send().await.map_err(unreached)?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let code = status.as_u16();
        // What it has to say is of use where it is short.
        let said = whole(answer).await.unwrap_or_default();
        let envelope = serde_json::from_slice::<OciEnvelope>(&said).ok();
        Err(failed(&match envelope.filter(|_| status.is_client_error()) {
            Some(_) if status == StatusCode::UNAUTHORIZED => {
                OciDistributionError::UnauthorizedError { url }
            }
            Some(envelope) => OciDistributionError::RegistryError { envelope, url },
            None => OciDistributionError::ServerError { code, url, message: said_in_short(&said) },
        }))
    }

    /// Adds who asks.
    fn asking(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.login {
            RegistryAuth::Anonymous => request,
            RegistryAuth::Bearer(token) => request.bearer_auth(token),
            RegistryAuth::Basic(user, password) => request.basic_auth(user, Some(password)),
        }
    }

    /// Waits for an answer twice as long as for a silent server: it may drip.
    async fn within<T>(&self, asked: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let patience: Duration = 2 * self.patience.silence;
        tokio::time::timeout(patience, asked).await.map_err(|_| super::slow(patience))?
    }
}

/// Returns a whole answer, which is not long.
async fn whole(mut answer: Response) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unreached)? {
        if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Fault::new(
                format!(
                    "is answered with more than {MAX_ANSWER_BYTES} bytes where a manifest or a token is meant"
                ),
                "check that it is a registry; do not use it if it is",
            ));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Returns where a registry gives tokens, and for which service, where it does.
fn token_server(wants: &HeaderValue) -> Option<(String, Option<String>)> {
    let challenges = ChallengeParser::new(wants.to_str().ok()?).filter_map(Result::ok);
    let mut bearers = challenges.filter(|it| it.scheme.eq_ignore_ascii_case("bearer"));
    bearers.find_map(|challenge| {
        let value = |name: &str| {
            let mut params = challenge.params.iter();
            let found = params.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        Some((value("realm")?, value("service")))
    })
}

/// Makes a login of a token, which has to fit into a header.
fn bearer(token: &str) -> Result<RegistryAuth, Fault> {
    match HeaderValue::from_str(token) {
        Ok(_) => Ok(RegistryAuth::Bearer(token.to_owned())),
        Err(_) => Err(no_token("it has characters that no token has")),
    }
}

fn no_token(why: &str) -> Fault {
    Fault::new(
        format!("cannot be asked for: the token for its registry is none ({why})"),
        login::WAY_OUT,
    )
}

fn no_client(why: &str) -> Fault {
    Fault::new(
        format!("cannot be fetched: {why}"),
        "TLS needs the system's certificates (on Debian `ca-certificates`), or SSL_CERT_FILE",
    )
}

fn unreached(error: reqwest::Error) -> Fault {
    failed(&error.into())
}

fn said_in_short(said: &[u8]) -> String {
    String::from_utf8_lossy(said).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_says_where_tokens_are() {
        let check = |wants: &str, expected: Option<(&str, Option<&str>)>| {
            let found = token_server(&HeaderValue::from_str(wants).unwrap());
            let found = found.as_ref().map(|(realm, service)| (realm.as_str(), service.as_deref()));
            assert_eq!(found, expected, "{wants}");
        };
        let realm = "https://auth.example.org/token";
        check(&format!(r#"Bearer realm="{realm}""#), Some((realm, None)));
        check(&format!(r#"bearer Service="s", realm="{realm}""#), Some((realm, Some("s"))));
        check(&format!(r#"Basic realm="x", Bearer realm="{realm}""#), Some((realm, None)));
        check(r#"Basic realm="x""#, None);
        check("Bearer", None);
        check("", None);
        check("\"=,", None);
    }

    #[test]
    fn a_token_fits_into_a_header() {
        assert!(bearer("abc.def").is_ok());
        assert!(bearer("a\r\nx-other: b").unwrap_err().message.contains("characters"));
    }
}
