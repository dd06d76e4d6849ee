"""Reader of Vidur's profiling CSVs: a model's `mlp.csv` on a GPU, `attention.csv` beside it, a node's `all_reduce.csv`.

Source: microsoft/vidur (7d475133), `data/profiling`. Times are medians in milliseconds of one layer on one rank. Vidur
has no final norm, head or sampler; its embedding and `send_recv.csv` it does not use, or we do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...configs.catalog import find_model, names
from ...configs.model import Attention, DenseMLP, ModelCard
from ...errors import InputError, nearest_name
from ..grid import Array
from ..table import MeasuredModel, Provenance, Table, TableSet, make_table
from ..tablefile import read_columns

# Vidur adds the residual once a layer, by itself; our first norm does it in the same kernel.
_LAYERS = {
    "emb": "embedding",
    "input_layernorm": "norm",
    "add": "norm",
    "attn_pre_proj": "qkv_proj",
    "attn_rope": "rotary_and_cache",
    "attn_post_proj": "o_proj",
    "post_attention_layernorm": "mlp_norm",
    "mlp_up_proj": "gate_up_proj",
    "mlp_act": "activation",
    "mlp_down_proj": "down_proj",
}
_DTYPE = "fp16"
_GPUS = {"a100": "a100-80gb"}  # folder -> hardware card, where they differ


def fits(path: Path) -> bool:
    """Whether a folder holds such a profile of a model."""
    return (path / "mlp.csv").is_file()


def read(
    path: Path, model: ModelCard | None = None, *, attention: Path | None = None, all_reduce: Path | None = None
) -> TableSet:
    """The table set of a model's folder, `profiling/compute/GPU/ORGANISATION/MODEL`.

    model : its card; by default the bundled card of the folder's name. attention : by default `attention.csv` in the
    folder. all_reduce : by default that of the GPU's DGX node in `profiling/network`. Both may be missing: these times
    then come from elsewhere.

    Raises InputError where a column is missing or malformed.
    """
    card = model or find_model(path.name.removeprefix("Meta-").removesuffix("-hf"))
    gpu = path.parent.parent.name
    attention = attention or path / "attention.csv"
    all_reduce = all_reduce or path.parents[3] / "network" / f"{gpu}_dgx" / "all_reduce.csv"
    tables = {"layer": _layers(path / "mlp.csv")}
    if attention.is_file():
        tables |= _attention(attention, card)
    if all_reduce.is_file():
        tables["collective"] = _collectives(all_reduce)
    known = [f.name for f in (path / "mlp.csv", attention, all_reduce) if f.is_file()]
    return TableSet(_provenance(card, gpu, known), tables, str(path))


def _layers(path: Path) -> Table:
    columns = _columns(path, ("num_tokens", "num_tensor_parallel_workers", *(_median(name) for name in _LAYERS)))
    tp, tokens = columns["num_tensor_parallel_workers"], columns["num_tokens"]
    times: dict[str, Array] = {}
    for name, operator in _LAYERS.items():
        times[operator] = times.get(operator, 0.0) + columns[_median(name)]
    repeated = {"tp": np.tile(tp, len(times)), "tokens": np.tile(tokens, len(times))}
    operators = np.repeat(list(times), len(tokens))
    return _table("layer", {"operator": operators, **repeated}, np.concatenate(list(times.values())), path)


def _attention(path: Path, card: ModelCard) -> dict[str, Table]:
    keys = (
        "n_embd", "n_q_head", "n_kv_head", "num_tensor_parallel_workers", "batch_size", "prefill_chunk_size",
        "kv_cache_size", "is_prefill",
    )  # fmt: skip
    medians = (_median("attn_prefill"), _median("attn_decode"))
    columns = _columns(path, (*keys, *medians))
    mixer = card.groups[0].mixer
    head_dim = mixer.head_dim if isinstance(mixer, Attention) else 0
    tp = columns["num_tensor_parallel_workers"]
    labels = {
        "heads": columns["n_q_head"] // tp, "kv_heads": np.maximum(1, columns["n_kv_head"] // tp),
        "head_dim": np.full(len(tp), head_dim), "window": np.zeros(len(tp)),
    }  # fmt: skip
    prompts = np.char.lower(columns["is_prefill"].astype(str)) == "true"
    tables = {}
    for kind, rows, axes, median in (
        ("prefill_attention", prompts, {"batch": "batch_size", "chunk": "prefill_chunk_size"}, medians[0]),
        ("decode_attention", ~prompts, {"batch": "batch_size"}, medians[1]),
    ):
        count = int(rows.sum())
        if count:
            made = {name: values[rows] for name, values in labels.items()}
            made |= {axis: columns[name][rows] for axis, name in axes.items()}
            made |= {"dtype": np.full(count, _DTYPE), "kv_dtype": np.full(count, _DTYPE)}
            made["context"] = columns["kv_cache_size"][rows]
            tables[kind] = _table(kind, made, columns[median][rows], path)
    return tables


def _collectives(path: Path) -> Table:
    columns = _columns(path, ("num_workers", "devices_per_node", "size", _median("all_reduce")))
    inside = columns["num_workers"] == columns["devices_per_node"]
    count = int(inside.sum())
    keys = {
        "op": np.full(count, "all_reduce"), "backend": np.full(count, "nccl"),
        "ranks": columns["num_workers"][inside], "bytes": columns["size"][inside],
    }  # fmt: skip
    return _table("collective", keys, columns[_median("all_reduce")][inside], path)


def _median(name: str) -> str:
    return f"time_stats.{name}.median"


def _columns(path: Path, wanted: Sequence[str]) -> dict[str, Array]:
    columns = read_columns(path.read_bytes(), str(path))
    for name in wanted:
        if name not in columns:
            raise InputError(str(path), f"no column {name!r}", "a column of that name", nearest_name(name, columns))
    return columns


def _table(kind: str, keys: Mapping[str, Array], times: Array, path: Path) -> Table:
    """The table of rows with a time; repeated measurements of the same keys become their mean."""
    timed = times > 0
    where = str(path)
    if not timed.any():
        raise InputError(where, f"no times for {kind}", "at least one above 0")
    rows = list(zip(*(values[timed].tolist() for values in keys.values()), strict=True))
    sums: dict[tuple[object, ...], tuple[float, int]] = {}
    for row, time in zip(rows, times[timed].tolist(), strict=True):
        total, count = sums.get(row, (0.0, 0))
        sums[row] = total + time, count + 1
    unique = {name: np.array(column) for name, column in zip(keys, zip(*sums, strict=True), strict=True)}
    return make_table(kind, unique | {"time_ms": np.array([total / n for total, n in sums.values()])}, where)


def _provenance(card: ModelCard, gpu: str, files: Sequence[str]) -> Provenance:
    group = card.groups[0]
    mixer = group.mixer if isinstance(group.mixer, Attention) else None
    hardware = _GPUS.get(gpu, gpu)
    return Provenance(
        gpu=gpu,
        source="microsoft/vidur data/profiling: " + ", ".join(files),
        licence="MIT",
        hardware=hardware if hardware in names("hardware") else None,
        engine="vidur profiler (kernels of Sarathi-Serve)",
        date="2024",
        model=MeasuredModel(
            name=card.name,
            hidden_size=card.hidden_size,
            intermediate=group.mlp.intermediate if isinstance(group.mlp, DenseMLP) else None,
            heads=mixer.heads if mixer else None,
            kv_heads=mixer.kv_heads if mixer else None,
            vocab_size=card.vocab_size,
        ),
    )
