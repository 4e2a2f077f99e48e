//! What is learnt from records: the lines of `train.jsonl`, and the same as tokens.

use super::pair::{IDENTICAL, NO_PAIR, of_role};
use super::rows::{Column, Lesson, Steered, Trained};
use super::{RunError, Workshop};
use crate::model::ModelError;
use crate::objective::Preference;
use crate::plugin_set::{Objective, Train};
use crate::record::{Completion, Finish, Record, VariantRole};
use crate::run::seed;
use crate::train::{self, Data, Example, Item, ItemProblem, Rated, Reference, Sequence};

/// Why a row is left out that is longer than what is trained on.
const TOO_LONG: &str = "too-long";
/// Why a row is left out of which a completion has no token.
const EMPTY: &str = "empty";

/// Returns what a record teaches under an objective: its prompt without principles or exemplars, and
/// the completions that the objective asks for.
pub fn row(round: u32, record: &Record, objective: Objective) -> Trained {
    let prompt = &record.prompt.text;
    let column = |completion: Option<&Completion>| {
        let text = completion.map_or("", |completion| completion.text.as_str());
        let finish = completion.map_or(Finish::Length, |completion| completion.finish);
        (Column::of_completion(prompt, text), finish)
    };
    let pair = record.pair.as_ref();
    let lesson = match (objective, pair) {
        (Objective::Preference(preference), Some(pair)) => {
            let of = |name: &str| {
                let variant = record.variants.iter().find(|variant| variant.name == name);
                column(variant.and_then(|variant| variant.completion.as_ref()))
            };
            let ((chosen, chosen_finish), (rejected, rejected_finish)) =
                (of(&pair.chosen), of(&pair.rejected));
            let steered = preference.tells_by_role().then(|| steered(record)).flatten();
            Lesson::Preference { chosen, chosen_finish, rejected, rejected_finish, steered }
        }
        _ => {
            let (completion, finish) = column(taught(record));
            Lesson::Completion { completion, finish }
        }
    };
    Trained {
        record_id: record.id().to_owned(),
        round,
        prompt: Column::of_prompt(prompt),
        lesson,
        difficulty: record.difficulty,
        dropped: None,
    }
}

fn steered(record: &Record) -> Option<Steered> {
    let prompt = |role| Some(Column::of_prompt(&of_role(record, role)?.prompt));
    let plain = of_role(record, VariantRole::Plain)?.completion.as_ref()?;
    Some(Steered {
        good_prompt: prompt(VariantRole::Good)?,
        bad_prompt: prompt(VariantRole::Bad)?,
        plain: Column::of_completion(&record.prompt.text, &plain.text),
        plain_finish: plain.finish,
    })
}

/// Returns the completion that a record teaches by itself: that of the chosen variant, else of the
/// good one, else of the plain one.
pub fn taught(record: &Record) -> Option<&Completion> {
    let variant = match &record.pair {
        Some(pair) => record.variants.iter().find(|variant| variant.name == pair.chosen),
        None => of_role(record, VariantRole::Good).or_else(|| of_role(record, VariantRole::Plain)),
    };
    variant?.completion.as_ref()
}

/// Rows as tokens.
pub enum Lessons {
    /// Under `sft`.
    Examples(Vec<Example>),
    /// Under an objective that compares completions.
    Items(Preference, Vec<Item>),
}

impl Lessons {
    /// Returns how many there are.
    pub fn count(&self) -> usize {
        match self {
            Lessons::Examples(examples) => examples.len(),
            Lessons::Items(_, items) => items.len(),
        }
    }

    /// Returns what a trainer takes; the logprobs of items are those of the reference, where there is
    /// one.
    pub fn data(self, logprobs: Option<Vec<Vec<f64>>>) -> Data {
        match self {
            Lessons::Examples(examples) => Data::Supervised(examples),
            Lessons::Items(objective, items) => {
                let reference = logprobs.map_or(Reference::Initial, Reference::Logprobs);
                Data::Preference { items, objective, reference }
            }
        }
    }
}

/// Turns rows into tokens; one that cannot be learnt from is marked as dropped.
///
/// Without pairs, a row becomes two items. They are shuffled here by `order`, where it is given, for
/// those of one step belong together ([`train::unpaired`]).
pub fn encode(
    shop: &Workshop<'_>,
    settings: &Train,
    mut rows: Vec<Trained>,
    order: Option<u64>,
) -> Result<(Vec<Trained>, Lessons), RunError> {
    // In its own round a row may have been too long.
    rows.iter_mut().for_each(|row| row.dropped = None);
    let longest = (settings.max_length as usize).min(shop.models.policy().spec.context_length);
    let Some(preference) = settings.preference() else {
        let mut examples = Vec::with_capacity(rows.len());
        for row in &mut rows {
            match sequences(shop, row, None, longest)? {
                Ok(sequences) => examples.extend(sequences.into_iter().map(|sequence| Example {
                    id: row.record_id.clone(),
                    tokens: sequence.tokens,
                    trained: sequence.trained,
                })),
                Err(reason) => row.dropped = Some(reason.into()),
            }
        }
        return Ok((rows, Lessons::Examples(examples)));
    };
    let (mut items, mut rated) = (Vec::new(), Vec::new());
    for row in &mut rows {
        let id = row.record_id.clone();
        match sequences(shop, row, Some(&preference), longest)? {
            Err(reason) => row.dropped = Some(reason.into()),
            Ok(sequences) if preference.is_paired() => {
                let item = Item { id, sequences, desirable: true };
                match item.check(&preference, &shop.models.policy().spec) {
                    Err(ItemProblem::Identical { .. }) => row.dropped = Some(IDENTICAL.into()),
                    // Whatever else is wrong, the trainer says so.
                    _ => items.push(item),
                }
            }
            Ok(sequences) => {
                let sides = sequences.into_iter().zip([("chosen", true), ("rejected", false)]);
                rated.extend(sides.map(|(sequence, (side, desirable))| Rated {
                    id: format!("{id}/{side}"),
                    sequence,
                    desirable,
                }));
            }
        }
    }
    if !preference.is_paired() {
        if let Some(seed) = order {
            seed::shuffle(seed, &mut rated);
        }
        let batch = settings.per_device_train_batch_size as usize;
        let per_step = batch.saturating_mul(settings.gradient_accumulation_steps as usize);
        items = train::unpaired(rated, per_step, longest);
    }
    Ok((rows, Lessons::Items(preference, items)))
}

/// Returns the sequences of a row in the order of an objective's roles, or why it has none.
fn sequences(
    shop: &Workshop<'_>,
    row: &Trained,
    preference: Option<&Preference>,
    longest: usize,
) -> Result<Result<Vec<Sequence>, &'static str>, RunError> {
    let wanted = match (preference, &row.lesson) {
        (None, Lesson::Completion { completion, finish }) => {
            vec![(&row.prompt, completion, *finish)]
        }
        (None, Lesson::Preference { chosen, chosen_finish, .. }) => {
            vec![(&row.prompt, chosen, *chosen_finish)]
        }
        (Some(_), Lesson::Completion { .. }) => return Ok(Err(NO_PAIR)),
        (
            Some(preference),
            Lesson::Preference { chosen, chosen_finish, rejected, rejected_finish, steered },
        ) => {
            let chosen = |prompt| (prompt, chosen, *chosen_finish);
            let rejected = |prompt| (prompt, rejected, *rejected_finish);
            match (preference, steered) {
                (Preference::Sso(_) | Preference::SsoGenerator(_), None) => {
                    return Ok(Err(NO_PAIR));
                }
                (Preference::Sso(_) | Preference::SsoGenerator(_), Some(steered)) => {
                    let Steered { good_prompt, bad_prompt, plain, plain_finish } = steered;
                    let mut all = vec![chosen(&row.prompt), rejected(&row.prompt)];
                    all.extend([chosen(good_prompt), rejected(good_prompt)]);
                    all.extend([(bad_prompt, plain, *plain_finish), chosen(bad_prompt)]);
                    all.split_off(all.len() - preference.learnt())
                }
                _ => vec![chosen(&row.prompt), rejected(&row.prompt)],
            }
        }
    };
    let rewards = preference.is_some_and(Preference::makes_reward_model);
    let mut sequences = Vec::with_capacity(wanted.len());
    for (prompt, completion, finish) in wanted {
        let (model, prompt) = (shop.models.policy(), prompt.prompt());
        let example = match rewards {
            true => model.encode_judged(&prompt, completion.words()),
            false => model.encode_example(&prompt, completion.words(), finish),
        };
        match example {
            Ok(example) if example.tokens.len() <= longest => {
                let (tokens, trained) = (example.tokens, example.trained);
                sequences.push(Sequence { tokens, trained });
            }
            Ok(_) | Err(ModelError::TooLong { .. }) => return Ok(Err(TOO_LONG)),
            Err(ModelError::NothingToTrain) => return Ok(Err(EMPTY)),
            Err(error) => return Err(RunError::of_record(&row.record_id)(error)),
        }
    }
    Ok(Ok(sequences))
}
