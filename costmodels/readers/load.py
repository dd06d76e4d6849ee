"""Measured tables wherever they come from: our own format, or one that a reader knows."""

from __future__ import annotations

from pathlib import Path

from ...configs.model import ModelCard
from ...errors import InputError
from ..table import TableSet
from ..tablefile import MANIFEST, is_table_set, load_tables
from . import llmservingsim, vidur


def read_tables(path: Path, model: ModelCard | None = None) -> TableSet:
    """The tables at `path`; `model` is the card that whole-layer tables are meant for.

    Raises InputError where nothing is there, or nothing that any reader knows.
    """
    if is_table_set(path):
        return load_tables(path)
    if llmservingsim.fits(path):
        return llmservingsim.read(path, model)
    if vidur.fits(path):
        return vidur.read(path, model)
    found = "no measured tables" if path.exists() else "no such file or folder"
    expected = f"a table set (with {MANIFEST}), a profile of LLMServingSim, or a model's folder of Vidur's profiling"
    raise InputError(str(path), found, expected)
