//! Fetching from a server on the loopback interface that cuts, lies and refuses.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a server has and does.
#[derive(Default)]
struct Site {
    files: BTreeMap<String, Vec<u8>>,
    /// In the list, and not there.
    lost: Vec<String>,
    /// Answers everything with this status.
    status: Option<&'static str>,
    /// Closes the connection after so many bytes of a body, once for each entry.
    cuts: Vec<usize>,
    /// Sends other bytes than it should, so many times.
    lies: usize,
    /// Path and range of each request.
    log: Vec<String>,
}

/// A server on the loopback interface.
struct Server {
    endpoint: String,
    site: Arc<Mutex<Site>>,
    cache: tempfile::TempDir,
}

impl Server {
    fn new(change: impl FnOnce(&mut Site)) -> Server {
        let mut site = Site::default();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-llama");
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            site.files.insert(name, std::fs::read(entry.path()).unwrap());
        }
        change(&mut site);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let site = Arc::new(Mutex::new(site));
        let shared = Arc::clone(&site);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &mut shared.lock().unwrap());
            }
        });
        Server { endpoint, site, cache: tempfile::tempdir().unwrap() }
    }

    fn hub(&self) -> Hub {
        Hub {
            endpoint: self.endpoint.clone(),
            cache: self.cache.path().to_owned(),
            token: None,
            offline: false,
        }
    }

    fn fetch(&self, name: &str) -> Result<PathBuf, ModelError> {
        self.hub().fetch(name, &mut |_| ())
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.site.lock().unwrap().log)
    }

    /// Checks that a folder holds what the server has.
    fn check(&self, folder: &Path) {
        for (name, bytes) in &self.site.lock().unwrap().files {
            assert!(std::fs::read(folder.join(name)).unwrap() == *bytes, "{name}");
        }
    }

    fn weights_part(&self) -> PathBuf {
        let site = self.site.lock().unwrap();
        let blobs = self.cache.path().join("models--owner--tiny/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        blobs
            .join(etag("model.safetensors", &site.files["model.safetensors"]))
            .with_extension("part")
    }
}

/// Weights have their SHA-256, other files some name of their own.
fn etag(name: &str, bytes: &[u8]) -> String {
    if !name.ends_with(".safetensors") {
        return format!("e{:039}", bytes.len());
    }
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(mut stream: TcpStream, site: &mut Site) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = None;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            range = Some(value.trim().trim_start_matches("bytes=").to_owned());
        }
    }
    site.log.push(format!("{path} {}", range.as_deref().unwrap_or("")).trim().to_owned());
    let short = |stream: &mut TcpStream, status: &str, body: &str| {
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    if let Some(status) = site.status {
        return short(&mut stream, status, "");
    }
    if path.starts_with("/api/models/owner/tiny") {
        let names = site.files.keys().chain(&site.lost);
        let siblings: Vec<_> = names.map(|name| json!({"rfilename": name})).collect();
        let info = json!({"siblings": siblings, "sha": COMMIT});
        return short(&mut stream, "200 OK", &info.to_string());
    }
    let name = path.strip_prefix(&format!("/owner/tiny/resolve/{COMMIT}/")).unwrap_or_default();
    let Some(bytes) = site.files.get(name) else {
        return short(&mut stream, "404 Not Found", "");
    };
    let range = range.unwrap_or_else(|| "0-".to_owned());
    let (from, to) = range.split_once('-').unwrap();
    let from: usize = from.parse().unwrap();
    let to = to.parse().map_or(bytes.len(), |to: usize| (to + 1).min(bytes.len()));
    if from >= bytes.len() {
        return short(&mut stream, "416 Range Not Satisfiable", "");
    }
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\
         \r\nETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        to - from,
        to - 1,
        bytes.len(),
        etag(name, bytes),
    )?;
    let mut body = bytes[from..to].to_vec();
    if name.ends_with(".safetensors") && to - from > 1 {
        if site.lies > 0 {
            site.lies -= 1;
            body[0] ^= 1;
        }
        if let Some(cut) = site.cuts.pop() {
            body.truncate(cut);
        }
    }
    stream.write_all(&body)
}

#[test]
fn fetched_once_then_offline() {
    let server = Server::new(|_| ());
    let mut told = 0;
    let folder = server
        .hub()
        .fetch("owner/tiny", &mut |progress| {
            if progress.what == "fetching model.safetensors" {
                told = told.max(progress.done);
                assert_eq!(progress.total, Some(127_608));
            }
        })
        .unwrap();
    assert_eq!(told, 127_608);
    server.check(&folder);
    assert!(server.log()[0].starts_with("/api/models/owner/tiny/revision/main"));
    // From now on nobody is asked.
    server.site.lock().unwrap().status = Some("500 Broken");
    assert_eq!(server.fetch("owner/tiny").unwrap(), folder);
    let offline = Hub { offline: true, ..server.hub() };
    assert_eq!(offline.fetch("owner/tiny", &mut |_| ()).unwrap(), folder);
    assert!(server.log().is_empty());
}

#[test]
fn a_revision_is_asked_for_by_name() {
    let server = Server::new(|_| ());
    server.check(&server.fetch("owner/tiny@v1.0").unwrap());
    assert_eq!(server.log()[0], "/api/models/owner/tiny/revision/v1.0");
    assert!(server.hub().fetch("owner/tiny", &mut |_| ()).is_ok());
    assert!(server.log()[0].ends_with("/revision/main"));
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let server = Server::new(|site| site.cuts = vec![100, 50_000]);
    server.check(&server.fetch("owner/tiny").unwrap());
    let ranges: Vec<String> = server
        .log()
        .iter()
        .filter_map(|line| line.split_once("model.safetensors "))
        .map(|(_, range)| range.to_owned())
        .collect();
    assert_eq!(ranges.first().map(String::as_str), Some("0-0"));
    assert!(ranges.contains(&"50000-".to_owned()), "{ranges:?}");
    assert!(ranges.contains(&"50100-".to_owned()), "{ranges:?}");
}

#[test]
fn what_another_process_left_is_taken_up() {
    let server = Server::new(|_| ());
    let half = server.site.lock().unwrap().files["model.safetensors"][..60_000].to_vec();
    std::fs::write(server.weights_part(), half).unwrap();
    server.check(&server.fetch("owner/tiny").unwrap());
    assert!(server.log().iter().any(|line| line.ends_with("model.safetensors 60000-")));
}

#[test]
fn what_is_wrong_begins_anew() {
    for left in [vec![7; 60_000], vec![7; 127_608], vec![7; 200_000]] {
        let server = Server::new(|_| ());
        std::fs::write(server.weights_part(), left).unwrap();
        server.check(&server.fetch("owner/tiny").unwrap());
    }
    let server = Server::new(|site| site.lies = 1);
    server.check(&server.fetch("owner/tiny").unwrap());
    let server = Server::new(|site| site.lies = 100);
    let error = server.fetch("owner/tiny").unwrap_err().to_string();
    assert!(error.contains("`model.safetensors` from http://127.0.0.1:"), "{error}");
    assert!(error.contains("what came has another digest than"), "{error}");
    // And it is not taken for whole afterwards.
    assert!(server.fetch("owner/tiny").is_err());
}

fn check_error(change: impl FnOnce(&mut Site), message: &str, hint: &str) {
    let server = Server::new(change);
    let error = server.fetch("owner/tiny").unwrap_err();
    let found = error.to_string().replace(&server.endpoint, "HOST");
    assert_eq!(found, format!("`hf:owner/tiny` could not be fetched: {message}"));
    assert_eq!(error.hint().unwrap_or_default(), hint);
}

#[test]
fn errors_name_the_file() {
    check_error(
        |site| {
            site.files.remove("config.json");
            site.lost.push("config.json".to_owned());
        },
        "`config.json` from HOST: request error: http status: 404",
        "check owner, name and revision",
    );
    check_error(
        |site| site.status = Some("404 Not Found"),
        "HOST says about revision `main`: request error: http status: 404",
        "check owner, name and revision",
    );
    check_error(
        |site| site.status = Some("401 Unauthorized"),
        "HOST says about revision `main`: request error: http status: 401",
        "the repository may be private, gated or misspelt; set HF_TOKEN to a token that may \
         read it",
    );
    check_error(
        |site| drop(site.files.remove("tokenizer.json")),
        "the repository has no `tokenizer.json`",
        "",
    );
    check_error(
        |site| drop(site.files.remove("model.safetensors")),
        "the repository has no `model.safetensors`",
        "only safetensors are read; pickled weights can run code",
    );
    check_error(
        |site| {
            site.files.clear();
            site.files.insert("model-Q4.gguf".to_owned(), Vec::new());
        },
        "the repository has no `config.json`",
        "download one of its GGUF files and name that",
    );
}

#[test]
fn nobody_answers() {
    let server = Server::new(|_| ());
    let offline = Hub { offline: true, ..server.hub() };
    let error = offline.fetch("owner/tiny", &mut |_| ()).unwrap_err().to_string();
    assert!(error.ends_with("and HF_HUB_OFFLINE is set"), "{error}");
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Hub { endpoint: format!("http://{port}"), ..server.hub() };
    let error = nobody.fetch("owner/tiny", &mut |_| ()).unwrap_err();
    assert_eq!(
        error.hint().as_deref(),
        Some("check the network, or name a folder that holds the model")
    );
}
