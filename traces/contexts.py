"""Block ids made from sessions: a turn's prompt continues the longest context of its program that fits into it."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence

import numpy as np

from .columns import Ints, PrefixBlocks


def context_blocks(
    program: Sequence[int], prompt: Ints, output: Ints, size: int, heads: Sequence[tuple[int, int]] = ()
) -> PrefixBlocks:
    """Ids of prompt and answer of each row, as if every prompt appended to what its program had in its context.

    program : number of each row's program; rows of a program in order of time. size : tokens a block.
    heads : (name, tokens) of the text with which each row begins, shared by all rows of that name; none by default.

    A row continues the earlier row of its program that has the longest context no longer than its prompt; where only
    that row's prompt fits (its thoughts were dropped), it continues that. A prompt shorter than all of these (a context
    that was truncated, a helper's side call) shares only its head.
    """
    ids: list[Ints] = []
    known: dict[int, list[tuple[int, int]]] = {}  # of each program: (tokens, row) of prompts and contexts, in order
    shared_heads: dict[int, Ints] = {}
    free = 0
    for row, (owner, own) in enumerate(zip(program, (prompt + output).tolist(), strict=True)):
        need = own // size
        contexts = known.setdefault(owner, [])
        place = bisect_right(contexts, (int(prompt[row]), row))
        tokens, source = contexts[place - 1] if place else (0, -1)
        start = ids[source][: tokens // size] if source >= 0 else np.zeros(0, np.int64)
        if source < 0 and heads:
            name, length = heads[row]
            if name not in shared_heads:
                shared_heads[name] = np.arange(free, free + length // size)
                free += length // size
            start = shared_heads[name][: min(length, int(prompt[row])) // size]
        fresh = np.arange(free, free + need - len(start))
        free += len(fresh)
        ids.append(np.concatenate([start, fresh]))
        insort(contexts, (int(prompt[row]), row))
        insort(contexts, (own, row))
    offsets = np.zeros(len(ids) + 1, np.int64)
    np.cumsum([len(i) for i in ids], out=offsets[1:])
    return PrefixBlocks(size, "floor", offsets, np.concatenate(ids) if ids else np.zeros(0, np.int64), "context")
