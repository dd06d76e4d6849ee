"""Techniques of the literature that a pool may use, as data: what each does to bytes and operations.

docs/techniques.md says how each is modelled and what was checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .compression import KVCompression, find_compression
from .layers import ExecutedLayers
from .speculation import Speculation
from .strict import check


@dataclass(frozen=True)
class SharedTokens:
    """Tokens that prompts have in common: those of all requests, or those of each of `groups` equally large groups."""

    tokens: int
    groups: int = 1

    def __post_init__(self) -> None:
        check(self.tokens >= 1, "tokens", self.tokens, "at least 1")
        check(self.groups >= 1, "groups", self.groups, "at least 1")


@dataclass(frozen=True)
class Paging:
    """How KV memory is laid out, where that is not as the engine and its kernels have it.

    page_group_bytes : of physical memory mapped at once under the contiguous keys (or values) of a request in a layer;
        sets the block size. None: the engine's blocks.
    host_seconds_per_block : of the host in every iteration, for each block in the tables of the batch's decodes.
    decode_factor, prefill_factor : time of attention kernels against those of the cost model; measure them.
    block_size : tokens of a block in the end.
    """

    page_group_bytes: int | None = None
    host_seconds_per_block: float = 0.0
    decode_factor: float = 1.0
    prefill_factor: float = 1.0
    block_size: int = field(default=16, metadata={"written": False})

    def __post_init__(self) -> None:
        size = self.page_group_bytes
        check(size is None or size >= 1, "page_group_bytes", size, "at least 1 byte")
        check(self.host_seconds_per_block >= 0, "host_seconds_per_block", self.host_seconds_per_block, "not negative")
        for key in ("decode_factor", "prefill_factor"):
            check(getattr(self, key) > 0, key, getattr(self, key), "above 0")


@dataclass(frozen=True)
class Techniques:
    """Nothing unless it is named.

    kv : what requests keep of their KV cache: a preset's name, or figures.
    shared_prefix : what all prompts have in common, which decode attention then reads once (a tree: level by level).
    paging : how KV memory is laid out.
    padded_prefill : prompts of one batch are padded to the longest (what packing them saves).
    speculation : tokens are drafted and verified.
    layers : which part of the model a token passes.
    """

    kv: str | KVCompression | None = None
    shared_prefix: tuple[SharedTokens, ...] = ()
    paging: Paging | None = None
    padded_prefill: bool = False
    speculation: Speculation | None = None
    layers: ExecutedLayers | None = None

    def with_blocks(self, block_size: int) -> Techniques:
        """The same in an engine whose KV blocks hold so many tokens."""
        return self if self.paging is None else replace(self, paging=replace(self.paging, block_size=block_size))

    @property
    def compression(self) -> KVCompression | None:
        """The figures of `kv`. Raises InputError for an unknown name."""
        return find_compression(self.kv, "techniques.kv") if isinstance(self.kv, str) else self.kv

    def resolved(self) -> Techniques:
        """The same with figures for names."""
        return replace(self, kv=self.compression)


NONE = Techniques()
