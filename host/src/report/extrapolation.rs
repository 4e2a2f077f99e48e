//! How far a round went beyond what it trained, and what else was tried.

use serde::{Deserialize, Serialize};

use super::number;
use super::table::{Align, Table};

/// What an extrapolation came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extrapolation {
    /// How far; 0 is the trained policy itself.
    pub alpha: f64,
    /// `initial` or `previous`: what the line begins at.
    pub from: String,
    /// What was made better, `judge` or `perplexity`; absent where alpha was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// Rising in alpha.
    pub candidates: Vec<Candidate>,
}

/// A line of `extrapolate.jsonl`: one alpha.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// How far.
    pub alpha: f64,
    /// What was found at it; absent where alpha was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
    /// Why it could not be chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Whether it is the one.
    pub chosen: bool,
}

/// What a candidate's answers are like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The judge's mean reward, or the perplexity of the trusted answers; absent where the judge had
    /// none to give, or it is not finite.
    pub objective: Option<f64>,
    /// How many answers it has.
    pub answers: u64,
    /// Mean tokens of an answer.
    pub length: f64,
    /// Share of the answers that ended by themselves.
    pub ended: f64,
    /// Share of the answers' four-word sequences that stand in the same answer before.
    pub repeated: f64,
}

impl Extrapolation {
    /// Returns what was chosen in `round`, and a table of what was tried, ending in a newline.
    pub(super) fn table(&self, round: u32) -> String {
        let Extrapolation { alpha, from, candidates, .. } = self;
        let Some(objective) = &self.objective else {
            return format!("round {round} extrapolated from {from} by alpha {alpha}\n");
        };
        let mut table = Table::new();
        for heading in ["alpha", objective, "length", "ended", "repeated"] {
            table.column(heading, "", Align::Right);
        }
        table.column("refused", "", Align::Left);
        for candidate in candidates {
            let mark = if candidate.chosen { "*" } else { "" };
            let mut row = vec![format!("{mark}{}", candidate.alpha)];
            row.extend(match candidate.found {
                Some(found) => [
                    found.objective.map_or(String::new(), number),
                    format!("{:.1}", found.length),
                    format!("{:.3}", found.ended),
                    format!("{:.3}", found.repeated),
                ],
                None => Default::default(),
            });
            row.push(candidate.refused.clone().unwrap_or_default());
            table.row(row);
        }
        format!(
            "round {round} extrapolated from {from} by alpha {alpha}, the best of {} by {objective}:\n{}",
            candidates.len(),
            table.render()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(alpha: f64, objective: f64, refused: Option<&str>) -> Candidate {
        let found = Found {
            objective: Some(objective),
            answers: 16,
            length: 20.0,
            ended: 0.9375,
            repeated: 0.0123,
        };
        let refused = refused.map(str::to_owned);
        Candidate { alpha, found: Some(found), refused, chosen: alpha == 0.3 }
    }

    #[test]
    fn the_curve_is_a_table() {
        let extrapolation = Extrapolation {
            alpha: 0.3,
            from: "initial".into(),
            objective: Some("judge".into()),
            candidates: vec![
                candidate(0.0, 1.5, None),
                candidate(0.3, 2.25, None),
                candidate(0.5, 9.0, Some("too-long")),
            ],
        };
        let expected = "\
round 2 extrapolated from initial by alpha 0.3, the best of 3 by judge:
alpha  judge  length  ended  repeated  refused
    0   1.50    20.0  0.938     0.012
 *0.3   2.25    20.0  0.938     0.012
  0.5   9.00    20.0  0.938     0.012  too-long
";
        assert_eq!(extrapolation.table(2), expected);
        let json = serde_json::to_string(&extrapolation).unwrap();
        assert_eq!(serde_json::from_str::<Extrapolation>(&json).unwrap(), extrapolation);

        let given = Extrapolation { objective: None, candidates: Vec::new(), ..extrapolation };
        assert_eq!(given.table(1), "round 1 extrapolated from initial by alpha 0.3\n");
    }
}
