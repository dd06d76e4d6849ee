"""The calibrated error of a figure, from the `validate.json` of a recorded run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...configs.slo import METRICS
from ...configs.strict import read_mapping
from ...errors import InputError
from ...sim.deployment import Deployment
from .cases import Wanted

_NAMES = {"ttft": "ttft_from_arrival", "tpot": "tpot", "itl": "itl", "e2el": "e2e_from_arrival"}


class Calibration:
    """Errors, simulated / recorded - 1, of a recorded run on the engine of a plan.

    Raises `InputError` for a file that is no `validate.json`, or of another engine than the plan's.
    """

    def __init__(self, path: Path, deployments: Sequence[Deployment]) -> None:
        data = read_mapping(path)
        errors = data.get("errors")
        if not isinstance(errors, dict) or not isinstance(data.get("engine"), str):
            raise InputError(str(path), "no `errors` and `engine` in it", "validate.json of `servecast validate --out`")
        for d in deployments:
            for what, ours, theirs in (
                ("engine", d.preset.name, data["engine"]),
                ("step_times", d.cost.label, data.get("step_times")),
            ):
                if ours != theirs:
                    raise InputError(f"{path}: {what}", repr(theirs), f"{ours}, as in the plan's pool {d.pool.name!r}")
        self._errors: dict[str, Any] = errors

    def error(self, wanted: Wanted) -> float | None:
        """The absolute error of a figure, a share; the greatest of its metric where that statistic was not recorded;
        None where nothing is known."""
        if wanted.objective.metric not in METRICS:
            return None
        errors = self._errors.get(_NAMES[wanted.objective.metric])
        if not errors:
            return None
        statistic = {"median": "p50"}.get(wanted.objective.statistic, wanted.objective.statistic)
        found = [errors[statistic]] if statistic in errors else list(errors.values())
        return min(max(abs(float(value)) for value in found), 0.99)
