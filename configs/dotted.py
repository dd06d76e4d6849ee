"""Dotted keys: put one value into a card's mapping by its path, such as `pools[0].max_num_seqs`."""

from __future__ import annotations

import re
from typing import Any

from ..errors import InputError
from .strict import describe

_STEP = re.compile(r"([^.\[\]]+)((?:\[\d+\])*)")


def with_value(data: Any, key: str, value: object) -> Any:
    """A copy of `data`, a mapping as YAML gives it, with the value at `key` replaced or added.

    Mappings on the way that are missing are made; items of lists must be there.

    >>> with_value({"pools": [{"name": "chat"}]}, "pools[0].replicas", 2)
    {'pools': [{'name': 'chat', 'replicas': 2}]}

    Raises `InputError` at the part of `key` that leads nowhere.
    """
    return _with(data, _steps(key), value, "")


def _steps(key: str) -> list[str | int]:
    steps: list[str | int] = []
    for part in key.split("."):
        match = _STEP.fullmatch(part)
        if not match:
            raise InputError(key, "no dotted key", "names and list positions, such as pools[0].max_num_seqs")
        steps += [match[1], *(int(number) for number in re.findall(r"\d+", match[2]))]
    return steps


def _with(data: Any, steps: list[str | int], value: object, where: str) -> Any:
    if not steps:
        return value
    step, *rest = steps
    if isinstance(step, int):
        here = f"{where}[{step}]"
        if not isinstance(data, list):
            raise InputError(here, f"{where} is {describe(data)}", "a list")
        if step >= len(data):
            raise InputError(here, f"{where} has {len(data)} items", f"a position from 0 to {len(data) - 1}")
        return [_with(item, rest, value, here) if i == step else item for i, item in enumerate(data)]
    here = f"{where}.{step}" if where else step
    if not isinstance(data, dict | None):
        raise InputError(here, f"{where} is {describe(data)}", "a mapping of keys to values")
    return {**(data or {}), step: _with((data or {}).get(step), rest, value, here)}
