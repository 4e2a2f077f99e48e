//! Adapters that a server loads while it runs, each under a name of its own.
//!
//! A name is never used for two adapters: a server may keep keys and values of prompts by the name
//! (<https://github.com/vllm-project/vllm/issues/42125>).

use std::path::Path;

use serde_json::json;

use super::reach::Called;
use super::{Dialect, Server, ServerError};

/// Adapters that a server holds at once for a run: the policy's and the one that it came from.
const HELD: usize = 2;

impl Server {
    /// Has the server load the adapter of a folder under a name, unless it holds it, and returns what the model
    /// with it is called. The folder's path is the same there.
    pub fn load_adapter(&self, name: &str, folder: &Path) -> Result<String, ServerError> {
        let mut held = self.adapters.lock().unwrap_or_else(|broken| broken.into_inner());
        if let Some(place) = held.iter().position(|known| known == name) {
            let known = held.remove(place);
            held.push(known);
            return Ok(self.with_adapter(name));
        }
        while held.len() >= HELD {
            let oldest = held.remove(0);
            self.unload(&oldest);
        }
        let body = json!({ "lora_name": name, "lora_path": folder });
        let what = format!("to load the adapter `{}`", folder.display());
        let server = || self.settings.server.clone();
        match self.call("load_lora_adapter", &body) {
            Called::Answered(_) => {}
            // A run that was killed has loaded it: the name stands for what is in it.
            Called::Refused { message, .. } if message.contains("already") => {}
            Called::Refused { status, message } => {
                return Err(ServerError::Refused { server: server(), what, status, message });
            }
            Called::Busy { why, .. }
            | Called::Away(why)
            | Called::Slow(why)
            | Called::Failed(why) => {
                return Err(ServerError::Broken { server: server(), what, tries: 1, why });
            }
        }
        held.push(name.to_owned());
        Ok(self.with_adapter(name))
    }

    /// Has the server drop all adapters that it holds for this run.
    pub fn drop_adapters(&self) {
        let mut held = self.adapters.lock().unwrap_or_else(|broken| broken.into_inner());
        held.drain(..).for_each(|name| self.unload(&name));
    }

    /// Returns what the server calls its model with an adapter.
    fn with_adapter(&self, name: &str) -> String {
        match self.dialect {
            Dialect::Sglang => format!("{}:{name}", self.model),
            _ => name.to_owned(),
        }
    }

    /// One that stays costs the server memory and nothing else.
    fn unload(&self, name: &str) {
        if let Called::Refused { message, .. } | Called::Failed(message) | Called::Away(message) =
            self.call("unload_lora_adapter", &json!({ "lora_name": name }))
        {
            tracing::info!("server `{}` keeps adapter `{name}`: {message}", self.settings.server);
        }
    }

    fn call(&self, verb: &str, body: &serde_json::Value) -> Called {
        let path = match self.dialect {
            Dialect::Sglang => format!("/{verb}"),
            _ => format!("/v1/{verb}"),
        };
        let runtime = self.runtime.lock().unwrap_or_else(|broken| broken.into_inner());
        runtime.block_on(self.reach.post(&path, body.to_string().into_bytes()))
    }
}
