"""What an author of aligner plugins imports: one base class for each plugin kind.

A plugin is a pure function over records. It is built into a WebAssembly component that imports
nothing but the log, and *asks* for whatever needs a model. A whole filter, with its configuration:

    from dataclasses import dataclass
    from aligner_sdk import Ask, Context, Drop, Filter, Keep, Record, Verdict

    @dataclass
    class MinWords(Filter, name="min-words", version="0.1.0"):
        \"""Drops answers with too few words.\"""

        words: int = 3

        def filter(self, context: Context, record: Record, ask: Ask) -> Verdict:
            short = any(len(it.text.split()) < self.words for _, it in record.completions())
            return Drop("too-short") if short else Keep()

The class is a dataclass, and its fields are what stands under `config` in the plugin set. It stands
in `plugin.py`, the only one there, and `aligner_sdk.testing` calls it as the host does.

`Ask` turns the contract's ask-and-call-again into straight-line code; see there. There is no clock,
no file and no random source: `Ask.rng` (and the seeds that samplers get) are the only randomness.
Sort a set wherever its order can reach a result.
"""

from . import log
from .ask import Ask
from .errors import ConfigError, InputError, InternalError, PluginError, UnansweredError
from .kinds import Difficulty, Filter, Judge, Plugin, Principle, PromptWriter, Sampler, SetFilter
from .rng import Rng
from .types import (
    Answer,
    Candidate,
    Card,
    Chat,
    Completion,
    Context,
    Decoding,
    Drop,
    Equipment,
    Exemplar,
    Finish,
    GenerateRequest,
    Keep,
    Measurement,
    Message,
    Opinion,
    Pair,
    Preference,
    Prompt,
    Raw,
    Record,
    Request,
    Revise,
    Revision,
    Reward,
    RewardRequest,
    Rewards,
    Score,
    ScoreRequest,
    Slot,
    Speaker,
    Text,
    Tie,
    Unanswered,
    Unparsable,
    Variant,
    VariantRole,
    Verdict,
)

__all__ = [
    "Answer", "Ask", "Candidate", "Card", "Chat", "Completion", "ConfigError", "Context", "Decoding",
    "Difficulty", "Drop", "Equipment", "Exemplar", "Filter", "Finish", "GenerateRequest", "InputError",
    "InternalError", "Judge", "Keep", "Measurement", "Message", "Opinion", "Pair", "Plugin",
    "PluginError", "Preference", "Principle", "Prompt", "PromptWriter", "Raw", "Record", "Request",
    "Revise", "Revision", "Reward", "RewardRequest", "Rewards", "Rng", "Sampler", "Score",
    "ScoreRequest", "SetFilter", "Slot", "Speaker", "Text", "Tie", "Unanswered", "UnansweredError",
    "Unparsable", "Variant", "VariantRole", "Verdict", "log",
]
