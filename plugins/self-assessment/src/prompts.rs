//! What the model is asked, in this project's own words.

use serde::Deserialize;

/// What a completion is scored for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Criterion {
    /// How good the answer is.
    Quality,
    /// How well it follows the instruction.
    Following,
}

/// How the scale is described.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standard {
    /// What several things make an answer poor or good.
    Combined,
    /// One thing for each criterion.
    Simple,
    /// As `combined`, with three scored answers before the one to score.
    Icl,
}

/// What is scored: an instruction with its input, and an answer.
struct Item<'a> {
    instruction: &'a str,
    input: &'a str,
    answer: &'a str,
}

impl Criterion {
    /// Returns the reward's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Criterion::Quality => "quality",
            Criterion::Following => "following",
        }
    }

    /// Writes the question for one answer. It ends where the score begins.
    pub(crate) fn question(
        self,
        standard: Standard,
        (instruction, input): (&str, &str),
        answer: &str,
    ) -> String {
        let (what, poor, good) = match (self, standard) {
            (Criterion::Quality, Standard::Simple) => {
                ("the quality of the response", "The response is wrong.", "The response is right.")
            }
            (Criterion::Quality, _) => (
                "the quality of the response",
                "The response is wrong, long-winded, hard to understand or says things twice.",
                "The response is right, to the point, easy to understand and says nothing twice.",
            ),
            (Criterion::Following, Standard::Simple) => (
                "how well the response follows the instruction",
                "The response does not do what the instruction asks.",
                "The response does what the instruction asks.",
            ),
            (Criterion::Following, _) => (
                "how well the response follows the instruction",
                "The response goes on with the instruction where it should answer it, has another \
                 form than was asked for, or the instruction itself cannot be understood.",
                "The response answers the instruction directly and in the form asked for, and the \
                 instruction is easy to understand.",
            ),
        };
        let mut text = format!(
            "Score {what} below, from 1 to 10.\n\n1 (poor): {poor}\n10 (good): {good}\n\nWrite \
             the score first, then two bars, then why: <score>||<explanation>"
        );
        if standard == Standard::Icl {
            for (item, score) in self.examples() {
                text.push_str(&format!("\n\n{}{score}", item.ending_at_the_score()));
            }
        }
        text.push_str("\n\n");
        text.push_str(Item { instruction, input, answer }.ending_at_the_score().trim_end());
        text
    }

    /// Returns three scored answers: one that will do, a poor one, a good one.
    fn examples(self) -> [(Item<'static>, &'static str); 3] {
        let item = |instruction, input, answer| Item { instruction, input, answer };
        match self {
            Criterion::Quality => [
                (
                    item(
                        "Why do leaves fall in autumn?",
                        "",
                        "In autumn the leaves fall because it is autumn and trees drop their \
                         leaves to save water for the winter. They fall every autumn.",
                    ),
                    "6||The reason is right, but the first and the last sentence add nothing.",
                ),
                (
                    item(
                        "How many minutes are there in three hours?",
                        "",
                        "There are 160 minutes.",
                    ),
                    "1||Three hours have 180 minutes.",
                ),
                (
                    item(
                        "Name the fruit in this list.",
                        "carrot, spoon, plum, brick",
                        "The fruit is the plum.",
                    ),
                    "10||It is right and says no more than was asked.",
                ),
            ],
            Criterion::Following => [
                (
                    item(
                        "Give two reasons for riding a bicycle, as a numbered list.",
                        "",
                        "A bicycle costs little, and riding it keeps you fit.",
                    ),
                    "6||It gives two reasons, but not as a numbered list.",
                ),
                (
                    item(
                        "Put this sentence into the past tense.",
                        "We walk home.",
                        "Also put it into the future tense, and do the same for the next one.",
                    ),
                    "1||It goes on with the instruction and changes no sentence.",
                ),
                (
                    item("Answer in one word: is ice heavier than water?", "", "No."),
                    "10||It is one word, as asked, and the question is clear.",
                ),
            ],
        }
    }
}

impl Item<'_> {
    /// Ends with a space after the colon, which an example's score follows.
    fn ending_at_the_score(&self) -> String {
        let Item { instruction, input, answer } = self;
        let instruction = format!("{instruction} {input}");
        format!(
            "Instruction: {}\nResponse: {}\nAs a strict examiner, your score is: ",
            instruction.trim(),
            answer.trim()
        )
    }
}
