//! Where components and data files come from, and what pins them.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use oci_client::Reference;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use url::{Host, Url};

/// Where a component or a data file comes from. Written as a string, which is parsed here alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `builtin:NAME`: embedded in the binary under this name.
    Builtin(String),
    /// A file; absolute in a checked plugin set.
    File(PathBuf),
    /// `https://HOST/FILE`, or `http://` on this machine; without user, query and fragment.
    Url(String),
    /// `oci:REGISTRY/NAME:TAG`, `…@sha256:DIGEST` or both, without its `oci:`.
    Oci(String),
    /// A file of a pack ([`crate::pack`]), in which no name has a `#`. Nobody types it: what is named in a
    /// pack is in it, and `run.json` has `pack:PATH#NAME`.
    Packed {
        /// The pack; absolute in a checked plugin set.
        pack: PathBuf,
        /// The file's name in it.
        name: String,
    },
}

/// Why a text names no source. Displays as the end of a sentence that the text begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct SourceError {
    /// What is wrong.
    pub what: String,
    /// The way out.
    pub hint: String,
}

impl SourceError {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> SourceError {
        SourceError { what: what.into(), hint: hint.into() }
    }
}

impl Source {
    /// Returns whether it comes over a network.
    pub fn is_remote(&self) -> bool {
        matches!(self, Source::Url(_) | Source::Oci(_))
    }

    /// Returns whether it says by itself which bytes are meant.
    pub fn is_exact(&self) -> bool {
        match self {
            Source::Builtin(_) => true,
            Source::Oci(reference) => reference.contains("@sha256:"),
            // A pack has the digests of its files, and keeps to them.
            Source::Packed { .. } => true,
            Source::File(_) | Source::Url(_) => false,
        }
    }

    /// Returns what is short for it: the file, or the last part of a name, without an ending.
    pub fn short(&self) -> String {
        let text = match self {
            Source::Builtin(name) => return name.clone(),
            Source::File(path) => path.to_string_lossy(),
            Source::Packed { name, .. } => name.into(),
            Source::Url(url) => url.into(),
            Source::Oci(reference) => reference.into(),
        };
        let last = text.rsplit('/').next().unwrap_or(&text);
        match self {
            Source::Oci(_) => last.split([':', '@']).next().unwrap_or(last).to_owned(),
            _ => last.rsplit_once('.').map_or(last, |(stem, _)| stem).to_owned(),
        }
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Source, SourceError> {
        if text.is_empty() {
            return Err(SourceError::new("is empty", "name a file"));
        }
        if let Some(name) = text.strip_prefix("builtin:") {
            return Ok(Source::Builtin(name.to_owned()));
        }
        if let Some(reference) = text.strip_prefix("oci:") {
            check_reference(reference)?;
            return Ok(Source::Oci(reference.to_owned()));
        }
        if text.starts_with("https:") || text.starts_with("http:") {
            let url = Url::parse(text).map_err(|error| {
                SourceError::new(
                    format!("is no address: {error}"),
                    "an address is `https://HOST/FILE.wasm`",
                )
            })?;
            check_url(&url)?;
            // Blanks and controls are taken away in silence where an address is read.
            if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err(SourceError::new(
                    "has a blank or a control character in it",
                    "an address is `https://HOST/FILE.wasm`",
                ));
            }
            // An address may be fetched from wherever redirects lead; what a user writes is kept.
            if url.query().is_some() || url.fragment().is_some() {
                return Err(SourceError::new(
                    "has a `?` or `#` in it, where secrets stand that would go into `run.json`",
                    "name an address without them, or download the file and name its path",
                ));
            }
            return Ok(Source::Url(text.to_owned()));
        }
        Ok(Source::File(PathBuf::from(text)))
    }
}

/// Checks an address that is to be fetched: TLS but on this machine, and no password in it.
pub fn check_url(url: &Url) -> Result<(), SourceError> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SourceError::new(
            "has a user name or password in it",
            "name an address without them, or download the file and name its path",
        ));
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if url.host().is_some_and(|host| is_loopback(&host)) => Ok(()),
        "http" => Err(SourceError::new(
            "is plain `http:`, which anybody on the way can read and change",
            "write `https:`; plain `http:` is for servers on this machine",
        )),
        scheme => Err(SourceError::new(
            format!("begins with `{scheme}:`"),
            "an address is `https://HOST/FILE.wasm`",
        )),
    }
}

fn check_reference(text: &str) -> Result<(), SourceError> {
    let hint = "a reference is `oci:REGISTRY/NAME:TAG` or `oci:REGISTRY/NAME@sha256:DIGEST`, for \
                example `oci:ghcr.io/someone/judge:1.0.0`";
    let (registry, name) = text.split_once('/').unwrap_or(("", text));
    if !registry.contains(['.', ':']) && registry != "localhost" {
        return Err(SourceError::new("names no registry", hint));
    }
    let reference: Reference = text
        .parse()
        .map_err(|error| SourceError::new(format!("is no OCI reference: {error}"), hint))?;
    if reference.digest().is_some_and(|digest| !digest.starts_with("sha256:")) {
        return Err(SourceError::new("has another digest than sha256", hint));
    }
    match name.contains([':', '@']) {
        true => Ok(()),
        false => Err(SourceError::new("names neither tag nor digest", hint)),
    }
}

/// Returns whether a host is this machine.
pub fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => name.eq_ignore_ascii_case("localhost"),
        Host::Ipv4(address) => IpAddr::from(*address).is_loopback(),
        Host::Ipv6(address) => IpAddr::from(*address).is_loopback(),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Builtin(name) => write!(f, "builtin:{name}"),
            Source::File(path) => path.display().fmt(f),
            Source::Url(url) => f.write_str(url),
            Source::Oci(reference) => write!(f, "oci:{reference}"),
            Source::Packed { pack, name } => write!(f, "pack:{}#{name}", pack.display()),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Source, D::Error> {
        let text = String::deserialize(deserializer)?;
        let packed = text.strip_prefix("pack:").and_then(|packed| packed.rsplit_once('#'));
        if let Some((pack, name)) = packed {
            return Ok(Source::Packed { pack: pack.into(), name: name.to_owned() });
        }
        text.parse().map_err(|SourceError { what, hint }| {
            de::Error::custom(format!("`{text}` {what}; {hint}"))
        })
    }
}

/// The digest that a component must have, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// SHA-256 in lower-case hex.
    pub sha256: String,
    /// That of the manifest that names the component, where it is of a registry and known.
    pub manifest: Option<String>,
    /// Who says so.
    pub by: PinnedBy,
}

/// Who says what a component must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinnedBy {
    /// `sha256` beside `plugin`.
    Key,
    /// `aligner.lock`.
    Lock {
        /// The plugin set, as it was named.
        set: PathBuf,
    },
    /// The run that is gone on with.
    Run,
}

impl Pin {
    /// Returns the SHA-256 that a text is: 64 hexadecimal digits, perhaps with `sha256:` before them.
    pub fn digits(text: &str) -> Option<String> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_sha256 = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_sha256.then(|| digits.to_ascii_lowercase())
    }
}

impl PinnedBy {
    /// Returns what accepts another digest, `found`.
    pub fn way_out(&self, found: &str) -> String {
        match self {
            PinnedBy::Key => {
                format!("if the change is meant, write `sha256 = \"{found}\"` beside `plugin`")
            }
            PinnedBy::Lock { set } => {
                format!("`aligner plugin lock {}` accepts the change", set.display())
            }
            PinnedBy::Run => {
                "a run goes on with what it was begun with; `--fresh` begins again".into()
            }
        }
    }
}

impl fmt::Display for PinnedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PinnedBy::Key => "the plugin set",
            PinnedBy::Lock { .. } => "`aligner.lock`",
            PinnedBy::Run => "the run",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_sources_or_refused() {
        let check = |text: &str, expected: Result<Source, &str>| {
            let found: Result<Source, SourceError> = text.parse();
            if let Ok(source) = &found {
                assert_eq!(source.to_string(), text);
            }
            assert_eq!(
                found.map_err(|error| error.what),
                expected.map_err(str::to_owned),
                "{text}"
            );
        };
        let http = "is plain `http:`, which anybody on the way can read and change";
        let secret = "has a `?` or `#` in it, where secrets stand that would go into `run.json`";
        let user = "has a user name or password in it";
        let url = |text: &str| Ok(Source::Url(text.into()));
        let oci = |text: &str| Ok(Source::Oci(text.into()));
        check("builtin:length", Ok(Source::Builtin("length".into())));
        check("a/b.wasm", Ok(Source::File("a/b.wasm".into())));
        check("ftp:x", Ok(Source::File("ftp:x".into())));
        check("", Err("is empty"));
        check("https://example.org/j.wasm", url("https://example.org/j.wasm"));
        check("http://localhost:8000/j.wasm", url("http://localhost:8000/j.wasm"));
        check("http://127.0.0.9/j.wasm", url("http://127.0.0.9/j.wasm"));
        check("http://[::1]:80/j.wasm", url("http://[::1]:80/j.wasm"));
        check("http://example.org/j.wasm", Err(http));
        check("http://127.0.0.1.example.org/j.wasm", Err(http));
        check("http://localhost.example.org/j.wasm", Err(http));
        check("http://localhost@example.org/j.wasm", Err(user));
        check("https://me:secret@example.org/j.wasm", Err(user));
        check("https://example.org/j.wasm?token=x", Err(secret));
        check("https://example.org/j.wasm#x", Err(secret));
        check("https:", Err("is no address: empty host"));
        check("oci:ghcr.io/me/judge:1.0", oci("ghcr.io/me/judge:1.0"));
        check("oci:localhost/judge:1", oci("localhost/judge:1"));
        let digest = format!("localhost:5000/judge@sha256:{}", "a".repeat(64));
        check(&format!("oci:{digest}"), oci(&digest));
        let both = format!("localhost:5000/judge:1@sha256:{}", "a".repeat(64));
        check(&format!("oci:{both}"), oci(&both));
        check("oci:judge:1", Err("names no registry"));
        check("oci:me/judge:1", Err("names no registry"));
        check("oci:ghcr.io/me/judge", Err("names neither tag nor digest"));
        check(
            "oci:ghcr.io/me/judge@sha256:00",
            Err("is no OCI reference: invalid reference format"),
        );
        check("oci:ghcr.io/Me/judge:1", Err("is no OCI reference: invalid reference format"));
        let long = format!("oci:ghcr.io/me/judge@sha512:{}", "a".repeat(128));
        check(&long, Err("has another digest than sha256"));
    }

    #[test]
    fn a_source_has_a_short_name() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Source>().unwrap().short(), expected);
        };
        check("builtin:length", "length");
        check("a/b.wasm", "b");
        check("b", "b");
        check("https://example.org/x/judge.wasm", "judge");
        check("oci:localhost:5000/me/judge:1.0", "judge");
        check(&format!("oci:ghcr.io/judge@sha256:{}", "0".repeat(64)), "judge");
    }

    #[test]
    fn digests_are_64_digits() {
        let check = |text: &str, expected: Option<String>| assert_eq!(Pin::digits(text), expected);
        check(&"AB".repeat(32), Some("ab".repeat(32)));
        check(&format!("sha256:{}", "0".repeat(64)), Some("0".repeat(64)));
        check(&"0".repeat(63), None);
        check(&"g".repeat(64), None);
        check("", None);
    }
}
