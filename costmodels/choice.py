"""The cost model that a plan asks for: the roofline by name, a measured table set by path."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ..configs.device import HardwareCard
from ..configs.model import ModelCard, Parallelism
from ..configs.techniques import NONE, Techniques
from ..errors import InputError
from .composed import ComposedCost
from .host import HostOverhead
from .launch import Launch
from .readers.load import read_tables
from .roofline import Roofline
from .table import TableSet
from .tablecost import MeasuredCost

ROOFLINE = "roofline"


def cost_model(
    source: str, model: ModelCard, hardware: HardwareCard, parallel: Parallelism, *, kv_cache_dtype: str,
    host: HostOverhead, launch: Launch, techniques: Techniques = NONE,
) -> ComposedCost:  # fmt: skip
    """The cost model of one replica.

    source : "roofline", or the path of a table set (a folder or a zip), or of a folder in a format that a reader knows.

    Raises InputError where the path is no table set, or one of another GPU or model.
    """
    if source == ROOFLINE:
        return Roofline(
            model, hardware,
            tensor_parallel_size=parallel.tensor_parallel_size,
            pipeline_parallel_size=parallel.pipeline_parallel_size,
            data_parallel_size=parallel.data_parallel_size,
            enable_expert_parallel=parallel.enable_expert_parallel,
            kv_cache_dtype=kv_cache_dtype, host=host, launch=launch, techniques=techniques,
        )  # fmt: skip
    path = Path(source).expanduser()
    try:
        tables = _loaded(path, _stamp(path), model)
    except InputError as error:
        raise error.at("cost:") from None
    measured = tables.provenance.hardware
    if measured not in (None, hardware.name):
        raise InputError("cost", f"{source}, measured on {measured}", f"tables of {hardware.name}, or `{ROOFLINE}`")
    return MeasuredCost(
        tables, model, hardware, parallel, kv_cache_dtype=kv_cache_dtype, host=host, launch=launch,
        techniques=techniques,
    )  # fmt: skip


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes whenever a table set is written anew."""
    files = [path, *sorted(path.iterdir())] if path.is_dir() else [path] if path.exists() else []
    return tuple(file.stat().st_mtime_ns for file in files)


@lru_cache(maxsize=4)  # pools and candidate plans share a table set, which nobody changes
def _loaded(path: Path, stamp: tuple[int, ...], model: ModelCard) -> TableSet:
    return read_tables(path, model)
