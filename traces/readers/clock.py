"""Time columns in other units than seconds: wall-clock text and integer counts, exact to the nanosecond."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..columns import Floats, Ints
from .rows import Rows

_ZONE = re.compile(r"(?:Z|([+-])(\d\d):?(\d\d))$")


def nanoseconds(rows: Rows, column: str) -> Ints:
    """ISO 8601 dates (UTC where no zone is given, up to 9 fractional digits) as nanoseconds since 1970."""
    values = rows.values(column)
    endings = {value[-6:] for value in values}
    try:
        if endings == {"+00:00"}:
            return _parsed([value[:-6] for value in values])
        if not any(_ZONE.search(ending) for ending in endings):
            return _parsed(values)
    except ValueError:
        pass
    return np.fromiter((_one(rows, i, column, value) for i, value in enumerate(values)), np.int64, rows.count)


def since_first(counts: list[Ints], per_second: int = 1_000_000_000) -> tuple[Floats, float]:
    """Seconds after the first count, exact to the nanosecond, and the first count in seconds."""
    whole: NDArray[np.int64] = np.concatenate(counts) if counts else np.zeros(0, np.int64)
    first = int(whole[0]) if len(whole) else 0
    return (whole - first) / per_second, first / per_second


def _parsed(values: Sequence[Any]) -> Ints:
    stamps = np.array(values, dtype="datetime64[ns]")
    if np.isnat(stamps).any():
        raise ValueError("an empty date")
    return stamps.astype(np.int64)


def _one(rows: Rows, index: int, column: str, value: Any) -> int:
    zone = _ZONE.search(value) if isinstance(value, str) else None
    try:
        stamp = int(_parsed([value[: zone.start()] if zone else value])[0])
    except ValueError:
        raise rows.error(index, f"{column} is {value!r}", "a date such as 2023-11-16 18:15:46.6805900") from None
    if zone and zone[1]:
        minutes = int(zone[2]) * 60 + int(zone[3])
        stamp -= (minutes if zone[1] == "+" else -minutes) * 60_000_000_000
    return stamp
