"""The real engine: the list-walking loop of `sim.engine.oracle`, whose iterations run a model.

Policies, block counts, the prefix cache, preemption and the books on every request are the simulator's own code. What
is added here are the tokens, the blocks' places in the cache (`blocks`), and the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from ..costmodels.base import ticks
from ..errors import InputError
from ..sim.core import Request
from ..sim.engine.oracle import ListEngine
from ..sim.records import Recorder, note_odd_gaps
from .batch import Row, make_batch
from .blocks import Placed, placed
from .clocks import RealClock
from .graphs import DecodeGraphs
from .model import Model
from .stopwatch import Stopwatch


class RealEngine(ListEngine):
    """One engine on one device. Arguments as `ListEngine`.

    On one of `clocks` an iteration ends when its tokens are on the host, and what a request waits for beside others
    counts as its own prefill or decode: a real batch does not show what its members would have taken alone. The host's
    part of an iteration is what the device does not need of the time from one start to the next. On a
    simulated clock the cost model says when it ends.

    model : with as many KV blocks as the engine has. prompt : the token ids of a request's prompt.
    graphs : of decodes alone, or None. deliver : is given each request that ends with the tokens it got.
    """

    def __init__(
        self, *arguments: Any, model: Model, prompt: Callable[[Request], list[int]], recorder: Recorder, number: int,
        graphs: DecodeGraphs | None = None, deliver: Callable[[Request, Sequence[int]], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(*arguments)
        self.pool: Placed = placed(self.pool)
        self.lookup, self.promise = self.pool.lookup, self.pool.promise
        if self.limits.fixed_blocks:
            raise InputError("model", "layers whose cache does not grow with the context", "attention in every layer")
        self.model, self.graphs, self.deliver, self._prompt = model, graphs, deliver, prompt
        self.shape = model.shape()
        self.busy = 0
        self.device: list[int] = []  # of each of `iterations`, the ticks that the device took
        self._leaps, self._odd_gaps = recorder.leaps[number], recorder.odd_gaps[number]
        self._tokens: dict[Request, list[int]] = {}
        self._saved: dict[Request, torch.Tensor] = {}  # cache contents of swapped-out requests, on the host

    # -- an iteration --------------------------------------------------------------------------------------------

    def compute(self, flight: SimpleNamespace, ghosts: int) -> None:
        """Run the model on a batch; see `ListEngine.compute`."""
        clock = self.env if isinstance(self.env, RealClock) else None
        if clock is None:
            super().compute(flight, ghosts)
        chunks = [self._row(request, tokens) for request, tokens in flight.parts]
        decodes = [self._row(request, 1) for request in flight.decodes]
        tokens, seconds = self._run(chunks, decodes + decodes[-1:] * ghosts)
        if clock:
            flight.end = max(clock.ticks(), self.now + 1)
            flight.pure = min(ticks(seconds), flight.end - self.now)
            flight.host = flight.end - self.now - flight.pure
            flight.own = [flight.pure] * len(chunks)
            self.device.append(flight.pure)
        self.busy += flight.end - flight.start
        flight.used, flight.queue = self.total_blocks - self.pool.free, len(self.waiting)
        complete = [request.computed + part >= request.target for request, part in flight.parts]
        running = [request for request, _ in flight.parts] + flight.decodes
        for request, token, due in zip(running, tokens, complete + [True] * len(decodes), strict=False):
            if due:
                self._tokens[request].append(token)

    def _run(self, chunks: list[Row], decodes: list[Row]) -> tuple[list[int], float]:
        """The next token of each row, on the host, and the seconds that the device took."""
        graphs = self.graphs if self.graphs and not chunks and self.graphs.fits(len(decodes)) else None
        batch = graphs.prepare(decodes) if graphs else make_batch(chunks, decodes, self.shape)
        with Stopwatch(self.model.device) as watch:
            tokens = graphs.replay(batch) if graphs else self.model.next_tokens(batch)
        return tokens[: len(chunks) + len(decodes)].tolist(), watch.seconds()

    def _row(self, request: Request, count: int) -> Row:
        table = self.pool.tables.table(request)
        if request in self._saved:
            saved = self._saved.pop(request)
            self.model.restore(saved, table[: len(saved)])
        if request not in self._tokens:
            self._tokens[request] = self._prompt(request)
        return Row(self._tokens[request][request.computed : request.computed + count], request.computed, table)

    def land(self, flight: SimpleNamespace) -> None:
        """Book a batch, and its row in the log."""
        before = len(self.gaps)
        super().land(flight)
        decodes = len(flight.decodes)
        gaps, restarts = self.gaps[before : before + decodes], self.gaps[before + decodes :]
        usual = gaps[0] if gaps else 0
        prompts = sum(tokens for _, tokens in flight.parts)
        self._leaps.append((
            flight.start, flight.end - flight.start, 0, usual, 1, decodes, prompts, len(flight.parts), flight.queue,
            flight.used,
        ))  # fmt: skip
        note_odd_gaps(self._odd_gaps, gaps, usual, restarts)

    # -- where requests come and go ------------------------------------------------------------------------------

    def finish(self, flight: SimpleNamespace) -> None:
        """Let those go whose last token has come."""
        super().finish(flight)
        for request in flight.done:
            self._forget(request)

    def preempt(self, request: Request) -> None:
        """Free a victim's blocks; what goes to the host is copied before anybody writes over it."""
        table = list(self.pool.tables.table(request))
        super().preempt(request)
        if request in self.swapped:
            self._saved[request] = self.model.save(table)

    def drop(self, request: Request, now: int) -> None:
        """Let a request go that will not finish."""
        super().drop(request, now)
        self._saved.pop(request, None)
        self._forget(request)

    def _forget(self, request: Request) -> None:
        tokens = self._tokens.pop(request, None)
        if self.deliver and tokens is not None:
            self.deliver(request, tokens[request.prompt_tokens :])
