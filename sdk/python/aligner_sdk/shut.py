"""Takes away what a plugin must not have. Only in a component.

Reaching for it would end the component in a trap that says nothing, or give what was so when it was built;
these say what it was, and what there is instead. All of it is put in place before the plugin is imported, so
that `from time import time` gets it too, and begins with the first call: while it is built, a plugin may
import and read files.
"""

from __future__ import annotations

import builtins
import importlib
import io
import os
import random
import sys
import time
from typing import Any, Callable, NoReturn

from . import log

_CHANCE = "random numbers but those of `ask.rng()` and `Rng(seed)`"
_CLOCK = "clock; where results shall differ, draw them with `ask.rng()`"
_FILES = "files; read them at the top of the module, and what they hold goes into the component"
_INPUT = "input; what it needs to know stands under `config`"

_begun: list[bool] = []


def begin() -> None:
    """Shuts it, once."""
    if not _begun:
        _begun.append(True)
        sys.stdout = sys.stderr = _Lines()
        sys.meta_path[:] = [_NoMoreImports()]


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(f"a plugin has no {what}")


def _guard(of: Any, name: str, what: str, unless: Callable[..., bool] = lambda *_: False) -> None:
    """Refuses a function from the first call on, but where `unless` says that it is harmless."""
    original = getattr(of, name, None)
    if original is None:
        return

    def guarded(*given: Any, **named: Any) -> Any:
        if _begun and not unless(*given, *named.values()):
            _refuse(what)
        return original(*given, **named)

    setattr(of, name, guarded)


class _Lines:
    """What is printed goes to the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.info(text.rstrip("\n"))
        return len(text)

    def flush(self) -> None:
        pass


class _NoMoreImports:
    def find_spec(self, name: str, *_: Any) -> NoReturn:
        raise ImportError(f"`{name}` cannot be imported any more: import it at the top of the plugin")


def _first(*given: Any) -> bool:
    return bool(given) and given[0] is not None


def _second(*given: Any) -> bool:
    return len(given) > 1 and given[1] is not None


for _name in ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime"):
    _guard(time, _name, _CLOCK)
    _guard(time, f"{_name}_ns", _CLOCK)
_guard(time, "sleep", _CLOCK)
for _name in ("localtime", "gmtime", "ctime", "asctime"):
    _guard(time, _name, _CLOCK, unless=_first)
_guard(time, "strftime", _CLOCK, unless=_second)
# The one in C has a clock of its own; this one reads `time.time`.
sys.modules["datetime"] = importlib.import_module("_pydatetime")

_guard(os, "urandom", _CHANCE)
_guard(random, "_urandom", _CHANCE)
# The module's own generator would start every batch at the same place, and one without a seed takes it from
# where there is none.
for _name, _it in list(vars(random).items()):
    if getattr(_it, "__self__", None) is random._inst:
        _guard(random, _name, _CHANCE)


def _seeded(kind: type[random.Random], *given: Any, **named: Any) -> random.Random:
    if _begun and not _first(*given, *named.values()):
        _refuse(_CHANCE)
    return _made(kind, *given, **named)


_guard(random.Random, "seed", _CHANCE, unless=_second)
_made = random.Random.__new__
random.Random.__new__ = _seeded  # type: ignore[assignment, method-assign]

for _name in ("open", "listdir", "scandir", "stat", "lstat", "mkdir", "remove", "unlink", "rename"):
    _guard(os, _name, _FILES)
_guard(builtins, "open", _FILES)
_guard(io, "open", _FILES)
_guard(builtins, "input", _INPUT)
