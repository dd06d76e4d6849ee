"""What the kernel tests share: the device they run on, random paged caches, and how far off a result may be.

Where torch is installed they run and fail, never skip: on a GPU with real sizes, else through Triton's interpreter.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("torch") is None:
    WITHOUT_TORCH = ("test_blocks.py", "test_clocks.py")
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name not in WITHOUT_TORCH]

    def pytest_report_header() -> str:
        return "tests/real_backend: for the most part not run, as torch is not installed (pip install 'servecast[gpu]')"
else:
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

# Largest ||out - ref|| / ||ref|| against float64. Rounding of the inputs is not in it; that of a 16-bit result (2**-9
# or 2**-12 relative, uniform) and of the 16-bit softmax weights is.
TOLERANCE = {"bfloat16": 8e-3, "float16": 1.5e-3, "float32": 2e-3}


@dataclass
class Lab:
    """Where tests run and what sizes they may have there."""

    device: torch.device
    real: bool

    def __post_init__(self) -> None:
        self.generator = torch.Generator(self.device).manual_seed(int.from_bytes(os.urandom(6), "big"))

    @property
    def dtypes(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16] if self.real else [torch.float16]

    def size(self, small: int, real: int) -> int:
        return real if self.real else small

    def random(self, *shape: int, dtype: torch.dtype | None = None, spread: float = 1.0) -> torch.Tensor:
        drawn = torch.randn(*shape, generator=self.generator, device=self.device) * spread
        return drawn if dtype is None else drawn.to(dtype)

    def queries(self, rows: int, heads: int, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
        """As a projection leaves them, with keys and values beside them: rows lie apart."""
        return self.random(rows, heads + 2, head_dim, dtype=dtype)[:, :heads]

    def whole(self, high: int, *shape: int, low: int = 0) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=self.generator, device=self.device)

    def poisoned(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.full(shape, float("nan"), dtype=dtype, device=self.device)

    def cache(
        self, lengths: list[int], kv_heads: int, block_size: int, head_dim: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys, values and block tables of requests of these lengths, in scattered blocks; all else is NaN."""
        counts = [-(-n // block_size) for n in lengths]
        blocks = sum(counts) + 3
        places = torch.randperm(blocks, generator=self.generator, device=self.device)
        tables = torch.zeros(len(lengths), max([*counts, 1]) + 1, dtype=torch.int32, device=self.device)
        keys, values = (self.poisoned(blocks, kv_heads, block_size, head_dim) for _ in range(2))
        at = 0
        for i, (n, count) in enumerate(zip(lengths, counts, strict=True)):
            tables[i, :count] = places[at : at + count].int()
            for j in range(count):
                filled = min(block_size, n - j * block_size)
                for cache in (keys, values):
                    cache[places[at + j], :, :filled] = self.random(kv_heads, filled, head_dim)
            at += count
        return keys.to(dtype), values.to(dtype), tables

    def close(self, out: torch.Tensor, ref: torch.Tensor, factor: float = 1.0) -> None:
        """Fail unless `out` is `ref` up to the rounding of its own number type; NaN is never close."""
        assert out.shape == ref.shape and ref.dtype == torch.float64
        off = float((out.double() - ref).norm() / ref.norm())
        limit = factor * TOLERANCE[str(out.dtype).removeprefix("torch.")]
        assert off < limit, f"{off:.2e} off, at most {limit:.2e}"


@pytest.fixture
def lab() -> Lab:
    real = torch.cuda.is_available()
    return Lab(torch.device("cuda" if real else "cpu"), real)
