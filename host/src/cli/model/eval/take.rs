//! Each kind of measure: what the model is asked, and what becomes of what it says.

use serde_json::{Value, json};

use super::respondent::{Answered, Asked, Respondent, Said};
use super::rows::Rows;
use crate::{
    cli::CliError,
    data::{GivenPair, HeldOut},
    measure::{
        choice::{self, Question, Score, Scored},
        figure::Figure,
        generation,
        instructions::{self, Followed},
        letters::{BothOrders, Letters},
        pairwise::{self, Compared},
        perplexity, preferences,
        suite::{By, Decoding, Format, Kind, Measure},
    },
    record::{Finish, Prompt, Text},
    round::diversity::repeated,
    run::seed,
};

/// What a measure gave.
pub(super) struct Taken {
    /// Those of the table.
    pub figures: Vec<Figure>,
    /// Further ones: by instruction, or by group.
    pub details: Vec<Figure>,
    /// What became of each row that was measured, by its index.
    pub rows: Vec<(usize, Value)>,
}

/// Models that only some measures ask, loaded when they are needed and let go after.
pub(super) trait Others {
    /// Answers prompts with the model of this name.
    fn answers(
        &self,
        model: &str,
        what: &str,
        prompts: &[(&str, Text, u64)],
        decoding: &Decoding,
    ) -> Result<Vec<Option<Answered>>, CliError>;

    /// Says which of two texts the model of this name prefers, by [`letters`].
    fn letters(
        &self,
        model: &str,
        what: &str,
        pairs: &[Shown<'_>],
    ) -> Result<Vec<Option<BothOrders>>, CliError>;
}

/// Takes one measure of a model.
pub(super) fn take(
    measure: &Measure,
    rows: &Rows,
    model: Respondent<'_>,
    others: &dyn Others,
) -> Result<Taken, CliError> {
    match (&measure.kind, rows) {
        (Kind::VerifiableInstructions(decoding), Rows::Instructions(rows)) => {
            instructions(measure, decoding, rows, model)
        }
        (Kind::MultipleChoice { by: By::Completion, score, .. }, Rows::Questions(rows)) => {
            by_completion(measure, *score, rows, model)
        }
        (Kind::MultipleChoice { by: By::Letters, .. }, Rows::Questions(rows)) => {
            by_letters(measure, rows, model)
        }
        (Kind::Perplexity, Rows::Answered(rows)) => perplexity(measure, rows, model),
        (Kind::Generation { decoding, pairs }, Rows::Prompts(rows)) => {
            generation(measure, decoding, *pairs, rows, model)
        }
        (Kind::Preferences { score }, Rows::Pairs(rows)) => {
            preferences(measure, *score, rows, model)
        }
        (Kind::Pairwise { .. }, Rows::Answered(_) | Rows::Prompts(_)) => {
            pairwise(measure, rows, model, others)
        }
        _ => unreachable!("rows are read by the kind of their measure"),
    }
}

fn instructions(
    measure: &Measure,
    decoding: &Decoding,
    rows: &[instructions::Row],
    model: Respondent<'_>,
) -> Result<Taken, CliError> {
    let prompts = rows.iter().map(|row| (row.id.as_str(), Text::user(&row.prompt)));
    let answers = answers(measure, decoding, prompts, model)?;
    let followed = answers
        .iter()
        .zip(rows)
        .map(|(answer, row)| answer.as_ref().map(|answer| Followed::of(row, &answer.text)));
    let followed: Vec<Option<Followed>> = followed.collect();
    let mut lines = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        if let (Some(answer), Some(followed)) = (&answers[place], &followed[place]) {
            let ids: Vec<&str> = row.instructions.iter().map(|one| one.id.as_str()).collect();
            let line = json!({
                "id": row.id, "prompt": row.prompt, "answer": answer.text,
                "tokens": answer.tokens, "ended": answer.ended, "instructions": ids,
                "strict": followed.strict, "loose": followed.loose,
            });
            lines.push((place, line));
        }
    }
    let details: Vec<(&instructions::Row, &Followed)> =
        rows.iter().zip(&followed).filter_map(|(row, one)| Some((row, one.as_ref()?))).collect();
    let details = instructions::by_instruction(&details);
    let followed: Vec<Followed> = followed.into_iter().flatten().collect();
    Ok(Taken { figures: instructions::figures(&followed), details, rows: lines })
}

fn by_completion(
    measure: &Measure,
    score: Score,
    rows: &[Question],
    model: Respondent<'_>,
) -> Result<Taken, CliError> {
    let prompts: Vec<Text> = rows.iter().map(|row| question(measure, &row.question)).collect();
    let completions: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.choices.iter().map(|text| completion(measure, text)).collect())
        .collect();
    let mut asked = Vec::new();
    for ((row, prompt), completions) in rows.iter().zip(&prompts).zip(&completions) {
        asked.extend(completions.iter().map(|completion| Asked {
            row: &row.id,
            prompt,
            completion,
            // An answer may be longer than the one that is scored.
            finish: Finish::Length,
        }));
    }
    let mut said = model.scores(&measure.name, &asked)?.into_iter();
    let (mut outcomes, mut lines) = (Vec::new(), Vec::new());
    for (place, row) in rows.iter().enumerate() {
        let said: Vec<_> = said.by_ref().take(row.choices.len()).collect();
        let said: Option<Vec<Scored>> = said
            .into_iter()
            .map(|said| said.map(|said| Scored { logprob: said.logprob, tokens: said.tokens }))
            .collect();
        let Some(scored) = said else { continue };
        let outcome = row.outcome(&scored, score);
        let logprobs: Vec<f64> = scored.iter().map(|one| one.logprob).collect();
        let tokens: Vec<usize> = scored.iter().map(|one| one.tokens).collect();
        let line = json!({
            "id": row.id, "question": row.question, "choices": row.choices,
            "logprobs": logprobs, "tokens": tokens, "mc1": outcome.mc1, "mc2": outcome.mc2,
        });
        lines.push((place, line));
        outcomes.push((row, outcome));
    }
    let right: Vec<(&Question, bool)> = outcomes.iter().map(|(row, o)| (*row, o.mc1)).collect();
    Ok(Taken {
        figures: choice::figures(&outcomes),
        details: choice::by_group(&right),
        rows: lines,
    })
}

fn by_letters(
    measure: &Measure,
    rows: &[Question],
    model: Respondent<'_>,
) -> Result<Taken, CliError> {
    let shown = rows.iter().map(|row| {
        let (right, wrong) = row.pair().expect("rows of two answers are all that is read");
        let (right, wrong) = (&row.choices[right], &row.choices[wrong]);
        Shown {
            row: &row.id,
            straight: choice::letters_prompt(&row.question, right, wrong),
            swapped: choice::letters_prompt(&row.question, wrong, right),
        }
    });
    let said = letters(model, &measure.name, measure.format, &shown.collect::<Vec<_>>())?;
    let (mut outcomes, mut lines) = (Vec::new(), Vec::new());
    for (place, (row, both)) in rows.iter().zip(said).enumerate() {
        let Some(both) = both else { continue };
        let line = json!({
            "id": row.id, "question": row.question, "choices": row.choices,
            "right-first": letter_json(both.straight), "wrong-first": letter_json(both.swapped),
            "right": both.margin() > 0.0,
        });
        lines.push((place, line));
        outcomes.push((row, both));
    }
    let right: Vec<(&Question, bool)> =
        outcomes.iter().map(|(row, both)| (*row, both.margin() > 0.0)).collect();
    let details = choice::by_group(&right);
    Ok(Taken { figures: choice::letter_figures(&outcomes), details, rows: lines })
}

fn perplexity(
    measure: &Measure,
    rows: &[HeldOut],
    model: Respondent<'_>,
) -> Result<Taken, CliError> {
    let prompts: Vec<Text> = rows.iter().map(|row| prompt(measure, &row.prompt)).collect();
    let completions: Vec<String> =
        rows.iter().map(|row| completion(measure, &row.answer)).collect();
    let asked = rows.iter().zip(&prompts).zip(&completions).map(|((row, prompt), completion)| {
        Asked { row: &row.prompt.id, prompt, completion, finish: Finish::Stop }
    });
    let said = model.scores(&measure.name, &asked.collect::<Vec<_>>())?;
    let (mut scored, mut lines) = (Vec::new(), Vec::new());
    for (place, (row, said)) in rows.iter().zip(said).enumerate() {
        let Some(said) = said else { continue };
        let line = json!({
            "id": row.prompt.id, "prompt": row.prompt.text, "answer": row.answer,
            "logprob": said.logprob, "tokens": said.tokens,
        });
        lines.push((place, line));
        scored.push(perplexity::Scored { logprob: said.logprob, tokens: said.tokens });
    }
    Ok(Taken { figures: perplexity::figures(&scored), details: Vec::new(), rows: lines })
}

fn preferences(
    measure: &Measure,
    score: Score,
    rows: &[GivenPair],
    model: Respondent<'_>,
) -> Result<Taken, CliError> {
    let prompts: Vec<Text> = rows.iter().map(|row| prompt(measure, &row.prompt)).collect();
    let answers: Vec<[String; 2]> = rows
        .iter()
        .map(|row| [&row.chosen, &row.rejected].map(|answer| completion(measure, answer)))
        .collect();
    let asked: Vec<Asked<'_>> = rows
        .iter()
        .zip(&prompts)
        .zip(&answers)
        .flat_map(|((row, prompt), answers)| {
            answers.iter().map(|completion| {
                let row = row.prompt.id.as_str();
                Asked { row, prompt, completion, finish: Finish::Stop }
            })
        })
        .collect();
    let (what, values) = match model.reward_model() {
        Some(judge) => ("rewards", model.rewards(&judge, &measure.name, &asked)?),
        None => {
            let said = model.scores(&measure.name, &asked)?;
            let value = |said: Said| match score {
                Score::Sum => said.logprob,
                Score::Mean => said.logprob / said.tokens.max(1) as f64,
            };
            ("logprobs", said.into_iter().map(|said| said.map(value)).collect())
        }
    };
    let (mut valued, mut lines) = (Vec::new(), Vec::new());
    for (place, (row, values)) in rows.iter().zip(values.chunks(2)).enumerate() {
        let &[Some(chosen), Some(rejected)] = values else { continue };
        let words = |text: &str| text.split_whitespace().count();
        let one = preferences::Valued {
            chosen,
            rejected,
            chosen_words: words(&row.chosen),
            rejected_words: words(&row.rejected),
        };
        let line = json!({
            "id": row.prompt.id, "prompt": row.prompt.text, "chosen": row.chosen,
            "rejected": row.rejected, what: [chosen, rejected], "right": one.margin() > 0.0,
        });
        lines.push((place, line));
        valued.push(one);
    }
    Ok(Taken { figures: preferences::figures(&valued), details: Vec::new(), rows: lines })
}

fn generation(
    measure: &Measure,
    decoding: &Decoding,
    pairs: usize,
    rows: &[Prompt],
    model: Respondent<'_>,
) -> Result<Taken, CliError> {
    let prompts = rows.iter().map(|row| (row.id.as_str(), row.text.clone()));
    let answers = answers(measure, decoding, prompts, model)?;
    let (mut looked_at, mut lines) = (Vec::new(), Vec::new());
    for (place, (row, answer)) in rows.iter().zip(&answers).enumerate() {
        let Some(Answered { text, tokens, ended }) = answer else { continue };
        let repeated = repeated(4, [text.as_str()]);
        let line = json!({
            "id": row.id, "prompt": row.text, "answer": text, "tokens": tokens, "ended": ended,
            "repeated-4-grams": repeated,
        });
        lines.push((place, line));
        looked_at.push(generation::Answer { text, tokens: *tokens, ended: *ended });
    }
    let figures = generation::figures(&looked_at, pairs, decoding.seed);
    Ok(Taken { figures, details: Vec::new(), rows: lines })
}

fn pairwise(
    measure: &Measure,
    rows: &Rows,
    model: Respondent<'_>,
    others: &dyn Others,
) -> Result<Taken, CliError> {
    let Kind::Pairwise { decoding, judge, against, length_ratio } = &measure.kind else {
        unreachable!("only comparisons come here")
    };
    let (prompts, references): (Vec<&Prompt>, Vec<&str>) = match rows {
        Rows::Answered(rows) => rows.iter().map(|row| (&row.prompt, row.answer.as_str())).unzip(),
        Rows::Prompts(prompts) => (prompts.iter().collect(), Vec::new()),
        _ => unreachable!("rows are read by the kind of their measure"),
    };
    let texts = || prompts.iter().map(|prompt| (prompt.id.as_str(), prompt.text.clone()));
    let ours = answers(measure, decoding, texts(), model)?;
    let theirs: Vec<Option<String>> = match against {
        None => references.into_iter().map(|text| Some(text.to_owned())).collect(),
        Some(against) => {
            let what = format!("{}, {against}", measure.name);
            let found =
                others.answers(against, &what, &to_ask(measure, decoding, texts()), decoding)?;
            found.into_iter().map(|answer| answer.map(|answer| answer.text)).collect()
        }
    };
    let mut places = Vec::new();
    let mut shown = Vec::new();
    for (place, prompt) in prompts.iter().enumerate() {
        let (Some(ours), Some(theirs)) = (&ours[place], &theirs[place]) else { continue };
        let request = request(&prompt.text);
        let (ours, theirs) = (ours.text.trim(), theirs.trim());
        shown.push(Shown {
            row: &prompt.id,
            straight: pairwise::judge_prompt(&request, ours, theirs),
            swapped: pairwise::judge_prompt(&request, theirs, ours),
        });
        places.push((place, ours, theirs));
    }
    let said = others.letters(judge, &format!("{}, judged", measure.name), &shown)?;
    let words = |text: &str| text.split_whitespace().count();
    let (mut compared, mut lines) = (Vec::new(), Vec::new());
    for ((place, ours, theirs), both) in places.into_iter().zip(said) {
        let Some(both) = both else { continue };
        let one = Compared { both, words: words(ours), other_words: words(theirs) };
        let line = json!({
            "id": prompts[place].id, "prompt": prompts[place].text, "answer": ours, "other": theirs,
            "verdict": one.verdict(), "answer-first": letter_json(both.straight),
            "other-first": letter_json(both.swapped),
        });
        lines.push((place, line));
        compared.push(one);
    }
    let figures = pairwise::figures(&compared, *length_ratio);
    Ok(Taken { figures, details: Vec::new(), rows: lines })
}

/// Two answers as a judge is shown them.
pub(super) struct Shown<'a> {
    /// The row's id, for messages.
    pub row: &'a str,
    /// With the first answer as A.
    pub straight: String,
    /// With the first answer as B.
    pub swapped: String,
}

/// Asks a model which letter it would say. `None` where a prompt does not fit into its context.
pub(super) fn letters(
    model: Respondent<'_>,
    what: &str,
    format: Format,
    shown: &[Shown<'_>],
) -> Result<Vec<Option<BothOrders>>, CliError> {
    let (prompt, letters): (fn(&str) -> Text, [&str; 2]) = match format {
        Format::Chat => (|text| Text::user(text), ["A", "B"]),
        Format::Raw => (|text| Text::Raw(format!("{text}\n\nAnswer:")), [" A", " B"]),
    };
    let prompts: Vec<[Text; 2]> =
        shown.iter().map(|one| [prompt(&one.straight), prompt(&one.swapped)]).collect();
    let mut asked = Vec::with_capacity(4 * shown.len());
    for (one, prompts) in shown.iter().zip(&prompts) {
        for prompt in prompts {
            // What the model would say after the letter does not matter.
            let finish = Finish::Length;
            asked.extend(letters.map(|completion| Asked {
                row: one.row,
                prompt,
                completion,
                finish,
            }));
        }
    }
    let said = model.scores(what, &asked)?;
    let both = |said: &[Option<super::respondent::Said>]| {
        let logprob = |place: usize| said[place].map(|said| said.logprob);
        Some(BothOrders {
            straight: Letters { a: logprob(0)?, b: logprob(1)? },
            swapped: Letters { a: logprob(2)?, b: logprob(3)? },
        })
    };
    Ok(said.chunks(4).map(both).collect())
}

fn letter_json(letters: Letters) -> Value {
    json!({"A": letters.a, "B": letters.b})
}

fn answers<'a>(
    measure: &Measure,
    decoding: &Decoding,
    prompts: impl Iterator<Item = (&'a str, Text)>,
    model: Respondent<'_>,
) -> Result<Vec<Option<Answered>>, CliError> {
    model.answers(&measure.name, &to_ask(measure, decoding, prompts), decoding)
}

/// Returns prompts as the measure shows them, with the seeds of their answers.
fn to_ask<'a>(
    measure: &Measure,
    decoding: &Decoding,
    prompts: impl Iterator<Item = (&'a str, Text)>,
) -> Vec<(&'a str, Text, u64)> {
    let ask = |(id, text): (&'a str, Text)| {
        let seed = seed::of([
            decoding.seed.into(),
            "eval".into(),
            measure.name.as_str().into(),
            id.into(),
        ]);
        let text = match measure.format {
            Format::Chat => text,
            Format::Raw => Text::Raw(text.gist().to_owned()),
        };
        (id, text, seed)
    };
    prompts.map(ask).collect()
}

/// Returns a question that an answer follows.
fn question(measure: &Measure, text: &str) -> Text {
    match measure.format {
        Format::Chat => Text::user(text),
        Format::Raw => Text::Raw(format!("Question: {text}\nAnswer:")),
    }
}

/// Returns a row's prompt as the model reads it before an answer that is scored.
fn prompt(measure: &Measure, prompt: &Prompt) -> Text {
    match measure.format {
        Format::Chat => prompt.text.clone(),
        Format::Raw => question(measure, prompt.text.gist()),
    }
}

/// Returns an answer that follows a question.
fn completion(measure: &Measure, text: &str) -> String {
    match measure.format {
        Format::Chat => text.to_owned(),
        Format::Raw => format!(" {text}"),
    }
}

/// Returns a prompt as a judge reads it.
fn request(text: &Text) -> String {
    match text {
        Text::Raw(text) => text.clone(),
        Text::Chat(messages) => match &messages[..] {
            [only] => only.content.clone(),
            messages => {
                let line = |message: &crate::record::Message| {
                    format!("{}: {}", message.speaker.as_str(), message.content)
                };
                messages.iter().map(line).collect::<Vec<_>>().join("\n\n")
            }
        },
    }
}
