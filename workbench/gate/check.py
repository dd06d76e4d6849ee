"""Runs the cases of a gate and says what became of each objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...configs.slo import METRICS
from ...errors import InputError
from ...sim.deploy import deploy
from ...sim.workload import Workload, load_workload
from .baseline import Baseline, baseline_of, cost_model_fingerprint, mismatch, read_baseline
from .calibration import Calibration
from .cases import Case, Gate, Wanted
from .figures import Measured, grown, measure, why
from .verdicts import Row, Verdict, against_baseline, against_limit, bounds

_ENOUGH = 1000  # requests for a 99th percentile: 10 beyond it

Traces = Callable[[Path, int], Workload]


@dataclass(frozen=True)
class Result:
    """What a case said. notes : what a reader should know beside the verdicts."""

    case: Case
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    plan_changed: bool = False

    @property
    def verdict(self) -> Verdict:
        """The worst of its rows."""
        return max((row.verdict for row in self.rows), default=Verdict.PASS)


def check(gate: Gate) -> Iterator[Result]:
    """Every case in order, as soon as it has run."""
    traces = trace_reader()
    for case in gate.cases:
        yield check_case(case, read_baseline(gate.baselines / f"{case.name}.json"), traces)


def trace_reader() -> Traces:
    """Reads each trace once for consecutive cases."""

    @lru_cache(maxsize=8)
    def read(path: Path, seed: int) -> Workload:
        return load_workload(path, seed)

    return read


def accept(case: Case, traces: Traces) -> Baseline:
    """A new baseline. Raises `InputError` for a case that cannot run."""
    deployments = deploy(case.plan)
    measured = measure(case, lambda seed: traces(case.trace, seed))
    return baseline_of(case, measured, cost_model_fingerprint(case.plan, deployments))


def check_case(case: Case, before: Baseline | None, traces: Traces) -> Result:
    """One case. A plan that cannot start makes it `invalid`, with the reason."""
    try:
        deployments = deploy(case.plan)
    except InputError as error:
        return Result(case, (Row(case.name, "the plan can start", Verdict.INVALID, reason=str(error)),))
    cost_model = cost_model_fingerprint(case.plan, deployments)
    if case.cost_model not in (None, cost_model):
        reason = f"the case asks for {case.cost_model}, the plan has {cost_model}"
        return Result(case, (Row(case.name, "cost model", Verdict.INVALID, reason=reason),))
    calibration = None if case.calibration is None else Calibration(case.calibration, deployments)
    measured = measure(case, lambda seed: traces(case.trace, seed))
    stale = mismatch(before, case, measured, cost_model) if before else "no baseline: `servecast slo accept` writes one"
    judge = _Judge(case, measured, calibration, before, stale)
    rows = [judge.row(wanted) for wanted in case.wanted]
    if case.not_saturated:
        rows.append(_saturation(case, measured))
    if case.exact:
        rows.append(_exactness(case, measured, before, stale))
    notes = _notes(case, measured, before, calibration)
    changed = before is not None and before.plan != case.plan.fingerprint()
    return Result(case, tuple(rows), tuple(notes), changed)


class _Judge:
    """The rules, with what a case's runs say."""

    def __init__(
        self, case: Case, measured: Measured, calibration: Calibration | None, before: Baseline | None, stale: str
    ) -> None:
        self._case, self._measured, self._calibration = case, measured, calibration
        self._before, self._stale = before, stale
        self._extrapolated = float(measured.report["simulation"]["extrapolated_share"])

    def row(self, wanted: Wanted) -> Row:
        """The verdict on one objective."""
        values = self._measured.values.get(wanted.figure, [None])
        known = [value for value in values if value is not None]
        objective = wanted.objective
        if len(known) < len(values):
            if objective.metric == "goodput" and wanted.figure not in self._measured.values:
                raise InputError(f"{self._case.name}: goodput", "an objective without limits", "goodput: {ttft: 1s}")
            return Row(self._case.name, wanted.text, Verdict.FAIL, reason="nothing to measure", limit=objective.limit)
        error = (self._calibration.error(wanted) if self._calibration else None) or 0.0
        low, high = bounds(known, error)
        verdict, reason = against_limit(objective, low, high), ""
        if verdict == Verdict.FAIL:
            reason = why(self._measured, self._case, wanted)
        elif verdict == Verdict.UNSURE:
            reason = f"the limit lies within {low:.4g} to {high:.4g}, what is known of the figure"
        base, compared, explained = self._compare(wanted, known)
        if compared > verdict or (compared == Verdict.UNSURE and verdict == Verdict.UNSURE):
            verdict, reason = compared, explained
        if verdict != Verdict.INVALID and self._extrapolated > self._case.max_extrapolated:
            verdict = Verdict.UNSURE
            reason = f"{self._extrapolated:.1%} of the time rests on look-ups outside what was measured"
        return Row(
            self._case.name, wanted.text, verdict, sum(known) / len(known), low, high, objective.limit, base, reason,
            objective.metric in METRICS, objective.operator,
        )  # fmt: skip

    def _compare(self, wanted: Wanted, values: list[float]) -> tuple[float | None, Verdict, str]:
        """The baseline's value, and what it says."""
        before = self._before.figures.get(wanted.figure) if self._before and not self._stale else None
        known = [value for value in before or () if value is not None]
        base = sum(known) / len(known) if known else None
        if wanted.slack is None:
            return base, Verdict.PASS, ""
        if self._stale:
            return None, Verdict.INVALID, self._stale
        if len(known) != len(values):
            return None, Verdict.INVALID, f"the baseline has no {wanted.figure}: accept a new one"
        found = against_baseline(wanted.objective, values, known, wanted.slack)
        if found == Verdict.UNSURE:
            return base, found, "worse than the baseline, and the seeds differ too much to tell"
        return base, found, self._growth(wanted.objective.metric) if found == Verdict.REGRESS else ""

    def _growth(self, metric: str) -> str:
        assert self._before
        now, before = (
            {name: sum(v) / len(v) for name, values in of.items() if (v := [x for x in values if x is not None])}
            for of in (self._measured.values, self._before.figures)
        )
        return grown(metric, {name: value for name, value in now.items() if name in before}, before)


def _saturation(case: Case, measured: Measured) -> Row:
    load = measured.report["simulation"]["load"]
    verdict = Verdict.FAIL if load["verdict"] == "overloaded" else Verdict.PASS
    return Row(case.name, "not saturated", verdict, reason=load["reason"] if verdict else "")


def _exactness(case: Case, measured: Measured, before: Baseline | None, stale: str) -> Row:
    """Every figure and every row as in the baseline."""
    if before is None or stale:
        return Row(case.name, "exactly as before", Verdict.INVALID, reason=stale)
    moved = [name for name, values in before.figures.items() if list(values) != measured.values.get(name)]
    if not moved and before.rows == measured.rows:
        return Row(case.name, "exactly as before", Verdict.PASS)
    reason = f"{len(moved)} figures differ: {', '.join(moved[:4])}" if moved else "some request's row differs"
    return Row(case.name, "exactly as before", Verdict.REGRESS, reason=reason)


def _notes(case: Case, measured: Measured, before: Baseline | None, calibration: Calibration | None) -> Iterator[str]:
    completed = measured.report["completed"]
    if any(w.objective.statistic == "p99" for w in case.wanted) and completed < _ENOUGH:
        yield f"a 99th percentile of {completed:,} requests rests on {completed // 100} of them"
    labels = [str(pool["cost_model"]["label"]) for pool in measured.report["simulation"]["pools"]]
    if any(label.startswith("estimated") for label in labels):
        yield "step times are estimated: limits in seconds are as good as the roofline; comparisons are better"
    if calibration:
        for wanted in case.wanted:
            if calibration.error(wanted) is None:
                yield f"no calibrated error of {wanted.figure}: taken as exact"
    if before and before.servecast != measured.report["simulation"]["servecast"]:
        yield f"the baseline is of servecast {before.servecast}"
    broken = [name for name, holds in measured.report["simulation"]["invariants"].items() if not holds]
    if broken:
        yield f"BROKEN INVARIANTS (please report): {', '.join(broken)}"
