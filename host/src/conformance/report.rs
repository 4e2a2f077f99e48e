//! What the suite found, line by line.

use std::fmt;

use serde::Serialize;

use crate::plugin::Interface;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The plugin does as the contract says.
    Ok,
    /// It does not; it would harm a run.
    Fail,
    /// Worth knowing, and no failure.
    Note,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Ok => "ok",
            Verdict::Fail => "FAIL",
            Verdict::Note => "note",
        })
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// How it ended.
    pub verdict: Verdict,
    /// Which interface was called; absent where it is about the component.
    pub interface: Option<&'static str>,
    /// The name of the check.
    pub check: String,
    /// What was found; further lines hold the plugin's words as a user sees them.
    pub found: String,
}

/// What was found, in the order of the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The checks.
    pub lines: Vec<Line>,
}

impl Report {
    /// Notes a check that went well.
    pub fn ok(&mut self, interface: Option<Interface>, check: &str, found: impl Into<String>) {
        self.push(Verdict::Ok, interface, check, found.into());
    }

    /// Notes a check that failed.
    pub fn fail(&mut self, interface: Option<Interface>, check: &str, found: impl Into<String>) {
        self.push(Verdict::Fail, interface, check, found.into());
    }

    /// Notes what is worth knowing.
    pub fn note(&mut self, interface: Option<Interface>, check: &str, found: impl Into<String>) {
        self.push(Verdict::Note, interface, check, found.into());
    }

    fn push(&mut self, verdict: Verdict, interface: Option<Interface>, check: &str, found: String) {
        let interface = interface.map(Interface::as_str);
        self.lines.push(Line { verdict, interface, check: check.to_owned(), found });
    }

    /// Returns the checks that ended so.
    pub fn of(&self, verdict: Verdict) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.verdict == verdict)
    }
}

/// The lines as a user reads them: those of an interface under its name.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut about = None;
        for line in &self.lines {
            if line.interface != about {
                about = line.interface;
                writeln!(f, "{}", line.interface.unwrap_or("component"))?;
            }
            let mut found = line.found.lines();
            let first = found.next().unwrap_or_default();
            let gap = if first.is_empty() { "" } else { ": " };
            writeln!(f, "  {:<4}  {}{gap}{first}", line.verdict, line.check)?;
            for more in found {
                writeln!(f, "{}", format!("          {more}").trim_end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_under_their_interface() {
        let mut report = Report::default();
        report.ok(None, "describes itself", "filter `x` 0.1.0");
        report.ok(Some(Interface::Filter), "empty batch", "");
        report.fail(Some(Interface::Filter), "lengths", "of 2 records\nit returned 1\n\nhint: no");
        assert_eq!(
            report.to_string(),
            "  ok    describes itself: filter `x` 0.1.0\n\
             filter\n  ok    empty batch\n  FAIL  lengths: of 2 records\n          it returned 1\n\n          hint: no\n"
        );
        assert_eq!(report.of(Verdict::Fail).count(), 1);
    }
}
