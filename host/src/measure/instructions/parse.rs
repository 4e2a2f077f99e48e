//! Rows of IFEval: a prompt, the ids of its instructions, and their settings.

use serde_json::{Map, Value};

use super::language::Language;
use super::{Bound, Check, Instruction};
use crate::data::{RowProblem, filled_text, wrong_type};
use crate::plugin_set::problem::{closest, list};

/// A prompt with instructions that can be checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `key` of the file.
    pub id: String,
    /// What the model is asked.
    pub prompt: String,
    /// At least one.
    pub instructions: Vec<Instruction>,
}

/// Reads a row: `key`, `prompt`, `instruction_id_list` and `kwargs`, which has an object for each id.
/// Settings that are null are absent, as on the Hub.
pub fn row(row: &Map<String, Value>) -> Result<Row, RowProblem> {
    let column = |name: &'static str| {
        row.get(name).filter(|value| !value.is_null()).ok_or(RowProblem::Missing(name))
    };
    let id = match column("key")? {
        Value::String(key) if !key.trim().is_empty() && !key.contains(char::is_control) => {
            key.clone()
        }
        Value::Number(key) => key.to_string(),
        _ => return Err(wrong_type("key", "a text or an integer")),
    };
    let prompt = filled_text(column("prompt")?, "prompt")?.to_owned();
    let ids = column("instruction_id_list")?.as_array();
    let ids = ids.ok_or_else(|| wrong_type("instruction_id_list", "a list of texts"))?;
    let settings = column("kwargs")?.as_array();
    let settings = settings.ok_or_else(|| wrong_type("kwargs", "a list of objects"))?;
    let wrong = |what: String| RowProblem::Wrong(format!("row `{id}`: {what}"));
    if ids.is_empty() {
        return Err(wrong("`instruction_id_list` is empty".to_owned()));
    }
    if ids.len() != settings.len() {
        let (ids, settings) = (ids.len(), settings.len());
        return Err(wrong(format!("{settings} `kwargs` for {ids} instructions")));
    }
    let mut instructions = Vec::with_capacity(ids.len());
    for (name, settings) in ids.iter().zip(settings) {
        let name = name.as_str();
        let name = name.ok_or_else(|| wrong_type("instruction_id_list", "a list of texts"))?;
        let settings =
            settings.as_object().ok_or_else(|| wrong_type("kwargs", "a list of objects"))?;
        let settings = Settings { settings, read: Vec::new() };
        let check = settings.check(name).map_err(|what| match what {
            What::Unknown(what) => wrong(what),
            What::Setting(what) => wrong(format!("instruction `{name}` {what}")),
        })?;
        instructions.push(Instruction { id: name.to_owned(), check });
    }
    Ok(Row { id, prompt, instructions })
}

/// The ids that are known.
pub(super) const IDS: [&str; 25] = [
    "keywords:existence",
    "keywords:frequency",
    "keywords:forbidden_words",
    "keywords:letter_frequency",
    "language:response_language",
    "length_constraints:number_sentences",
    "length_constraints:number_paragraphs",
    "length_constraints:number_words",
    "length_constraints:nth_paragraph_first_word",
    "detectable_content:number_placeholders",
    "detectable_content:postscript",
    "detectable_format:number_bullet_lists",
    "detectable_format:constrained_response",
    "detectable_format:number_highlighted_sections",
    "detectable_format:multiple_sections",
    "detectable_format:json_format",
    "detectable_format:title",
    "combination:two_responses",
    "combination:repeat_prompt",
    "startend:end_checker",
    "startend:quotation",
    "change_case:capital_word_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "punctuation:no_comma",
];

/// What is wrong with an instruction.
enum What {
    /// A whole sentence.
    Unknown(String),
    /// What follows its name.
    Setting(String),
}

/// The settings of one instruction, and which of them were read.
struct Settings<'a> {
    settings: &'a Map<String, Value>,
    read: Vec<&'static str>,
}

type Read<T> = Result<T, What>;

impl<'a> Settings<'a> {
    fn check(mut self, name: &str) -> Read<Check> {
        let check = match name {
            "keywords:existence" => Check::Keywords(self.texts("keywords")?),
            "keywords:frequency" => {
                let word = self.text("keyword")?.trim().to_owned();
                Check::KeywordFrequency(word, self.bound("frequency", "relation")?)
            }
            "keywords:forbidden_words" => Check::ForbiddenWords(self.texts("forbidden_words")?),
            "keywords:letter_frequency" => {
                let letter = self.letter("letter")?;
                Check::LetterFrequency(letter, self.bound("let_frequency", "let_relation")?)
            }
            "language:response_language" => Check::ResponseLanguage(self.language("language")?),
            "length_constraints:number_sentences" => {
                Check::Sentences(self.bound("num_sentences", "relation")?)
            }
            "length_constraints:number_paragraphs" => {
                Check::Paragraphs(self.count("num_paragraphs", 1)?)
            }
            "length_constraints:number_words" => Check::Words(self.bound("num_words", "relation")?),
            "length_constraints:nth_paragraph_first_word" => self.nth_paragraph()?,
            "detectable_content:number_placeholders" => {
                Check::Placeholders(self.count("num_placeholders", 0)?)
            }
            "detectable_content:postscript" => {
                Check::Postscript(self.text("postscript_marker")?.trim().to_owned())
            }
            "detectable_format:number_bullet_lists" => {
                Check::BulletLists(self.count("num_bullets", 0)?)
            }
            "detectable_format:constrained_response" => Check::ConstrainedResponse,
            "detectable_format:number_highlighted_sections" => {
                Check::HighlightedSections(self.count("num_highlights", 0)?)
            }
            "detectable_format:multiple_sections" => {
                // The data spells it so.
                let marker = self.text("section_spliter")?.trim().to_owned();
                Check::Sections { marker, count: self.count("num_sections", 0)? }
            }
            "detectable_format:json_format" => Check::Json,
            "detectable_format:title" => Check::Title,
            "combination:two_responses" => Check::TwoResponses,
            "combination:repeat_prompt" => Check::RepeatPrompt(self.text("prompt_to_repeat")?),
            "startend:end_checker" => Check::End(self.text("end_phrase")?),
            "startend:quotation" => Check::Quotation,
            "change_case:capital_word_frequency" => {
                Check::CapitalWords(self.bound("capital_frequency", "capital_relation")?)
            }
            "change_case:english_capital" => Check::EnglishCapital,
            "change_case:english_lowercase" => Check::EnglishLowercase,
            "punctuation:no_comma" => Check::NoComma,
            _ => {
                let near = closest(name, IDS).map(|near| format!("; did you mean `{near}`?"));
                let near = near.unwrap_or_default();
                return Err(What::Unknown(format!("there is no instruction `{name}`{near}")));
            }
        };
        let is_other = |(key, value): &(&String, &Value)| {
            !value.is_null() && !self.read.contains(&key.as_str())
        };
        match self.settings.iter().find(is_other) {
            Some((key, _)) => Err(What::Setting(format!("has no setting `{key}`"))),
            None => Ok(check),
        }
    }

    fn value(&mut self, key: &'static str) -> Read<&'a Value> {
        self.read.push(key);
        let value = self.settings.get(key).filter(|value| !value.is_null());
        value.ok_or_else(|| What::Setting(format!("needs `{key}`")))
    }

    fn text(&mut self, key: &'static str) -> Read<String> {
        match self.value(key)?.as_str() {
            Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
            _ => Err(wrong(key, "a text")),
        }
    }

    fn texts(&mut self, key: &'static str) -> Read<Vec<String>> {
        let text = |item: &Value| match item.as_str() {
            Some(text) if !text.trim().is_empty() => Some(text.to_owned()),
            _ => None,
        };
        let texts: Option<Vec<String>> =
            self.value(key)?.as_array().and_then(|items| items.iter().map(text).collect());
        texts.filter(|texts| !texts.is_empty()).ok_or_else(|| wrong(key, "a list of texts"))
    }

    fn count(&mut self, key: &'static str, least: usize) -> Read<usize> {
        let value = self.value(key)?;
        // Tools that fill every row with the same columns write integers as floats.
        let float = || value.as_f64().filter(|number| number.fract() == 0.0);
        let count = value.as_u64().or_else(|| float().map(|number| number as u64));
        let negative = value.as_f64().is_some_and(|number| number < 0.0);
        let count = count.filter(|&count| !negative && count >= least as u64);
        count.map(|count| count as usize).ok_or_else(|| match least {
            0 => wrong(key, "an integer, 0 or more"),
            _ => wrong(key, "an integer, 1 or more"),
        })
    }

    fn bound(&mut self, count: &'static str, relation: &'static str) -> Read<Bound> {
        let count = self.count(count, 0)?;
        match self.value(relation)?.as_str() {
            Some("at least") => Ok(Bound { at_least: true, count }),
            Some("less than") => Ok(Bound { at_least: false, count }),
            _ => Err(wrong(relation, "`at least` or `less than`")),
        }
    }

    fn letter(&mut self, key: &'static str) -> Read<char> {
        let text = self.text(key)?.trim().to_lowercase();
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(letter), None) => Ok(letter),
            _ => Err(wrong(key, "one letter")),
        }
    }

    fn language(&mut self, key: &'static str) -> Read<Language> {
        let code = self.text(key)?;
        Language::of(&code).ok_or_else(|| {
            let known = list(&Language::codes());
            What::Setting(format!("asks for language `{code}`, and what is told apart is {known}"))
        })
    }

    fn nth_paragraph(&mut self) -> Read<Check> {
        let paragraphs = self.count("num_paragraphs", 1)?;
        let nth = self.count("nth_paragraph", 1)?;
        let first_word = self.text("first_word")?.trim().to_lowercase();
        if nth > paragraphs {
            let what = format!("asks for paragraph {nth} of {paragraphs}");
            return Err(What::Setting(what));
        }
        Ok(Check::NthParagraph { paragraphs, nth, first_word })
    }
}

fn wrong(key: &str, expected: &str) -> What {
    What::Setting(format!("wants {expected} in `{key}`"))
}
