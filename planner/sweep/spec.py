"""What a sweep runs: the combinations that its file describes, each a flat mapping of keys to values.

    base:                             # what all runs share
      trace: chat.jsonl.gz
      slo: chat
    runs:                             # one run each,
      - {plan: default}
      - {plan: default, plan.router: round_robin, "plan.pools[0].max_num_seqs": 64}
    grid:                             # or rather: each once for every combination of these
      rate_scale: [0.5, 1, 2]
      seed: [0, 1, 2]

Keys are the fields of `Settings`, and `plan.` followed by a key of the plan. `runs` wins over `base`. Paths start at
the folder of the sweep's file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from ...configs.catalog import find
from ...configs.dotted import with_value
from ...configs.plan import LONGEST, Plan, plan_from
from ...configs.slo import SLO, load_slo
from ...configs.strict import build, check, describe, read_mapping
from ...errors import InputError

MOST = 100_000  # runs of one sweep
_PLAN = "plan."


@dataclass(frozen=True)
class Settings:
    """One run: files and figures, as the flags of `servecast simulate` say them.

    plan, slo : a file, or the name of a bundled one. trace : a recorded trace or a generator's parameter file, whose
    draws `seed` decides as well. limit : the first so many requests. warmup, horizon : seconds.
    """

    plan: str
    trace: str
    slo: str | None = None
    seed: int = 0
    rate_scale: float = 1.0
    limit: int | None = None
    warmup: float = 0.0
    horizon: float | None = None

    def __post_init__(self) -> None:
        check(self.seed >= 0, "seed", self.seed, "0 or more")
        check(self.rate_scale > 0, "rate_scale", self.rate_scale, "above 0")
        check(self.limit is None or self.limit >= 1, "limit", self.limit, "1 or more requests")
        check(0 <= self.warmup <= LONGEST, "warmup", self.warmup, f"0 to {LONGEST:g} seconds")
        horizon = self.horizon
        check(horizon is None or 0 < horizon <= LONGEST, "horizon", horizon, f"seconds above 0, at most {LONGEST:g}")


@dataclass(frozen=True)
class Case:
    """One run with everything small that it needs. `written` is its flat mapping, `trace` the path of its trace."""

    written: dict[str, Any]
    settings: Settings
    plan: Plan
    slo: SLO | None
    trace: Path


@dataclass(frozen=True)
class _File:
    base: dict[str, Any] = field(default_factory=dict)
    runs: tuple[dict[str, Any], ...] = ({},)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)


def load_sweep(path: Path) -> list[Case]:
    """The runs of a sweep's file, in order. Raises `InputError` naming the key, before anything has run."""
    data = read_mapping(path)
    try:
        return sweep_cases(data, path.parent)
    except InputError as error:
        raise error.at(f"{path}:") from None


def sweep_cases(data: Mapping[str, Any], folder: Path) -> list[Case]:
    """The runs that the mapping of a sweep's file describes; its paths start at `folder`."""
    loader = _Loader(folder)
    return [loader.case(written, where) for written, where in _combinations(build(_File, data))]


def _combinations(file: _File) -> list[tuple[dict[str, Any], str]]:
    """Every run's mapping, and where it stands in the file."""
    for key, values in file.grid.items():
        check(len(values) > 0, f"grid.{key}", values, "at least one value")
    check(len(file.runs) > 0, "runs", file.runs, "at least one run")
    count = len(file.runs) * prod(len(values) for values in file.grid.values())
    check(count <= MOST, "grid", count, f"at most {MOST:,} runs")
    found = []
    for i, entry in enumerate(file.runs):
        where = f"runs[{i}]" if len(file.runs) > 1 else ""
        for key in entry:
            if key in file.grid:
                raise InputError(f"runs[{i}].{key}", "also a key of grid", "one of the two")
        for values in product(*file.grid.values()):
            point = dict(zip(file.grid, values, strict=True))
            found.append(({**file.base, **entry, **point}, _place(where, point)))
    return found


def _place(where: str, point: dict[str, Any]) -> str:
    cell = ", ".join(f"{key}={value}" for key, value in point.items())
    return f"{where} ({cell})" if where and cell else where or (f"grid ({cell})" if cell else "")


class _Loader:
    """Reads each file that the runs name once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plans: dict[str, tuple[dict[str, Any], Path]] = {}
        self._slos: dict[str, SLO] = {}

    def case(self, written: dict[str, Any], where: str) -> Case:
        """One run of the sweep, complete."""
        try:
            _check_plain(written)
            own = {key: value for key, value in written.items() if not key.startswith(_PLAN)}
            settings = build(Settings, own)
        except InputError as error:
            raise error.at(where) if where else error from None
        overrides = {key: value for key, value in written.items() if key.startswith(_PLAN)}
        try:
            plan, slo = self._plan(settings.plan, overrides), self._slo(settings.slo)
        except InputError as error:
            raise error.at(f"{where}:") if where else error from None
        return Case(written, settings, plan, slo, self._folder / settings.trace)

    def _beside(self, name: str) -> str:
        """A path starts at the sweep's folder; a name stays a name."""
        return str(self._folder / name) if Path(name).suffix in (".yaml", ".yml", ".json") else name

    def _plan(self, name: str, overrides: dict[str, Any]) -> Plan:
        if name not in self._plans:
            path = find("plans", self._beside(name), "plan")
            self._plans[name] = read_mapping(path), path
        data, path = self._plans[name]
        try:
            for key, value in overrides.items():
                data = with_value(data, key.removeprefix(_PLAN), value)
            return plan_from(data, path.stem, path.parent)
        except InputError as error:
            raise error.at(f"{path}:") from None

    def _slo(self, name: str | None) -> SLO | None:
        if name is None:
            return None
        if name not in self._slos:
            self._slos[name] = load_slo(self._beside(name))
        return self._slos[name]


def _check_plain(written: dict[str, Any]) -> None:
    """YAML also has dates and sets, which neither a plan nor the ledger can hold."""
    for key, value in written.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise InputError(key, describe(value), "finite numbers, text, lists and mappings") from None
