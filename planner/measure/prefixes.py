"""What prefix caches can spare of a trace at best, and how long KV cache must be held between requests for that.

A request finds a prefix where an earlier one had it, if its blocks are still there. They are held from one use to the
next, whoever uses them, so a block that many requests share counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...traces.columns import Floats, Ints
from ...traces.table import RequestTable

_CLASSES = 8  # of waits, with as many tokens each


@dataclass(frozen=True)
class Prefixes:
    """spared : tokens of each request's prompt that an earlier request had.

    By piece of a prompt with the same last use: rows, tokens, and the wait since then in seconds, plus `answers` output
    tokens of the request that used it last.
    """

    spared: Ints
    rows: Ints
    tokens: Ints
    wait: Floats
    answers: Ints

    @classmethod
    def of(cls, table: RequestTable) -> Prefixes:
        """Of a whole trace, with a cache that forgets nothing and is everywhere."""
        pieces = list(_pieces(table)) if table.blocks is not None else []
        rows, tokens, wait, answers = zip(*pieces, strict=True) if pieces else ((), (), (), ())
        spared = np.bincount(np.array(rows, np.int64), tokens, len(table)).astype(np.int64)
        return cls(spared, np.array(rows, np.int64), np.array(tokens), np.array(wait), np.array(answers))

    def held(self, bucket: Ints, buckets: int, tpot: float) -> tuple[tuple[tuple[float, float], ...], ...]:
        """By bucket, classes of what it finds: share of its tokens, and token-seconds for a request that these take.

        tpot : of a replica at its fastest; the KV cache that an answer brings in is resident with its request until
        it ends. Each class takes what its piece with the shortest wait does.
        """
        found: list[tuple[tuple[float, float], ...]] = []
        for b in range(buckets):
            mine = np.flatnonzero(bucket[self.rows] == b) if len(self.rows) else self.rows
            seconds = np.maximum(0.0, self.wait[mine] + self.answers[mine] * tpot)
            order = np.argsort(seconds, kind="stable")
            until = np.cumsum(self.tokens[mine][order])
            if not len(until):
                found.append(())
                continue
            first = np.searchsorted(until, until[-1] * np.arange(_CLASSES) / _CLASSES, side="right")
            each = until[-1] / (bucket == b).sum() / _CLASSES
            found.append(tuple((1 / _CLASSES, float(each * seconds[order[i]])) for i in first))
        return tuple(found)


def _pieces(table: RequestTable) -> Iterator[tuple[int, int, float, int]]:
    """row, tokens, wait, answers; see `Prefixes`."""
    blocks, programs = table.blocks, table.programs
    assert blocks is not None
    last: dict[int, int] = {}  # block -> row that used it last
    session = table.session.codes.tolist() if programs is not None and table.session is not None else ()
    spared = np.zeros(len(table), np.int64)
    arrival, prompt, output = table.arrival.tolist(), table.prompt_tokens.tolist(), table.output_tokens.tolist()
    for row in range(len(table)):
        ids, at = blocks.row(row).tolist(), 0
        users = []
        for id_ in ids[: -(-(prompt[row] - 1) // blocks.size)]:
            if id_ not in last:
                break
            users.append(last[id_])
        for k, user in enumerate(users):
            if k + 1 < len(users) and users[k + 1] == user:
                continue
            end = min((k + 1) * blocks.size, prompt[row] - 1)
            for tokens, new in ((min(end, int(spared[user])) - at, False), (end - max(at, int(spared[user])), True)):
                if tokens <= 0:
                    continue
                if programs is None:
                    yield row, tokens, arrival[row] - arrival[user], -output[user] if new else 0
                elif session[row] == session[user]:
                    yield row, tokens, float(programs.gap[row]), 0 if new else output[user]
                else:
                    yield row, tokens, 0.0, 0  # of another program: who knows how long ago that was
            at = end
        spared[row] = at
        last.update(dict.fromkeys(ids, row))
