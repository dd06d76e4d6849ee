"""Reader of LLMServingSim's layer profiles: a folder with `meta.yaml` and a folder `tp<N>` a tensor-parallel degree.

Source: casys-kaist/LLMServingSim, `profiler/perf` (commit 5daddb21). Times are microseconds of one layer on one rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...configs.catalog import find_model, names
from ...configs.model import Attention, DenseMLP, ModelCard
from ...configs.strict import read_mapping
from ...errors import InputError, nearest_name, unknown_name
from ..grid import Array
from ..table import MeasuredModel, Provenance, Table, TableSet, make_table
from ..tablefile import read_columns

# The operators of `shapes` that each profiled layer stands for; where several stand for one, their times add up.
_LAYERS: dict[str, tuple[str, ...]] = {
    "embedding": ("embedding",),
    "layernorm": ("norm", "mlp_norm"),
    "qkv_proj": ("qkv_proj",),
    "qk_norm": ("rotary_and_cache",),
    "rotary_emb": ("rotary_and_cache",),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_up_proj",),
    "act_fn": ("activation",),
    "down_proj": ("down_proj",),
    "final_layernorm": ("final_norm",),
    "lm_head": ("lm_head",),
    "sampler": ("sampler",),
}
_FILES = ("dense", "per_sequence", "attention", "moe", "skew_fit")
_BUCKETS = {"decodes": "n", "skew": "skew_rate", "longest": "kv_big", "chunk_context": "kp"}  # axis -> its name there


def fits(path: Path) -> bool:
    """Whether a folder is such a profile, or a recorded run with one in its folder `profile`."""
    return (_folder(path) / "meta.yaml").is_file() and any(_folder(path).glob("tp*/attention.csv*"))


def hardware(path: Path) -> str | None:
    """The bundled hardware card of a profile's GPU, whose name there has no hyphens; None where there is none."""
    meta = read_mapping(_folder(path) / "meta.yaml")
    name = str(meta.get("hardware", meta.get("gpu"))).lower().replace("-", "")
    return next((card for card in names("hardware") if card.replace("-", "") == name), None)


def read(path: Path, model: ModelCard | None = None) -> TableSet:
    """The table set of a profile.

    path : the profile, or a recorded run's folder. model : the card of the profiled model; by default `model.json`
        beside the profile, or the bundled card of the name in `meta.yaml`.

    The correction for uneven decodes is read where `meta.yaml` declares it (`skew_fit.enabled`), else left out.
    Raises InputError where a file or key is missing or malformed.
    """
    folder = _folder(path)
    meta = read_mapping(folder / "meta.yaml")
    where = f"{folder}/meta.yaml"
    card = model or _model(folder, str(_get(meta, where, "model")))
    degrees = sorted(int(d.name[2:]) for d in folder.glob("tp*") if d.is_dir() and d.name[2:].isdigit())
    if not degrees:
        raise InputError(str(folder), "no folder tp<N>", "one for each tensor-parallel degree")
    rows: dict[str, list[Table]] = {}
    for tp in degrees:
        for name, columns in _files(folder / f"tp{tp}").items():
            place = f"{folder}/tp{tp}/{name}.csv"
            for kind, made in _tables(name, columns, place, tp, card, meta, where).items():
                rows.setdefault(kind, []).append(make_table(kind, made, place))
    tables = {kind: _joined(parts) for kind, parts in rows.items()}
    return TableSet(_provenance(meta, where, card, degrees), tables, str(folder))


def _folder(path: Path) -> Path:
    inside = path / "profile"
    return inside if inside.is_dir() else path


def _get(values: Mapping[str, Any], where: str, *keys: str) -> Any:
    for i, key in enumerate(keys):
        if not isinstance(values, Mapping) or key not in values:
            near = nearest_name(key, values) if isinstance(values, Mapping) else None
            raise InputError(f"{where}: {'.'.join(keys[: i + 1])}", "missing", "a profile's meta.yaml", near)
        values = values[key]
    return values


def _model(folder: Path, name: str) -> ModelCard:
    beside = folder.parent / "model.json"
    return find_model(str(beside) if beside.is_file() else name)


def _files(folder: Path) -> dict[str, dict[str, Array]]:
    """The columns of each file that is there, by its name without suffix."""
    found: dict[str, dict[str, Array]] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(".gz").removesuffix(".csv")
        if name in _FILES and path.name != name:
            found[name] = read_columns(path.read_bytes(), str(path))
    for name in _FILES[:3]:
        if name not in found:
            raise InputError(str(folder), f"no {name}.csv", "dense.csv, per_sequence.csv and attention.csv")
    return found


def _column(columns: Mapping[str, Array], name: str, where: str) -> Array:
    if name not in columns:
        raise InputError(where, f"no column {name!r}", "a column of that name", nearest_name(name, columns))
    return columns[name]


def _tables(
    name: str, columns: Mapping[str, Array], where: str, tp: int, card: ModelCard, meta: Mapping[str, Any], of: str
) -> dict[str, dict[str, Array]]:
    """The columns of a file under our names, by kind of table."""
    if name in ("dense", "per_sequence"):
        kind, axis = ("layer", "tokens") if name == "dense" else ("sequence", "sequences")
        return {kind: _operators(columns, axis, where, tp)}
    count = len(_column(columns, "pc" if name == "skew_fit" else "time_us", where))
    degree = {"tp": np.full(count, tp)}
    if name == "attention":
        axes = {"chunk": "prefill_chunk", "chunk_context": "kv_prefill", "decodes": "n_decode"}
        axes["decode_context"] = "kv_decode"
        labels = {key: np.full(count, value) for key, value in _attention(card, tp, meta).items()}
        return {"mixed_attention": labels | _renamed(columns, axes, where)}
    if name == "moe":
        return {"moe_layer": degree | _renamed(columns, {"active": "activated_experts", "tokens": "tokens"}, where)}
    if not _get(meta, of, "skew_fit", "enabled"):
        return {}
    buckets = degree | {"chunk": _column(columns, "pc", where), "alpha": _column(columns, "alpha", where)}
    for axis, short in _BUCKETS.items():
        edges = _edges(meta, of, short)
        labels_ = _column(columns, f"{short}_label", where).tolist()
        for label in labels_:
            if label not in edges:
                raise unknown_name(where, f"bucket of {short}", label, edges)
        buckets[axis] = np.array([edges[label] for label in labels_])
    return {"uneven_decodes": buckets}


def _renamed(columns: Mapping[str, Array], axes: Mapping[str, str], where: str) -> dict[str, Array]:
    renamed = {axis: _column(columns, name, where) for axis, name in axes.items()}
    return renamed | {"time_us": _column(columns, "time_us", where)}


def _operators(columns: Mapping[str, Array], axis: str, where: str, tp: int) -> dict[str, Array]:
    """Rows of profiled layers as rows of our operators."""
    layers, sizes = _column(columns, "layer", where), _column(columns, axis, where)
    times: dict[tuple[str, float], float] = {}
    for layer, size, time in zip(layers.tolist(), sizes.tolist(), columns["time_us"].tolist(), strict=True):
        if layer not in _LAYERS:
            raise unknown_name(where, "profiled layer", layer, _LAYERS)
        for operator in _LAYERS[layer]:
            times[operator, size] = times.get((operator, size), 0.0) + time
    operators, measured = zip(*times, strict=True) if times else ((), ())
    return {
        "operator": np.array(operators), "tp": np.full(len(times), tp), axis: np.array(measured),
        "time_us": np.array(list(times.values())),
    }  # fmt: skip


def _attention(card: ModelCard, tp: int, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The labels of attention on one rank."""
    mixers = {group.mixer for group in card.groups}
    mixer = mixers.pop()
    if mixers or not isinstance(mixer, Attention):
        raise InputError("model", f"{card.name} has layers of several kinds, or without a KV cache", "one attention")
    cache = str(meta.get("engine_effective", {}).get("kv_cache_dtype", "auto"))
    dtype = card.linear.compute if card.linear.bits == 16 else {"bfloat16": "bf16", "float16": "fp16"}[card.dtype]
    return {
        "dtype": dtype, "kv_dtype": "fp8" if cache.startswith("fp8") else dtype, "heads": mixer.heads // tp,
        "kv_heads": max(1, mixer.kv_heads // tp), "head_dim": mixer.head_dim, "window": mixer.window or 0,
    }  # fmt: skip


def _edges(meta: Mapping[str, Any], where: str, axis: str) -> dict[str, float]:
    """Upper edge of every bucket of an axis, by label."""
    bins = _get(meta, where, "skew_fit", "bucket_axes", f"{axis}_bins")
    labels = _get(meta, where, "skew_fit", "bucket_axes", f"{axis}_labels")
    if not isinstance(bins, list) or not isinstance(labels, list) or len(bins) != len(labels) + 1:
        raise InputError(f"{where}: skew_fit.bucket_axes.{axis}_bins", "no list with one edge more than labels", "it")
    return dict(zip(labels, map(float, bins[1:]), strict=True))


def _joined(parts: Sequence[Table]) -> Table:
    """The tables of all tensor-parallel degrees as one."""
    first = parts[0]
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns}
    return Table(first.kind, columns, np.concatenate([part.values for part in parts]))


def _provenance(meta: Mapping[str, Any], where: str, card: ModelCard, degrees: Sequence[int]) -> Provenance:
    group = card.groups[0]
    attention = group.mixer if isinstance(group.mixer, Attention) else None
    fits_ = meta.get("skew_fit", {})
    defaults = [float(of.get("alpha_default", 0.0)) for of in (fits_.get("per_tp") or {}).values()]
    grid = meta.get("attention_grid", {})
    return Provenance(
        gpu=str(_get(meta, where, "gpu")),
        source="casys-kaist/LLMServingSim layer profile",
        licence="MIT",
        hardware=hardware(Path(where).parent),
        engine=f"vllm {meta.get('vllm_version', 'unknown')}, eager, kernel time alone",
        software={"cuda": str(meta.get("cuda_version", "unknown"))},
        date=str(meta.get("profiled_at", "unknown"))[:10],
        grid=f"tp {', '.join(map(str, degrees))}; attention " + "; ".join(f"{k} {v}" for k, v in grid.items()),
        model=MeasuredModel(
            name=str(_get(meta, where, "model")),
            hidden_size=card.hidden_size,
            intermediate=group.mlp.intermediate if isinstance(group.mlp, DenseMLP) else None,
            heads=attention.heads if attention else None,
            kv_heads=attention.kv_heads if attention else None,
            vocab_size=card.vocab_size,
            dtype=card.linear.compute,
        ),
        uneven_default=sum(defaults) / len(defaults) if defaults else 0.0,
        notes=() if fits_.get("enabled") else ("meta.yaml declares no skew fit: decodes count by their mean context",),
    )
