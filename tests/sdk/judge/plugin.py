from dataclasses import dataclass

from aligner_sdk import Ask, Context, Decoding, Judge, Opinion, Record, Reward, Rewards, Score, ScoreRequest, log


@dataclass
class Likely(Judge, name="likely", version="0.1.0"):
    """Rewards completions that the model finds likely after words of its own. For tests."""

    model: str = "policy"

    def judge(self, context: Context, record: Record, ask: Ask) -> Opinion:
        # One request, then several that depend on its answer.
        decoding = Decoding(temperature=0.7, max_new_tokens=3)
        first = ask.generate(self.model, record.prompt.text, decoding, seed=7)
        completed = list(record.completions())
        requests = [ScoreRequest(self.model, it.prompt, f"{first.text}{done.text}") for it, done in completed]
        rewards = []
        for (variant, _), score in zip(completed, ask.all(requests)):
            assert isinstance(score, Score)
            rewards.append(Reward(variant.name, "likely", score.logprob / score.tokens))
        log.info(f"{record.prompt.id}: {len(rewards)}")
        return Rewards(rewards)
