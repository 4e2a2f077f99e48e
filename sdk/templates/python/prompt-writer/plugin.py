from dataclasses import dataclass

from aligner_sdk import (
    Ask,
    Candidate,
    Context,
    Decoding,
    Prompt,
    PromptWriter,
    Text,
    UnansweredError,
)

QUESTION = """People asked an assistant:

{shown}

Write one more such message, about something else. Reply with the message alone, on one line."""


@dataclass
class MyPlugin(PromptWriter, name="my-plugin", version="0.1.0"):
    """Lets the model write a prompt after a few it is shown."""

    model: str = "policy"
    #: How many prompts it is shown.
    examples: int = 3
    max_new_tokens: int = 48

    def write(self, context: Context, pool: list[Prompt], index: int, ask: Ask) -> list[Prompt]:
        # The slot's seed: each draws its own examples, and the same ones when it is called again.
        drawn = ask.rng().choose(self.examples, len(pool))
        shown = "\n\n".join(pool[i].text.gist().strip() for i in drawn)
        decoding = Decoding(max_new_tokens=self.max_new_tokens)
        try:
            written = ask.generate(self.model, Text.user(QUESTION.format(shown=shown)), decoding)
        except UnansweredError:
            return []  # Long examples may not fit the model; those of the next slot may.
        lines = [line.strip() for line in written.text.split("\n") if line.strip()]
        return [Prompt("", Text.user(line), [f"round:{context.round}"]) for line in lines[:1]]

    def select(self, context: Context, pool: list[Candidate], seed: int) -> list[str]:
        return [it.id for it in pool if f"round:{context.round}" in it.tags]
