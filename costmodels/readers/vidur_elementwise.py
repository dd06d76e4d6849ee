"""Reader of the element-wise kernels in Vidur's layer profiles, by the bytes they move: for any model on that GPU.

Source: microsoft/vidur, `data/profiling/compute/<gpu>/<model>/mlp.csv` (commit 7d475133): medians in milliseconds of
one layer's kernels in fp16 on one GPU, over tokens and tensor-parallel degree, to 1 us. Its norm stands for the one
with the residual addition in it, which engines run since: it is counted with the bytes of both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import InputError, unknown_name
from ..grid import Array
from ..table import Provenance, TableSet, make_table
from ..tablefile import read_columns

_CARDS = {"h100": "h100", "a100": "a100-80gb", "a40": "a40"}
_BYTES = 2  # of a number in fp16


def fits(path: Path) -> bool:
    """Whether a folder holds such profiles."""
    return path.is_dir() and any(path.glob("**/compute/*/**/mlp.csv"))


def read(path: Path, *, gpu: str | None = None) -> TableSet:
    """One table, `elementwise`, of the kernels norm, rotary, activation and embedding.

    path : a folder with `compute/<gpu>` below it.
    gpu : which GPU (as there, or our card's name), where there are several.

    Points of several models and degrees that move as many bytes are averaged. Raises InputError where there are none.
    """
    folders = {file.name: file for file in sorted(path.glob("**/compute/*")) if any(file.glob("**/mlp.csv"))}
    if gpu is None and len(folders) != 1:
        raise InputError(str(path), f"profiles of {', '.join(folders) or 'no GPU'}", "--gpu to say which")
    name = next((g for g in folders if gpu in (g, _CARDS.get(g))), gpu) or next(iter(folders))
    if name not in folders:
        raise unknown_name("--gpu", f"GPU in {path}", name, folders)
    files = sorted(folders[name].glob("**/mlp.csv"))
    points: dict[str, dict[float, list[float]]] = {}
    for file in files:
        for kernel, (size, time) in _kernels(file).items():
            of_kernel = points.setdefault(kernel, {})
            for x, y in zip(size.tolist(), time.tolist(), strict=True):
                of_kernel.setdefault(x, []).append(y)
    rows = [(kernel, x, float(np.mean(times))) for kernel, sizes in points.items() for x, times in sizes.items()]
    columns = {
        "operator": np.array([kernel for kernel, _, _ in rows]),
        "bytes": np.array([x for _, x, _ in rows]),
        "time_ms": np.array([time for _, _, time in rows]),
    }
    table = make_table("elementwise", columns, str(folders[name]))
    provenance = Provenance(
        gpu=name,
        source="microsoft/vidur, " + ", ".join(file.relative_to(path).as_posix() for file in files),
        licence="MIT (Microsoft)",
        hardware=_CARDS.get(name),
        grid="tokens of two models and four degrees of tensor parallelism, by bytes",
        notes=("element-wise kernels measured to 1 us",),
    )
    return TableSet(provenance, {table.kind: table}, str(path))


def _kernels(file: Path) -> dict[str, tuple[Array, Array]]:
    """Bytes moved and milliseconds of each kernel; the points that were timed at 0 left out."""
    columns = read_columns(file.read_bytes(), str(file))

    def column(name: str) -> Array:
        if name not in columns:
            raise InputError(str(file), f"no column {name!r}", "a profile of Vidur")
        return columns[name].astype(float)

    tokens, hidden = column("num_tokens"), column("n_embd")
    degree = column("num_tensor_parallel_workers")
    head = hidden / column("n_head")
    queries, keys = hidden / degree, np.maximum(1, column("n_kv_head") / degree) * head
    moved = {  # numbers a token, as in `shapes`
        "norm": ("input_layernorm", 4 * hidden),
        "rotary": ("attn_rope", 2 * (queries + keys) + 4 * keys),
        "activation": ("mlp_act", 3 * column("n_expanded_embd") / degree),
        "embedding": ("emb", 2 * hidden),
    }
    found = {}
    for kernel, (name, numbers) in moved.items():
        time = column(f"time_stats.{name}.median")
        timed = time > 0
        found[kernel] = (_BYTES * (tokens * numbers)[timed], time[timed])
    return found
