"""Named random streams: every draw of a run comes from one, so adding a draw here never moves a draw there.

The bits are raw Philox4x64 output (Salmon et al., SC'11), which numpy guarantees to keep; the distributions
are inverse transforms of 53-bit uniforms, so a stream does not change with numpy's samplers.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Stream:
    """The stream `name` of run `seed`. Two streams with different names are independent."""

    def __init__(self, seed: int, name: str) -> None:
        key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        self._bits = np.random.Philox(key=np.frombuffer(key[:16], "<u8"))
        self._buffer: list[float] = []

    def __getstate__(self) -> tuple[dict[str, Any], list[float]]:
        """For a checkpoint, in plain data."""
        return dict(self._bits.state), self._buffer

    def __setstate__(self, state: tuple[Any, list[float]]) -> None:
        self._bits = np.random.Philox()
        self._bits.state, self._buffer = state

    def uniform(self, n: int) -> Floats:
        """n draws from [0, 1)."""
        return (self._bits.random_raw(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, n: int, high: int) -> NDArray[np.int64]:
        """n whole numbers from 0 to high - 1."""
        return np.minimum((self.uniform(n) * high).astype(np.int64), high - 1)

    def exponential(self, n: int) -> Floats:
        """n draws with mean 1."""
        return -np.log1p(-self.uniform(n))

    def normal(self, n: int) -> Floats:
        """n draws with mean 0 and variance 1."""
        from scipy.special import ndtri

        return np.asarray(ndtri(self.uniform(n) + 2.0**-54))

    def gamma(self, n: int, shape: float) -> Floats:
        """n draws of Gamma(shape, scale 1): mean and variance `shape`."""
        from scipy.special import gammaincinv

        return np.asarray(gammaincinv(shape, self.uniform(n)))

    def next(self) -> float:
        """One draw from [0, 1), from a buffer that keeps single draws cheap."""
        if not self._buffer:
            self._buffer = self.uniform(256)[::-1].tolist()
        return self._buffer.pop()

    def below(self, high: int) -> int:
        """One whole number from 0 to high - 1."""
        return min(int(self.next() * high), high - 1)
