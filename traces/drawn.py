"""Generated requests as plain columns, before they become a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import Floats, Ints


@dataclass(frozen=True)
class Drawn:
    """Requests in any order: seconds, tokens, the index of the stream, and the session's number in it (-1 = none)."""

    time: Floats
    prompt: Ints
    output: Ints
    stream: NDArray[np.int32]
    session: Ints

    def take(self, rows: Any) -> Drawn:
        """Some rows (an index array, a mask or a slice)."""
        return Drawn(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Drawn]) -> Drawn:
        """All rows of several."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __len__(self) -> int:
        return len(self.time)
