//! Progress as other programs read it: one JSON object a line (`docs/progress.md`).

use serde::Serialize;

/// What is said of a stage, or between two.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event<'a> {
    /// A stage begins.
    Stage {
        /// For example `round 1: generate`.
        stage: &'a str,
        /// What is counted, for example `completions`.
        unit: &'a str,
        /// How many there are, at least 1.
        total: u64,
    },
    /// A stage is at work.
    Progress {
        stage: &'a str,
        unit: &'a str,
        done: u64,
        total: u64,
        /// Units in a second, since the stage began.
        rate: f64,
        /// That went through a model so far; 0 where the stage counts none.
        tokens: u64,
        /// Absent until something is done.
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds_left: Option<f64>,
    },
    /// A stage has ended.
    Done {
        stage: &'a str,
        unit: &'a str,
        done: u64,
        seconds: f64,
        tokens: u64,
        /// The most that the process was seen to hold; absent where the system does not say.
        #[serde(skip_serializing_if = "Option::is_none")]
        memory_bytes: Option<u64>,
    },
    /// Something else that is worth knowing, such as the plan of a run; may be of several lines.
    Note { text: &'a str },
}

impl Event<'_> {
    /// Returns the object, without a newline.
    pub(super) fn line(&self) -> String {
        serde_json::to_string(self).expect("our own types serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let check = |event: Event<'_>, expected: &str| assert_eq!(event.line(), expected);
        let (stage, unit) = ("round 1: generate", "completions");
        check(
            Event::Stage { stage, unit, total: 96 },
            r#"{"event":"stage","stage":"round 1: generate","unit":"completions","total":96}"#,
        );
        let event = |done, rate, tokens, seconds_left| Event::Progress {
            stage,
            unit,
            done,
            total: 96,
            rate,
            tokens,
            seconds_left,
        };
        check(
            event(24, 2.5, 1500, Some(28.5)),
            r#"{"event":"progress","stage":"round 1: generate","unit":"completions","done":24,"total":96,"rate":2.5,"tokens":1500,"seconds_left":28.5}"#,
        );
        check(
            event(0, 0.0, 0, None),
            r#"{"event":"progress","stage":"round 1: generate","unit":"completions","done":0,"total":96,"rate":0.0,"tokens":0}"#,
        );
        check(
            Event::Done { stage, unit, done: 96, seconds: 0.5, tokens: 7, memory_bytes: Some(9) },
            r#"{"event":"done","stage":"round 1: generate","unit":"completions","done":96,"seconds":0.5,"tokens":7,"memory_bytes":9}"#,
        );
        check(Event::Note { text: "a\nb" }, r#"{"event":"note","text":"a\nb"}"#);
    }
}
