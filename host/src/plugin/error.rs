//! What can go wrong with a plugin, in the words that the user reads.
//!
//! Every refusal becomes a sentence here, every trap and broken promise in [`fault`](super::fault), and
//! nowhere else.

use std::fmt;

pub use super::fault::{Fault, Reported, Span};
use super::inspect::{CONTRACT, Kind, MAX_FILE_BYTES, MAX_FUNCTION_BYTES, RELEASE};
use crate::shown::one_line;

/// Why a plugin could not be loaded, or what it did wrong in a call.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The file cannot be used as this plugin; nothing of the run was touched.
    #[error("plugin `{}` {fault}{}", one_line(.source_name, 300), Hint(.fault.hint()))]
    Load {
        /// The file or the name of the embedded plugin.
        source_name: String,
        /// What is wrong with it.
        fault: LoadFault,
    },
    /// A call failed, or gave what the contract does not allow.
    #[error(transparent)]
    Call(Box<CallError>),
    /// The caller's [`Answerer`](super::Answerer) failed; the error is its own.
    #[error("{0}")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The fault is the host's.
    #[error("the plugin runtime failed: {0}")]
    Host(String),
}

impl PluginError {
    /// Returns whether the plugin says that a record is not what it can work on.
    pub fn is_of_input(&self) -> bool {
        let PluginError::Call(error) = self else { return false };
        matches!(error.fault, Fault::Reported { kind: Reported::Input, .. })
    }
}

/// What is wrong with a plugin file.
#[derive(Debug, thiserror::Error)]
pub enum LoadFault {
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    /// It could not be fetched, or is not what it has to be.
    #[error("{message}")]
    Source {
        /// The end of a sentence.
        message: String,
        /// The way out, where one is known.
        hint: Option<String>,
    },
    /// Over [`MAX_FILE_BYTES`].
    #[error("has {bytes} bytes; at most {MAX_FILE_BYTES} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not a WebAssembly file at all.
    #[error("is not WebAssembly")]
    NotWasm,
    /// Truncated, corrupted, or with features that plugins may not use.
    #[error("is damaged or uses what plugins may not: {}", one_line(.0, 500))]
    Malformed(String),
    /// A core module that was not built against the contract.
    #[error("is a core module without the plugin contract in it")]
    NoContract,
    /// A function body over [`MAX_FUNCTION_BYTES`].
    #[error("has a function body of {bytes} bytes; at most {MAX_FUNCTION_BYTES} are compiled")]
    FunctionTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Built for another version of the contract.
    #[error("is built for contract {theirs}, this aligner has {CONTRACT}")]
    OtherContract {
        /// The version it was built for.
        theirs: String,
    },
    /// Something that a later release of the same contract added.
    #[error(
        "{does} `{interface}` of contract {theirs}, which this aligner, with {RELEASE}, does not have"
    )]
    NewerContract {
        /// `imports` or `exports`.
        does: &'static str,
        /// The interface.
        interface: String,
        /// The release it was built for.
        theirs: String,
    },
    /// An import that plugins do not get.
    #[error("imports `{name}`; a plugin may import `log` and types of `aligner:plugin` only")]
    ForeignImport {
        /// The import's name.
        name: String,
    },
    /// No `meta` interface.
    #[error("does not export `meta`, so it cannot say who it is")]
    NoMeta,
    /// No interface of any kind.
    #[error(
        "exports none of `principle`, `sampler`, `filter`, `set-filter`, `judge`, `difficulty` \
         of `aligner:plugin`"
    )]
    NoKind,
    /// `prompt-writer` by itself.
    #[error("exports `prompt-writer` without `sampler`")]
    LoneWriter,
    /// An interface has functions or types that differ from the contract's.
    #[error("does not keep to contract {CONTRACT}: {0}")]
    Shape(String),
    /// Of another kind than the plugin set wants.
    #[error("is a {}, and {} wants a {wanted}", Kinds(.found), .wanted.section())]
    WrongKind {
        /// The kinds it has.
        found: Vec<Kind>,
        /// The kind that is wanted.
        wanted: Kind,
    },
    /// The compiler refused it, ran over its limits, or died.
    #[error("could not be compiled: {0}")]
    Compile(String),
    /// `describe` failed.
    #[error("failed to describe itself: it {0}")]
    Describe(Fault),
    /// `describe` gave what the contract does not allow.
    #[error("describes itself wrongly: {0}")]
    Description(String),
    /// `configure` refused the configuration.
    #[error("({identity}) refuses its configuration: {message}")]
    Config {
        /// Who refuses.
        identity: Box<Identity>,
        /// The plugin's words.
        message: String,
    },
    /// `configure` failed in another way.
    #[error("({identity}) failed at its configuration: it {fault}")]
    Configure {
        /// Who failed.
        identity: Box<Identity>,
        /// How.
        fault: Fault,
    },
}

impl LoadFault {
    fn hint(&self) -> Option<String> {
        Some(match self {
            LoadFault::Source { hint, .. } => return hint.clone(),
            LoadFault::NotWasm | LoadFault::NoContract => {
                "a plugin is a crate built with `cargo build --release --target wasm32-unknown-unknown`".into()
            }
            LoadFault::OtherContract { .. } => {
                format!("build the plugin with an SDK for contract {CONTRACT}, or take the aligner that it was built for")
            }
            LoadFault::NewerContract { theirs, .. } => {
                format!("take an aligner with contract {theirs} or later, or build the plugin for {RELEASE}")
            }
            LoadFault::ForeignImport { name } if name.starts_with("wasi") => {
                "build for `wasm32-unknown-unknown`, which adds no WASI imports".into()
            }
            LoadFault::WrongKind { found, .. } => {
                let sections: Vec<_> =
                    found.iter().map(|kind| format!("`{}`", kind.section())).collect();
                format!("it belongs under {}", sections.join(" or "))
            }
            LoadFault::Describe(fault) | LoadFault::Configure { fault, .. } => return fault.hint(),
            _ => return None,
        })
    }
}

/// Who a plugin is, in messages: kind, name and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As what it was loaded.
    pub kind: Kind,
    /// From `describe`.
    pub name: String,
    /// From `describe`.
    pub version: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}` {}", self.kind, self.name, self.version)
    }
}

/// A call that failed: who, how, where, and with which records.
#[derive(Debug)]
pub struct CallError {
    /// Who failed.
    pub identity: Identity,
    /// How.
    pub fault: Fault,
    /// From 1; absent for a call outside a round.
    pub round: Option<u32>,
    /// The stage, for example `filter`.
    pub stage: String,
    /// Ids of the records of the call, in order; one where the plugin's answer for it is at fault.
    pub records: Vec<String>,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}\n  in ", self.identity, self.fault)?;
        if let Some(round) = self.round {
            write!(f, "round {round}, ")?;
        }
        write!(f, "stage {}", self.stage)?;
        match &self.records[..] {
            [] => {}
            [only] => write!(f, ", record `{}`", one_line(only, 100))?,
            [first, .., last] => write!(
                f,
                ", records `{}` to `{}` ({} of them)",
                one_line(first, 100),
                one_line(last, 100),
                self.records.len()
            )?,
        }
        write!(f, "{}", Hint(self.fault.hint()))
    }
}

impl std::error::Error for CallError {}

/// A blank line and the way out, or nothing.
struct Hint(Option<String>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Kinds in a row: `filter and judge`.
struct Kinds<'a>(&'a [Kind]);

impl fmt::Display for Kinds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|kind| kind.as_str()).collect();
        f.write_str(&names.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_reads_as_the_style_says() {
        let error = CallError {
            identity: Identity {
                kind: Kind::Filter,
                name: "length-filter".into(),
                version: "0.2.0".into(),
            },
            fault: Fault::Count {
                returned: 511,
                results: "verdicts",
                wanted: 512,
                items: "records",
            },
            round: Some(2),
            stage: "filter".into(),
            records: (1..=512).map(|i| format!("p-{i:03}")).collect(),
        };
        assert_eq!(
            error.to_string(),
            "filter `length-filter` 0.2.0 returned 511 verdicts for 512 records\n  \
             in round 2, stage filter, records `p-001` to `p-512` (512 of them)\n\n\
             hint: there must be one of the verdicts for each of the records, in the same order; \
             `aligner plugin test` tries this on sample records"
        );
    }
}
