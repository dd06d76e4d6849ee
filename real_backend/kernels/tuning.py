"""Launch configurations: candidates that are timed on the device, and a record of which were chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import triton
from triton.runtime.autotuner import Autotuner

from ...errors import InputError

MOST_HEADS = 64  # on one KV head: a tile of a prompt has all heads of a group
INTERPRETED: bool = triton.knobs.runtime.interpret

_TUNED: dict[str, Autotuner] = {}


def configs(warps: Iterable[int], stages: Iterable[int], **sizes: Iterable[int]) -> list[triton.Config]:
    """Every combination of warps, pipeline stages and the tile sizes given by name."""
    combinations: list[dict[str, int]] = [{}]
    for name, values in sizes.items():
        combinations = [{**chosen, name: value} for chosen in combinations for value in values]
    return [
        triton.Config(chosen, num_warps=warp, num_stages=stage)
        for chosen in combinations
        for warp in warps
        for stage in stages
    ]


def tuned(candidates: Sequence[triton.Config], key: Sequence[str]) -> Callable[[Any], Autotuner]:
    """Time the candidates once for each new value of the arguments in `key`; the interpreter takes the first."""

    def wrap(kernel: Any) -> Autotuner:
        tuner: Autotuner = triton.autotune(
            configs=list(candidates[:1] if INTERPRETED else candidates), key=list(key), cache_results=True
        )(kernel)
        _TUNED[kernel.__name__.strip("_")] = tuner
        return tuner

    return wrap


def chosen() -> dict[str, dict[str, object]]:
    """The configurations in use, by kernel, and by the arguments and dtypes that each was chosen for."""
    found: dict[str, dict[str, object]] = {}
    for name, tuner in _TUNED.items():
        for key, config in tuner.cache.items():
            arguments = [f"{name}={value}" for name, value in zip(tuner.keys, key, strict=False)]
            dtypes = [str(part).removeprefix("torch.") for part in key[len(tuner.keys) :]]
            found.setdefault(name, {})[" ".join([*arguments, *dtypes])] = config.all_kwargs()
    return found


def check_shape(head_dim: int, block_size: int, group: int = 1) -> None:
    """Raise InputError for a head, a KV block, or a group of heads on one KV head, that attention cannot tile."""
    for name, size, low, high in (("head_dim", head_dim, 16, 256), ("block_size", block_size, 8, 64)):
        if size & (size - 1) or not low <= size <= high:
            raise InputError(name, str(size), f"a power of two from {low} to {high}")
    if group > MOST_HEADS:
        raise InputError("heads of a KV head", str(group), f"at most {MOST_HEADS}")


def tile_rows(rows: int) -> int:
    """The least height of a tensor-core tile that holds `rows` rows."""
    return max(16, triton.next_power_of_2(rows))


def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; a handful for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
