"""KV gather and scatter: message[i, p] = cache[p, blocks[i]], and back; for migration, hand-off and swapping.

A message holds a request's blocks of all layers side by side, ready for one copy over a link.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_PIECE = 2048  # 4-byte words a program moves: 16 bytes a thread, several of them in flight


@triton.jit
def _copy(cache, message, blocks, planes, plane_words, words, PIECE: tl.constexpr, GATHER: tl.constexpr):
    i, plane = tl.program_id(0), tl.program_id(1)
    at = tl.program_id(2) * PIECE + tl.arange(0, PIECE)
    block = tl.load(blocks + i).to(tl.int64)
    there = cache + plane.to(tl.int64) * plane_words + block * words + at
    here = message + (i.to(tl.int64) * planes + plane) * words + at
    if GATHER:
        tl.store(here, tl.load(there, mask=at < words), mask=at < words)
    else:
        tl.store(there, tl.load(here, mask=at < words), mask=at < words)


def gather(cache: torch.Tensor, blocks: torch.Tensor, message: torch.Tensor) -> None:
    """Collect blocks from a cache.

    cache : (planes, blocks of the cache, numbers a block), contiguous, any dtype; a plane is the keys or values of a
    layer. blocks : (n,) int32 or int64. message : (n, planes, numbers a block), contiguous, of the same dtype.
    """
    _launch(cache, blocks, message, gather=True)


def scatter(message: torch.Tensor, cache: torch.Tensor, blocks: torch.Tensor) -> None:
    """Put the blocks of a message into a cache; arguments as `gather`, no block twice."""
    _launch(cache, blocks, message, gather=False)


def _launch(cache: torch.Tensor, blocks: torch.Tensor, message: torch.Tensor, *, gather: bool) -> None:
    if not len(blocks):
        return
    cache, message = cache.view(torch.int32), message.view(torch.int32)
    planes, total, words = cache.shape
    _copy[(len(blocks), planes, triton.cdiv(words, _PIECE))](
        cache, message, blocks, planes, total * words, words, PIECE=_PIECE, GATHER=gather
    )
