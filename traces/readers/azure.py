"""Reader for the Azure LLM inference traces of 2023 and 2024: a wall-clock stamp and two lengths a row.

Source: Azure/AzurePublicDataset (CC-BY). 2023 stamps have 7 fractional digits, 2024 ones 6 and "+00:00"; both are UTC.
"""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import numpy as np

from ..columns import Ints
from .base import Columns, Reader, check_names, joined, scores
from .clock import nanoseconds, since_first
from .rows import read_csv

TIME, PROMPT, OUTPUT = "TIMESTAMP", "ContextTokens", "GeneratedTokens"
REQUIRED = frozenset({TIME, PROMPT, OUTPUT})


def _read(path: Path, text: TextIO) -> Columns:
    header, chunks = read_csv(path, text)
    check_names(path, header, REQUIRED, frozenset())
    stamps: list[Ints] = []
    prompt: list[Ints] = []
    output: list[Ints] = []
    for rows in chunks:
        stamps.append(nanoseconds(rows, TIME))
        prompt.append(rows.ints(PROMPT))
        output.append(rows.ints(OUTPUT))
    time, origin = since_first(stamps)
    return Columns(time, joined(prompt, np.int64), joined(output, np.int64), origin=origin)


READER = Reader("azure", scores(False, REQUIRED), _read)
