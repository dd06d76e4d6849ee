"""The strict loader: YAML or JSON text -> frozen dataclasses, or an error that names the key.

Unknown keys, wrong types and duplicate keys are errors. A field with the metadata `written: False` is not a key of
the file. A dataclass checks its own values in
`__post_init__` by raising `InputError` with the key it means; the loader puts the dotted path in front.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from ..errors import InputError, nearest_name, shown
from ..safe_yaml import parse_yaml

T = TypeVar("T")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or an error that says why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(str(path), "no such file", "a readable file", nearest_name(path.name, beside)) from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", "a readable text file") from None
    except ValueError as error:  # bytes that are not UTF-8, or a path with a zero byte
        raise InputError(str(path), f"cannot be read ({error})", "a readable text file") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file."""
    text = read_text(path)
    data = _parse_json(text, path) if path.suffix == ".json" else parse_yaml(text, path)
    if not isinstance(data, dict):
        raise InputError(str(path), describe(data), "a mapping of keys to values")
    return data


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}", f"not JSON ({error.msg})", "a JSON object") from None
    except RecursionError:
        raise InputError(str(path), "not JSON (nested too deeply)", "a JSON object") from None


def build(cls: type[T], data: object, key: str = "") -> T:
    """Build the dataclass `cls` from a mapping. Errors carry the dotted key below `key`."""
    value: T = _value(cls, data, key)
    return value


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _dataclass(cls: type, data: object, key: str) -> Any:
    if not isinstance(data, Mapping):
        raise InputError(key, describe(data), "a mapping of keys to values")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init and f.metadata.get("written", True)}
    for name in data:
        if name not in fields:
            expected = "one of " + ", ".join(sorted(fields)) if fields else "no keys"
            raise InputError(_join(key, str(name)), "unknown key", expected, nearest_name(str(name), fields))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise InputError(_join(key, name), "missing", _expectation(_hints(cls)[name]))
    hints = _hints(cls)
    values = {name: _value(hints[name], value, _join(key, name)) for name, value in data.items()}
    try:
        return cls(**values)
    except InputError as error:
        raise error.at(key) if key else error from None


def _value(hint: Any, value: object, key: str) -> Any:
    """`value` as the type `hint`, or an error at `key`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _dataclass(hint, value, key)
    if origin in (Union, types.UnionType):
        return _union(args, value, key)
    if origin is Literal:
        if value in args:
            return value
        near = nearest_name(str(value), [str(a) for a in args])
        raise InputError(key, describe(value), "one of " + ", ".join(map(str, args)), near)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise InputError(key, describe(value), "a list")
        return origin(_value(args[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise InputError(key, describe(value), "a mapping of keys to values")
        return {_value(args[0], k, key): _value(args[1], v, _join(key, str(k))) for k, v in value.items()}
    return _scalar(hint, value, key)


def _union(args: tuple[Any, ...], value: object, key: str) -> Any:
    if value is None:
        if type(None) in args:
            return None
        raise InputError(key, "nothing", " or ".join(_expectation(a) for a in args))
    options = [a for a in args if a is not type(None)]
    if len(options) == 1:
        return _value(options[0], value, key)
    for option in options:  # a mapping picks the dataclass or dict, anything else a scalar
        takes_mapping = dataclasses.is_dataclass(option) or typing.get_origin(option) is dict
        if takes_mapping == isinstance(value, Mapping):
            try:
                return _value(option, value, key)
            except InputError:
                if isinstance(value, Mapping):
                    raise
    raise InputError(key, describe(value), " or ".join(_expectation(a) for a in options))


def _scalar(hint: Any, value: object, key: str) -> Any:
    if hint is float and not isinstance(value, bool):
        with suppress(ValueError, TypeError, OverflowError):
            number = float(value)  # type: ignore[arg-type]  # YAML 1.1 reads 1e-3 as text
            if math.isfinite(number):
                return number
    elif hint is int and not isinstance(value, bool):
        if isinstance(value, int):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
    elif hint in (bool, str) and isinstance(value, hint):
        return value
    elif hint is Path and isinstance(value, str):
        return Path(value)
    raise InputError(key, describe(value), _expectation(hint))


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def describe(value: object) -> str:
    """A value as an error message shows it."""
    if value is None:
        return "nothing"
    value = list(value) if isinstance(value, tuple) else value
    kinds = {bool: "true/false", int: "number", float: "number", str: "text", list: "list", dict: "mapping"}
    kind = kinds.get(type(value), type(value).__name__)
    return f"{shown(value)} ({kind})"


def _expectation(hint: Any) -> str:
    names = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        Path: "a path",
        type(None): "nothing",
    }
    if hint in names:
        return names[hint]
    if dataclasses.is_dataclass(hint):
        return "a mapping of keys to values"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(_expectation(a) for a in args)
    return {list: "a list", tuple: "a list", dict: "a mapping"}.get(origin, str(hint))


def check(condition: bool, key: str, found: object, expected: str) -> None:
    """Raise `InputError` at `key` unless `condition`; for `__post_init__` of the cards."""
    if not condition:
        raise InputError(key, describe(found), expected)
