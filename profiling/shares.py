"""Kernels on a share of a GPU's multiprocessors, confined by a CUDA green context: for intra-GPU disaggregation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def unsupported() -> str | None:
    """Why kernels cannot be confined here, or None where they can."""
    if not torch.cuda.is_available():
        return "no GPU"
    try:
        from torch.cuda.green_contexts import SUPPORTED, GreenContext
    except ImportError:
        return f"torch {torch.__version__} knows no green contexts"
    if not hasattr(GreenContext, "Stream"):
        return f"torch {torch.__version__} has no streams of green contexts"
    return None if SUPPORTED else f"torch {torch.__version__} was built without green contexts"


@contextmanager
def confined(share: float) -> Iterator[int]:
    """Run what is inside, on its current stream, on about this share of the multiprocessors; gives their number.

    Multiprocessors are handed out in eights on Hopper, so the number asked for is rounded to that. The stream is one of
    the context's own: its default stream is the device's, from which no graph can be captured.
    """
    from torch.cuda.green_contexts import GreenContext

    total = torch.cuda.get_device_properties(0).multi_processor_count
    count = max(8, round(share * total / 8) * 8)
    context: Any = GreenContext.create(num_sms=count, device_id=0)
    with torch.cuda.stream(context.Stream()):
        yield count
