//! What can go wrong with a plugin, in the words that the user reads.
//!
//! Every trap, refusal and broken promise becomes a sentence here and nowhere else.

use std::fmt;

use wasmtime::Trap;

use super::inspect::{CONTRACT, Kind, MAX_FILE_BYTES, MAX_FUNCTION_BYTES};
use super::limits::{Exceeded, Limits, MAX_MEMORY_BYTES};

/// Why a plugin could not be loaded, or what it did wrong in a call.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The file cannot be used as this plugin; nothing of the run was touched.
    #[error("plugin `{}` {fault}{}", clean(.source_name, 300), Hint(.fault.hint()))]
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
    #[error("is damaged or uses what plugins may not: {0}")]
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
            [only] => write!(f, ", record `{}`", clean(only, 100))?,
            [first, .., last] => write!(
                f,
                ", records `{}` to `{}` ({} of them)",
                clean(first, 100),
                clean(last, 100),
                self.records.len()
            )?,
        }
        write!(f, "{}", Hint(self.fault.hint()))
    }
}

impl std::error::Error for CallError {}

/// What a plugin did wrong in a call. Displays as the end of a sentence that the plugin begins.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The fuel is used up.
    #[error("used up its budget of {} fuel", Short(*.limit))]
    Fuel {
        /// Units for a call.
        limit: u64,
    },
    /// The wall-clock deadline passed.
    #[error("did not come back within {seconds} s")]
    Deadline {
        /// For a call.
        seconds: f64,
    },
    /// Too much memory.
    #[error("wanted more than its {} MiB of memory", .limit >> 20)]
    Memory {
        /// Bytes for an instance.
        limit: usize,
    },
    /// Too many table elements.
    #[error("wanted larger tables than a plugin gets")]
    Tables,
    /// The call stack is exhausted.
    #[error("ran out of stack; it recurses too deeply")]
    Stack,
    /// Too much was copied to the host.
    #[error("gave back more than {} MiB in one call", .limit >> 20)]
    Copied {
        /// Bytes for a call.
        limit: usize,
    },
    /// Too much was logged.
    #[error("wrote more than {limit} bytes to the log in one call")]
    Log {
        /// Bytes for a call.
        limit: usize,
    },
    /// A text was not UTF-8.
    #[error("gave back a text that is not UTF-8")]
    Utf8,
    /// It panicked, and said why.
    #[error("panicked: {0}")]
    Panic(String),
    /// Any other trap.
    #[error("crashed: {0}")]
    Trap(String),
    /// It returned an error.
    #[error("{kind}: {message}")]
    Reported {
        /// Which of the contract's errors.
        kind: Reported,
        /// The plugin's words.
        message: String,
    },
    /// It returned a list of the wrong length.
    #[error("returned {returned} {results} for {wanted} {items}")]
    Count {
        /// How many it returned.
        returned: usize,
        /// What was to be returned, for example `verdicts`.
        results: &'static str,
        /// How many were wanted.
        wanted: usize,
        /// What it was given, for example `records`.
        items: &'static str,
    },
    /// It returned a value that the contract does not allow.
    #[error("{0}")]
    Value(String),
    /// It asked without the right to.
    #[error("asks the model `{model}` without the right to")]
    NoGrant {
        /// The model.
        model: String,
    },
    /// Its requests would use more tokens than it has.
    #[error("asks for up to {wanted} tokens, and has {left} left of its {budget} for the stage")]
    Tokens {
        /// At most, of the requests at hand.
        wanted: u64,
        /// Before them.
        left: u64,
        /// In all.
        budget: u64,
    },
    /// It asked again and again.
    #[error("still asks after {rounds} rounds of answers")]
    AsksForever {
        /// How many it had.
        rounds: usize,
    },
}

/// Which of the contract's errors a plugin returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// The configuration is wrong.
    Config,
    /// A record is not what it can work on.
    Input,
    /// A fault of its own.
    Internal,
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reported::Config => "refuses its configuration",
            Reported::Input => "cannot work on its input",
            Reported::Internal => "reports a fault of its own",
        })
    }
}

impl Fault {
    /// Returns whether the run stops even where `on_error = "drop"`: no record is to blame, or time
    /// would decide what is in the data.
    pub fn always_stops(&self) -> bool {
        matches!(
            self,
            Fault::Deadline { .. }
                | Fault::NoGrant { .. }
                | Fault::Tokens { .. }
                | Fault::Reported { kind: Reported::Config, .. }
        )
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Fault::Fuel { limit } => format!(
                "if the work is right, give it more: `limits = {{ fuel = \"{}\" }}`",
                Short(limit.saturating_mul(4))
            ),
            Fault::Memory { limit } if *limit >= MAX_MEMORY_BYTES => {
                "no plugin gets more; it must work on less at a time".into()
            }
            Fault::Memory { limit } => format!(
                "if the work is right, give it more: `limits = {{ memory = \"{}MiB\" }}`",
                (limit >> 20).saturating_mul(2).clamp(1, 256)
            ),
            Fault::Deadline { .. } => {
                "fuel ends a plugin that works too long; time runs out only where the machine is overloaded or a limit is set too low".into()
            }
            Fault::Count { results, items, .. } => format!(
                "there must be one of the {results} for each of the {items}, in the same order; `aligner plugin test` tries this on sample records"
            ),
            Fault::NoGrant { model } => format!(
                "if it may, say so beside it in the plugin set: `ask = {{ models = [\"{model}\"], tokens = 1000000 }}`"
            ),
            Fault::Tokens { .. } => {
                "raise `tokens` in its `ask = { … }`, or lower `max_new_tokens` where the plugin has such a setting".into()
            }
            Fault::Panic(_) | Fault::Trap(_) => {
                "a fault in the plugin; its author can reproduce it with `aligner plugin run` and these records".into()
            }
            _ => return None,
        })
    }

    /// Turns what the engine says into a fault. `last_error` is the last line of level error that
    /// the plugin logged in this call.
    pub(super) fn of(
        error: &wasmtime::Error,
        limits: &Limits,
        last_error: Option<String>,
    ) -> Fault {
        if let Some(exceeded) = error.downcast_ref::<Exceeded>() {
            return match exceeded {
                Exceeded::Memory => {
                    Fault::Memory { limit: limits.memory_bytes.min(MAX_MEMORY_BYTES) }
                }
                Exceeded::Table => Fault::Tables,
                Exceeded::Log => Fault::Log { limit: limits.log_bytes },
            };
        }
        if error.downcast_ref::<std::str::Utf8Error>().is_some() {
            return Fault::Utf8;
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Fault::Fuel { limit: limits.fuel },
            Some(Trap::Interrupt) => Fault::Deadline { seconds: limits.deadline.as_secs_f64() },
            Some(Trap::StackOverflow) => Fault::Stack,
            Some(Trap::UnreachableCodeReached) => match last_error {
                Some(text) => {
                    Fault::Panic(text.strip_prefix("panicked at ").unwrap_or(&text).into())
                }
                None => {
                    Fault::Trap("it reached `unreachable`, as a panic without a text does".into())
                }
            },
            // The stack of compiled Rust or C lies at the start of memory: running over it is this.
            Some(Trap::MemoryOutOfBounds) => {
                Fault::Trap("it went out of bounds of its memory, as endless recursion does".into())
            }
            Some(trap) => Fault::Trap(trap.to_string()),
            None => {
                let text = error.root_cause().to_string();
                // The engine's type for this is private.
                if text.contains("fuel allocated for hostcalls") {
                    return Fault::Copied { limit: limits.copied_bytes };
                }
                Fault::Trap(clean(&text, 500))
            }
        }
    }
}

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

/// A number as a plugin set writes it: `2G`, `500M`, `1234`.
struct Short(u64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, letter) in [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{letter}", self.0 / unit);
            }
        }
        write!(f, "{}", self.0)
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

/// Makes a plugin's words safe to show: one line, no control characters, at most `max_bytes` long.
pub(super) fn clean(text: &str, max_bytes: usize) -> String {
    let mut out = String::new();
    let mut gap = false;
    for c in text.chars() {
        // Bidirectional overrides could make a terminal show a line in another order.
        let hidden =
            c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if hidden || c == ' ' {
            gap = !out.is_empty();
            continue;
        }
        if out.len() + c.len_utf8() + usize::from(gap) > max_bytes {
            out.push('…');
            return out;
        }
        if std::mem::take(&mut gap) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_plugins_are_made_safe() {
        let check = |text: &str, max, expected: &str| assert_eq!(clean(text, max), expected);
        check("plain", 100, "plain");
        check(" a\nb\r\n\tc ", 100, "a b c");
        check("\x1b[31mred\x07", 100, "[31mred");
        check("a\u{202e}b", 100, "a b");
        check("äöü", 4, "äö…");
        check("", 0, "");
    }

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

    #[test]
    fn budgets_read_as_they_are_written() {
        let check = |number, expected: &str| assert_eq!(Short(number).to_string(), expected);
        check(2_000_000_000, "2G");
        check(1_500_000_000, "1500M");
        check(12_000, "12k");
        check(999, "999");
        check(0, "0");
    }
}
