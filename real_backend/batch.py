"""The inputs of one iteration: which tokens run, where their keys go, what they attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .kernels.pieces import Pieces, cut


@dataclass(frozen=True)
class Row:
    """A request's part in an iteration.

    tokens : ids to compute. context : tokens of it in the cache before. table : its KV blocks, enough for both.
    """

    tokens: Sequence[int]
    context: int
    table: Sequence[int]


@dataclass
class Batch:
    """An iteration as tensors on the device: prompt chunks first, one after the other, then one row a decode.

    tokens, positions, slots : (rows,) int64; slots as of `kernels.kv_write`. ends : (requests,) int64, the last row of
    each request. tables : (requests, blocks a request) int32. first_token, before : int32, of the chunks, as of
    `kernels.paged_prefill`. pieces : of the decodes' contexts by the layers' window; empty without decodes, and on a
    CPU. chunks, contexts : on the host, rows and cached tokens of every request; decodes have one row.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    ends: torch.Tensor
    tables: torch.Tensor
    first_token: torch.Tensor
    before: torch.Tensor
    pieces: dict[int | None, Pieces]
    chunk_rows: int
    chunks: list[int]
    contexts: list[int]


@dataclass(frozen=True)
class Shape:
    """What `make_batch` must know of the model and the device.

    windows : those of the layers, None for all tokens. processors : 0 where pieces are not needed.
    """

    block_size: int
    kv_heads: int
    windows: tuple[int | None, ...]
    processors: int
    device: torch.device


def make_batch(
    chunks: Sequence[Row], decodes: Sequence[Row], shape: Shape, padding: int = 0, table_blocks: int = 1
) -> Batch:
    """The tensors of an iteration.

    padding : rows after the last decode that compute something and leave no trace. table_blocks : least width of
        tables.
    """
    rows = [*chunks, *decodes, *[Row((0,), 0, ())] * padding]
    real = len(rows) - padding
    counts = np.array([len(row.tokens) for row in rows])
    contexts = np.array([row.context for row in rows])
    ends = np.cumsum(counts)
    tokens = np.concatenate([np.asarray(row.tokens, np.int64) for row in rows])
    owner = np.repeat(np.arange(len(rows)), counts)
    positions = np.arange(len(tokens)) - (ends - counts)[owner] + contexts[owner]
    tables = np.zeros((len(rows), max(table_blocks, *(len(row.table) for row in rows))), np.int32)
    for i, row in enumerate(rows):
        tables[i, : len(row.table)] = row.table
    size = shape.block_size
    slots = tables[owner, positions // size].astype(np.int64) * size + positions % size
    slots[owner >= real] = -1

    def put(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if shape.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(shape.device, non_blocking=True)

    pieces = {}
    if decodes and shape.processors:
        reach = [*(contexts + 1)[len(chunks) : real].tolist(), *[0] * padding]
        for window in shape.windows:
            pieces[window] = cut(reach, shape.kv_heads, shape.processors, shape.device, window=window)
    first = np.concatenate([[0], ends[: len(chunks)]]).astype(np.int32)
    return Batch(
        tokens=put(tokens), positions=put(positions), slots=put(slots), ends=put(ends - 1), tables=put(tables),
        first_token=put(first), before=put(contexts[: len(chunks)].astype(np.int32)), pieces=pieces,
        chunk_rows=int(first[-1]), chunks=counts.tolist(), contexts=contexts.tolist(),
    )  # fmt: skip
