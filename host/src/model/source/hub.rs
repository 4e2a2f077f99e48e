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
        self.bring(name, true, progress)
    }

    /// The same without the weights, where they are not there already.
    pub fn fetch_small(
        &self,
        name: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, ModelError> {
        self.bring(name, false, progress)
    }

    fn bring(
        &self,
        name: &str,
        weights: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, ModelError> {
        let (id, revision) = parse(name)?;
        let cache = Cache::new(self.cache.clone());
        let named = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        if let Some(folder) = here(&cache, &named, weights) {
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
        let weights: Vec<OsString> = if !weights {
            Vec::new()
        } else if there.contains(&"model.safetensors.index.json") {
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

/// Returns the folder of a repository, where everything that a model needs is in the cache, with its weights or
/// without.
fn here(cache: &Cache, repo: &Repo, weights: bool) -> Option<PathBuf> {
    let cached = cache.repo(repo.clone());
    let folder = cached.get("config.json")?.parent()?.to_owned();
    cached.get("tokenizer.json")?;
    if !weights {
        return Some(folder);
    }
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
                // It becomes a file name in the cache.
                if metadata.etag().contains(['/', '\\']) || metadata.etag().starts_with('.') {
                    return Err(ApiError::InvalidHeader("etag"));
                }
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
mod tests;
