"""What a plan says of the traffic and of its engines, held against them: shared prefixes, what real engines lack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..configs.techniques import NONE, SharedTokens
from ..errors import InputError
from ..traces.table import RequestTable
from .deployment import Deployment


def check_declared(table: RequestTable, deployments: Sequence[Deployment], real: bool) -> None:
    """Raise InputError where the trace contradicts a pool's techniques, or a `real` engine would have to have them."""
    for d in deployments:
        techniques, where = d.pool.techniques, f"{d.where}.techniques"
        if real and techniques != NONE:
            raise InputError(where, "given for a real engine", "none: it has no kernels for them")
        _check_shared_prefix(table, techniques.shared_prefix, f"{where}.shared_prefix")


def _check_shared_prefix(table: RequestTable, levels: Sequence[SharedTokens], where: str) -> None:
    """A prompt must not be shorter than the prefix, nor the trace's block ids tell of more different ones."""
    if not levels:
        return
    whole = sum(level.tokens for level in levels)
    shortest = int(table.prompt_tokens.min())
    if shortest < whole:
        found = f"{whole} tokens in common, and the shortest prompt of {table.source.name} has {shortest}"
        raise InputError(where, found, "a prefix that all prompts have")
    if table.blocks is None:
        return
    size, end = table.blocks.size, 0
    for level in levels:
        end += level.tokens
        last = end // size - 1  # of the whole blocks; an id stands for all that is before it
        if last < 0:
            continue
        texts = len(np.unique(table.blocks.ids[table.blocks.offsets[:-1] + last]))
        if texts > level.groups:
            found = f"{level.groups} group(s), and prompts begin with {texts} different texts of {end} tokens"
            raise InputError(where, found, "what the trace's block ids say")
