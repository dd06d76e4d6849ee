"""The arithmetic of a layer behind one protocol: plain torch anywhere, Triton kernels on a GPU."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from . import reference
from .batch import Batch

EPSILON = 1e-6  # of the norms
HeadNorms = tuple[torch.Tensor, torch.Tensor] | None  # weights of the norms of query and key heads


class Operators(Protocol):
    """What the model computes with. Tensors as in `kernels`; results may be the inputs, changed in place."""

    def add_norm(
        self, x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(the norm of x + residual, that sum)."""
        ...

    def rotary_and_cache(
        self, q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, table: torch.Tensor, keys: torch.Tensor,
        values: torch.Tensor, batch: Batch, norms: HeadNorms,
    ) -> torch.Tensor:  # fmt: skip
        """Rotate q and key, normalised first if there are `norms`, and put key and value into the cache; the new q."""
        ...

    def attention(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: Batch, scale: float, window: int | None
    ) -> torch.Tensor:
        """(tokens, heads, head_dim)."""
        ...

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up."""
        ...

    def experts(
        self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, up: torch.Tensor, down: torch.Tensor
    ) -> torch.Tensor:
        """What the chosen experts make of each token, weighted and added."""
        ...

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        """The next token of each row, the likeliest: (rows,) int64."""
        ...

    def gather(self, cache: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        """Blocks of a cache (planes, blocks, numbers) as a message (blocks, planes, numbers)."""
        ...

    def scatter(self, message: torch.Tensor, cache: torch.Tensor, blocks: torch.Tensor) -> None:
        """The blocks of a message back into a cache."""
        ...


class TorchOperators:
    """`reference`, wrapped."""

    def add_norm(
        self, x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = x if residual is None else x + residual
        return reference.rms_norm(total, weight, EPSILON), total

    def rotary_and_cache(
        self, q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, table: torch.Tensor, keys: torch.Tensor,
        values: torch.Tensor, batch: Batch, norms: HeadNorms,
    ) -> torch.Tensor:  # fmt: skip
        if norms:
            q, key = (reference.rms_norm(x, weight, EPSILON) for x, weight in zip((q, key), norms, strict=True))
        reference.write_kv(reference.rotary(key, batch.positions, table), value, keys, values, batch.slots)
        return reference.rotary(q, batch.positions, table)

    def attention(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: Batch, scale: float, window: int | None
    ) -> torch.Tensor:
        return reference.paged_attention(
            q, keys, values, batch.tables, batch.chunks, batch.contexts, scale=scale, window=window
        )

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        return reference.silu_mul(x)

    def experts(
        self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, up: torch.Tensor, down: torch.Tensor
    ) -> torch.Tensor:
        return reference.moe(x, chosen, weights, up, down)

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(-1)

    def gather(self, cache: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        return cache[:, blocks].transpose(0, 1).contiguous()

    def scatter(self, message: torch.Tensor, cache: torch.Tensor, blocks: torch.Tensor) -> None:
        cache[:, blocks] = message.transpose(0, 1)


class TritonOperators:
    """The kernels. Scratch memory grows with the largest batch seen, so a warm-up must precede a graph's capture."""

    def __init__(self) -> None:
        self._work: tuple[torch.Tensor, torch.Tensor] | None = None

    def add_norm(
        self, x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from .kernels.rms_norm import rms_norm

        out = torch.empty_like(x)
        rms_norm(x, weight, out, EPSILON, residual)
        return out, x if residual is None else residual

    def rotary_and_cache(
        self, q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, table: torch.Tensor, keys: torch.Tensor,
        values: torch.Tensor, batch: Batch, norms: HeadNorms,
    ) -> torch.Tensor:  # fmt: skip
        from .kernels.kv_write import kv_write
        from .kernels.rotary import rotary

        rotary(q, key, batch.positions, table, norms, eps=EPSILON)
        kv_write(key, value, keys, values, batch.slots)
        return q

    def attention(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: Batch, scale: float, window: int | None
    ) -> torch.Tensor:
        from .kernels import mixed

        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        pieces = batch.pieces.get(window)
        part = mixed.Batch(batch.chunk_rows, batch.first_token, batch.before, batch.tables, pieces, window)
        work = self._workspace(pieces.capacity if pieces else 0, q)
        mixed.paged_attention(q, keys, values, part, out, work, scale=scale)
        return out

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        from .kernels.silu_mul import silu_mul

        out = torch.empty(*x.shape[:-1], x.shape[-1] // 2, dtype=x.dtype, device=x.device)
        silu_mul(x, out)
        return out

    def experts(
        self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, up: torch.Tensor, down: torch.Tensor
    ) -> torch.Tensor:
        from .kernels.grouping import group_rows, tile_of
        from .kernels.moe_gemm import moe_gemm

        top_k, count = chosen.shape[1], len(up)
        rows = chosen.numel()
        groups = group_rows(chosen.flatten().int(), count, tile_of(rows, count))
        wide = torch.empty(rows, up.shape[1], dtype=x.dtype, device=x.device)
        moe_gemm(x, up, groups, wide, top_k)
        parts = torch.empty(rows, x.shape[1], dtype=x.dtype, device=x.device)
        moe_gemm(self.silu_mul(wide), down, groups, parts, 1, weights.flatten())
        return parts.view(*chosen.shape, -1).sum(1)

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        from .kernels.sampling import sample

        rows = len(logits)
        out = torch.empty(rows, dtype=torch.int64, device=logits.device)
        cold = torch.zeros(rows, dtype=torch.float32, device=logits.device)
        sample(logits, cold, torch.zeros_like(out), out)
        return out

    def gather(self, cache: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        from .kernels import kv_copy

        message = torch.empty(len(blocks), cache.shape[0], cache.shape[2], dtype=cache.dtype, device=cache.device)
        kv_copy.gather(cache, blocks, message)
        return message

    def scatter(self, message: torch.Tensor, cache: torch.Tensor, blocks: torch.Tensor) -> None:
        from .kernels import kv_copy

        kv_copy.scatter(message, cache, blocks)

    def _workspace(self, slots: int, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from .kernels.paged_decode import decode_workspace

        if self._work is None or len(self._work[0]) < slots:
            self._work = decode_workspace(slots, q.shape[1], q.shape[2], q.device)
        return self._work


def route(scores: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(experts, their weights) of each token: the top k of the softmax, renormalised, as Mixtral and Qwen3 have it."""
    weights, chosen = F.softmax(scores, dim=-1, dtype=torch.float32).topk(top_k, dim=-1)
    return chosen, weights / weights.sum(-1, keepdim=True)
