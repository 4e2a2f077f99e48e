//! Plugins from elsewhere: by address, out of a registry, pinned by a lock. All of it on this machine.

mod fetching;
mod locking;
mod pushing;
mod registry;
pub mod server;

use std::process::Command;

use crate::runs::{Place, Said};

/// Returns a component that comes with aligner, as somebody else's.
fn component() -> Vec<u8> {
    aligner_embed::component("length").unwrap().to_vec()
}

/// Returns one that does the same and has other bytes: a section behind it that means nothing.
fn another() -> Vec<u8> {
    [component(), b"\0\x05\x04more".to_vec()].concat()
}

/// A folder with a cache of its own, and no login from outside.
struct Desk {
    place: Place,
}

impl Desk {
    fn new() -> Desk {
        Desk { place: Place::new() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(arguments);
        command
            .env("ALIGNER_CACHE", self.place.path("cache"))
            .env("HOME", self.place.path("home"))
            .env_remove("DOCKER_CONFIG")
            .env_remove("ALIGNER_REGISTRY")
            .env("NO_PROXY", "127.0.0.1");
        command
    }

    fn aligner(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }

    /// Writes the tiny plugin set with these lines in the place of its filter's `plugin`.
    fn write_set(&self, name: &str, lines: &str) {
        self.place.write_set(name, "");
        let text = std::fs::read_to_string(self.place.path(name)).unwrap();
        let text = text.replace("plugin = \"builtin:length\"", lines);
        std::fs::write(self.place.path(name), text).unwrap();
    }

    /// Runs one round of a plugin set.
    fn run(&self, set: &str, out: &str, more: &[&str]) -> Said {
        let fixed = ["--plugins", set, "--out", out, "--rounds", "1"];
        self.aligner(&[&fixed[..], more].concat())
    }
}

/// Returns the lines that `pull` and `push` print for a plugin set.
fn lines_for_a_set(said: &Said) -> String {
    let (_, lines) = said.stdout.split_once("in a plugin set:\n").expect("the lines are printed");
    lines.trim_end().to_owned()
}
