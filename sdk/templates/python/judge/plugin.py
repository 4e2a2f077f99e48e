import re
from dataclasses import dataclass

from aligner_sdk import (
    Ask,
    Completion,
    Context,
    Decoding,
    GenerateRequest,
    InputError,
    Judge,
    Opinion,
    Record,
    Reward,
    Rewards,
    Text,
    Unparsable,
)

QUESTION = """Grade the answer to the message from 1 (useless) to 10 (could not be better).

[Message]
{message}

[Answer]
{answer}

[End]

Reply with the grade, a number, and nothing else."""


@dataclass
class MyPlugin(Judge, name="my-plugin", version="0.1.0"):
    """Asks a model for a grade of each completion."""

    model: str = "policy"

    def judge(self, context: Context, record: Record, ask: Ask) -> Opinion:
        completed = list(record.completions())
        if not completed:
            raise InputError("no variant is completed")
        message = record.prompt.text.transcript().strip()
        questions = [QUESTION.format(message=message, answer=it.text.strip()) for _, it in completed]
        decoding = Decoding(temperature=0, max_new_tokens=8)
        # Ends here until the host has answered; then all of it runs again, and goes on.
        answers = ask.all(GenerateRequest(self.model, Text.user(it), decoding) for it in questions)

        rewards = []
        for (variant, _), answer in zip(completed, answers):
            said = answer.text if isinstance(answer, Completion) else ""
            grade = re.search(r"\b(10|[1-9])\b", said)
            if not grade:
                return Unparsable(f"no grade for `{variant.name}`: {said}")
            rewards.append(Reward(variant.name, "quality", float(grade[1])))
        return Rewards(rewards)
