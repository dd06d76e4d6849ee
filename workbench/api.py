"""The functions for notebooks: simulate, compare, sweep, capacity, plan. Nothing is kept between calls."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..configs.catalog import find
from ..configs.dotted import with_value
from ..configs.plan import Plan, load_plan, plan_from
from ..configs.slo import SLO, load_slo, slo_from
from ..configs.strict import read_mapping
from ..errors import InputError
from ..sim.run import run
from ..sim.workload import Workload, load_workload
from ..traces.load import load
from ..traces.table import RequestTable
from ..traces.transform import limit as first_rows
from ..traces.transform import scale_rate
from .report import Report

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..planner.inventory import Inventory
    from .answers import CapacityAnswer, PlanAnswer

Trace = RequestTable | str | Path
PlanLike = Plan | str | Path | Mapping[str, Any]
SLOLike = SLO | str | Path | Mapping[str, Any]


def as_trace(trace: Trace, seed: int = 0) -> RequestTable:
    """A trace given as a table, a file of any known format, or a generator's parameter file (which `seed` draws)."""
    return trace if isinstance(trace, RequestTable) else load(trace, seed=seed)


def as_plan(plan: PlanLike, changes: Mapping[str, object] | None = None) -> Plan:
    """A plan given as itself, a file, the name of a bundled one, or the mapping of its file.

    changes : values by dotted key, as in {"router": "round_robin", "pools[0].replicas": 2}.
    """
    if isinstance(plan, Plan):
        if changes:
            raise InputError("changes", "given with a finished plan", "a plan by name, path or mapping")
        return plan
    if isinstance(plan, Mapping):
        return plan_from(_changed(dict(plan), changes))
    path = find("plans", str(plan), "plan")
    if not changes:
        return load_plan(str(plan))
    try:
        return plan_from(_changed(read_mapping(path), changes), path.stem, path.parent)
    except InputError as error:
        raise error.at(f"{path}:") from None


def _changed(data: dict[str, Any], changes: Mapping[str, object] | None) -> dict[str, Any]:
    for key, value in (changes or {}).items():
        data = with_value(data, key, value)
    return data


def as_slo(slo: SLOLike | None) -> SLO | None:
    """An SLO given as itself, a file, the name of a bundled one, or the mapping of its file."""
    if slo is None or isinstance(slo, SLO):
        return slo
    return slo_from(slo) if isinstance(slo, Mapping) else load_slo(str(slo))


def fitted(load: Workload, limit: int | None, rate_scale: float) -> Workload:
    """The first `limit` requests, so many times as fast. Raises `InputError` for a closed loop that is to be faster."""
    if limit is not None:
        load = load.changed(first_rows(load.requests, limit))
    if rate_scale == 1:
        return load
    if load.users:
        raise InputError("rate_scale", "given for users who send when they are ready", "1, or more users")
    return load.changed(scale_rate(load.requests, rate_scale))


def simulate(
    trace: Trace, plan: PlanLike, slo: SLOLike | None = None, *, changes: Mapping[str, object] | None = None,
    seed: int = 0, limit: int | None = None, rate_scale: float = 1.0, warmup: float = 0.0, horizon: float | None = None,
) -> Report:  # fmt: skip
    """Replay a trace on a plan, as `servecast simulate` does.

    trace : see `as_trace`. plan, changes : see `as_plan`. slo : see `as_slo`. seed : of every random stream.
    limit : the first so many requests. rate_scale : so many times as fast.
    warmup : seconds of arrivals to leave out of the statistics. horizon : simulated seconds after which the run stops.

    Raises `InputError` for whatever cannot be simulated.
    """
    load = Workload(trace) if isinstance(trace, RequestTable) else load_workload(Path(trace), seed)
    load = fitted(load, limit, rate_scale)
    result = run(
        load.requests, as_plan(plan, changes), seed=seed, users=load.users, think_time=load.think_time,
        horizon=inf if horizon is None else horizon,
    )  # fmt: skip
    if result.interrupted:
        raise KeyboardInterrupt
    return Report.of(result, as_slo(slo), warmup)


def sweep(spec: str | Path | Mapping[str, Any], *, out: str | Path | None = None, workers: int = 1) -> DataFrame:
    """Do every run that a sweep's file, or its mapping, describes: `base`, `runs`, `grid` (docs/sweeps.md).

    out : a folder for the ledger and reports, from which the same call goes on; else nothing is kept.
    workers : processes; with 1 the runs take place in this one.

    Returns one row a run: its settings, `status`, `error` and headline figures. Paths in a mapping start at the current
    folder. Raises `InputError` for a mistake in the file.
    """
    from pandas import DataFrame

    from ..planner.sweep.executors import Here, LocalExecutor
    from ..planner.sweep.spec import load_sweep, sweep_cases
    from ..planner.sweep.sweep import Sweep, open_ledger, prepare
    from ..planner.sweep.table import records

    cases = sweep_cases(spec, Path()) if isinstance(spec, Mapping) else load_sweep(Path(spec))
    prepared = prepare(cases)
    executor = Here(prepared.sources) if workers == 1 else LocalExecutor(workers)
    with TemporaryDirectory() as scratch, closing(executor):
        folder = Path(out or scratch)
        with closing(open_ledger(prepared, folder)) as ledger:
            Sweep(prepared, ledger, folder).run(executor)
            rows = ledger.rows()
        return DataFrame(records([rows[fingerprint] for fingerprint in prepared.jobs], folder))


def capacity(
    trace: Trace, plan: PlanLike, slo: SLOLike, *, changes: Mapping[str, object] | None = None, seed: int = 0,
    precision: float = 0.01,
) -> CapacityAnswer:  # fmt: skip
    """The highest load at which a plan meets every objective of an SLO and keeps up, as `servecast capacity`.

    precision : of the result, as a share of it. The other arguments are those of `simulate`.
    """
    from ..planner.capacity.capacity import capacity as search
    from .answers import CapacityAnswer

    wanted = as_slo(slo)
    assert wanted is not None
    found = search(as_trace(trace, seed), as_plan(plan, changes), wanted, seed=seed, precision=precision)
    return CapacityAnswer(found)


def plan(trace: Trace, slo: SLOLike, inventory: Inventory | str | Path, *, seed: int = 0, **options: Any) -> PlanAnswer:
    """The cheapest fleet of an inventory that meets an SLO, as `servecast plan`.

    options : fields of `servecast.planner.search.planning.Options`, such as `goal="energy"`, `pareto=True`.
    """
    from dataclasses import fields

    from ..errors import unknown_name
    from ..planner.inventory import Inventory, load_inventory
    from ..planner.milp import default_solver
    from ..planner.search.planning import Options, plan_fleet
    from .answers import PlanAnswer

    known = [field.name for field in fields(Options)]
    for name in options:
        if name not in known:
            raise unknown_name("options", "option of the planner", name, known)
    wanted = as_slo(slo)
    assert wanted is not None
    offer = inventory if isinstance(inventory, Inventory) else load_inventory(Path(inventory))
    settings = Options(**{"solver": default_solver(), "seed": seed, **options})
    return PlanAnswer(plan_fleet(as_trace(trace, seed), wanted, offer, settings))
