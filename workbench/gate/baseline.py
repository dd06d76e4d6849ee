"""Committed baselines: the figures of a case, and fingerprints of what they rest on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from ...configs.plan import Plan
from ...configs.strict import build, read_mapping
from ...costmodels.choice import ROOFLINE
from ...errors import InputError
from ...planner.measure.fingerprint import digest
from ...sim.deployment import Deployment
from ...sim.report.report import package_version
from ...sim.report.write import write_bytes
from .cases import Case
from .figures import Measured

_CLOCK = ("clocks", "gpu_clock_mhz")  # of a hardware card


@dataclass(frozen=True)
class Baseline:
    """What `baselines/<case>.json` holds.

    figures : seconds or their own unit, one a seed. rows : digest of all rows of all runs.
    """

    servecast: str
    plan: str
    trace: str
    cost_model: str
    seeds: tuple[int, ...]
    rows: str
    figures: dict[str, tuple[float | None, ...]] = field(default_factory=dict)


def cost_model_fingerprint(plan: Plan, deployments: Sequence[Deployment]) -> str:
    """SHA-256, 16 hex digits, of what step times come from: models, devices, host constants, tables.

    Not of how a plan splits, limits or clocks an engine: two such plans are what a baseline is there to compare.
    """
    return digest(sorted({json.dumps(_steps(plan, d), sort_keys=True, default=str) for d in deployments}))


def _steps(plan: Plan, d: Deployment) -> list[object]:
    described = dict(d.cost.describe())
    launch = dict(described["launch"])  # type: ignore[call-overload]
    launch.pop("max_cudagraph_capture_size", None)  # follows from max_num_seqs
    for key in ("parallel", "kv_cache_dtype", "fallback_share", "launch", "gpu_clock_mhz"):
        described.pop(key, None)
    described["label"] = d.cost.label.partition(",")[0]  # without the clock
    cost = d.pool.cost or plan.cost
    tables = "" if cost == ROOFLINE else _files(Path(plan.folder) / Path(cost).expanduser())
    device = {f.name: getattr(d.hardware, f.name) for f in fields(d.hardware) if f.name not in _CLOCK}
    return [described, launch, digest(d.model), digest({"": "HardwareCard", **device}), tables]


def _files(path: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


def baseline_of(case: Case, measured: Measured, cost_model: str) -> Baseline:
    """What `slo accept` writes."""
    return Baseline(
        package_version(), case.plan.fingerprint(), measured.run.table.fingerprint(), cost_model, case.seeds,
        measured.rows, {name: tuple(values) for name, values in measured.values.items()},
    )  # fmt: skip


def write_baseline(baseline: Baseline, path: Path) -> None:
    """As JSON, one figure a line: a diff is read like code."""
    head = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in vars(baseline).items() if name != "figures"]
    figures = [f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in baseline.figures.items()]
    text = ",\n".join([*head, ' "figures": {\n' + ",\n".join(figures) + "\n }"])
    write_bytes(f"{{\n{text}\n}}\n".encode(), path)


def read_baseline(path: Path) -> Baseline | None:
    """None where nobody has accepted one."""
    if not path.is_file():
        return None
    try:
        return build(Baseline, read_mapping(path))
    except InputError as error:
        raise error.at(f"{path}:") from None


def mismatch(before: Baseline, case: Case, measured: Measured, cost_model: str) -> str:
    """Why a baseline cannot be compared with, in words; "" where it can."""
    if before.cost_model != cost_model:
        return f"the baseline is of another cost model ({before.cost_model}, now {cost_model}): accept a new one"
    if before.trace != measured.run.table.fingerprint():
        return "the baseline is of another trace: accept a new one"
    if before.seeds != case.seeds:
        return f"the baseline is of seeds {list(before.seeds)}, now {list(case.seeds)}: accept a new one"
    return ""
