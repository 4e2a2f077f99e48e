//! What a plugin can do wrong in a call, as the end of a sentence, and the way out.

use std::fmt;

use wasmtime::Trap;

use super::asking::MAX_REQUESTS;
use super::limits::{
    Exceeded, Limits, MAX_HANDLES, MAX_INSTANCES, MAX_MEMORIES, MAX_MEMORY_BYTES,
    MAX_TABLE_ELEMENTS, MAX_TABLES,
};
use crate::shown::one_line;

/// Over what a budget is counted. Displays as what follows it in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// One call.
    Call,
    /// All requests for one record.
    Record,
    /// A stage of a round.
    Stage,
    /// The whole run.
    Run,
}

impl Span {
    /// Returns what the key of a budget begins with in a plugin set.
    fn prefix(self) -> &'static str {
        match self {
            Span::Call | Span::Stage => "",
            Span::Record => "record_",
            Span::Run => "run_",
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Span::Call => "in one call",
            Span::Record => "for one record",
            Span::Stage => "for the stage",
            Span::Run => "for the whole run",
        })
    }
}

/// What a plugin did wrong in a call. Displays as the end of a sentence that the plugin begins.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The fuel is used up.
    #[error("used up its budget of {} fuel{}", Short(*.limit), match .span { Span::Run => " for the whole run", _ => "" })]
    Fuel {
        /// Units.
        limit: u64,
        /// For a call or the run.
        span: Span,
    },
    /// The wall-clock deadline passed.
    #[error("did not come back within {seconds} s")]
    Deadline {
        /// For a call.
        seconds: f64,
    },
    /// The wall-clock time of all calls of the run is used up.
    #[error("took over {seconds} s in the calls of this run")]
    RunDeadline {
        /// For the run.
        seconds: f64,
    },
    /// Too much memory.
    #[error("wanted more than its {} of memory", Size(*.limit))]
    Memory {
        /// Bytes for an instance.
        limit: usize,
    },
    /// Too many table elements.
    #[error("wanted tables of more than its {} elements", Short(*.limit as u64))]
    TableElements {
        /// For an instance.
        limit: usize,
    },
    /// Too many memories, tables or module instances.
    #[error("is made of more than its {limit} {what}")]
    Parts {
        /// The key of the limit: `memories`, `tables` or `instances`.
        what: &'static str,
        /// For an instance of the component.
        limit: usize,
    },
    /// Too many handles.
    #[error("wanted more than {MAX_HANDLES} handles at once")]
    Handles,
    /// The call stack is exhausted.
    #[error("ran out of stack; it recurses too deeply")]
    Stack,
    /// Too much was copied to the host.
    #[error("gave back more than {} in one call", Size(*.limit))]
    Copied {
        /// Bytes for a call.
        limit: usize,
    },
    /// Too much was logged.
    #[error("wrote more than {limit} bytes to the log {span}")]
    Log {
        /// Bytes.
        limit: u64,
        /// For a call or the run.
        span: Span,
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
    #[error("asks for up to {wanted} tokens, and has {left} left of its {budget} {span}")]
    Tokens {
        /// At most, of the requests at hand.
        wanted: u64,
        /// Before them.
        left: u64,
        /// In all.
        budget: u64,
        /// For a stage or the run.
        span: Span,
    },
    /// It makes more requests than it may.
    #[error("makes {wanted} requests, and has {left} left of its {budget} {span}")]
    Requests {
        /// How many are at hand.
        wanted: u64,
        /// Before them.
        left: u64,
        /// In all.
        budget: u64,
        /// For a record, a stage or the run.
        span: Span,
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
        match self {
            Fault::Deadline { .. }
            | Fault::RunDeadline { .. }
            | Fault::NoGrant { .. }
            | Fault::Tokens { .. }
            | Fault::Reported { kind: Reported::Config, .. } => true,
            Fault::Fuel { span, .. } | Fault::Log { span, .. } => *span == Span::Run,
            Fault::Requests { span, .. } => *span != Span::Record,
            _ => false,
        }
    }

    pub(super) fn hint(&self) -> Option<String> {
        let more = |key: &str, value: String| {
            Some(format!("if the work is right, give it more: `limits = {{ {key} = {value} }}`"))
        };
        let doubled = |key: &str, limit: usize, most: usize| match limit >= most {
            true => Some(format!("no plugin gets more {}", key.replace('_', " "))),
            false => more(key, limit.saturating_mul(2).clamp(1, most).to_string()),
        };
        match self {
            Fault::Fuel { limit, span } => {
                let value = Short(limit.saturating_mul(4));
                more(&format!("{}fuel", span.prefix()), format!("\"{value}\""))
            }
            Fault::Memory { limit } if *limit >= MAX_MEMORY_BYTES => {
                Some("no plugin gets more; it must work on less at a time".into())
            }
            Fault::Memory { limit } => {
                let mebibytes = (limit >> 20).saturating_mul(2).clamp(1, 256);
                more("memory", format!("\"{mebibytes}MiB\""))
            }
            Fault::TableElements { limit } => doubled("table_elements", *limit, MAX_TABLE_ELEMENTS),
            Fault::Parts { what, limit } => match *what {
                "memories" => doubled("memories", *limit, MAX_MEMORIES),
                "tables" => doubled("tables", *limit, MAX_TABLES),
                _ => doubled("instances", *limit, MAX_INSTANCES),
            },
            Fault::Copied { limit } => {
                more("copied_bytes", format!("\"{}MiB\"", (limit >> 20).saturating_mul(2).max(1)))
            }
            Fault::Log { limit, span } => {
                let kibibytes = (limit >> 10).saturating_mul(4).max(1);
                more(&format!("{}log_bytes", span.prefix()), format!("\"{kibibytes}KiB\""))
            }
            Fault::Deadline { .. } => Some(
                "fuel ends a plugin that works too long; time runs out only where the machine is overloaded or `wall_seconds` in its `limits` is set too low".into()
            ),
            Fault::RunDeadline { seconds } => {
                more("run_wall_seconds", (seconds * 4.0).to_string())
            }
            Fault::Count { results, items, .. } => Some(format!(
                "there must be one of the {results} for each of the {items}, in the same order; `aligner plugin test` tries this on sample records"
            )),
            Fault::NoGrant { model } => Some(format!(
                "if it may, say so beside it in the plugin set: `ask = {{ models = [\"{model}\"], tokens = 1000000 }}`"
            )),
            Fault::Tokens { span, .. } => Some(format!(
                "raise `{}tokens` in its `ask = {{ … }}`, or lower `max_new_tokens` where the plugin has such a setting",
                span.prefix()
            )),
            Fault::Requests { budget, span: Span::Record, .. } if *budget >= MAX_REQUESTS as u64 => {
                Some("no plugin makes more for one record".into())
            }
            Fault::Requests { span, .. } => {
                Some(format!("raise `{}requests` in its `ask = {{ … }}`", span.prefix()))
            }
            Fault::Panic(_) | Fault::Trap(_) => Some(
                "a fault in the plugin; its author can reproduce it with `aligner plugin run` and these records".into()
            ),
            _ => None,
        }
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
                Exceeded::Table => {
                    Fault::TableElements { limit: limits.table_elements.min(MAX_TABLE_ELEMENTS) }
                }
                Exceeded::Log => Fault::Log { limit: limits.log_bytes as u64, span: Span::Call },
            };
        }
        if error.downcast_ref::<std::str::Utf8Error>().is_some() {
            return Fault::Utf8;
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Fault::Fuel { limit: limits.fuel, span: Span::Call },
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
                // The engine has no public types for these.
                let said = |what: &str| text.contains(what);
                match () {
                    () if said("fuel allocated for hostcalls") => {
                        Fault::Copied { limit: limits.copied_bytes }
                    }
                    () if said("memory count too high") => {
                        Fault::Parts { what: "memories", limit: limits.memories.min(MAX_MEMORIES) }
                    }
                    () if said("table count too high") => {
                        Fault::Parts { what: "tables", limit: limits.tables.min(MAX_TABLES) }
                    }
                    () if said("instance count too high") => Fault::Parts {
                        what: "instances",
                        limit: limits.instances.min(MAX_INSTANCES),
                    },
                    () if said("store handle limit exceeded") => Fault::Handles,
                    () => Fault::Trap(one_line(&text, 500)),
                }
            }
        }
    }
}

/// A number as a plugin set writes it: `2G`, `500M`, `1234`.
struct Short(u64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units =
            [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
        for (unit, letter) in units {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{letter}", self.0 / unit);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A size for people: `64 MiB`, `100 KiB`, `1000 bytes`.
struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => {
                write!(f, "{} MiB", bytes >> 20)
            }
            bytes if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => {
                write!(f, "{} KiB", bytes >> 10)
            }
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let check = |bytes, expected: &str| assert_eq!(Size(bytes).to_string(), expected);
        check(64 << 20, "64 MiB");
        check(100 << 10, "100 KiB");
        check(1000, "1000 bytes");
        check(0, "0 bytes");
    }

    #[test]
    fn budgets_read_as_they_are_written() {
        let check = |number, expected: &str| assert_eq!(Short(number).to_string(), expected);
        check(8_000_000_000_000, "8T");
        check(2_000_000_000, "2G");
        check(1_500_000_000, "1500M");
        check(12_000, "12k");
        check(999, "999");
        check(0, "0");
    }
}
