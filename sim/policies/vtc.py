"""Queue policy: the Virtual Token Counter of Sheng et al. (OSDI'24), fair among tenants, weighted or not.

Source: Ying1123/VTC-artifact (192c2e20), `slora/server/router/vtc_req_queue.py`. A tenant's counter is the service it
has had: `input_weight` a prompt token, charged at admission, and `output_weight` a token, as it is generated, over the
tenant's weight. The head of the queue is the oldest request of the tenant with the least counter. A tenant that comes
back to the queue is lifted to the least counter in it, or to that of the last one who left: idle time earns nothing.

While two tenants wait all the time, their services differ by at most 2 max(input_weight x longest prompt,
output_weight x tokens in the KV cache): one that is ahead gets nothing more until it is behind, but for what it
already has running.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from operator import attrgetter

from ...configs.strict import check
from ...errors import InputError
from ..core import FOREVER, RankView, Request, Step
from .live_order import LiveOrder

_index = attrgetter("index")


class _Account:
    """One tenant's: prompts and tokens of requests that have ended, those that have not, those that wait."""

    __slots__ = ("ended", "lift", "served", "waiting", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.lift = 0.0
        self.ended = [0, 0]  # prompt tokens, generated tokens
        self.served: dict[Request, None] = {}
        self.waiting: list[Request] = []  # in order of arrival


@dataclass
class Vtc(LiveOrder):
    """weights : by tenant label; empty = all alike. Requests without a label are one tenant, of weight 1."""

    input_weight: float = 1.0
    output_weight: float = 2.0
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("input_weight", "output_weight"):
            check(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        for tenant, weight in self.weights.items():
            check(weight > 0, f"weights.{tenant}", weight, "above 0")
        self._by_code: dict[int, float] = {}
        self._accounts: dict[int, _Account] = {}
        self._last: _Account | None = None  # whose last request left the queue last

    def meet(self, tenants: Sequence[str]) -> None:
        """Learn the trace's tenant labels, by code."""
        for tenant in tenants:
            if self.weights and tenant not in self.weights:
                raise InputError(f"weights.{tenant}", "missing, and the trace has such a tenant", "a weight above 0")
        self._by_code = {code: self.weights.get(tenant, 1.0) for code, tenant in enumerate(tenants)}

    def queued(self, request: Request) -> None:
        """A request joins; its tenant is lifted if it had none there."""
        account = self._account(request)
        if not account.waiting and request.scheduled < 0:
            others = [self._counter(a) for a in self._accounts.values() if a.waiting]
            if not others and self._last:
                others = [self._counter(self._last)]
            account.lift += max(0.0, min(others, default=0.0) - self._counter(account))
        insort(account.waiting, request, key=_index)

    def left(self, request: Request) -> None:
        """A request is admitted, or goes."""
        account = self._account(request)
        del account.waiting[bisect_left(account.waiting, request.index, key=_index)]
        account.served[request] = None
        if not account.waiting:
            self._last = account

    def order(self, requests: Iterable[Request], view: RankView) -> Iterator[Request]:
        """Always the oldest of the tenant with the least counter, which then has its prompt charged."""
        contenders = [a for a in self._accounts.values() if a.waiting]
        heap = [(self._counter(a), a.waiting[0].index, 0, a.waiting, a.weight) for a in contenders]
        heapify(heap)
        while heap:
            counter, _, place, waiting, weight = heappop(heap)
            request = waiting[place]
            yield request
            place += 1
            if place < len(waiting):
                charge = self.input_weight * request.prompt_tokens / weight if request.scheduled < 0 else 0.0
                heappush(heap, (counter + charge, waiting[place].index, place, waiting, weight))

    def stands(self, step: Step, view: RankView) -> int:
        """Until the running requests of the tenant in front have brought it behind another one."""
        contenders = [a for a in self._accounts.values() if a.waiting]
        if len(contenders) < 2:
            return FOREVER
        if step.decodes != view.decodes:
            return 1
        decodes = Counter(id(self._account(r)) for r in view.ordered() if r.computed >= r.target)
        head, *others = sorted(contenders, key=self._rank)
        return min(self._overtaken(head, decodes[id(head)], other, decodes[id(other)]) for other in others)

    def _overtaken(self, head: _Account, running: int, other: _Account, beside: int) -> int:
        """The first iteration after which `other` comes before `head`, with so many decodes of theirs running."""
        ahead = self._counter(other) - self._counter(head)
        closing = self.output_weight * (running / head.weight - beside / other.weight)
        if closing * FOREVER <= ahead:
            return FOREVER
        k = max(1, int(ahead / closing) - 1)
        while self._rank(other, k * beside) > self._rank(head, k * running):
            k += 1
        return k

    def _rank(self, account: _Account, more: int = 0) -> tuple[float, int]:
        return self._counter(account, more), account.waiting[0].index

    def _counter(self, account: _Account, more: int = 0) -> float:
        """A tenant's counter, once so many more tokens have been generated."""
        over = [r for r in account.served if r.over]
        for request in over:
            del account.served[request]
            account.ended[0] += request.prompt_tokens if request.scheduled >= 0 else 0
            account.ended[1] += request.generated
        prompts, tokens = account.ended
        for request in account.served:
            prompts += request.prompt_tokens if request.scheduled >= 0 else 0
            tokens += request.tokens()
        return account.lift + (self.input_weight * prompts + self.output_weight * (tokens + more)) / account.weight

    def _account(self, request: Request) -> _Account:
        tenant = request.tenant
        known = self._accounts.get(tenant)
        if known is None:
            known = self._accounts[tenant] = _Account(self._by_code.get(tenant, 1.0))
        return known
