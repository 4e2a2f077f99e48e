//! The rows of a suite, read and checked before any model loads.

use std::path::Path;

use crate::{
    cli::{CliError, exit},
    data::{self, DataError, GivenPair, HeldOut},
    measure::{
        choice::{self, Question},
        instructions,
        suite::{By, Format, Kind, Measure},
    },
    plugin_set::Source,
    record::{Prompt, Text},
};

/// The rows of one measure.
pub(super) enum Rows {
    Instructions(Vec<instructions::Row>),
    Questions(Vec<Question>),
    /// With trusted answers, or with those of the other side.
    Answered(Vec<HeldOut>),
    Prompts(Vec<Prompt>),
    Pairs(Vec<GivenPair>),
}

impl Rows {
    /// Reads at most `limit` rows of a measure. All rows of the file are checked.
    pub fn read(measure: &Measure, limit: Option<usize>) -> Result<Rows, CliError> {
        let mut rows = Rows::all(measure).map_err(|error| {
            CliError::from(error).context(&format!("the data of measure `{}`", measure.name))
        })?;
        if measure.format == Format::Raw {
            rows.check_raw(measure)?;
        }
        let limit = [limit, measure.limit].into_iter().flatten().min().unwrap_or(usize::MAX);
        match &mut rows {
            Rows::Instructions(rows) => rows.truncate(limit),
            Rows::Questions(rows) => rows.truncate(limit),
            Rows::Answered(rows) => rows.truncate(limit),
            Rows::Prompts(rows) => rows.truncate(limit),
            Rows::Pairs(rows) => rows.truncate(limit),
        }
        Ok(rows)
    }

    fn all(measure: &Measure) -> Result<Rows, DataError> {
        let path = measure.data.as_path();
        let source = Source::File(path.to_owned());
        let none = |_: &str| None;
        match &measure.kind {
            Kind::VerifiableInstructions(_) => {
                let mut rows = Vec::new();
                data::file_rows(path, |_, row| {
                    rows.push(instructions::row(row)?);
                    Ok(())
                })?;
                Ok(Rows::Instructions(rows))
            }
            Kind::MultipleChoice { by, group, .. } => {
                questions(path, *by, group.as_deref()).map(Rows::Questions)
            }
            Kind::Generation { .. } | Kind::Pairwise { against: Some(_), .. } => {
                data::read_prompts(&source, &none).map(|read| Rows::Prompts(read.prompts))
            }
            Kind::Preferences { .. } => data::read_pairs(&source, &none).map(Rows::Pairs),
            Kind::Perplexity | Kind::Pairwise { against: None, .. } => {
                data::read_held_out(&source, &none).map(Rows::Answered)
            }
        }
    }

    /// Fails where a prompt is more than one text.
    fn check_raw(&self, measure: &Measure) -> Result<(), CliError> {
        let prompts: Vec<&Prompt> = match self {
            Rows::Prompts(prompts) => prompts.iter().collect(),
            Rows::Answered(rows) => rows.iter().map(|row| &row.prompt).collect(),
            Rows::Pairs(rows) => rows.iter().map(|row| &row.prompt).collect(),
            Rows::Instructions(_) | Rows::Questions(_) => Vec::new(),
        };
        let is_long =
            |prompt: &&&Prompt| matches!(&prompt.text, Text::Chat(messages) if messages.len() > 1);
        match prompts.iter().find(is_long) {
            None => Ok(()),
            Some(prompt) => Err(CliError::new(
                exit::MODEL_OR_DATA,
                format!(
                    "row `{}` of `{}` is a conversation, which measure `{}` cannot show as raw text",
                    prompt.id,
                    measure.data.display(),
                    measure.name
                ),
            )
            .hint("leave `format = \"raw\"` out, or give one `prompt` a row")),
        }
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        match self {
            Rows::Instructions(rows) => rows.len(),
            Rows::Questions(rows) => rows.len(),
            Rows::Answered(rows) => rows.len(),
            Rows::Prompts(rows) => rows.len(),
            Rows::Pairs(rows) => rows.len(),
        }
    }
}

fn questions(path: &Path, by: By, group: Option<&str>) -> Result<Vec<Question>, DataError> {
    let mut questions = Vec::new();
    data::file_rows(path, |line, row| {
        let question = choice::question(row, line, group)?;
        if by == By::Letters && question.pair().is_none() {
            let has = question.mc1.len();
            let problem = format!("the question has {has} answers, and letters choose between two");
            return Err(data::RowProblem::Wrong(problem));
        }
        questions.push(question);
        Ok(())
    })?;
    Ok(questions)
}
