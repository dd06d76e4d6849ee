"""The file of an SLO gate: cases, each a plan and a trace with objectives, and what may change against a baseline.

    cases:
      - name: chat
        plan: plan.yaml                     # a file, or the name of a bundled one
        changes: {"pools[0].replicas": 3}   # of the plan, by dotted key
        trace: chat.jsonl.gz                # a recording, or a generator's parameter file
        seeds: 5                            # runs of a generator's trace, from `seed` on
        goodput: {ttft: 1s, tpot: 50ms}     # limits of a good request
        regress: {max: 5%, abs: 2ms}        # against the baseline, for every objective that says nothing else
        objectives:
          - ttft p99 <= 800ms
          - {objective: tpot p99 <= 60ms, class: chat, regress: {max: 2%}}
          - goodput >= 95% of offered

Paths start at the folder of the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...configs.plan import Plan
from ...configs.slo import METRICS, SLO, Objective, duration, slo_from
from ...configs.strict import build, check, read_mapping
from ...errors import InputError, unknown_name
from ..api import as_plan

_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Slack:
    """How much worse than the baseline is no regression: both must be exceeded. absolute : seconds, or the figure's own
    unit."""

    relative: float = 0.0
    absolute: float = 0.0


@dataclass(frozen=True)
class Wanted:
    """An objective of a case. request_class : of the requests it is about, "" for all."""

    objective: Objective
    request_class: str = ""
    slack: Slack | None = None

    @property
    def figure(self) -> str:
        """What is measured, without the limit: `ttft p99`, `tpot p99 of chat`."""
        name = f"{self.objective.metric} {self.objective.statistic}".strip()
        return f"{name} of {self.request_class}" if self.request_class else name

    @property
    def text(self) -> str:
        """The line of the file."""
        return f"{self.request_class}: {self.objective.text}" if self.request_class else self.objective.text


@dataclass(frozen=True)
class Case:
    """One plan and trace. errors : calibrated, by figure; see `calibration`. The keys of the file are in the docs."""

    name: str
    plan: Plan
    trace: Path
    slo: SLO
    wanted: tuple[Wanted, ...]
    seeds: tuple[int, ...]
    limit: int | None
    rate_scale: float
    warmup: float
    not_saturated: bool
    exact: bool
    cost_model: str | None
    max_extrapolated: float
    calibration: Path | None


@dataclass(frozen=True)
class _Case:
    """As it is written."""

    name: str
    plan: str
    trace: str
    changes: dict[str, Any] = field(default_factory=dict)
    objectives: tuple[Any, ...] = ()
    goodput: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    regress: dict[str, Any] | None = None
    seed: int = 0
    seeds: int = 1
    limit: int | None = None
    rate_scale: float = 1.0
    warmup: float = 0.0
    not_saturated: bool = True
    exact: bool = False
    cost_model: str | None = None
    max_extrapolated: Any = "5%"
    slack: Literal["none", "calibrated"] = "none"
    calibration: str | None = None

    def __post_init__(self) -> None:
        check(bool(_NAME.fullmatch(self.name)), "name", self.name, "letters, digits, dots, dashes: it names a file")
        check(bool(self.objectives) or self.exact, "objectives", list(self.objectives), "at least one")
        check(self.seeds >= 1, "seeds", self.seeds, "at least 1")
        check(self.limit is None or self.limit >= 1, "limit", self.limit, "1 or more requests")
        check(self.rate_scale > 0, "rate_scale", self.rate_scale, "above 0")
        check(self.warmup >= 0, "warmup", self.warmup, "seconds, not negative")
        given = self.calibration is not None
        if (self.slack == "calibrated") != given:
            found = "calibrated without a calibration" if not given else f"{self.slack} with a calibration"
            raise InputError("slack", found, "slack: calibrated and calibration: the validate.json of a recorded run")


@dataclass(frozen=True)
class _File:
    cases: tuple[_Case, ...]
    baselines: str = "baselines"


@dataclass(frozen=True)
class Gate:
    """A gate's file. baselines : the folder with a file a case."""

    cases: tuple[Case, ...]
    baselines: Path


def load_gate(path: Path, chosen: list[str] | None = None) -> Gate:
    """The cases of a gate's file, or those of them that are `chosen` by name.

    Raises `InputError` naming the key, before anything runs.
    """
    data = read_mapping(path)
    try:
        file = build(_File, data)
        check(bool(file.cases), "cases", [], "at least one case")
        names = [case.name for case in file.cases]
        for i, name in enumerate(names):
            check(names.index(name) == i, f"cases[{i}].name", name, "a name of its own for each case")
        for name in chosen or ():
            if name not in names:
                raise unknown_name("--case", "case of this file", name, names)
        cases = [
            _case(written, path.parent, f"cases[{i}]")
            for i, written in enumerate(file.cases)
            if not chosen or written.name in chosen
        ]
    except InputError as error:
        raise error if error.where.startswith("--") else error.at(f"{path}:") from None
    return Gate(tuple(cases), path.parent / file.baselines)


def _case(c: _Case, folder: Path, where: str) -> Case:
    trace = folder / c.trace
    if not trace.is_file():
        raise InputError(f"{where}.trace", f"no file {c.trace!r}", "a trace; its path starts at this file's folder")
    try:
        wanted = tuple(_wanted(entry, c.regress, f"objectives[{i}]") for i, entry in enumerate(c.objectives))
        return Case(
            name=c.name, plan=_plan(c.plan, folder, c.changes), trace=trace,
            slo=slo_from({"goodput": c.goodput, "classes": c.classes}), wanted=wanted,
            seeds=tuple(range(c.seed, c.seed + c.seeds)), limit=c.limit, rate_scale=c.rate_scale, warmup=c.warmup,
            not_saturated=c.not_saturated, exact=c.exact, cost_model=c.cost_model,
            max_extrapolated=share(c.max_extrapolated, "max_extrapolated"),
            calibration=None if c.calibration is None else folder / c.calibration,
        )  # fmt: skip
    except InputError as error:
        raise error.at(where) from None


def _plan(name: str, folder: Path, changes: Mapping[str, Any]) -> Plan:
    """A path starts at the file's folder; a name stays a name."""
    return as_plan(str(folder / name) if Path(name).suffix in (".yaml", ".yml", ".json") else name, changes)


def _wanted(entry: object, slack: Mapping[str, Any] | None, where: str) -> Wanted:
    if isinstance(entry, str):
        objective = Objective.parse(entry, where)
        return Wanted(objective, "", _slack(slack, objective, "regress"))
    if not isinstance(entry, Mapping):
        raise InputError(where, repr(entry), "a line such as `ttft p99 <= 800ms`, or a mapping with `objective`")
    for key in entry:
        if key not in ("objective", "class", "regress"):
            raise unknown_name(f"{where}.{key}", "key of an objective", str(key), ("objective", "class", "regress"))
    objective = Objective.parse(str(entry.get("objective", "")), f"{where}.objective")
    request_class = str(entry.get("class", ""))
    if request_class and (objective.metric == "itl" or objective.metric not in (*METRICS, "goodput")):
        expected = "ttft, tpot, e2el or goodput: no other figure is known by class"
        raise InputError(f"{where}.class", f"given for {objective.metric}", expected)
    own = entry.get("regress", slack)
    if own is not None and not isinstance(own, Mapping):
        raise InputError(f"{where}.regress", repr(own), "a mapping such as {max: 5%, abs: 2ms}")
    return Wanted(objective, request_class, _slack(own, objective, f"{where}.regress"))


def _slack(written: Mapping[str, Any] | None, objective: Objective, where: str) -> Slack | None:
    """`abs: 2ms` is about latencies and is left out of account for other figures; `abs: 0.01` the other way round."""
    if written is None:
        return None
    for key in written:
        if key not in ("max", "abs"):
            raise unknown_name(f"{where}.{key}", "key of a slack", str(key), ("max", "abs"))
    relative = share(written.get("max", 0.0), f"{where}.max")
    absolute, latency = written.get("abs", 0.0), objective.metric in METRICS
    if isinstance(absolute, int | float) and not (latency and absolute):
        return Slack(relative, float(absolute))
    seconds = duration(absolute, f"{where}.abs")
    return Slack(relative, seconds if latency else 0.0)


def share(value: object, where: str) -> float:
    """A share, as `0.05` or `5%`."""
    text = str(value)
    with suppress(ValueError):
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if 0 <= number < float("inf"):
            return number
    raise InputError(where, repr(value), "a share such as 5% or 0.05")
