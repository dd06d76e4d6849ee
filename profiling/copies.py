"""Copies of KV blocks: between the device and pinned host memory, and of scattered blocks into a message and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ..real_backend.operators import TritonOperators
from .journal import Point
from .timer import Call

_BLOCK_BYTES = 64 << 10  # keys or values of 16 tokens of 8 heads of 128, twice
_SETS = 4  # of memory, so that nothing is found in the cache


def copy_calls(point: Point) -> list[Call]:
    """What to time for a row of `kv_copy`: direction to_host, to_device, gather or scatter, and bytes."""
    make: dict[str, Callable[[int], Call]] = {
        "to_host": partial(_over_the_link, out=True), "to_device": partial(_over_the_link, out=False),
        "gather": partial(_message, out=True), "scatter": partial(_message, out=False),
    }  # fmt: skip
    return [make[point.keys["direction"]](point.keys["bytes"]) for _ in range(_SETS)]


def _over_the_link(size: int, out: bool) -> Call:
    here = torch.randint(256, (size,), dtype=torch.uint8, device="cuda")
    there = torch.empty(size, dtype=torch.uint8, pin_memory=True).copy_(here)
    source, target = (here, there) if out else (there, here)
    return lambda: target.copy_(source, non_blocking=True)


def _message(size: int, out: bool) -> Call:
    """Half of the cache's blocks, in any order."""
    operators, count = TritonOperators(), max(1, size // _BLOCK_BYTES)
    cache = torch.randn(1, 2 * count, _BLOCK_BYTES // 2, device="cuda").to(torch.bfloat16)
    blocks = torch.randperm(2 * count, device="cuda")[:count]
    message = operators.gather(cache, blocks)
    return (lambda: operators.gather(cache, blocks)) if out else (lambda: operators.scatter(message, cache, blocks))
