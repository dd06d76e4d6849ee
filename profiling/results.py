"""What a profile leaves: the table set, and cards and a plan beside it so that `simulate` can use it at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..configs.engine import find_engine
from ..configs.model import Attention, DenseMLP, ModelCard
from ..costmodels.table import KINDS, MeasuredModel, Provenance, TableSet, make_table
from ..costmodels.tablefile import save_tables
from ..sim.report.report import package_version
from .journal import Journal
from .machine import Machine

TABLES, ENGINE, HARDWARE, PLAN, SUMMARY = "tables", "engine.yaml", "hardware.yaml", "plan.yaml", "profile.json"
_POLICIES = "vllm-0.19"  # whose rules the real engine runs unless a plan says otherwise
_NORMS = ("norm", "mlp_norm", "final_norm")  # one kernel, measured once


def table_set(journal: Journal, card: ModelCard, machine: Machine, notes: tuple[str, ...]) -> TableSet:
    """All that was measured, as tables."""
    tables = {}
    for kind, spec in KINDS.items():
        rows = [
            (keys, sample)
            for point, sample in journal.samples(kind)
            for keys in _names(point.keys)
        ]  # fmt: skip
        if not rows:
            continue
        columns = {name: np.array([keys[name] for keys, _ in rows]) for name in spec.keys}
        columns["time_s"] = np.array([sample.seconds for _, sample in rows])
        watts = [sample.watts for _, sample in rows]
        if None not in watts:
            columns["power_w"] = np.array(watts)
        tables[kind] = make_table(kind, columns, kind)
    mixer, mlp = card.groups[0].mixer, card.groups[0].mlp
    assert isinstance(mixer, Attention)
    model = MeasuredModel(
        card.name, card.hidden_size, mlp.intermediate if isinstance(mlp, DenseMLP) else None, mixer.heads,
        mixer.kv_heads, card.vocab_size, card.linear.compute,
    )  # fmt: skip
    provenance = Provenance(
        gpu=machine.name, source="servecast profile, its own kernels and engine", licence="the measurer's own",
        hardware=machine.card, engine=f"servecast {package_version()}", driver=machine.driver,
        software=machine.software, date=datetime.now(UTC).date().isoformat(),
        grid="coarse grid, then halved where leaving a point out errs most", model=model, notes=notes,
    )  # fmt: skip
    return TableSet(provenance, tables, "profile")


def _names(keys: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [{**keys, "operator": name} for name in _NORMS] if keys.get("operator") == "norm" else [keys]


def engine_values(
    host: tuple[float, float], kernel_seconds: float, largest_graph: int, machine: Machine
) -> dict[str, Any]:
    """An engine preset: the rules of vLLM v1, the constants of the real engine on this machine."""
    preset = find_engine(_POLICIES)
    values: dict[str, Any] = {
        "source": f"servecast profile on {machine.name}; policies of {preset.name}",
        "batch": preset.batch, "kv": preset.kv, "budgets": [asdict(budget) for budget in preset.budgets],
        "host_seconds": host[0], "host_seconds_per_sequence": host[1],
        "host_source": "measured in the real engine from start to start, less the device's time",
    }  # fmt: skip
    if largest_graph:
        values |= {
            "max_cudagraph_capture_size": largest_graph, "prompts_in_graphs": False, "kernel_seconds": kernel_seconds,
        }  # fmt: skip
    return values


def plan_values(model: str, tp: int, machine: Machine, pool: Mapping[str, Any]) -> dict[str, Any]:
    """A plan of one replica on the machine that was profiled."""
    hardware = machine.card or HARDWARE
    return {
        "model": model, "engine": ENGINE, "cost": TABLES,
        "pools": [{"name": "profiled", "hardware": hardware, "tensor_parallel_size": tp, **pool}],
    }  # fmt: skip


def configurations(before: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was chosen for the kernels in this run, where there are kernels, and `before` in those it goes on from."""
    found = {name: dict(choices) for name, choices in before.items()}
    if "servecast.real_backend.kernels.tuning" in sys.modules:
        from ..real_backend.kernels.tuning import chosen

        for name, choices in chosen().items():
            found.setdefault(name, {}).update(choices)
    return found


def write_tables(tables: TableSet, folder: Path) -> None:
    """The table set, complete or as it was."""
    save_tables(tables, folder / TABLES)


def write_yaml(values: Mapping[str, Any], path: Path) -> None:
    """A file of YAML, complete or as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(yaml.safe_dump(_plain(values), sort_keys=False, width=110), encoding="utf-8")
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
