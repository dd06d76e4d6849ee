"""The one door to integer programs: PuLP models, three solvers, and a status that does not flatter.

PuLP 3.3 calls a run that stopped on its time limit "Optimal", whatever it found; so status, bound and gap are read
from the solvers themselves. Only this file knows PuLP, in the part of its interface that PuLP 4 keeps.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any, Literal

import pulp

from ..errors import InputError, unknown_name

Status = Literal["optimal", "time limit", "infeasible", "unbounded"]
_RELATIVE_GAP = 1e-7  # within which a solver may call itself done


@dataclass(frozen=True)
class Outcome:
    """What a solver found.

    status : "optimal" only where the solver proved it to 1e-7. value : of the objective, None without a solution.
    bound : no solution can be better, as far as is proven; None where nothing is.
    values : by variable. duals : by constraint of a relaxed solve, the change of the objective for one more unit on
        the right.
    """

    status: Status
    solver: str
    seconds: float
    value: float | None = None
    bound: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    duals: dict[str, float] = field(default_factory=dict)

    @property
    def gap(self) -> float | None:
        """|bound - value| / |value|; None where one of them is missing."""
        return None if self.value is None or self.bound is None else relative_gap(self.value, self.bound)


def relative_gap(value: float, bound: float) -> float:
    """|bound - value| / |value|, with what rounding leaves (1e-9) taken for zero."""
    gap = abs(bound - value) / max(abs(value), 1e-12)
    return 0.0 if gap < 1e-9 else gap


class Program:
    """A mixed-integer program. Expressions and constraints are written with operators, as in PuLP."""

    def __init__(self, name: str, *, maximize: bool = False) -> None:
        self._problem = pulp.LpProblem(name, pulp.LpMaximize if maximize else pulp.LpMinimize)
        self.variables: dict[str, Any] = {}

    def number(self, name: str, low: float = 0.0, high: float | None = None) -> Any:
        """A continuous variable."""
        return self._variable(name, low, high, pulp.LpContinuous)

    def count(self, name: str, low: int = 0, high: int | None = None) -> Any:
        """An integer variable."""
        return self._variable(name, low, high, pulp.LpInteger)

    def _variable(self, name: str, low: float, high: float | None, kind: str) -> Any:
        assert name not in self.variables, name
        self.variables[name] = self._problem.add_variable(name, low, high, kind)
        return self.variables[name]

    def require(self, constraint: Any, name: str) -> None:
        """Add a constraint. HiGHS takes no factor above 1e15."""
        self._problem.addConstraint(constraint, name)

    def aim(self, expression: Any) -> None:
        """Set the objective."""
        self._problem.setObjective(pulp.lpSum(expression))

    def solve(self, solver: str = "highs", *, time_limit: float = inf, relaxed: bool = False) -> Outcome:
        """Solve, or stop after `time_limit` seconds with what there is.

        solver : a key of `SOLVERS`. relaxed : let the integers be fractional.

        Raises InputError where the solver is unknown or not installed.
        """
        if solver not in SOLVERS:
            raise unknown_name("--solver", "solver", solver, SOLVERS)
        started = time.monotonic()
        run = SOLVERS[solver](self._problem, max(time_limit, 0.01), relaxed)
        return Outcome(solver=solver, seconds=time.monotonic() - started, **run)


def total(terms: Any) -> Any:
    """The sum of expressions, fast."""
    return pulp.lpSum(terms)


def default_solver() -> str:
    """HiGHS, or SciPy's copy of it where `highspy` is not installed."""
    return "highs" if find_spec("highspy") else "scipy"


# -- HiGHS -------------------------------------------------------------------------------------------------------


def _highs(problem: Any, time_limit: float, relaxed: bool) -> dict[str, Any]:
    if not find_spec("highspy"):
        raise InputError("--solver", "highs, and the package highspy is not installed", "pip install highspy, or scipy")
    limit = None if time_limit == inf else time_limit
    with suppress(IndexError):  # PuLP 3.3 looks for values where HiGHS has found none
        problem.solve(pulp.HiGHS(mip=not relaxed, msg=False, timeLimit=limit, gapRel=_RELATIVE_GAP, threads=1))
    model = problem.solverModel
    assert model.getNumRow() == len(problem.constraints()), "HiGHS has refused a constraint, and PuLP does not say so"
    info, status = model.getInfo(), model.modelStatusToString(model.getModelStatus())
    if status in ("Infeasible", "Primal infeasible or unbounded"):
        return {"status": "infeasible"}
    if status == "Unbounded":
        return {"status": "unbounded"}
    solved = info.primal_solution_status == 2  # kSolutionStatusFeasible
    done = status in ("Optimal", "Empty")
    sign = -1.0 if problem.sense == pulp.LpMaximize else 1.0  # PuLP hands HiGHS a minimisation
    integer = not relaxed and any(v.cat == pulp.LpInteger for v in problem.variables())
    for constraint in problem.constraints():
        constraint.pi = None if constraint.pi is None else sign * constraint.pi
    bound = sign * (info.mip_dual_bound if integer else info.objective_function_value) if integer or done else None
    return _found(problem, done, solved, bound, relaxed)


# -- CBC ---------------------------------------------------------------------------------------------------------


def _cbc(problem: Any, time_limit: float, relaxed: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "cbc.log"
        limit = None if time_limit == inf else time_limit
        solver = pulp.PULP_CBC_CMD(
            mip=not relaxed, msg=False, timeLimit=limit, gapRel=_RELATIVE_GAP, logPath=str(log), keepFiles=False
        )
        if not solver.available():
            raise InputError(
                "--solver", "cbc, and PuLP finds no program of that name", "pip install 'pulp<4', or highs"
            )
        problem.solve(solver)
        text = log.read_text()
    if problem.status == pulp.LpStatusInfeasible:
        return {"status": "infeasible"}
    if problem.status == pulp.LpStatusUnbounded:
        return {"status": "unbounded"}
    stopped = "Stopped on time" in text
    solved = problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    stated = re.search(r"(?:Lower|Upper) bound:\s+(\S+)", text)
    bound = float(stated[1]) if stated and stopped else None
    return _found(problem, solved and not stopped, solved, bound, relaxed)


# -- SciPy -------------------------------------------------------------------------------------------------------


def _scipy(problem: Any, time_limit: float, relaxed: bool) -> dict[str, Any]:
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    variables, constraints = problem.variables(), problem.constraints()
    index = {variable: i for i, variable in enumerate(variables)}
    sign = -1.0 if problem.sense == pulp.LpMaximize else 1.0
    cost = np.array([sign * problem.objective.get(v, 0.0) for v in variables])
    cells = [(r, index[v], factor) for r, c in enumerate(constraints) for v, factor in c.items()]
    rows, columns, factors = zip(*cells, strict=True) if cells else ((), (), ())
    matrix = coo_array((factors, (rows, columns)), shape=(len(constraints), len(variables))).tocsr()
    low = [-inf if c.getLb() is None else c.getLb() for c in constraints]
    high = [inf if c.getUb() is None else c.getUb() for c in constraints]
    with _quiet():
        result = milp(
            cost,
            constraints=LinearConstraint(matrix, low, high) if constraints else (),
            integrality=[int(v.cat == pulp.LpInteger and not relaxed) for v in variables],
            bounds=Bounds(
                [-inf if v.lowBound is None else v.lowBound for v in variables],
                [inf if v.upBound is None else v.upBound for v in variables],
            ),
            options={"mip_rel_gap": _RELATIVE_GAP, **({} if time_limit == inf else {"time_limit": time_limit})},
        )
    if result.status in (2, 3):
        return {"status": "infeasible" if result.status == 2 else "unbounded"}
    if result.x is not None:
        problem.assignVarsVals({v.name: x for v, x in zip(variables, result.x.tolist(), strict=True)})
    bound = getattr(result, "mip_dual_bound", None)
    return _found(problem, result.status == 0, result.x is not None, None if bound is None else sign * bound, relaxed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Standard output is for data; HiGHS inside SciPy 1.17 now and then writes a line for its developers there."""
    flush = ctypes.CDLL(None).fflush
    flush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _found(problem: Any, done: bool, solved: bool, bound: float | None, relaxed: bool) -> dict[str, Any]:
    """The outcome of a solver that ended well or on its limit."""
    found: dict[str, Any] = {"status": "optimal" if done else "time limit", "bound": bound}
    if bound is not None and abs(bound) >= 1e300:
        found["bound"] = None
    if not solved:
        return found
    found["values"] = {v.name: float(v.varValue or 0.0) for v in problem.variables()}
    found["value"] = float(pulp.value(problem.objective))
    if done and bound is None:
        found["bound"] = found["value"]
    if relaxed:
        found["duals"] = {c.name: float(c.pi) for c in problem.constraints() if c.pi is not None}
    return found


SOLVERS: dict[str, Callable[[Any, float, bool], dict[str, Any]]] = {"highs": _highs, "cbc": _cbc, "scipy": _scipy}
