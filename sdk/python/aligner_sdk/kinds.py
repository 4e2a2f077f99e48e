"""One base class for each plugin kind. A plugin may have several."""

from __future__ import annotations

from typing import ClassVar, Sequence

from .ask import Ask
from .types import (
    Candidate,
    Card,
    Context,
    Decoding,
    Equipment,
    Exemplar,
    Opinion,
    Prompt,
    Record,
    Slot,
    Variant,
    Verdict,
)


class Plugin:
    """What every plugin says of itself, in the head of its class:

    - `name`: lower-case words joined by hyphens, for example `self-align-format`;
    - `version`: a semantic version;
    - `summary`: one line for people; the first line of the class's docstring where absent;
    - `needs`: measurements that the host must make before it calls, such as `perplexity(good)`;
      `Record.measurement` finds a value under the name as it is here.

    A plugin that takes a configuration is a dataclass, whose fields are the keys. `__post_init__` checks
    their values; it raises `ConfigError` with the key and what it must be. The host makes a plugin anew
    for every batch, so nothing is left of what a call keeps in `self`.
    """

    NAME: ClassVar[str] = ""
    VERSION: ClassVar[str] = ""
    SUMMARY: ClassVar[str] = ""
    NEEDS: ClassVar[Sequence[str]] = ()

    def __init_subclass__(
        cls, *, name: str = "", version: str = "", summary: str = "", needs: Sequence[str] = ()
    ) -> None:
        super().__init_subclass__()
        if not name:
            return  # One of the kinds below, or an author's own base class.
        lines = (cls.__doc__ or "").strip().splitlines()
        cls.NAME, cls.VERSION, cls.NEEDS = name, version, tuple(needs)
        cls.SUMMARY = summary or (lines[0] if lines else name)


class Filter(Plugin):
    """Keeps, drops or revises one record at a time."""

    def filter(self, context: Context, record: Record, ask: Ask) -> Verdict:
        """Judges one record by itself."""
        raise NotImplementedError


class SetFilter(Plugin):
    """A filter that must have seen the whole stage: deduplication, thresholds at a mean. One instance
    lives through the stage.

    Where prompts are written, a filter at `after = "sample"` observes the prompts that are there
    already before the new ones, and decides on the new ones only.
    """

    def observe(self, context: Context, record: Record) -> None:
        """Takes note of a record. Called for every record in order, before the first `decide`."""
        raise NotImplementedError

    def decide(self, context: Context, record: Record) -> Verdict:
        """Decides on a record. Called for the same records in the same order, those left out that were
        there already."""
        raise NotImplementedError


class Judge(Plugin):
    """Says how good completions are, or which of two is better."""

    def judge(self, context: Context, record: Record, ask: Ask) -> Opinion:
        """Judges the completions of one record."""
        raise NotImplementedError


class Difficulty(Plugin):
    """Says how hard a prompt is for the model."""

    def score(self, context: Context, record: Record, ask: Ask) -> float:
        """Scores one record. Higher is harder; finite."""
        raise NotImplementedError


class Principle(Plugin):
    """What a good answer follows, and how a prompt is put so that the model follows it."""

    def catalogue(self) -> list[Exemplar]:
        """Publishes the in-context examples, in a fixed order."""
        return []

    def render(self, context: Context, record: Record, ask: Ask) -> list[Variant]:
        """Puts a prompt into its variants: at least one, names unique, completions absent. The drawn
        exemplars are in `record.exemplars`."""
        raise NotImplementedError


class Sampler(Plugin):
    """Which prompts a round works on, and with which exemplars and decoding."""

    def select(self, context: Context, pool: list[Candidate], seed: int) -> list[str]:
        """Selects the prompts of a round: ids from the pool, none twice, in working order. The pool
        comes in the order of `[difficulty] order`; `seed` is drawn from (run seed, round)."""
        raise NotImplementedError

    def equip(self, context: Context, slot: Slot, catalogue: list[Card]) -> Equipment:
        """Equips one prompt. Depends on nothing but the slot, the catalogue and the configuration."""
        return Equipment([], Decoding())


class PromptWriter(Sampler):
    """A sampler that lets the model write new prompts."""

    def write(self, context: Context, pool: list[Prompt], index: int, ask: Ask) -> list[Prompt]:
        """Writes new prompts, perhaps none. `pool` holds the seed prompts and, after them, those
        accepted so far; `index` counts the slots from 0 within the round. By convention new prompts
        are tagged `round:N`, by which `select` finds them. A prompt with an input is one message of the
        user: `Text.task`."""
        raise NotImplementedError


#: The kinds by the name of their interface in the contract.
INTERFACES: dict[str, type[Plugin]] = {
    "filter": Filter,
    "set_filter": SetFilter,
    "judge": Judge,
    "difficulty": Difficulty,
    "principle": Principle,
    "sampler": Sampler,
    "prompt_writer": PromptWriter,
}
