"""Between the bindings that componentize-py makes and the SDK's types. Only in a component.

What comes in is the host's and sound. What goes out is an author's: a value of the wrong type would
end the component in a trap that says nothing, so it is checked here.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Sequence

from wit_world.imports import types as wit

from . import types as sdk
from .errors import ConfigError, InputError, InternalError, PluginError, UnansweredError

# In.


def context(it: wit.Context) -> sdk.Context:
    return sdk.Context(it.round, it.rounds)


def text(it: wit.Text) -> sdk.Text:
    if isinstance(it, wit.Text_Raw):
        return sdk.Raw(it.value)
    return sdk.Chat([sdk.Message(_in(sdk.Speaker, m.speaker), m.content) for m in it.value])


def prompt(it: wit.Prompt) -> sdk.Prompt:
    return sdk.Prompt(it.id, text(it.text), it.tags)


def completion(it: wit.Completion) -> sdk.Completion:
    return sdk.Completion(it.text, it.tokens, it.logprob, _in(sdk.Finish, it.finish))


def variant(it: wit.Variant) -> sdk.Variant:
    done = None if it.completion is None else completion(it.completion)
    return sdk.Variant(it.name, _in(sdk.VariantRole, it.role), text(it.prompt), done)


def record(it: wit.Record) -> sdk.Record:
    return sdk.Record(
        prompt(it.prompt),
        [sdk.Exemplar(e.id, e.text, e.tags) for e in it.exemplars],
        [variant(v) for v in it.variants],
        [sdk.Reward(r.variant, r.name, r.value) for r in it.rewards],
        None if it.pair is None else sdk.Pair(it.pair.chosen, it.pair.rejected),
        it.difficulty,
        [sdk.Measurement(m.name, m.value) for m in it.measurements],
    )


def answer(it: wit.Answer) -> sdk.Answer:
    if isinstance(it, wit.Answer_Completion):
        return completion(it.value)
    if isinstance(it, wit.Answer_Score):
        return sdk.Score(it.value.logprob, it.value.tokens)
    if isinstance(it, wit.Answer_Reward):
        return it.value
    return sdk.Unanswered(it.value)


def _in(kind: Any, it: Enum) -> Any:
    return kind[it.name]


# Out.


def text_back(it: sdk.Text) -> wit.Text:
    if isinstance(it, sdk.Raw):
        return wit.Text_Raw(_text("a raw prompt", it.text))
    if isinstance(it, sdk.Chat):
        return wit.Text_Chat([_message(m) for m in listed("the messages", it.messages)])
    raise _wrong("a prompt", "Raw or Chat", it)


def _message(it: sdk.Message) -> wit.Message:
    if not isinstance(it, sdk.Message):
        raise _wrong("a message", "Message", it)
    speaker = _enum("the speaker", sdk.Speaker, it.speaker)
    return wit.Message(wit.Speaker[speaker], _text("a message", it.content))


def prompt_back(it: sdk.Prompt) -> wit.Prompt:
    if not isinstance(it, sdk.Prompt):
        raise _wrong("a prompt", "Prompt", it)
    return wit.Prompt(_text("an id", it.id), text_back(it.text), _texts("the tags", it.tags))


def exemplar_back(it: sdk.Exemplar) -> wit.Exemplar:
    if not isinstance(it, sdk.Exemplar):
        raise _wrong("an exemplar", "Exemplar", it)
    return wit.Exemplar(_text("an id", it.id), _texts("the tags", it.tags), _text("a text", it.text))


def variant_back(it: sdk.Variant) -> wit.Variant:
    if not isinstance(it, sdk.Variant):
        raise _wrong("a variant", "Variant", it)
    if it.completion is not None:
        raise InternalError(f"variant `{it.name}` has a completion; these are the model's")
    role = _enum("the role", sdk.VariantRole, it.role)
    return wit.Variant(_text("a name", it.name), wit.VariantRole[role], text_back(it.prompt), None)


def decoding_back(it: sdk.Decoding) -> wit.Decoding:
    if not isinstance(it, sdk.Decoding):
        raise _wrong("the decoding", "Decoding", it)
    return wit.Decoding(
        None if it.temperature is None else number("temperature", it.temperature),
        None if it.top_p is None else number("top_p", it.top_p),
        None if it.top_k is None else _whole("top_k", it.top_k, 32),
        None if it.repetition_penalty is None else number("repetition_penalty", it.repetition_penalty),
        None if it.max_new_tokens is None else _whole("max_new_tokens", it.max_new_tokens, 32),
        None if it.stop is None else _texts("stop", it.stop),
    )


def request_back(it: sdk.Request) -> wit.Request:
    model, asked = _text("the model", it.model), text_back(it.prompt)
    if isinstance(it, sdk.GenerateRequest):
        seed, decoding = _whole("the seed", it.seed, 64), decoding_back(it.decoding)
        return wit.Request_Generate(wit.GenerateRequest(model, asked, decoding, seed))
    completion = _text("a completion", it.completion)
    if isinstance(it, sdk.ScoreRequest):
        return wit.Request_Score(wit.ScoreRequest(model, asked, completion))
    return wit.Request_Reward(wit.RewardRequest(model, asked, completion))


def verdict_back(bindings: Any, it: sdk.Verdict) -> Any:
    """`bindings` is the interface `verdicts` as the export that is answered has it."""
    if isinstance(it, sdk.Keep):
        return bindings.Verdict_Keep()
    if isinstance(it, sdk.Drop):
        return bindings.Verdict_Drop(_text("a drop reason", it.reason))
    if isinstance(it, sdk.Revise):
        return bindings.Verdict_Revise([_revision(bindings, r) for r in listed("the revisions", it.revisions)])
    raise _wrong("a verdict", "Keep, Drop or Revise", it)


def _revision(bindings: Any, it: sdk.Revision) -> Any:
    if not isinstance(it, sdk.Revision):
        raise _wrong("a revision", "Revision", it)
    finish = wit.Finish[_enum("the finish", sdk.Finish, it.finish)]
    return bindings.Revision(_text("a variant's name", it.variant), _text("a new text", it.text), finish)


def opinion_back(bindings: Any, it: sdk.Opinion) -> Any:
    if isinstance(it, sdk.Rewards):
        return bindings.Opinion_Rewards([_reward(r) for r in listed("the rewards", it.rewards)])
    if isinstance(it, sdk.Preference):
        chosen, rejected = _text("chosen", it.chosen), _text("rejected", it.rejected)
        return bindings.Opinion_Preference(wit.Pair(chosen, rejected))
    if isinstance(it, sdk.Tie):
        return bindings.Opinion_Tie()
    if isinstance(it, sdk.Unparsable):
        return bindings.Opinion_Unparsable(_text("what could not be read", it.text))
    raise _wrong("an opinion", "Rewards, Preference, Tie or Unparsable", it)


def _reward(it: sdk.Reward) -> wit.Reward:
    if not isinstance(it, sdk.Reward):
        raise _wrong("a reward", "Reward", it)
    variant, name = _text("a variant's name", it.variant), _text("a reward's name", it.name)
    return wit.Reward(variant, name, number("a reward", it.value))


def equipment_back(bindings: Any, it: sdk.Equipment) -> Any:
    if not isinstance(it, sdk.Equipment):
        raise _wrong("an equipment", "Equipment", it)
    return bindings.Equipment(_texts("the exemplars", it.exemplars), decoding_back(it.decoding))


def ids_back(it: Sequence[str]) -> list[str]:
    return _texts("what is selected", it)


def error_back(error: PluginError, place: str) -> wit.Error:
    """Returns an error as it crosses the boundary, with the place in front where one is known."""
    told = f"{place}: {error}" if place else str(error)
    told = told.encode("utf-8", "replace").decode("utf-8")
    if isinstance(error, ConfigError):
        return wit.Error_Config(str(error))
    if isinstance(error, InputError):
        return wit.Error_Input(told)
    if isinstance(error, UnansweredError):
        return wit.Error_Input(f"{place}: the model gave no answer: {error}")
    return wit.Error_Internal(told)


def number(what: str, it: Any) -> float:
    if isinstance(it, (int, float)) and not isinstance(it, bool):
        return float(it)
    raise _wrong(what, "a number", it)


def _whole(what: str, it: Any, bits: int) -> int:
    if isinstance(it, int) and not isinstance(it, bool) and 0 <= it < 1 << bits:
        return it
    raise _wrong(what, f"a whole number from 0 to 2^{bits} - 1", it)


def _text(what: str, it: Any) -> str:
    if not isinstance(it, str):
        raise _wrong(what, "a str", it)
    try:
        it.encode()
    except UnicodeEncodeError:
        raise InternalError(f"{what} has half of a surrogate pair in it: {_shown(it)}") from None
    return it


def _texts(what: str, it: Any) -> list[str]:
    return [_text(what, one) for one in listed(what, it)]


def listed(what: str, it: Any) -> list[Any]:
    if isinstance(it, (list, tuple)):
        return list(it)
    raise _wrong(what, "a list", it)


def _enum(what: str, kind: type[Enum], it: Any) -> str:
    if isinstance(it, kind):
        return it.name
    raise _wrong(what, kind.__name__, it)


def _wrong(what: str, expected: str, it: Any) -> InternalError:
    return InternalError(f"{what} must be {expected}, not {_shown(it)}")


def _shown(it: Any) -> str:
    return ascii(it)[:80]
