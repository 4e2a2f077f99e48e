"""Asking a model, as straight-line code."""

from __future__ import annotations

from typing import Callable, Generic, Iterable, Sequence, TypeVar

from .errors import InternalError, UnansweredError
from .rng import Rng
from .types import (
    Answer,
    Completion,
    Decoding,
    GenerateRequest,
    Request,
    RewardRequest,
    Score,
    ScoreRequest,
    Text,
    Unanswered,
)

T = TypeVar("T")


class Pending(BaseException):
    """No failure: an answer is not there yet. Not an `Exception`, so that a handler for those lets it
    through."""


class Ask:
    """A record's conversation with the models, replayed from the answers it has had so far.

    Where the answer is not there yet, a method that asks ends the call; the host carries out the
    requests of the whole stage and calls again, and the plugin's method runs from its beginning with
    more answers at hand. So it must come to the same requests each time: it may depend on the
    record, the configuration and `seed`, which is all a plugin can see.

    Requests that do not depend on each other are best made together, with `all`: the host then
    carries them out in one go.
    """

    def __init__(self, seed: int, answers: Iterable[Answer]) -> None:
        #: The record's seed, drawn from (run seed, round, stage, record).
        self.seed = seed
        self._answers = iter(answers)
        self._pending: list[Request] = []

    def rng(self) -> Rng:
        """Returns a generator of random numbers that starts at the record's seed. Each call returns
        the same one."""
        return Rng(self.seed)

    def generate(
        self, model: str, prompt: Text, decoding: Decoding | None = None, seed: int = 0
    ) -> Completion:
        """Asks a model (`policy`, `initial`, `previous`, or a name from `[models]`) for a completion.

        What `decoding` leaves open is taken from `[generate]`; `seed` tells requests apart that are
        otherwise equal. Raises `UnansweredError` where the host could not carry it out.
        """
        request = GenerateRequest(model, prompt, decoding or Decoding(), seed)
        return _of(Completion, self.all([request])[0])

    def score(self, model: str, prompt: Text, completion: str) -> Score:
        """Asks a model how likely a completion of a prompt is. Raises as `generate` does."""
        return _of(Score, self.all([ScoreRequest(model, prompt, completion)])[0])

    def reward(self, model: str, prompt: Text, completion: str) -> float:
        """Asks a reward model (a name from `[models]`, or what a round saved) what it gives a
        completion of a prompt. Raises as `generate` does."""
        return _of(float, self.all([RewardRequest(model, prompt, completion)])[0])

    def all(self, requests: Iterable[Request]) -> list[Answer]:
        """Makes several requests at once. Returns one answer for each, in the same order; what could
        not be carried out is `Unanswered`."""
        answers: list[Answer] = []
        missing: list[Request] = []
        for request in requests:
            if not isinstance(request, (GenerateRequest, ScoreRequest, RewardRequest)):
                raise TypeError(f"a request is expected, not {request!r}")
            answer = None if missing else next(self._answers, None)
            if answer is None:
                missing.append(request)
            else:
                answers.append(answer)
        if missing or self._pending:
            # A plugin that went on regardless guesses; only what it asked before counts.
            self._pending = self._pending or missing
            raise Pending
        return answers


def _of(kind: type[T], answer: Answer) -> T:
    if isinstance(answer, kind):
        return answer
    if isinstance(answer, Unanswered):
        raise UnansweredError(answer.why)
    raise InternalError(f"{type(answer).__name__} came for another request")


class Done(Generic[T]):
    """What came of a record that needs no more answers."""

    def __init__(self, value: T) -> None:
        self.value = value


def converse(
    seed: int, answers: Sequence[Answer], work: Callable[[Ask], T]
) -> Done[T] | list[Request]:
    """Works on one record. Returns what came of it, or the requests that have no answer yet:
    whatever else happened then does not count."""
    ask = Ask(seed, answers)
    try:
        outcome = work(ask)
    except BaseException:
        if ask._pending:
            return ask._pending
        raise
    return ask._pending or Done(outcome)
