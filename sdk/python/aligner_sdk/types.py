"""The contract's types, with what makes them handy. The contract itself is in `wit/`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Iterator, Union

from .errors import InputError


class Speaker(Enum):
    """Who says a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class VariantRole(Enum):
    """What a variant of a prompt is for."""

    #: The prompt as it is.
    PLAIN = "plain"
    #: Under principles that should make the completion better.
    GOOD = "good"
    #: Under principles that should make it worse.
    BAD = "bad"


class Finish(Enum):
    """Why a completion ends."""

    #: By an end-of-turn token or a stop string: it is whole.
    STOP = "stop"
    #: By its token limit: it may end within a word.
    LENGTH = "length"


@dataclass
class Message:
    """One turn of a conversation, without any marker of a chat template."""

    speaker: Speaker
    content: str


class Text:
    """A prompt as a model reads it: `Raw` or `Chat`."""

    @staticmethod
    def user(content: str) -> Chat:
        """Returns a conversation of one user message."""
        return Chat([Message(Speaker.USER, content)])

    @staticmethod
    def task(instruction: str, input: str = "") -> Chat:
        """Returns a task as one user message: the instruction and, where there is an input to work
        on, a blank line and the input."""
        parts = [part.strip() for part in (instruction, input)]
        return Text.user("\n\n".join(parts) if parts[1] else parts[0])

    def gist(self) -> str:
        """Returns the words a person would recognise the prompt by: the raw text, or the last
        message of the user."""
        if isinstance(self, Raw):
            return self.text
        assert isinstance(self, Chat)
        said = (it.content for it in reversed(self.messages) if it.speaker is Speaker.USER)
        return next(said, "")

    def transcript(self) -> str:
        """Returns the prompt as a person would write it down: raw text and a single message as they
        are; of a conversation a paragraph for each message, with who says it in front."""
        if isinstance(self, Raw):
            return self.text
        assert isinstance(self, Chat)
        if len(self.messages) == 1:
            return self.messages[0].content
        said = (f"{it.speaker.name.capitalize()}: {it.content.strip()}" for it in self.messages)
        return "\n\n".join(said)

    def instruction_and_input(self) -> tuple[str, str]:
        """Returns the instruction and the input of a task, each without white space around it. They
        part at the first blank line; where there is none, the input is empty."""
        lines = self.gist().strip().split("\n")
        blank = next((i for i, line in enumerate(lines) if not line.strip()), len(lines))
        return "\n".join(lines[:blank]).strip(), "\n".join(lines[blank:]).strip()

    def under(self, instructions: str) -> Chat:
        """Returns the prompt under instructions, which go into the system message, after what the
        prompt's own one says. Raises `InputError` for raw text, which has no system message."""
        if not isinstance(self, Chat):
            raise InputError("the prompt is raw text, which has no system message")
        first, *rest = self.messages or [Message(Speaker.USER, "")]
        if first.speaker is Speaker.SYSTEM:
            instructions = f"{first.content.strip()}\n\n{instructions}".lstrip()
        else:
            rest = self.messages
        return Chat([Message(Speaker.SYSTEM, instructions), *rest])


@dataclass
class Raw(Text):
    """Tokenised as it stands, after the model's begin-of-text token where it has one."""

    text: str


@dataclass
class Chat(Text):
    """Rendered with the model's chat template. Never empty; the last message is the user's."""

    messages: list[Message]


@dataclass
class Prompt:
    """One prompt of the pool."""

    #: Unique within the run. The host replaces those that a prompt writer gives.
    id: str
    text: Text
    #: Free labels such as `domain:health`.
    tags: list[str] = field(default_factory=list)


@dataclass
class Exemplar:
    """An in-context example, published by the principle plugin."""

    #: Unique within the catalogue.
    id: str
    #: The rendered text, exactly as it appears in a prompt.
    text: str
    tags: list[str] = field(default_factory=list)


@dataclass
class Completion:
    """What a model wrote."""

    #: Without the prompt, the stop string and special tokens.
    text: str
    #: How many tokens were drawn, at least 1.
    tokens: int
    #: Sum over these tokens of log p in nats; never positive.
    logprob: float
    finish: Finish


@dataclass
class Variant:
    """One way of putting a prompt, and what came of it."""

    #: Unique within the record, for example `good`.
    name: str
    role: VariantRole
    prompt: Text
    #: Absent before the generate stage.
    completion: Completion | None = None


@dataclass
class Reward:
    """A number that a judge gave to the completion of a variant. Higher is better; finite."""

    #: The variant's name.
    variant: str
    #: What is judged, for example `quality`.
    name: str
    value: float


@dataclass
class Pair:
    """A preference between the completions of two variants, by name."""

    chosen: str
    rejected: str


@dataclass
class Measurement:
    """A number that the host computed because a plugin declared that it needs it."""

    name: str
    value: float


@dataclass
class Record:
    """The record that travels through a round. Stages add to it."""

    prompt: Prompt
    #: The exemplars drawn for it.
    exemplars: list[Exemplar] = field(default_factory=list)
    #: In the order in which the principle plugin gave them. Empty at `after = "sample"`.
    variants: list[Variant] = field(default_factory=list)
    rewards: list[Reward] = field(default_factory=list)
    #: Present after the pair stage of a preference objective.
    pair: Pair | None = None
    #: Higher is harder. Present once a difficulty plugin has scored it.
    difficulty: float | None = None
    measurements: list[Measurement] = field(default_factory=list)

    def variant(self, name: str) -> Variant | None:
        """Returns the variant of that name."""
        return next((it for it in self.variants if it.name == name), None)

    def completions(self) -> Iterator[tuple[Variant, Completion]]:
        """Returns every completion there is, each with its variant."""
        return ((it, it.completion) for it in self.variants if it.completion is not None)

    def measurement(self, name: str) -> float | None:
        """Returns the measurement of that name."""
        return next((it.value for it in self.measurements if it.name == name), None)

    def reward(self, variant: str, name: str) -> float | None:
        """Returns a judge's number for the completion of a variant."""
        found = (it.value for it in self.rewards if (it.variant, it.name) == (variant, name))
        return next(found, None)


@dataclass
class Decoding:
    """How to decode. What is `None` is taken from `[generate]` of the plugin set."""

    #: 0 is greedy; at most 10.
    temperature: float | None = None
    #: In (0, 1]; 1 keeps every token.
    top_p: float | None = None
    #: 0 keeps every token.
    top_k: int | None = None
    #: 1 is none; over 0, at most 10.
    repetition_penalty: float | None = None
    #: At least 1.
    max_new_tokens: int | None = None
    #: The completion ends before the first of these. At most 16, of 200 bytes at most each.
    stop: list[str] | None = None


@dataclass
class GenerateRequest:
    """A completion that a plugin asks for, of `policy`, `initial`, `previous` or a name from
    `[models]`."""

    model: str
    prompt: Text
    decoding: Decoding = field(default_factory=Decoding)
    #: Tells requests apart that are otherwise equal.
    seed: int = 0


@dataclass
class ScoreRequest:
    """A logprob that a plugin asks for."""

    model: str
    prompt: Text
    completion: str


@dataclass
class RewardRequest:
    """A reward that a plugin asks for, of a reward model."""

    model: str
    prompt: Text
    completion: str


@dataclass
class Score:
    """How likely a completion is."""

    #: Sum over the completion's tokens of log p, in nats; never positive.
    logprob: float
    #: At least 1.
    tokens: int

    def perplexity(self) -> float:
        """Returns `exp(-logprob / tokens)`, at least 1."""
        return math.exp(-self.logprob / self.tokens)


@dataclass
class Unanswered:
    """The host could not carry out a request for a reason that lies in it."""

    why: str


@dataclass
class Context:
    """Where in the run a call happens."""

    #: From 1.
    round: int
    #: How many rounds the run has.
    rounds: int


@dataclass
class Keep:
    """Keeps the record."""


@dataclass
class Drop:
    """Takes the record out of the round. The reason groups in reports: a short fixed word such as
    `repetition`, with no numbers in it."""

    reason: str


@dataclass
class Revision:
    """A new text for the completion of a variant. Not empty."""

    variant: str
    text: str
    #: `STOP` where the new text is whole: training then adds the end-of-turn token.
    finish: Finish = Finish.STOP


@dataclass
class Revise:
    """Keeps the record with these completions replaced. Not empty."""

    revisions: list[Revision]


@dataclass
class Rewards:
    """Named numbers for the completions. Not empty."""

    rewards: list[Reward]


@dataclass
class Preference:
    """One completion is better than another; by the names of their variants."""

    chosen: str
    rejected: str


@dataclass
class Tie:
    """Neither is better."""


@dataclass
class Unparsable:
    """The model's words gave no opinion; says what could not be read."""

    text: str


@dataclass
class Candidate:
    """A prompt of the pool, as a sampler sees it."""

    id: str
    tags: list[str] = field(default_factory=list)
    #: Present where the pool was scored. Higher is harder.
    difficulty: float | None = None
    #: In how many earlier rounds it was selected.
    selected: int = 0


@dataclass
class Card:
    """An exemplar, as a sampler sees it."""

    id: str
    tags: list[str] = field(default_factory=list)


@dataclass
class Slot:
    """One prompt to equip."""

    id: str
    #: Drawn from (run seed, round, stage, prompt).
    seed: int
    tags: list[str] = field(default_factory=list)


@dataclass
class Equipment:
    """What a prompt is equipped with: ids from the catalogue, none twice, and how to decode."""

    exemplars: list[str] = field(default_factory=list)
    decoding: Decoding = field(default_factory=Decoding)


Request = Union[GenerateRequest, ScoreRequest, RewardRequest]
#: What the host answers; a number is what a reward model gives.
Answer = Union[Completion, Score, float, Unanswered]
Verdict = Union[Keep, Drop, Revise]
Opinion = Union[Rewards, Preference, Tie, Unparsable]
