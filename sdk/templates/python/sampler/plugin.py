from dataclasses import dataclass

from aligner_sdk import Candidate, Card, Context, Equipment, Rng, Sampler, Slot


@dataclass
class MyPlugin(Sampler, name="my-plugin", version="0.1.0"):
    """Draws the prompts of a round from those selected least often."""

    #: How many prompts a round has; 0 stands for all.
    prompts: int = 0
    #: How many of the principle plugin's examples each prompt gets.
    examples: int = 0

    def select(self, context: Context, pool: list[Candidate], seed: int) -> list[str]:
        drawn = list(pool)
        Rng(seed).shuffle(drawn)
        drawn.sort(key=lambda it: it.selected)
        return [it.id for it in drawn[: self.prompts or None]]

    def equip(self, context: Context, slot: Slot, catalogue: list[Card]) -> Equipment:
        drawn = Rng(slot.seed).choose(self.examples, len(catalogue))
        return Equipment([catalogue[i].id for i in drawn])
