"""The module that componentize-py makes a component of: it exports the plugin of `plugin.py`.

Each class below is an interface of the contract; componentize-py takes those that the world names.
"""

from __future__ import annotations

import importlib
import os
from types import TracebackType
from typing import Any, Callable, NoReturn

from componentize_py_types import Err
from wit_world.exports import meta
from wit_world.imports import log as wit_log

from . import shut  # Before the plugin is imported, which keeps what it imports.

import plugin as authored

from . import config, convert, log
from . import types as sdk
from .ask import Done, converse
from .errors import InternalError, PluginError
from .kinds import INTERFACES, Plugin

# What the world has, under its name in the bindings.
_bindings: dict[str, Any] = {}
for _name in (*(f"exports.{name}" for name in INTERFACES), "imports.verdicts"):
    try:
        _bindings[_name.partition(".")[2]] = importlib.import_module(f"wit_world.{_name}")
    except ImportError:
        pass


def _find() -> type[Plugin]:
    """Returns the plugin that `plugin.py` defines; fails while the component is built otherwise."""
    found = [
        it
        for it in vars(authored).values()
        if isinstance(it, type) and issubclass(it, Plugin) and "NAME" in vars(it)
        and it.__module__ == authored.__name__
    ]  # fmt: skip
    if len(found) != 1:
        names = ", ".join(it.__name__ for it in found) or "none"
        raise ImportError(f"`plugin.py` must define one plugin with a `name`; it has {names}")
    for name, kind in INTERFACES.items():
        if name in _bindings and not issubclass(found[0], kind):
            raise ImportError(
                f"the component is to be a `{name.replace('_', '-')}`, but {found[0].__name__} is no "
                f"{kind.__name__}; see `kinds` in pyproject.toml"
            )
    return found[0]


_plugin_type = _find()
#: Made once here, so that nothing is imported or read for the first time in a call.
_schema = config.schema(_plugin_type)
_configured: list[Any] = []


def _guarded(work: Callable[[], Any], place: Callable[[], str] = lambda: "") -> Any:
    """Turns what is raised into the contract's error."""
    try:
        return work()
    except Err:
        raise
    except PluginError as error:
        raise Err(convert.error_back(error, place())) from None
    except BaseException as error:
        text = f"{type(error).__name__}: {error}{_line(error.__traceback__)}"
        raise Err(convert.error_back(InternalError(text), place())) from None


def _line(trace: TracebackType | None) -> str:
    """Returns the line of the author's own code that an exception went through last."""
    found = ""
    while trace is not None:
        file, within = trace.tb_frame.f_code.co_filename, __file__.rpartition("/")[0] + "/"
        if not file.startswith((within, "/python/", "/bundled/", "<")):
            name = file.removeprefix(os.path.dirname(authored.__file__ or "") + "/")
            found = f" ({name}, line {trace.tb_lineno}, in {trace.tb_frame.f_code.co_name})"
        trace = trace.tb_next
    return found


def _plugin() -> Any:
    if not _configured:
        raise Err(convert.error_back(InternalError("called before `configure`"), ""))
    return _configured[0]


def _each(context: Any, batch: list[Any], name: str, back: Callable[[Any], Any], call: Any) -> list[Any]:
    """Works through the turns of a batch."""
    it, bindings = _plugin(), _bindings[name]
    where = convert.context(context)

    def reply(turn: Any) -> Any:
        record = convert.record(turn.record)
        return _one(bindings, turn, back, lambda ask: call(it, where, record, ask))

    return [_guarded(lambda: reply(turn), lambda: _named(turn.record.prompt.id)) for turn in batch]


def _one(bindings: Any, turn: Any, back: Callable[[Any], Any], work: Any) -> Any:
    outcome = converse(turn.seed, [convert.answer(it) for it in turn.answers], work)
    if isinstance(outcome, Done):
        return bindings.Reply_Done(back(outcome.value))
    return bindings.Reply_Ask([convert.request_back(it) for it in outcome])


def _named(record: str) -> str:
    return f"record `{record}`"


def _begin() -> None:
    log._write = _write
    shut.begin()


def _write(level: str, message: str) -> None:
    wit_log.write(wit_log.Level[level.upper()], message.encode("utf-8", "replace").decode())


class Meta:
    def describe(self) -> Any:
        _begin()
        it = _plugin_type
        return meta.Description(it.NAME, it.VERSION, it.SUMMARY, _schema, list(it.NEEDS))

    def configure(self, text: str) -> None:
        _begin()
        _configured[:] = [_guarded(lambda: config.parse(_plugin_type, text))]


class Filter:
    def filter(self, context: Any, batch: list[Any]) -> list[Any]:
        return _each(context, batch, "filter", _verdict, lambda it, *of: it.filter(*of))


class SetFilter:
    def observe(self, context: Any, batch: list[Any]) -> None:
        it, where = _plugin(), convert.context(context)
        for record in batch:
            _guarded(
                lambda: it.observe(where, convert.record(record)), lambda: _named(record.prompt.id)
            )

    def decide(self, context: Any, batch: list[Any]) -> list[Any]:
        it, where = _plugin(), convert.context(context)

        def decide(record: Any) -> Any:
            return _verdict(it.decide(where, convert.record(record)))

        return [_guarded(lambda: decide(one), lambda: _named(one.prompt.id)) for one in batch]


class Judge:
    def judge(self, context: Any, batch: list[Any]) -> list[Any]:
        return _each(context, batch, "judge", _opinion, lambda it, *of: it.judge(*of))


class Difficulty:
    def score(self, context: Any, batch: list[Any]) -> list[Any]:
        return _each(context, batch, "difficulty", _difficulty, lambda it, *of: it.score(*of))


class Principle:
    def catalogue(self) -> list[Any]:
        it = _plugin()
        return _guarded(
            lambda: [convert.exemplar_back(one) for one in it.catalogue()], lambda: "the catalogue"
        )

    def render(self, context: Any, batch: list[Any]) -> list[Any]:
        return _each(context, batch, "principle", _variants, lambda it, *of: it.render(*of))


class Sampler:
    def select(self, context: Any, pool: list[Any], seed: int) -> list[str]:
        it, where = _plugin(), convert.context(context)
        known = [sdk.Candidate(c.id, c.tags, c.difficulty, c.selected) for c in pool]
        return _guarded(
            lambda: convert.ids_back(it.select(where, known, seed)), lambda: "the pool"
        )

    def equip(self, context: Any, batch: list[Any], catalogue: list[Any]) -> list[Any]:
        it, where, bindings = _plugin(), convert.context(context), _bindings["sampler"]
        cards = [sdk.Card(card.id, card.tags) for card in catalogue]

        def equip(slot: Any) -> Any:
            known = sdk.Slot(slot.id, slot.seed, slot.tags)
            return convert.equipment_back(bindings, it.equip(where, known, cards))

        return [_guarded(lambda: equip(slot), lambda: _named(slot.id)) for slot in batch]


class PromptWriter:
    def write(self, context: Any, pool: list[Any], batch: list[Any]) -> list[Any]:
        it, where, bindings = _plugin(), convert.context(context), _bindings["prompt_writer"]
        known = [convert.prompt(one) for one in pool]

        def write(slot: Any) -> Any:
            return _one(bindings, slot, _prompts, lambda ask: it.write(where, known, slot.index, ask))

        return [_guarded(lambda: write(slot), lambda: f"slot {slot.index}") for slot in batch]


def _verdict(it: Any) -> Any:
    return convert.verdict_back(_bindings["verdicts"], it)


def _opinion(it: Any) -> Any:
    return convert.opinion_back(_bindings["judge"], it)


def _difficulty(it: Any) -> float:
    return convert.number("the difficulty", it)


def _variants(it: Any) -> list[Any]:
    return [convert.variant_back(one) for one in convert.listed("the variants", it)]


def _prompts(it: Any) -> list[Any]:
    return [convert.prompt_back(one) for one in convert.listed("the prompts", it)]
