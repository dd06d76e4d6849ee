"""A product with 4-bit weights: y = x W, W[k, n] = (code[k, n] - zero[k // 128, n]) * scale[k // 128, n].

A byte holds the codes of rows k and k + 64 of a group. Codes become numbers without arithmetic: set into the mantissa
of a fixed exponent they read OFFSET + code, and since x . (c - z) s = s (x . (OFFSET + c) - (OFFSET + z) sum(x)), scale
and zero are applied once a group to the product instead of once a weight.
Source: MARLIN (Frantar et al., 2024) and AWQ (Lin et al., 2023); the mantissa trick from Kim et al., 2022.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .tuning import configs, processors, tile_rows, tuned

GROUP = 128  # rows of a weight matrix that share a scale and a zero
_COLUMNS = 128  # when the work is divided
# Bits to set, and what they are worth: 1.mmm x 2**7 and 1.mmm x 2**10 hold the whole numbers from there on.
_MANTISSA = {torch.bfloat16: (0x4300, 128.0), torch.float16: (0x6400, 1024.0)}


@tuned(
    configs(warps=(4,), stages=(3, 5), COLUMNS=(64, 128)) + configs(warps=(8,), stages=(4,), COLUMNS=(128, 256)),
    key=["bucket", "n", "k"],
)
@triton.jit(do_not_specialize=["m", "groups_each", "bucket"])
def _gemm_w4(
    x, codes, scales, zeros, out, m, n, k, groups_each, bucket,
    EXPONENT: tl.constexpr, OFFSET: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    number = x.dtype.element_ty
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    half = tl.arange(0, HALF)
    here, there = row < m, column < n
    first = tl.program_id(2) * groups_each
    last = tl.minimum(first + groups_each, k // (2 * HALF))
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for group in range(first, last):
        at = x + row.to(tl.int64)[:, None] * k + group * (2 * HALF) + half[None, :]
        low = tl.load(at, mask=here[:, None], other=0.0)
        high = tl.load(at + HALF, mask=here[:, None], other=0.0)
        packed = tl.load(codes + (group * HALF + half).to(tl.int64)[:, None] * n + column[None, :], mask=there[None, :])
        packed = packed.to(tl.uint16)
        product = tl.dot(low, ((packed & 15) | EXPONENT).to(number, bitcast=True))
        product = tl.dot(high, ((packed >> 4) | EXPONENT).to(number, bitcast=True), product)
        total = tl.sum(low.to(tl.float32), 1) + tl.sum(high.to(tl.float32), 1)
        s = tl.load(scales + group * n + column, mask=there, other=0.0).to(tl.float32)
        z = tl.load(zeros + group * n + column, mask=there, other=0.0).to(tl.float32)
        acc += s[None, :] * (product - total[:, None] * (OFFSET + z)[None, :])
    place = (tl.program_id(2).to(tl.int64) * m + row)[:, None] * n + column[None, :]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=here[:, None] & there[None, :])


@triton.jit
def _sum_parts(parts, out, numbers, PARTS: tl.constexpr, PIECE: tl.constexpr):
    i = tl.program_id(0) * PIECE + tl.arange(0, PIECE)
    total = tl.zeros([PIECE], tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * numbers + i, mask=i < numbers)
    tl.store(out + i, total.to(out.dtype.element_ty), mask=i < numbers)


def split(m: int, n: int, k: int, device: torch.device) -> int:
    """Into how many parts the rows of W are cut, so that every processor has work."""
    tiles = triton.cdiv(n, _COLUMNS) * triton.cdiv(m, 64)
    wanted = triton.cdiv(2 * processors(device), tiles)
    return max(1, min(8, wanted, k // GROUP))


def gemm_w4(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, out: torch.Tensor,
    workspace: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """x (m, k) times W (k, n) into out (m, n), all contiguous, 16-bit floats; k a multiple of 128.

    codes : (k / 2, n) uint8, of `pack_w4`. scales, zeros : (k / 128, n).
    workspace : float32 numbers, split(...) x m x n; needed where `split` cuts.
    """
    (m, k), n = x.shape, out.shape[1]
    parts = split(m, n, k, x.device)
    groups = triton.cdiv(k // GROUP, parts)
    rows = min(64, tile_rows(m))
    exponent, offset = _MANTISSA[x.dtype]
    target = out
    if parts > 1:
        assert workspace is not None and workspace.numel() >= parts * m * n
        target = workspace
    _gemm_w4[lambda chosen: (triton.cdiv(n, chosen["COLUMNS"]), triton.cdiv(m, rows), parts)](
        x, codes, scales, zeros, target, m, n, k, groups, triton.next_power_of_2(m),
        EXPONENT=exponent, OFFSET=offset, HALF=GROUP // 2, ROWS=rows,
    )  # fmt: skip
    if parts > 1:
        _sum_parts[(triton.cdiv(m * n, 1024),)](target, out, m * n, PARTS=parts, PIECE=1024)


def pack_w4(codes: torch.Tensor) -> torch.Tensor:
    """Codes 0 to 15 (k, n), two to a byte as `gemm_w4` reads them: (k / 2, n) uint8."""
    k, n = codes.shape
    low, high = codes.view(k // GROUP, 2, GROUP // 2, n).to(torch.uint8).unbind(1)
    return (low | high << 4).reshape(k // 2, n)
