//! Files by their address.

use std::io::Read;
use std::time::Instant;

use ureq::http::StatusCode;
use ureq::{Agent, Body, Timeout};
use url::Url;

use super::{Fault, Patience, Report, Watch, check_size};
use crate::plugin::MAX_FILE_BYTES;
use crate::plugin_set::check_url;

/// How often a server may send elsewhere.
const REDIRECTS: usize = 5;
/// What is read at a time.
const CHUNK: usize = 64 << 10;

/// Fetches a file of at most [`MAX_FILE_BYTES`].
///
/// A server may send elsewhere a few times, and never from `https:` to `http:`.
pub(super) fn fetch(
    address: &str,
    patience: &Patience,
    report: Report<'_>,
) -> Result<Vec<u8>, Fault> {
    let mut url = Url::parse(address)
        .map_err(|error| Fault::new(format!("is no address: {error}"), "check the address"))?;
    let config = Agent::config_builder()
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_connect(Some(patience.connect))
        .timeout_recv_response(Some(patience.silence))
        .timeout_per_read(Some(patience.silence))
        .timeout_global(Some(patience.whole))
        .user_agent(concat!("aligner/", env!("CARGO_PKG_VERSION")))
        // A plugin's bytes are what is hashed.
        .accept_encoding("identity")
        .build();
    let agent = Agent::new_with_config(config);
    for _ in 0..=REDIRECTS {
        let answer = agent.get(url.as_str()).header("accept", "application/wasm, */*;q=0.5").call();
        let answer = answer.map_err(|error| unreachable(&error, patience))?;
        let status = answer.status();
        if status.is_redirection()
            && let Some(location) = answer.headers().get("location")
        {
            url = redirected(&url, location.to_str().unwrap_or_default())?;
            continue;
        }
        return match status {
            StatusCode::OK => body(answer.into_body(), address, patience, report),
            status => Err(refused(status)),
        };
    }
    Err(Fault::new(
        format!("sends elsewhere more than {REDIRECTS} times"),
        "name the address that it ends at",
    ))
}

/// Returns where a server sends to.
fn redirected(from: &Url, location: &str) -> Result<Url, Fault> {
    let wrong = |what: String| Fault::new(what, "name the address that it ends at");
    let to = from
        .join(location)
        .map_err(|error| wrong(format!("sends elsewhere, to what is no address: {error}")))?;
    let mut shown = to.clone();
    // What stands there can be a key to the file.
    shown.set_query(None);
    shown.set_fragment(None);
    if let Err(error) = check_url(&to) {
        let _ = (shown.set_username(""), shown.set_password(None));
        return Err(wrong(format!("sends to `{shown}`, which {error}")));
    }
    match (from.scheme(), to.scheme()) {
        ("https", "http") => {
            Err(wrong(format!("sends from `https:` to `{shown}`, which is plain `http:`")))
        }
        _ => Ok(to),
    }
}

fn body(
    body: Body,
    address: &str,
    patience: &Patience,
    report: Report<'_>,
) -> Result<Vec<u8>, Fault> {
    let total = body.content_length();
    check_size(total.unwrap_or(0))?;
    let what = address.rsplit('/').next().unwrap_or(address).to_owned();
    let mut watch = Watch { report, what, total, begun: Instant::now() };
    let mut reader = body.into_reader().take(MAX_FILE_BYTES as u64 + 1);
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let why = silent(&ureq::Error::from(error), patience);
                return Err(broken(bytes.len(), total, &why));
            }
        }
        check_size(bytes.len() as u64)?;
        watch.note(bytes.len());
    }
    match total {
        Some(total) if bytes.len() as u64 != total => {
            Err(broken(bytes.len(), Some(total), "the connection ended"))
        }
        _ if is_page(&bytes) => Err(Fault::new(
            "is not WebAssembly but an HTML page",
            "name the address that the file itself has, behind `raw` or `download` on such a page; a server that \
             wants a login sends a page too",
        )),
        _ => Ok(bytes),
    }
}

/// Returns whether a file is a page for a browser.
fn is_page(bytes: &[u8]) -> bool {
    let begins = |text: &str| {
        let start = bytes.trim_ascii_start().get(..text.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
    };
    begins("<!doctype html") || begins("<html")
}

fn broken(came: usize, total: Option<u64>, why: &str) -> Fault {
    let of = total.map_or(String::new(), |total| format!(" of {total}"));
    Fault::new(format!("broke off after {came}{of} bytes: {why}"), "try again later")
}

/// Says what is wrong with a server that was not heard out.
fn silent(error: &ureq::Error, patience: &Patience) -> String {
    match error {
        ureq::Error::Timeout(Timeout::Global) => {
            format!("it takes more than {} s", patience.whole.as_secs_f64())
        }
        ureq::Error::Timeout(_) => {
            format!("the server said nothing for {} s", patience.silence.as_secs_f64())
        }
        error => error.to_string(),
    }
}

fn unreachable(error: &ureq::Error, patience: &Patience) -> Fault {
    let why = match error {
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            format!("nobody answered within {} s", patience.connect.as_secs_f64())
        }
        error => silent(error, patience),
    };
    Fault::new(
        format!("cannot be fetched: {why}"),
        "check the address and the network, or download the file and name its path",
    )
}

fn refused(status: StatusCode) -> Fault {
    let hint = match status.as_u16() {
        401 | 403 => "it needs a login that aligner has not: download the file and name its path",
        429 | 500.. => "try again later",
        _ => "check the address; what was there may have moved",
    };
    Fault::new(format!("cannot be fetched: the server answers {status}"), hint)
}
