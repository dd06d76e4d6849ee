"""Messages between the devices of this machine, measured through torch.distributed: NCCL on GPUs, Gloo on a CPU."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from .journal import Point
from .timer import Sample

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
_WARM_UP, _REPEATS, _BATCH = 5, 15, 10  # messages before, samples, messages of a sample
BACKENDS = {"cuda": "nccl", "cpu": "gloo"}


def degrees(device: str) -> list[int]:
    """Numbers of ranks that this machine can have: 2, 4, ... up to its GPUs."""
    count = torch.cuda.device_count() if device == "cuda" else 1
    return [ranks for ranks in (2, 4, 8, 16) if ranks <= count]


def measure(device: str, ranks: int, sizes: Sequence[int]) -> list[tuple[Point, Sample]]:
    """Every operation at every size, with so many ranks, each a process.

    sizes : bytes as `costmodels.collectives` counts them: the buffer that a rank holds, sends from, or ends with.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.json"
        spawn(_rank, (device, ranks, tuple(sizes), address, str(path)), nprocs=ranks)
        rows = json.loads(path.read_text(encoding="utf-8"))
    labels = {"ranks": ranks, "backend": BACKENDS[device]}
    return [(Point("collective", {"op": op, **labels, "bytes": size}), Sample(*values)) for op, size, values in rows]


def _rank(rank: int, device: str, ranks: int, sizes: Sequence[int], address: str, path: str) -> None:
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(BACKENDS[device], init_method=address, rank=rank, world_size=ranks)
    rows = []
    for operation in OPERATIONS:
        for size in sizes:
            times = _times(_message(operation, size, ranks, device), device)
            low, middle, high = np.percentile(times, (20, 50, 80)).tolist()
            rows.append((operation, size, (middle, low, high, len(times))))
    if rank == 0:
        Path(path).write_text(json.dumps(rows), encoding="utf-8")
    dist.destroy_process_group()


def _message(operation: str, size: int, ranks: int, device: str) -> Callable[[], object]:
    part = max(1, size // 2 // ranks)  # numbers of 2 bytes
    whole = torch.randn(part * ranks, device=device).to(torch.bfloat16)
    if operation == "all_reduce":
        return lambda: dist.all_reduce(whole)
    if operation == "all_gather":
        mine = whole[:part].clone()
        return lambda: dist.all_gather_into_tensor(whole, mine)
    if operation == "reduce_scatter":
        mine = torch.empty_like(whole[:part])
        return lambda: dist.reduce_scatter_tensor(mine, whole)
    out = torch.empty_like(whole)
    return lambda: dist.all_to_all_single(out, whole)


def _times(message: Callable[[], object], device: str) -> list[float]:
    """Seconds of one message, in each of some batches of messages."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(_WARM_UP):
        message()
    times = []
    for _ in range(_REPEATS):
        dist.barrier()
        wait()
        began = perf_counter()
        for _ in range(_BATCH):
            message()
        wait()
        times.append((perf_counter() - began) / _BATCH)
    return times
