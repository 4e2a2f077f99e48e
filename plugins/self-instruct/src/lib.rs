//! Self-Instruct: the model is shown a few tasks and writes more of them (Wang et al., 2022,
//! <https://arxiv.org/abs/2212.10560>); Dromedary and I-SHEEP get their prompts this way.
//!
//! Each slot draws `examples` seed prompts and `written` earlier ones, puts them in random order
//! into a numbered list, and lets the model go on with it. What it writes is tagged `self-instruct`
//! and `round:N`, and a round works on its own. `instruction-rules` and `rouge-l` are the filters
//! that belong behind it, at `after = "sample"`.
//!
//! | style | shows | settings as published |
//! |---|---|---|
//! | `alpaca` | nine rules, then blocks of instruction and input | Dromedary: the defaults, `top_p` 0.98; I-SHEEP: `top_p` 0.95, 1000 tokens |
//! | `classic` | one line, then instructions | `examples` 6, `written` 2, `tasks` 16, `temperature` 0.7, `top_p` 0.5 |
//! | `brief` | what people asked, then how many more | none: for models too small for the others |
//!
//! All requests are this project's own writing. Deviations from the published programs:
//!
//! 1. `classic` and `brief` show instructions without an input alone: there is no second step that
//!    would write one.
//! 2. `classic` drops the last task where the token limit cut it off, not all of them.
//! 3. What ends a list is the number after the last one asked for, at the beginning of a line;
//!    I-SHEEP stops at any 17 in the text.
//! 4. There is no presence penalty.
//! 5. Prompts that are conversations are not shown: their last message does not stand by itself.

mod alpaca;
mod list;

use aligner_sdk::{
    Ask, Candidate, Card, Context, Decoding, Equipment, Error, GenerateRequest, Plugin, Prompt,
    PromptWriter, RenderAs, Rng, Sampler, Slot, Speaker, Text, export_prompt_writer, log,
};
use serde::Deserialize;

/// What stands under `[sampler.config]`; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelfInstruct {
    /// The model that writes: `policy`, `initial`, `previous` or a name from `[models]`.
    model: String,
    /// How the request is written and the answer is read.
    style: Style,
    /// How the request is put to the model.
    render_as: RenderAs,
    /// How many seed prompts are shown.
    examples: usize,
    /// How many prompts of earlier rounds are shown. Seed prompts stand in while there are fewer.
    written: usize,
    /// How long the list is to be, what is shown included.
    tasks: usize,
    /// How to decode.
    temperature: f64,
    /// How to decode.
    top_p: f64,
    /// How many tokens the model may write in one slot.
    max_new_tokens: u32,
    /// Where the model stops. Absent: at the number after `tasks`.
    stop: Option<Vec<String>>,
    /// How many in-context examples a prompt gets for being answered: the first of the principle
    /// plugin's catalogue.
    exemplars: usize,
}

impl Default for SelfInstruct {
    fn default() -> Self {
        SelfInstruct {
            model: "policy".into(),
            style: Style::Alpaca,
            render_as: RenderAs::Raw,
            examples: 5,
            written: 0,
            tasks: 20,
            temperature: 1.0,
            top_p: 0.98,
            max_new_tokens: 1024,
            stop: None,
            exemplars: 0,
        }
    }
}

/// How the request is written and the answer is read.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Style {
    /// Rules, then blocks of instruction and input.
    Alpaca,
    /// A list of instructions that goes on.
    Classic,
    /// A short request for a list of instructions.
    Brief,
}

impl Plugin for SelfInstruct {
    type Config = SelfInstruct;
    const NAME: &'static str = "self-instruct";
    const SUMMARY: &'static str = "Lets the model write new prompts after a few it is shown.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"model": {"type": "string", "default": "policy"},
"style": {"enum": ["alpaca", "classic", "brief"], "default": "alpaca"},
"render_as": {"enum": ["raw", "chat"], "default": "raw"},
"examples": {"type": "integer", "minimum": 0, "default": 5},
"written": {"type": "integer", "minimum": 0, "default": 0},
"tasks": {"type": "integer", "minimum": 1, "default": 20},
"temperature": {"type": "number", "minimum": 0, "maximum": 10, "default": 1.0},
"top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.98},
"max_new_tokens": {"type": "integer", "minimum": 1, "default": 1024},
"stop": {"type": "array", "items": {"type": "string"}},
"exemplars": {"type": "integer", "minimum": 0, "default": 0}}}"#;

    fn new(config: SelfInstruct) -> Result<Self, Error> {
        let shown = config.examples.saturating_add(config.written);
        if shown == 0 {
            return Err(Error::Config("`examples` and `written` are 0: nothing is shown".into()));
        }
        if config.tasks <= shown || config.tasks > 1000 {
            return Err(Error::Config(format!(
                "`tasks` is {}, expected {} to 1000: it counts the {shown} that are shown",
                config.tasks,
                shown.saturating_add(1),
            )));
        }
        Ok(config)
    }
}

impl Sampler for SelfInstruct {
    /// Selects what was written in this round.
    fn select(&self, context: &Context, pool: &[Candidate], _: u64) -> Result<Vec<String>, Error> {
        let tag = round_tag(context);
        let of_this_round = pool.iter().filter(|candidate| candidate.tags.contains(&tag));
        Ok(of_this_round.map(|candidate| candidate.id.clone()).collect())
    }

    fn equip(&self, _: &Context, _: &Slot, catalogue: &[Card]) -> Result<Equipment, Error> {
        if self.exemplars > catalogue.len() {
            return Err(Error::Config(format!(
                "`exemplars` is {}, but the principle plugin has {}",
                self.exemplars,
                catalogue.len()
            )));
        }
        let exemplars = catalogue[..self.exemplars].iter().map(|card| card.id.clone()).collect();
        Ok(Equipment { exemplars, decoding: Decoding::default() })
    }
}

impl PromptWriter for SelfInstruct {
    fn write(
        &self,
        context: &Context,
        pool: &[Prompt],
        index: u32,
        ask: &mut Ask,
    ) -> Result<Vec<Prompt>, Error> {
        let shown = self.shown(pool, ask.rng())?;
        let completion = match ask.generate(self.request(&shown)) {
            // A draw of long prompts may not fit the model; the next one may.
            Err(Error::Unanswered(why)) => {
                log::warn(&format!("slot {index} wrote nothing: {why}"));
                return Ok(Vec::new());
            }
            completion => completion?,
        };
        let next = shown.len() + 1;
        let tasks = match self.style {
            Style::Alpaca => alpaca::read(&completion.text, next),
            Style::Classic | Style::Brief => {
                let begun = self.style == Style::Classic || self.render_as == RenderAs::Raw;
                list::read(&completion.text, next, begun, completion.finish)
            }
        };
        let prompt = |task: Task| Prompt {
            id: String::new(),
            text: Text::task(&task.instruction, &task.input),
            tags: vec!["self-instruct".into(), round_tag(context)],
        };
        Ok(tasks.into_iter().map(prompt).collect())
    }
}

export_prompt_writer!(SelfInstruct);

impl SelfInstruct {
    /// Draws the tasks that are shown, in random order.
    fn shown(&self, pool: &[Prompt], mut rng: Rng) -> Result<Vec<Task>, Error> {
        let fits = |task: &Task| self.style == Style::Alpaca || task.input.is_empty();
        let (written, seeds): (Vec<_>, Vec<_>) =
            pool.iter().partition(|prompt| prompt.tags.iter().any(|tag| tag.starts_with(ROUND)));
        let tasks = |prompts: Vec<&Prompt>| -> Vec<Task> {
            prompts.into_iter().filter_map(|it| Task::of(&it.text)).filter(fits).collect()
        };
        let (written, seeds) = (tasks(written), tasks(seeds));
        let of_written = self.written.min(written.len());
        let of_seeds = self.examples + self.written - of_written;
        if of_seeds > seeds.len() {
            return Err(Error::Input(format!(
                "{of_seeds} seed prompts are to be shown, but there are {} that can be; give more \
                 in `[data] prompts` or set a smaller `examples`",
                seeds.len()
            )));
        }
        let mut shown = Vec::new();
        for (from, count) in [(seeds, of_seeds), (written, of_written)] {
            shown.extend(rng.choose(count, from.len()).into_iter().map(|i| from[i].clone()));
        }
        rng.shuffle(&mut shown);
        Ok(shown)
    }

    fn request(&self, shown: &[Task]) -> GenerateRequest {
        let raw = self.render_as == RenderAs::Raw;
        let text = match self.style {
            Style::Alpaca => alpaca::prompt(self.tasks, shown),
            Style::Classic => list::classic(shown),
            Style::Brief => list::brief(self.tasks, shown, raw),
        };
        let beyond = || vec![format!("\n{}.", self.tasks + 1)];
        let decoding = Decoding {
            temperature: Some(self.temperature),
            top_p: Some(self.top_p),
            max_new_tokens: Some(self.max_new_tokens),
            stop: Some(self.stop.clone().unwrap_or_else(beyond)),
            ..Decoding::default()
        };
        let prompt = self.render_as.put(text);
        GenerateRequest { decoding, ..GenerateRequest::of(&self.model, prompt) }
    }
}

/// Begins the tag of the round in which a prompt was written.
const ROUND: &str = "round:";

fn round_tag(context: &Context) -> String {
    format!("{ROUND}{}", context.round)
}

/// What is shown and what is written.
#[derive(Clone, Debug, PartialEq)]
struct Task {
    /// On one line; not empty.
    instruction: String,
    /// Empty where the instruction stands by itself.
    input: String,
}

impl Task {
    fn new(instruction: &str, input: &str) -> Option<Task> {
        let instruction = instruction.split_whitespace().collect::<Vec<_>>().join(" ");
        (!instruction.is_empty()).then(|| Task { instruction, input: input.trim().to_owned() })
    }

    /// Returns the task that a prompt is, if it is one by itself.
    fn of(text: &Text) -> Option<Task> {
        match text {
            Text::Chat(messages) if messages.iter().any(|it| it.speaker == Speaker::Assistant) => {
                None
            }
            text => {
                let (instruction, input) = text.instruction_and_input();
                Task::new(instruction, input)
            }
        }
    }
}

#[cfg(test)]
mod tests;
