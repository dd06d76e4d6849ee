"""KV blocks that live on another replica: who lends whom how many, and what remote attention costs.

Source: Infinite-LLM / DistAttention (2024). A replica whose next request does not fit, or that is about to run out, is
a debtor; one with blocks to spare is a creditor. Blocks are lent in grains and go back when the debtor has them free.
Attention over remote blocks is computed where they are: the query goes there, a partial output with its maximum and sum
comes back. That work is booked on the debtor, as if it were local; what crosses the network comes on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from simpy.events import Event

from ...configs.borrowing import KVBorrowing
from ...configs.model import Attention
from ...costmodels.base import ticks
from ...errors import InputError
from ..cluster.cluster import Cluster
from ..core import Part, Request
from ..deployment import Deployment
from ..events import LOOKS, Moment

_STATISTICS = 2  # numbers a head: the partial softmax's maximum and sum


class RemoteAttention:
    """What an engine with borrowed blocks spends on messages. owed : blocks by creditor."""

    def __init__(self, deployment: Deployment) -> None:
        model, hardware = deployment.model, deployment.hardware
        numbers = 0
        for group in model.groups:
            if not isinstance(group.mixer, Attention):
                found = f"given, and {model.name} has other layers than attention over keys and values"
                raise InputError("kv_borrowing", found, "a model with such layers only")
            numbers += group.count * group.mixer.heads * (2 * group.mixer.head_dim + _STATISTICS)
        ranks = deployment.pool.tensor_parallel_size
        rate = ranks * hardware.network.bandwidth * hardware.achieved.link
        self._token = numbers * model.dtype_bytes / rate  # seconds a token and creditor
        self._messages = 2 * model.layers * hardware.network.latency
        self.owed: dict[int, int] = {}

    def iteration(self, decodes: Iterable[Request], parts: Iterable[Part]) -> int:
        """Ticks for these decodes and prompt parts: every token's query goes to every creditor."""
        creditors = sum(blocks > 0 for blocks in self.owed.values())
        if not creditors:
            return 0
        tokens = sum(1 for _ in decodes) + sum(n for _, n in parts)
        return ticks(self._messages + tokens * creditors * self._token)

    def stall(self, start: int) -> int:
        """Nothing beyond that."""
        return 0


class Borrowing:
    """Looks every period, as long as there are requests, and moves grains between the engines of one pool."""

    def __init__(self, cluster: Cluster, spec: KVBorrowing, engines: Sequence[Any], deployment: Deployment) -> None:
        self._cluster, self._spec, self._engines = cluster, spec, engines
        self._own = deployment.blocks
        self._books = [RemoteAttention(deployment) for _ in engines]
        self._pending: set[int] = set()  # engines between which blocks are moving
        self._armed = False
        self.lent = 0
        for engine, books in zip(engines, self._books, strict=True):
            engine.beside = books
            engine.rank.patient = True
        cluster.on_submit.append(self._wake)

    def _wake(self, _: Request) -> None:
        if not self._armed:
            self._armed = True
            Moment(self._cluster.env, self._cluster.env.now + ticks(self._spec.period), LOOKS, self._look)

    def _look(self, _: Event) -> None:
        self._armed = False
        cluster = self._cluster
        cluster.turn.tick, cluster.turn.place = cluster.env.now, LOOKS
        lacks = [self._lacks(i) for i in range(len(self._engines))]
        idle = [i for i, lack in enumerate(lacks) if lack > 0 and not self._engines[i].rank.running]
        for debtor, blocks in enumerate(lacks):
            if debtor in self._pending or debtor in idle[1:]:  # one after the other, or all would wait for ever
                continue
            if blocks > 0:
                self._borrow(debtor, blocks, self._spare(debtor, lacks, idle))
            else:
                self._give_back(debtor, -blocks)
        if cluster.live:
            self._wake(next(iter(cluster.live)))

    def _lacks(self, number: int) -> int:
        """Free blocks that an engine is short of (or has to spare, below 0): for the request at the head of its queue,
        and half a grain for decodes. Prompts under way hold theirs already."""
        engine = self._engines[number]
        rank = engine.rank
        head = next(iter([*rank.swapped, *rank.waiting]), None)
        need = int(rank.limits.blocks(head.target)) + 1 if head else 0
        if rank.running:
            need += self._spec.grain // 2
        return need - int(engine.free_now())

    def _spare(self, debtor: int, lacks: Sequence[int], idle: Sequence[int]) -> dict[int, int]:
        """Blocks that others can lend: what they have to spare beyond their reserve. One that nothing runs on gets also
        the reserves, and whatever those have that wait like it."""
        grain, first = self._spec.grain, debtor in idle
        found = {}
        for number, lack in enumerate(lacks):
            left = -lack if first else -lack - round(self._spec.reserve * self._own)
            if first and number in idle:
                left = self._engines[number].free_now()
            if number != debtor and number not in self._pending and left >= grain:
                found[number] = left // grain * grain
        return found

    def _borrow(self, debtor: int, blocks: int, spare: dict[int, int]) -> None:
        """Ask creditors, the one with most to spare first."""
        for creditor in sorted(spare, key=lambda number: (-spare[number], number)):
            if blocks > 0:
                amount = min(spare[creditor], -(-blocks // self._spec.grain) * self._spec.grain)
                self._pending |= {debtor, creditor}
                self._engines[creditor].at_boundary(partial(self._lend, creditor, debtor, amount))
                blocks -= amount

    def _give_back(self, debtor: int, spare: int) -> None:
        """Return whole grains that are free beyond one."""
        free = (spare // self._spec.grain - 1) * self._spec.grain
        for creditor, blocks in self._books[debtor].owed.items():
            amount = min(blocks, free)
            if amount > 0 and not self._pending & {debtor, creditor}:
                self._pending |= {debtor, creditor}
                self._engines[debtor].at_boundary(partial(self._return, creditor, debtor, amount))
                free -= amount

    # Blocks are taken from one engine at its next boundary and given to the other at its next one.

    def _lend(self, creditor: int, debtor: int, blocks: int, now: int) -> bool:
        amount = self._take(creditor, blocks)
        self.lent += amount
        owed = self._books[debtor].owed
        owed[creditor] = owed.get(creditor, 0) + amount
        self._cluster.post(now + 1, self._send, creditor, debtor, debtor, amount)
        return True

    def _return(self, creditor: int, debtor: int, blocks: int, now: int) -> bool:
        amount = self._take(debtor, blocks)
        self._books[debtor].owed[creditor] -= amount
        self._cluster.post(now + 1, self._send, creditor, debtor, creditor, amount)
        return True

    def _take(self, number: int, blocks: int) -> int:
        """What of so many blocks an engine has free is no longer its own."""
        rank = self._engines[number].rank
        amount = min(blocks, rank.pool.free)
        _resize(rank, -amount)
        return int(amount)

    def _send(self, creditor: int, debtor: int, to: int, amount: int) -> None:
        self._engines[to].at_boundary(partial(self._give, creditor, debtor, to, amount))

    def _give(self, creditor: int, debtor: int, to: int, amount: int, _: int) -> bool:
        _resize(self._engines[to].rank, amount)
        self._pending -= {debtor, creditor}
        return True


def _resize(rank: Any, blocks: int) -> None:
    rank.pool.total += blocks
    rank.pool.free += blocks
    rank.total_blocks += blocks
