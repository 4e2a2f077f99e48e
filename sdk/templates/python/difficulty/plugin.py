from dataclasses import dataclass

from aligner_sdk import Ask, Context, Decoding, Difficulty, Record


@dataclass
class MyPlugin(Difficulty, name="my-plugin", version="0.1.0"):
    """Scores a prompt by how unsure the model is of its own answer, in nats a token."""

    model: str = "policy"
    max_new_tokens: int = 32

    def score(self, context: Context, record: Record, ask: Ask) -> float:
        decoding = Decoding(temperature=0, max_new_tokens=self.max_new_tokens)
        # Ends here until the host has answered; then all of it runs again, and goes on.
        answer = ask.generate(self.model, record.prompt.text, decoding)
        return -answer.logprob / answer.tokens
