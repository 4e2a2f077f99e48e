//! Adapters that a server loads while it runs, each under a name of its own.
//!
//! A name is never used for two adapters: a server may keep keys and values of prompts by the name
//! (<https://github.com/vllm-project/vllm/issues/42125>).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::json;
use tokio::time::sleep;

use super::flight::{TRIES, pause, unless_cancelled};
use super::reach::Called;
use super::{Dialect, Server, ServerError};

/// Adapters that a server holds at once for a run: the policy's and the one that it came from.
const HELD: usize = 2;

/// An adapter that a server holds.
#[derive(Clone)]
pub(super) struct Held {
    name: String,
    folder: PathBuf,
}

impl Server {
    /// Has the server load the adapter of a folder under a name, unless it holds it, and returns what the model
    /// with it is called. The folder's path is the same there. A server that is away is waited for.
    pub fn load_adapter(
        &self,
        name: &str,
        folder: &Path,
        cancel: &AtomicBool,
    ) -> Result<String, ServerError> {
        self.block_on(async {
            let held = Held { name: name.to_owned(), folder: folder.to_owned() };
            let place = self.held().iter().position(|known| known.name == name);
            if let Some(place) = place {
                self.held().remove(place);
            } else {
                let full = self.held().len() >= HELD;
                let oldest = full.then(|| self.held().remove(0));
                if let Some(oldest) = oldest {
                    self.unload(&oldest.name).await;
                }
                self.load_patiently(&held, cancel).await?;
            }
            self.held().push(held);
            Ok(self.with_adapter(name))
        })
    }

    /// Has the server load an adapter, a few times where it fails over it; one that is away is waited for.
    async fn load_patiently(&self, held: &Held, cancel: &AtomicBool) -> Result<(), ServerError> {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let loaded = unless_cancelled(self.load(held), cancel).await?;
            let Err(why) = loaded? else { return Ok(()) };
            tries += 1;
            if tries == TRIES {
                let what = format!("adapter `{}`", held.folder.display());
                return Err(ServerError::Broken {
                    server: self.settings.server.clone(),
                    what,
                    tries,
                    why,
                });
            }
            self.wait_for(why, begun, cancel).await?;
            unless_cancelled(sleep(pause(tries)), cancel).await?;
        }
    }

    /// Has a server that was away load again what it held.
    pub(super) async fn load_again(&self) -> Result<(), ServerError> {
        let held = self.held().clone();
        for held in held {
            // Away again: the flight will see.
            let _ = self.load(&held).await?;
        }
        Ok(())
    }

    /// Has the server drop the adapters that it may hold for this run: those that this process has had it load, and those
    /// with `names`.
    pub fn drop_adapters(&self, names: impl Iterator<Item = String>) {
        let held: Vec<Held> = self.held().drain(..).collect();
        let names: BTreeSet<String> = held.into_iter().map(|held| held.name).chain(names).collect();
        self.block_on(async {
            for name in names {
                self.unload(&name).await;
            }
        });
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.adapters.lock().expect("nothing panics while it is held")
    }

    /// Has the server load an adapter; where it fails over it, that is inside.
    async fn load(&self, held: &Held) -> Result<Result<(), String>, ServerError> {
        let body = json!({ "lora_name": held.name, "lora_path": held.folder });
        let server = self.settings.server.clone();
        let what = format!("adapter `{}`", held.folder.display());
        match self.call("load_lora_adapter", &body).await {
            Called::Answered(_) => Ok(Ok(())),
            // It held it all the time, or a run that was killed has loaded it: the name stands for what is in it.
            Called::Refused { message, .. } if message.contains("already") => Ok(Ok(())),
            Called::Refused { status, message } => {
                Err(ServerError::Refused { server, what, status, message })
            }
            Called::Busy { why, .. }
            | Called::Away(why)
            | Called::Slow(why)
            | Called::Failed(why) => Ok(Err(why)),
        }
    }

    /// Returns what the server calls its model with an adapter.
    fn with_adapter(&self, name: &str) -> String {
        match self.dialect {
            Dialect::Sglang => format!("{}:{name}", self.model),
            _ => name.to_owned(),
        }
    }

    /// One that stays costs the server memory and nothing else.
    async fn unload(&self, name: &str) {
        let body = json!({ "lora_name": name });
        if let Called::Refused { message, .. } | Called::Failed(message) | Called::Away(message) =
            self.call("unload_lora_adapter", &body).await
        {
            tracing::info!("server `{}` keeps adapter `{name}`: {message}", self.settings.server);
        }
    }

    async fn call(&self, verb: &str, body: &serde_json::Value) -> Called {
        let path = match self.dialect {
            Dialect::Sglang => format!("/{verb}"),
            _ => format!("/v1/{verb}"),
        };
        self.reach.post(&path, body.to_string().into_bytes()).await
    }
}
