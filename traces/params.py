"""Strict reading of a parameter file: every key is asked for, typed and checked, and none is left over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest_name, shown
from ..safe_yaml import parse_yaml
from .files import open_text


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; a key given twice is an error."""
    with open_text(path) as text:
        content = text.read()
    data = parse_yaml(content, path)
    if not isinstance(data, dict):
        raise InputError(str(path), shown(data), "a mapping of keys to values")
    return data


class Params:
    """One mapping of a parameter file. Take each key once, then call `done`: what was never asked for is an error.

    `where` is the dotted place of the mapping; for a whole file its path and a colon.
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise InputError(where, shown(data), "a mapping of keys to values")
        self._data, self.where = dict(data), where
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def keys(self) -> list[str]:
        """The keys that are there."""
        return [str(key) for key in self._data]

    def at(self, key: str) -> str:
        """The place of a key, for an error."""
        return f"{self.where} {key}" if self.where.endswith(":") else f"{self.where}.{key}"

    def error(self, key: str, expected: str) -> InputError:
        """An error about what stands at `key`."""
        return InputError(self.at(key), shown(self._data.get(key)), expected)

    def take(self, key: str, expected: str) -> Any:
        """The value at `key`, which must be there."""
        self._known.append(key)
        if key not in self._data:
            raise InputError(self.at(key), "missing", expected, nearest_name(key, self.keys()))
        return self._data[key]

    def number(self, key: str, default: float | None = None, low: float = -math.inf, above: float = -math.inf) -> float:
        """A finite number >= `low` and > `above`."""
        bounds = f" of {low:g} or more" if low > -math.inf else f" above {above:g}" if above > -math.inf else ""
        expected = f"a number{bounds}"
        if default is not None and key not in self._data:
            self._known.append(key)
            return default
        value = as_number(self.take(key, expected))
        if value is None or value < low or value <= above:
            raise self.error(key, expected)
        return value

    def whole(self, key: str, low: int = 1, default: int | None = None) -> int:
        """A whole number >= `low`."""
        value = self.number(key, None if default is None else float(default), low=low)
        if not value.is_integer():
            raise self.error(key, f"a whole number of {low} or more")
        return int(value)

    def text(self, key: str) -> str | None:
        """Text, or None where the key is absent."""
        self._known.append(key)
        value = self._data.get(key)
        if key in self._data and not isinstance(value, str):
            raise self.error(key, "text")
        return value

    def numbers(self, key: str, low: float = -math.inf) -> tuple[float, ...]:
        """A list of one or more finite numbers >= `low`."""
        expected = "a list of numbers" + (f" of {low:g} or more" if low > -math.inf else "")
        values = self.take(key, expected)
        numbers = [as_number(v) for v in values] if isinstance(values, list) else []
        if not numbers or any(number is None or number < low for number in numbers):
            raise self.error(key, expected)
        return tuple(number for number in numbers if number is not None)

    def section(self, key: str) -> Params | None:
        """The mapping at `key`, or None where it is absent."""
        self._known.append(key)
        return Params(self._data[key], self.at(key)) if key in self._data else None

    def one(self, key: str, options: Mapping[str, Any]) -> tuple[str, Params]:
        """The mapping at `key` with exactly one key, a name out of `options`: that name and what stands under it."""
        section = Params(self.take(key, f"one of {', '.join(sorted(options))}"), self.at(key))
        if len(section._data) != 1:
            raise InputError(section.where, f"{len(section._data)} keys", f"one of {', '.join(sorted(options))}")
        (name,) = section.keys()
        if name not in options:
            expected = f"one of {', '.join(sorted(options))}"
            raise InputError(section.at(name), "unknown key", expected, nearest_name(name, options))
        return name, Params(section._data[name], section.at(name))

    def done(self) -> None:
        """Raise for a key that nobody asked for."""
        for key in self.keys():
            if key not in self._known:
                expected = "one of " + ", ".join(sorted(set(self._known)))
                raise InputError(self.at(key), "unknown key", expected, nearest_name(key, self._known))


def as_number(value: object) -> float | None:
    """A finite number (YAML 1.1 reads 1e-3 as text), or None."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None
    return None
