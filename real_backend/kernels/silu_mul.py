"""The gate of a SwiGLU block: out = silu(gate) * up, silu(x) = x / (1 + exp(-x)), gate and up side by side in a row.

Source: Shazeer, 2020 (GLU variants).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_PIECE = 1024


@triton.jit
def _silu_mul(x, out, columns, PIECE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    real = i < columns
    gate = tl.load(x + row * 2 * columns + i, mask=real).to(tl.float32)
    up = tl.load(x + row * 2 * columns + columns + i, mask=real).to(tl.float32)
    tl.store(out + row * columns + i, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=real)


def silu_mul(x: torch.Tensor, out: torch.Tensor) -> None:
    """x (rows, 2 x columns) to out (rows, columns), both contiguous."""
    rows, columns = out.shape
    _silu_mul[(rows, triton.cdiv(columns, _PIECE))](x, out, columns, PIECE=_PIECE)
