"""Fit the few host constants of an engine to a recorded run of the user's own, and test them on a part held back.

Three constants: the device's wait after a kernel of an iteration with prompts, a request's part of the waits between
iterations, and host time an iteration. Requests are split in two by their place in the order of arrival, every second
one: the odd ones are never looked at by the fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..configs.engine import EnginePreset
from ..costmodels.tablecost import MeasuredCost
from ..errors import InputError
from ..sim.deploy import deploy
from ..sim.deployment import Deployment
from ..sim.run import run
from .recorded.run import RecordedRun
from .validate import Comparison, comparison

# Steps in which the search varies each constant, seconds: what moves a typical iteration by a few per cent.
STEPS = {"gap_seconds_per_kernel": 5e-6, "gap_seconds_per_sequence": 2e-6, "host_seconds": 5e-4}
_METRICS = ("ttft_from_arrival", "tpot", "e2e_from_arrival")
_ENOUGH = 20  # requests: fewer cannot hold three constants and be split


def calibrate(recorded: RecordedRun, evaluations: int = 60) -> dict[str, Any]:
    """The constants with the least error on the even requests, the engine preset with them, and the errors before and
    after on both halves.

    evaluations : simulations that the search may spend.

    Raises InputError for a run without measured step times (the roofline's error is not the host's), or with too few
    requests.
    """
    from scipy.optimize import minimize

    deployments = deploy(recorded.plan)
    if not all(isinstance(d.cost, MeasuredCost) for d in deployments):
        expected = "cost in the plan: the constants come on top of measured kernel times"
        raise InputError("cost", "missing, so step times are the roofline's", expected)
    if len(recorded.table) < _ENOUGH:
        raise InputError(recorded.name, f"{len(recorded.table)} requests", f"at least {_ENOUGH}")
    even = np.arange(len(recorded.table)) % 2 == 0

    def simulated(constants: Mapping[str, float]) -> Comparison:
        changed = [with_constants(d, constants) for d in deployments]
        return comparison(recorded, run(recorded.table, recorded.plan, users=recorded.users, deployments=changed))

    def loss(steps: np.ndarray[Any, Any]) -> float:
        return _loss(simulated(_constants(steps)), even)

    preset = deployments[0].preset
    before = {name: float(getattr(preset, name)) for name in STEPS}
    start = np.array([before[name] / step for name, step in STEPS.items()])
    simplex = np.array([start, *(start + np.eye(len(start)))])
    found = minimize(
        loss, start, method="Nelder-Mead",
        options={"maxfev": evaluations, "initial_simplex": simplex, "xatol": 0.02, "fatol": 1e-5},
    )  # fmt: skip
    after = _constants(found.x)
    return {
        "run": recorded.name,
        "engine": preset.name,
        "constants": after,
        "preset": before,
        "engine_preset": _preset(preset, after, recorded.name),
        "evaluations": int(found.nfev),
        "fitted": {"requests": int(even.sum()), **_before_after(simulated, before, after, even)},
        "held_back": {"requests": int((~even).sum()), **_before_after(simulated, before, after, ~even)},
    }


def with_constants(deployment: Deployment, constants: Mapping[str, float]) -> Deployment:
    """The deployment with other host constants (keys of `STEPS`) in its cost model, which has measured tables."""
    cost = deployment.cost
    assert isinstance(cost, MeasuredCost)
    launch = dataclasses.replace(
        cost.launch, gap_seconds_per_kernel=constants["gap_seconds_per_kernel"],
        gap_seconds_per_sequence=constants["gap_seconds_per_sequence"],
    )  # fmt: skip
    host = dataclasses.replace(cost.host_overhead, seconds=constants["host_seconds"])
    return dataclasses.replace(deployment, cost=cost.with_launch(launch, host))


def _preset(preset: EnginePreset, constants: Mapping[str, float], source: str) -> dict[str, Any]:
    """The preset as a mapping for YAML, with the fitted constants and where they come from."""
    values = dataclasses.asdict(preset) | dict(constants)
    values["gap_source"] = values["host_source"] = f"servecast calibrate on {source}"
    values["budgets"] = [{**b, "not_on": list(b["not_on"])} for b in values["budgets"]]
    return values


def _constants(steps: np.ndarray[Any, Any]) -> dict[str, float]:
    return {name: max(0.0, float(x)) * step for (name, step), x in zip(STEPS.items(), steps, strict=True)}


def _loss(c: Comparison, chosen: np.ndarray[Any, Any]) -> float:
    return float(np.mean(list(_errors(c, chosen).values())))


def _errors(c: Comparison, chosen: np.ndarray[Any, Any]) -> dict[str, float]:
    """|mean error| and mean absolute error a request of each metric, over some requests."""
    errors: dict[str, float] = {}
    for metric in _METRICS:
        simulated, recorded = c.simulated[metric][chosen], c.recorded.seconds[metric][chosen]
        both = np.isfinite(simulated) & np.isfinite(recorded) & (recorded > 0)
        if both.any():
            errors[f"{metric}.mean"] = abs(float(simulated[both].mean() / recorded[both].mean() - 1))
            errors[f"{metric}.mean_abs"] = float(np.abs(simulated[both] / recorded[both] - 1).mean())
    return errors


def _before_after(simulated: Any, before: Any, after: Any, chosen: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"before": _errors(simulated(before), chosen), "after": _errors(simulated(after), chosen)}
