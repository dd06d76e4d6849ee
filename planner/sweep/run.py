"""One run of a sweep as a worker does it: from a job to a report, or to the reason why there is none."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any, Literal

from ...configs.plan import Plan
from ...configs.slo import SLO
from ...errors import InputError
from ...sim.report.report import build_report
from ...sim.run import run
from ...traces.load import draw, is_spec, load, load_generator
from ...traces.program_spec import ProgramSpec
from ...traces.spec import Spec
from ...traces.table import RequestTable
from ...traces.transform import limit, scale_rate
from ..measure.fingerprint import cards, code, digest
from .spec import Settings


@dataclass(frozen=True)
class Source:
    """A recorded trace, or what a seed makes one from; with its fingerprint, which long traces take a while to give."""

    origin: RequestTable | Spec | ProgramSpec
    fingerprint: str

    def requests(self, settings: Settings) -> RequestTable:
        """The trace of one run."""
        table = self.origin if isinstance(self.origin, RequestTable) else draw(self.origin, settings.seed)
        if settings.limit is not None:
            table = limit(table, settings.limit)
        return table if settings.rate_scale == 1 else scale_rate(table, settings.rate_scale)


def load_source(path: Path) -> Source:
    """The trace or the generator's parameter file at `path`."""
    if is_spec(path):
        spec = load_generator(path)
        return Source(spec, digest(replace(spec, name="")))
    table = load(path)
    return Source(table, digest(table))


local_source = lru_cache(maxsize=2)(load_source)  # once a process for the traces in use


@dataclass(frozen=True)
class Job:
    """A run for a worker. `parts` has the fingerprint of each of its inputs, `fingerprint` is that of all together."""

    fingerprint: str
    parts: dict[str, str]
    settings: Settings
    plan: Plan
    slo: SLO | None
    trace: Path


MEANINGS = {
    "code": "the code of servecast, Python or numpy",
    "plan": "the plan",
    "cards": "a model, hardware or engine card of the plan",
    "trace": "the trace",
    "slo": "the SLO",
    "settings": "the settings",
}


def fingerprint_parts(settings: Settings, plan: Plan, cards: str, slo: SLO | None, trace: str) -> dict[str, str]:
    """What a run's result is a function of, by the names of `MEANINGS`; `cards` and `trace` are fingerprints.

    The names of files are no part of it.
    """
    figures = [settings.seed, settings.rate_scale, settings.limit, settings.warmup, settings.horizon]
    return {
        "code": code(),
        "plan": plan.fingerprint(),
        "cards": cards,
        "trace": trace,
        "slo": digest(slo),
        "settings": digest(figures),
    }


def changes(before: dict[str, str], now: dict[str, str]) -> str:
    """In words, which parts of a fingerprint differ."""
    return ", ".join(meaning for part, meaning in MEANINGS.items() if before.get(part) != now[part])


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    done : with its report. refused : its input cannot be simulated, today or tomorrow. failed : by a fault of the
    program or the machine; once more may help. changed : its input is not what the sweep began with. lost : its
    worker died.
    """

    kind: Literal["done", "refused", "failed", "changed", "lost"]
    report: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def attempt(job: Job, source: Source | None = None) -> Outcome:
    """Do a job, whatever happens. Without a `source` its trace is read from its path."""
    try:
        source = source or local_source(job.trace)
        now = fingerprint_parts(job.settings, job.plan, cards(job.plan)[0], job.slo, source.fingerprint)
        if now != job.parts:
            return Outcome("changed", error=changes(job.parts, now))
        horizon = inf if job.settings.horizon is None else job.settings.horizon
        result = run(source.requests(job.settings), job.plan, seed=job.settings.seed, horizon=horizon)
        if result.interrupted:  # somebody sent a signal to this worker alone
            return Outcome("lost", error="interrupted")
        return Outcome("done", build_report(result, job.slo, job.settings.warmup))
    except InputError as error:
        return Outcome("refused", error=str(error))
    except Exception as error:
        return Outcome("failed", error=_told(error))


def _told(error: Exception) -> str:
    """An unexpected error in one line, with the place in the code where it came up."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno})"
