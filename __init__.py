"""servecast forecasts LLM serving: a discrete-event simulator and plan optimizer.

The names below are the whole public surface for notebooks; each is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configs.plan import load_plan as load_plan
    from .configs.slo import load_slo as load_slo
    from .errors import InputError as InputError
    from .sim.report.report import build_report as build_report
    from .sim.run import run as run
    from .traces.load import load as load_trace
    from .workbench.api import capacity as capacity
    from .workbench.api import plan as plan
    from .workbench.api import simulate as simulate
    from .workbench.api import sweep as sweep
    from .workbench.compare import compare as compare
    from .workbench.report import Report as Report

__all__ = [
    "InputError", "Report", "__version__", "build_report", "capacity", "compare", "load_plan", "load_slo", "load_trace",
    "plan", "run", "simulate", "sweep",
]  # fmt: skip

_HOME = {
    "InputError": "errors:InputError",
    "Report": "workbench.report:Report",
    "build_report": "sim.report.report:build_report",
    "capacity": "workbench.api:capacity",
    "compare": "workbench.compare:compare",
    "load_plan": "configs.plan:load_plan",
    "load_slo": "configs.slo:load_slo",
    "load_trace": "traces.load:load",
    "plan": "workbench.api:plan",
    "run": "sim.run:run",
    "simulate": "workbench.api:simulate",
    "sweep": "workbench.api:sweep",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("servecast")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = _HOME[name].partition(":")
    return getattr(import_module(f".{module}", __name__), attribute)
