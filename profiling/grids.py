"""Which sizes a profile measures: grids as YAML data, and the order that makes every beginning of them usable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from ..configs.strict import build, check, read_mapping
from ..errors import InputError


@dataclass(frozen=True)
class DecodeGrid:
    """batch : requests. context : tokens of each in the cache before the iteration."""

    batch: tuple[int, ...]
    context: tuple[int, ...]


@dataclass(frozen=True)
class PrefillGrid:
    """chunk : tokens of a prompt part. context : tokens cached before it. batch : fresh prompts in one call."""

    chunk: tuple[int, ...]
    context: tuple[int, ...]
    batch: tuple[int, ...] = ()


@dataclass(frozen=True)
class Grid:
    """tokens, sequences : rows of operators. copies, collectives : bytes. host : decodes of an iteration.

    max_cudagraph_capture_size : decodes of the largest batch that runs as a CUDA graph, 0 for none.
    sm_shares : of the multiprocessors.
    attention_tokens : tokens in the cache that one attention call may have.
    """

    tokens: tuple[int, ...]
    sequences: tuple[int, ...]
    decode: DecodeGrid
    prefill: PrefillGrid
    host: tuple[int, ...]
    attention_tokens: int
    copies: tuple[int, ...] = ()
    collectives: tuple[int, ...] = ()
    max_cudagraph_capture_size: int = 0
    sm_shares: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        for key in ("tokens", "sequences", "host", "copies", "collectives"):
            _rising(key, getattr(self, key), 1, may_be_empty=key not in ("tokens", "sequences", "host"))
        for part, key, least in (
            (self.decode, "batch", 1), (self.decode, "context", 0), (self.prefill, "chunk", 1),
            (self.prefill, "context", 0),
        ):  # fmt: skip
            _rising(f"{'decode' if part is self.decode else 'prefill'}.{key}", getattr(part, key), least)
        _rising("prefill.batch", self.prefill.batch, 2, may_be_empty=True)
        check(0 in self.prefill.context, "prefill.context", self.prefill.context, "0 among them")
        check(all(0 < share < 1 for share in self.sm_shares), "sm_shares", self.sm_shares, "shares between 0 and 1")


def _rising(key: str, values: Sequence[int], least: int, may_be_empty: bool = False) -> None:
    fine = all(a < b for a, b in pairwise(values)) and all(v >= least for v in values)
    check(fine and (may_be_empty or bool(values)), key, values, f"rising whole numbers from {least} on")


def load_grid(device: str, path: Path | None = None) -> Grid:
    """The grid of a file, or the one that comes with the package for a device ("cuda", "cpu")."""
    source = path or Path(str(files("servecast.configs"))) / "profiling" / f"{device}.yaml"
    values: dict[str, Any] = read_mapping(source)
    try:
        return build(Grid, values)
    except InputError as error:
        raise error.at(f"{source}:") from None


def coarse_to_fine(values: Sequence[int]) -> list[int]:
    """The ends, then the middle, then the middles of the halves: what is measured first spans the whole range."""
    order, gaps = list(dict.fromkeys([values[0], values[-1]])), [(0, len(values) - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(values[middle])
            gaps += [(low, middle), (middle, high)]
    return order


def spread(*axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All combinations, coarse ones first: a point comes as late as the latest of its coordinates."""
    ranked = [{value: rank for rank, value in enumerate(coarse_to_fine(axis))} for axis in axes]
    return sorted(product(*axes), key=lambda point: (max(r[v] for r, v in zip(ranked, point, strict=True)), point))
