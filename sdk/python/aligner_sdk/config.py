"""A plugin's configuration: a JSON object, checked key by key against the fields of a dataclass."""

from __future__ import annotations

import dataclasses
import json
import types
from enum import Enum
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import ConfigError

T = TypeVar("T")


def parse(plugin: type[T], text: str) -> T:
    """Makes a plugin from the text of its configuration. Refuses keys that are no fields, and says at
    which key a value is of the wrong type."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise ConfigError(f"the configuration is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError("the configuration is not a JSON object")
    if not dataclasses.is_dataclass(plugin):
        for key in found:
            raise ConfigError(f"unknown key `{key}`; this plugin has no configuration")
        return plugin()
    return _object(plugin, found, "")


def schema(plugin: type[Any]) -> str:
    """Returns the JSON Schema of a plugin's configuration, or an empty text where it takes none."""
    if not dataclasses.is_dataclass(plugin) or not dataclasses.fields(plugin):
        return ""
    return json.dumps(_object_schema(plugin), ensure_ascii=False)


def _object(kind: type[T], found: dict[str, Any], at: str) -> T:
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for key in found:
        if key not in fields:
            raise ConfigError(f"unknown key `{at}{key}`, expected {_any_of(list(fields))}")
    for key, field in fields.items():
        if key not in found and _default(field) is dataclasses.MISSING:
            raise ConfigError(f"missing key `{at}{key}`, expected {_named(hints[key])}")
    return kind(**{key: _value(hints[key], value, at + key) for key, value in found.items()})


def _value(kind: Any, value: Any, key: str) -> Any:
    """Returns a JSON value as the type that a field is annotated with."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for choice in arguments:
            try:
                return _value(choice, value, key)
            except ConfigError as error:
                if len([it for it in arguments if it is not type(None)]) == 1:
                    raise error
    elif origin is Literal:
        if any(value == it and type(value) is type(it) for it in arguments):
            return value
    elif origin in (list, tuple) and isinstance(value, list):
        inner = arguments[0] if arguments else Any
        return origin(_value(inner, it, f"{key}[{i}]") for i, it in enumerate(value))
    elif origin is dict and isinstance(value, dict):
        return {name: _value(arguments[1], it, f"{key}.{name}") for name, it in value.items()}
    elif dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return _object(kind, value, f"{key}.")
    elif isinstance(kind, type) and issubclass(kind, Enum):
        for member in kind:
            if member.value == value and type(member.value) is type(value):
                return member
    elif kind is float and type(value) in (int, float):
        return _float(value, key)
    elif kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    _refuse(key, kind, value)


def _float(value: int | float, key: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise ConfigError(f"key `{key}`: the number is too large") from None
    if number in (float("inf"), float("-inf")):
        raise ConfigError(f"key `{key}`: the number is too large")
    return number


def _refuse(key: str, kind: Any, value: Any) -> NoReturn:
    shown = json.dumps(value, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else shown[:60] + "…"
    raise ConfigError(f"key `{key}`: expected {_named(kind)}, found {shown}")


def _named(kind: Any) -> str:
    """Returns what a person calls the values of a type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_named(it) for it in arguments if it is not type(None))
    if origin is Literal:
        return _any_of(arguments)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _any_of([member.value for member in kind])
    words = {
        bool: "true or false", int: "a whole number", float: "a number", str: "a text",
        list: "a list", tuple: "a list", dict: "a table",
    }  # fmt: skip
    return words.get(origin or kind, "a table")


def _any_of(words: Any) -> str:
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else "one of " + ", ".join(quoted)


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _object_schema(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    properties: dict[str, Any] = {}
    required = []
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        properties[field.name] = _schema(hints[field.name])
        default = _default(field)
        if default is dataclasses.MISSING:
            required.append(field.name)
        elif default is not None:
            properties[field.name]["default"] = _plain(default)
    found = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": required} if required else found


def _schema(kind: Any) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        choices = [_schema(it) for it in arguments if it is not type(None)]
        return choices[0] if len(choices) == 1 else {"anyOf": choices}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (list, tuple):
        return {"type": "array", "items": _schema(arguments[0])} if arguments else {"type": "array"}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _object_schema(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    words = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return {"type": words[kind]} if kind in words else {}


def _plain(value: Any) -> Any:
    """Returns a default as JSON would have it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_plain(it) for it in value]
    if isinstance(value, dict):
        return {key: _plain(it) for key, it in value.items()}
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")
