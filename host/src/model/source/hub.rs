//! Repositories of the Hugging Face Hub, in the cache that other tools share.
//!
//! A revision is looked up once: what is in the cache is used as it is, without asking the network,
//! so that a run can be repeated. Files are fetched at the commit that the revision stood for, the
//! weights last.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::Progress;
use crate::model::error::ModelError;
use crate::model::{digest, safetensors};

/// Where repositories come from and where they are kept.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Address without a path, `https://huggingface.co` as a rule.
    pub endpoint: String,
    /// The folder with `models--owner--name`.
    pub cache: PathBuf,
    /// For private and gated repositories.
    pub token: Option<String>,
    /// Never ask the network.
    pub offline: bool,
}

impl Hub {
    /// Takes the settings that Hugging Face's tools take: `HF_ENDPOINT`, `HF_HUB_CACHE` or
    /// `HF_HOME`, `HF_TOKEN` or the token of a log-in, `HF_HUB_OFFLINE`.
    pub fn from_env() -> Hub {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let standard = Cache::from_env();
        Hub {
            endpoint: text("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: text("HF_HUB_CACHE").map_or_else(|| standard.path().clone(), PathBuf::from),
            token: text("HF_TOKEN").or_else(|| standard.token()),
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| value != "0"),
        }
    }

    /// Returns the folder that holds a repository, fetching what is not there yet.
    ///
    /// - `name`: `owner/name` or `owner/name@revision`.
    pub fn fetch(
        &self,
        name: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, ModelError> {
        let (id, revision) = parse(name)?;
        let cache = Cache::new(self.cache.clone());
        let named = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        if let Some(folder) = whole(&cache, &named) {
            return Ok(folder);
        }
        let fail = |message: String, hint: &str| ModelError::Fetch {
            name: format!("hf:{name}"),
            message,
            hint: hint.to_owned(),
        };
        if self.offline {
            return Err(fail(
                format!("it is not in `{}`, and HF_HUB_OFFLINE is set", self.cache.display()),
                "unset HF_HUB_OFFLINE, or name a folder",
            ));
        }
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            .build()
            .map_err(|error| fail(error.to_string(), ""))?;
        let info = api.repo(named.clone()).info().map_err(|error| {
            fail(
                format!("{} says about revision `{revision}`: {error}", self.endpoint),
                hint_for(&error),
            )
        })?;
        if info.sha.is_empty() || !info.sha.chars().all(|letter| letter.is_ascii_alphanumeric()) {
            return Err(fail(format!("{} gives no commit", self.endpoint), ""));
        }
        let there: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let session = Session {
            hub: self,
            api,
            cache: cache.clone(),
            repo: Repo::with_revision(id.to_owned(), RepoType::Model, info.sha.clone()),
            name,
        };

        for file in super::SMALL_FILES {
            if there.contains(&file) {
                session.file(file, progress)?;
            } else if matches!(file, "config.json" | "tokenizer.json") {
                let gguf = there.iter().any(|file| file.ends_with(".gguf"));
                return Err(fail(
                    format!("the repository has no `{file}`"),
                    if gguf { "download one of its GGUF files and name that" } else { "" },
                ));
            }
        }
        let folder = cache.repo(session.repo.clone()).pointer_path(&info.sha);
        let weights: Vec<OsString> = if there.contains(&"model.safetensors.index.json") {
            let files = safetensors::files(&folder)?;
            files.iter().filter_map(|path| path.file_name()).map(OsString::from).collect()
        } else if there.contains(&"model.safetensors") {
            vec!["model.safetensors".into()]
        } else {
            return Err(fail(
                "the repository has no `model.safetensors`".to_owned(),
                "only safetensors are read; pickled weights can run code",
            ));
        };
        for file in &weights {
            session.file(&file.to_string_lossy(), progress)?;
        }
        cache
            .repo(named)
            .create_ref(&info.sha)
            .map_err(|error| ModelError::written(&self.cache, error))?;
        Ok(folder)
    }
}

/// Returns the folder of a repository, where everything that a model needs is in the cache.
fn whole(cache: &Cache, repo: &Repo) -> Option<PathBuf> {
    let cached = cache.repo(repo.clone());
    let folder = cached.get("config.json")?.parent()?.to_owned();
    cached.get("tokenizer.json")?;
    let weights = safetensors::files(&folder).ok()?;
    weights.iter().all(|path| path.exists()).then_some(folder)
}

/// Splits `owner/name@revision`; the revision is `main` where there is none.
fn parse(name: &str) -> Result<(&str, &str), ModelError> {
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    let word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter))
    };
    let owner_and_name = id.split('/').count() == 2 && id.split('/').all(word);
    if owner_and_name && revision.split('/').all(word) {
        return Ok((id, revision));
    }
    Err(ModelError::Unknown {
        name: format!("hf:{name}"),
        hint: "write `hf:owner/name` or `hf:owner/name@revision`".to_owned(),
    })
}

fn hint_for(error: &ApiError) -> &'static str {
    let text = error.to_string();
    if text.contains("401") || text.contains("403") {
        "the repository may be private, gated or misspelt; set HF_TOKEN to a token that may read it"
    } else if text.contains("404") {
        "check owner, name and revision"
    } else {
        "check the network, or name a folder that holds the model"
    }
}

/// The fetching of one repository.
struct Session<'a> {
    hub: &'a Hub,
    api: Api,
    cache: Cache,
    /// At a commit.
    repo: Repo,
    name: &'a str,
}

/// How often a download that breaks off is taken up again.
const ATTEMPTS: usize = 4;

impl Session<'_> {
    /// Brings one file into the cache.
    ///
    /// A download that breaks off goes on where it stopped, also in another process. What came is
    /// checked by its size, and by its digest where the server names it (it does for weights);
    /// where it is wrong, the download begins anew.
    fn file(&self, file: &str, progress: &mut dyn FnMut(Progress)) -> Result<(), ModelError> {
        let repo = self.api.repo(self.repo.clone());
        let mut attempt = 0;
        loop {
            if self.cache.repo(self.repo.clone()).get(file).is_some() {
                return Ok(());
            }
            let result = self.api.metadata(&repo.url(file)).and_then(|metadata| {
                let blob = self.cache.repo(self.repo.clone()).blob_path(metadata.etag());
                let part = blob.with_extension("part");
                let size = metadata.size() as u64;
                // Nothing is left to ask for where all of it is there; such a request is an error.
                if part.metadata().is_ok_and(|part| part.len() >= size) {
                    std::fs::remove_file(&part)?;
                }
                let watch =
                    Watch { progress: &mut *progress, what: file.to_owned(), done: 0, total: size };
                let path = repo.download_with_progress(file, watch)?;
                Ok((path, blob, size, metadata.etag().to_owned()))
            });
            attempt += 1;
            let error = match result {
                Ok((path, blob, size, etag)) => {
                    let Some(wrong) = self.wrong(&path, size, &etag)? else { return Ok(()) };
                    for broken in [&path, &blob] {
                        let _ = std::fs::remove_file(broken);
                    }
                    if attempt < ATTEMPTS {
                        continue;
                    }
                    return Err(self.failed(file, wrong, "try again later"));
                }
                Err(error) => error,
            };
            match error {
                // Another process fetches the same file; it is waited for.
                ApiError::LockAcquisition(_) => {
                    attempt -= 1;
                    let what = format!("waiting for another process that fetches {file}");
                    progress(Progress { what, done: 0, total: None });
                }
                error if is_final(&error) || attempt == ATTEMPTS => {
                    return Err(self.failed(file, error.to_string(), hint_for(&error)));
                }
                _ => std::thread::sleep(std::time::Duration::from_millis(200 << attempt)),
            }
        }
    }

    /// Says what is wrong with a file, if anything.
    fn wrong(&self, path: &Path, size: u64, etag: &str) -> Result<Option<String>, ModelError> {
        let found = std::fs::metadata(path).map_err(|error| ModelError::read(path, error))?.len();
        if found != size {
            return Ok(Some(format!("{found} bytes came instead of {size}")));
        }
        let is_sha256 = etag.len() == 64 && etag.chars().all(|letter| letter.is_ascii_hexdigit());
        if is_sha256 && !digest::of_file(path)?.eq_ignore_ascii_case(etag) {
            return Ok(Some(format!("what came has another digest than {etag}")));
        }
        Ok(None)
    }

    fn failed(&self, file: &str, message: String, hint: &str) -> ModelError {
        ModelError::Fetch {
            name: format!("hf:{}", self.name),
            message: format!("`{file}` from {}: {message}", self.hub.endpoint),
            hint: hint.to_owned(),
        }
    }
}

/// Whether asking again cannot help: the server answered, and the answer is no.
fn is_final(error: &ApiError) -> bool {
    let text = error.to_string();
    ["400", "401", "403", "404", "410"].iter().any(|code| text.ends_with(code))
}

/// Passes the progress of a download on.
struct Watch<'a> {
    progress: &'a mut dyn FnMut(Progress),
    what: String,
    done: u64,
    total: u64,
}

impl hf_hub::api::Progress for Watch<'_> {
    fn init(&mut self, _: usize, _: &str) {
        self.done = 0;
    }

    fn update(&mut self, bytes: usize) {
        self.done += bytes as u64;
        let what = format!("fetching {}", self.what);
        (self.progress)(Progress { what, done: self.done, total: Some(self.total) });
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
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
}
