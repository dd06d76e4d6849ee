"""Checks of a table set: how well it interpolates, whether its times are possible, and what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..configs.device import HardwareCard
from .grid import Array
from .table import KINDS, Table, TableSet

# A kernel reaches at most what the data sheet says, give or take a boosted clock; and the best of many points comes
# within a factor of 50 of it. Times in a unit 1000 times too large or small miss one of the two.
_TOO_FAST, _TOO_SLOW = 0.5, 50.0
_APART = {"gemm": ("m",)}  # axes that measure both edges of a step (m and m + 1), one of which nothing else can tell


@dataclass(frozen=True)
class Interpolation:
    """Leave-one-out error of a kind (and data type): each point that has neighbours on both sides, predicted from them.

    axis : along which, or "mean" of the predictions along all axes where there are several. points : how many.
    median, p95 : of |predicted / measured - 1|. bias : median of predicted / measured - 1.
    """

    kind: str
    dtype: str
    axis: str
    points: int
    median: float
    p95: float
    bias: float


def interpolation(table: Table) -> list[Interpolation]:
    """The errors of each axis with three points or more, and of their mean, by data type."""
    apart = _APART.get(table.kind, ())
    axes = [axis for axis in KINDS[table.kind].axes if len(np.unique(table.columns[axis])) > 2]
    ratios = {axis: _left_out(table, axis) / table.values for axis in axes}
    together = [ratios[axis] for axis in axes if axis not in apart]
    if len(together) > 1:
        ratios["mean"] = np.mean(together, axis=0)
    dtypes = table.columns.get("dtype", np.full(len(table), ""))
    return [
        _summary(table.kind, str(dtype), axis, ratio[(dtypes == dtype) & np.isfinite(ratio)])
        for dtype in np.unique(dtypes)
        for axis, ratio in ratios.items()
    ]


def _summary(kind: str, dtype: str, axis: str, ratio: Array) -> Interpolation:
    if not len(ratio):
        return Interpolation(kind, dtype, axis, 0, 0.0, 0.0, 0.0)
    error = np.abs(ratio - 1)
    median, p95 = float(np.median(error)), float(np.quantile(error, 0.95))
    return Interpolation(kind, dtype, axis, len(ratio), median, p95, float(np.median(ratio - 1)))


def _left_out(table: Table, axis: str) -> Array:
    """Each value as its neighbours along one axis predict it; nan at the ends of the axis."""
    x, y, order, inner = _along(table, axis)
    left, right = x[inner - 1], x[inner + 1]
    weight = (x[inner] - left) / (right - left)
    before, after = y[inner - 1], y[inner + 1]
    values = before + (after - before) * weight
    if table.kind == "prefill_attention" and axis == "chunk":  # as `prefill.Prefill` interpolates whole prompts
        grows = after / right > before / left
        values = np.where(grows, x[inner] * (before / left + (after / right - before / left) * weight), values)
    predicted = np.full(len(table), np.nan)
    predicted[order[inner]] = values
    return predicted


def _along(table: Table, axis: str) -> tuple[Array, Array, Array, Array]:
    """Points and values sorted so that each line along the axis is in one piece, the order that sorts them, and the
    positions that have a neighbour on both sides."""
    others = [name for name in KINDS[table.kind].keys if name != axis]
    order = np.lexsort((table.columns[axis], *(table.columns[name] for name in reversed(others))))
    same = np.ones(len(order) - 1, bool)
    for name in others:
        column = table.columns[name][order]
        same &= column[1:] == column[:-1]
    inner = np.flatnonzero(same[1:] & same[:-1]) + 1
    return table.columns[axis][order], table.values[order], order, inner


# -- possible times ----------------------------------------------------------------------------------------------


def bounds(table: Table, hardware: HardwareCard) -> list[str]:
    """What is wrong with the times of a table, compared with the least that the data sheet allows."""
    least = _LEAST.get(table.kind)
    if least is None:
        return []
    ratio = table.values / least(table.columns, hardware)
    findings = []
    fast = int((ratio < _TOO_FAST).sum())
    if fast:
        row = int(np.argmin(ratio))
        found = f"{table.kind}: {fast} of {len(table)} times are shorter than {hardware.name} allows"
        findings.append(f"{found}, the worst {1 / ratio[row]:.3g} times ({_keys(table, row)}): a wrong unit?")
    if float(ratio.min()) > _TOO_SLOW:
        found = f"{table.kind}: every time is at least {float(ratio.min()):.3g} times what {hardware.name} needs"
        findings.append(f"{found}: a wrong unit?")
    return findings


def _keys(table: Table, row: int) -> str:
    return ", ".join(f"{name} = {table.columns[name][row]}" for name in KINDS[table.kind].keys)


Columns = Mapping[str, Array]
_NUMBERS = {"fp8": 1, "fp8_block": 1, "int8": 1, "fp4": 0.5, "int4_wo": 0.5, "fp32": 4}  # bytes; else 2


def _peak(hardware: HardwareCard, dtypes: Array) -> Array:
    return _each(dtypes, lambda name: hardware.peak(name.removesuffix("_block") if name.startswith("fp8") else name))


def _size(dtypes: Array) -> Array:
    return _each(dtypes, lambda name: _NUMBERS.get(name, 2))


def _each(names: Array, value: Callable[[str], float]) -> Array:
    texts, codes = np.unique(names, return_inverse=True)
    return np.array([value(text) for text in texts.tolist()])[codes]


def _roof(flops: Array, moved: Array, peak: Array, hardware: HardwareCard) -> Array:
    """Seconds that arithmetic or memory take at the least; a tenth of a microsecond where both are next to none."""
    slowest: Array = np.maximum(np.maximum(flops / peak, moved / hardware.memory_bandwidth), 1e-7)
    return slowest


def _gemm(c: Columns, hardware: HardwareCard) -> Array:
    """Weights that fit the cache may stay there while a kernel is timed over and over: only the excess counts."""
    moved = np.maximum(0, c["n"] * c["k"] * _size(c["dtype"]) - _CACHE)
    return _roof(2 * c["m"] * c["n"] * c["k"], moved, _peak(hardware, c["dtype"]), hardware)


_CACHE = 100 << 20  # bytes: more than any of today's last-level caches


def _prefill(c: Columns, hardware: HardwareCard) -> Array:
    window = np.where(c["window"] > 0, c["window"], np.inf)
    pairs = c["chunk"] * np.minimum(c["context"] + c["chunk"] / 2, window / 2)
    flops = 4 * c["batch"] * c["heads"] * c["head_dim"] * pairs
    return _roof(flops, np.zeros(len(flops)), _peak(hardware, c["dtype"]), hardware)


def _decode(c: Columns, hardware: HardwareCard) -> Array:
    seen = np.minimum(c["context"], np.where(c["window"] > 0, c["window"], np.inf))
    moved = np.maximum(0, 2 * c["batch"] * seen * c["kv_heads"] * c["head_dim"] * _size(c["kv_dtype"]) - _CACHE)
    return _roof(np.zeros(len(moved)), moved, _peak(hardware, c["dtype"]), hardware)


def _moe(c: Columns, hardware: HardwareCard) -> Array:
    """Three matrices of one expert, and every token's work spread evenly over the ranks."""
    matrices = 3 * c["hidden"] * c["inter"] / c["tp"]
    flops = 2 * c["tokens"] * c["topk"] * matrices / c["ep"]
    moved = np.maximum(0, matrices * _size(c["dtype"]) - _CACHE)
    return _roof(flops, moved, _peak(hardware, c["dtype"]), hardware)


def _collective(c: Columns, hardware: HardwareCard) -> Array:
    """Every rank sends at least its part of the message once."""
    sent = c["bytes"] / c["ranks"]
    fastest = max(hardware.link.bandwidth, hardware.network.bandwidth)
    least: Array = np.maximum(sent / fastest, 1e-7)
    return least


def _moved(c: Columns, hardware: HardwareCard) -> Array:
    moved = np.maximum(0, c["bytes"] - _CACHE)
    return _roof(np.zeros(len(moved)), moved, np.ones(len(moved)), hardware)


_LEAST: dict[str, Callable[[Columns, HardwareCard], Array]] = {
    "gemm": _gemm,
    "prefill_attention": _prefill,
    "decode_attention": _decode,
    "moe": _moe,
    "collective": _collective,
    "elementwise": _moved,
}


# -- keys --------------------------------------------------------------------------------------------------------


def key_findings(table: Table) -> Iterator[str]:
    """Keys that occur twice, and lines of one point, which nothing can be interpolated along."""
    spec = KINDS[table.kind]
    ordered = table.sorted()
    same = np.ones(len(table) - 1, bool)
    for name in spec.keys:
        column = ordered.columns[name]
        same &= column[1:] == column[:-1]
    if same.any():
        row = int(np.flatnonzero(same)[0])
        yield f"{table.kind}: {int(same.sum())} keys occur twice, the first {_keys(ordered, row)}"
    axis = spec.axes[-1]
    if len(table) > 1 and len(np.unique(table.columns[axis])) > 1:
        starts = np.flatnonzero(np.append(True, ~_one_line(ordered, spec.keys[:-1])))
        alone = int((np.diff(np.append(starts, len(table))) == 1).sum())
        if alone:
            yield f"{table.kind}: {alone} of {len(starts)} lines along {axis} have one point: constant there"
    elif len(table):
        yield f"{table.kind}: one point along {axis}: constant there"


def _one_line(ordered: Table, names: tuple[str, ...]) -> Array:
    same = np.ones(len(ordered) - 1, bool)
    for name in names:
        column = ordered.columns[name]
        same &= column[1:] == column[:-1]
    return same


def check_tables(tables: TableSet, hardware: HardwareCard | None) -> dict[str, Any]:
    """Everything this module finds: `interpolation` (rows), `errors` (impossible times, double keys) and `notes`."""
    rows: list[Interpolation] = []
    errors: list[str] = []
    notes: list[str] = []
    for kind in tables.kinds:
        table = tables.get(kind)
        assert table is not None
        if KINDS[kind].value is None:
            rows += interpolation(table)
        for finding in key_findings(table):
            (errors if "twice" in finding else notes).append(finding)
        if hardware is not None:
            errors += bounds(table, hardware)
    return {"interpolation": rows, "errors": errors, "notes": notes}
