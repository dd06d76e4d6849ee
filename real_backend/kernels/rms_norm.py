"""RMSNorm, with the residual added in the same pass: r = r + x; out = r / sqrt(mean(r^2) + eps) * weight.

Source: Zhang and Sennrich, 2019; the fused addition as in vLLM and Liger-Kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _rms_norm(x, residual, weight, out, columns, eps, ADD: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * columns
    i = tl.arange(0, COLUMNS)
    real = i < columns
    numbers = tl.load(x + row + i, mask=real, other=0.0).to(tl.float32)
    if ADD:
        numbers += tl.load(residual + row + i, mask=real, other=0.0).to(tl.float32)
        tl.store(residual + row + i, numbers.to(residual.dtype.element_ty), mask=real)
    scale = tl.rsqrt(tl.sum(numbers * numbers, 0) / columns + eps)
    numbers = numbers * scale * tl.load(weight + i, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row + i, numbers.to(out.dtype.element_ty), mask=real)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> None:
    """Normalise each row of x (rows, columns) into `out`, which may be x.

    residual : (rows, columns); x is added to it first, and the sum, in float32, is what is normalised.
    """
    rows, columns = x.shape
    _rms_norm[(rows,)](
        x, x if residual is None else residual, weight, out, columns, eps, ADD=residual is not None,
        COLUMNS=triton.next_power_of_2(columns), num_warps=8 if columns > 2048 else 4,
    )  # fmt: skip
