"""Attention of a batch of prompt chunks and decodes: the rows of the chunks first, then one row a decode."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .paged_decode import paged_decode
from .paged_prefill import paged_prefill
from .pieces import Pieces


@dataclass(frozen=True)
class Batch:
    """Who attends to what; tensors are int32 on the device.

    chunk_tokens : rows of q that belong to chunks. first_token, contexts : of the chunks, as of `paged_prefill`.
    tables : (requests, blocks a request), chunks first. pieces : of the decodes' contexts, None without decodes.
    window : of the layer that the pieces were cut for.
    """

    chunk_tokens: int
    first_token: torch.Tensor
    contexts: torch.Tensor
    tables: torch.Tensor
    pieces: Pieces | None
    window: int | None = None


def paged_attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: Batch, out: torch.Tensor,
    workspace: tuple[torch.Tensor, torch.Tensor], *, scale: float, value_scale: float = 1.0,
) -> None:  # fmt: skip
    """Prefill for the chunks, decode for the rest, into one `out` (tokens, heads, head_dim)."""
    rows, requests = batch.chunk_tokens, len(batch.contexts)
    if rows:
        paged_prefill(
            q[:rows], keys, values, batch.tables[:requests], batch.first_token, batch.contexts, out[:rows],
            scale=scale, value_scale=value_scale, window=batch.window,
        )  # fmt: skip
    if batch.pieces is not None:
        paged_decode(
            q[rows:], keys, values, batch.tables[requests:], batch.pieces, out[rows:], workspace,
            scale=scale, value_scale=value_scale,
        )  # fmt: skip
