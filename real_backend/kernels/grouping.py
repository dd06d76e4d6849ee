"""Sorts rows by the group they belong to (expert, adapter), each group padded to whole tiles, on the device.

One small kernel counts and lays out, another places the rows; the order within a group is any, and no result depends on
it. Source: `moe_align_block_size` of vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

_PIECE = 1024


@dataclass(frozen=True)
class Groups:
    """Rows by group, int32 on the device.

    rows : the sorted rows, -1 where a tile has none. group : of each tile, -1: it is empty. tile : rows of a tile.
    """

    rows: torch.Tensor
    group: torch.Tensor
    tile: int

    @property
    def tiles(self) -> int:
        return len(self.group)


@triton.jit(do_not_specialize=["n", "capacity", "tiles"])
def _lay_out(
    ids, n, groups, cursor, rows, capacity, tile_group, tiles,
    TILE: tl.constexpr, GROUPS: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """One program: where each group begins, which group each tile belongs to, and no row in any tile yet."""
    count = tl.zeros([GROUPS], tl.int32)
    for start in range(0, n, PIECE):
        i = start + tl.arange(0, PIECE)
        group = tl.load(ids + i, mask=i < n, other=-1)
        count += tl.histogram(group, GROUPS, mask=(group >= 0) & (i < n))
    g = tl.arange(0, GROUPS)
    padded = tl.cdiv(count, TILE) * TILE
    end = tl.cumsum(padded, 0)
    tl.store(cursor + g, end - padded, mask=g < groups)
    for start in range(0, capacity, PIECE):
        i = start + tl.arange(0, PIECE)
        tl.store(rows + i, -1, mask=i < capacity)
    for start in range(0, tiles, 32):
        t = start + tl.arange(0, 32)
        group = tl.sum((end[None, :] <= (t * TILE)[:, None]).to(tl.int32), 1)
        tl.store(tile_group + t, tl.where(group < groups, group, -1), mask=t < tiles)


@triton.jit(do_not_specialize=["n"])
def _place(ids, n, cursor, rows, PIECE: tl.constexpr):
    i = tl.program_id(0) * PIECE + tl.arange(0, PIECE)
    group = tl.load(ids + i, mask=i < n, other=-1)
    real = group >= 0
    place = tl.atomic_add(cursor + group, 1, mask=real)
    tl.store(rows + place, i, mask=real)


def tile_of(rows: int, groups: int) -> int:
    """The height of a tile that wastes little, where `rows` rows spread over `groups` groups."""
    return max(16, min(128, triton.next_power_of_2(triton.cdiv(rows, groups))))


def group_rows(ids: torch.Tensor, groups: int, tile: int) -> Groups:
    """Sort rows by their group.

    ids : (n,) int32, the group of each row; -1: the row belongs to none and is left out.
    """
    n = len(ids)
    tiles = n // tile + min(groups, n)
    rows = torch.empty(tiles * tile, dtype=torch.int32, device=ids.device)
    tile_group = torch.empty(tiles, dtype=torch.int32, device=ids.device)
    cursor = torch.empty(groups, dtype=torch.int32, device=ids.device)
    _lay_out[(1,)](
        ids, n, groups, cursor, rows, len(rows), tile_group, tiles, TILE=tile,
        GROUPS=triton.next_power_of_2(groups + 1), PIECE=_PIECE,
    )  # fmt: skip
    _place[(triton.cdiv(n, _PIECE),)](ids, n, cursor, rows, PIECE=_PIECE)
    return Groups(rows, tile_group, tile)
