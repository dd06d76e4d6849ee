"""Batch policy: deadlines as in Niyama / QoServe (ASPLOS'26): prompts in chunks as large as the decodes can bear.

Source: the deadline scheduler of microsoft/sarathi-serve, branch `niyama_asplos2026` (72339db5). All decodes run; the
rest of the iteration is the largest total of tokens whose predicted time, with a margin, ends before the first decode's
next token is due. Prompts go by deadline; who cannot meet it any more goes last (relegation). With little free KV
memory the total is capped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...configs.strict import check
from ...costmodels.base import CostModel, ticks
from ..core import FOREVER, Admission, KVPolicy, Part, RankView, Request, Step
from .recompute import Recompute

TOTALS = (128, *range(256, 2049, 256), 2552)  # tokens of an iteration; the scheduler tries these


def _kv() -> KVPolicy:
    return Recompute(reserve="prompt", watermark=0.01, arrival_order=True)


@dataclass
class Niyama:
    """ttft, tbt : seconds until the first token, and between tokens, that requests of priority 0, 1, ... are due in;
        the last entry holds for all further ones.
    margin : of the predicted time. low_kv_tokens : free KV memory below which no more than `low_total` are tried.
    """

    kv: KVPolicy = field(default_factory=_kv)
    ttft: tuple[float, ...] = (6.0,)
    tbt: tuple[float, ...] = (0.05,)
    margin: float = 1.2
    low_kv_tokens: int = 32000
    low_total: int = 512

    def __post_init__(self) -> None:
        for key in ("ttft", "tbt"):
            due = getattr(self, key)
            check(bool(due) and min(due) > 0, key, due, "seconds above 0, one or more")
        check(self.margin >= 1, "margin", self.margin, "at least 1")
        self._first = [ticks(seconds) for seconds in self.ttft]
        self._next = [ticks(seconds) for seconds in self.tbt]

    def learn(self, cost: CostModel) -> None:
        """Receive the cost model that predicts iterations."""
        self._cost = cost

    def compose(self, view: RankView) -> Step:
        """Decodes, and prompts by deadline."""
        prompts = self._by_deadline(view, [*view.prefills, *view.waiting])
        if not prompts:
            return Step(view.decodes, iterations=FOREVER)
        running = set(view.prefills)
        budget = self._total(view, prompts[0]) - view.decodes
        free = view.free_blocks - view.decode_demand
        slots = view.limits.max_num_seqs - view.running
        chunks: list[Part] = []
        admit: list[Admission] = []
        for request in prompts:
            tokens = min(request.target - request.computed, budget)
            if tokens <= 0:
                break
            if request in running:
                chunks.append((request, tokens))
                free -= max(0, view.limits.blocks(request.computed + tokens) - request.blocks)
            else:
                take, need = self.kv.admission(request, tokens, view)
                if need > free or slots <= 0 or view.preempted:
                    continue
                admit.append((request, tokens, take))
                free -= take
                slots -= 1
            budget -= tokens
        return Step(view.decodes, chunks, admit)

    def _by_deadline(self, view: RankView, prompts: Iterable[Request]) -> list[Request]:
        def place(request: Request) -> tuple[bool, int, int]:
            due = request.arrival + self._first[min(max(request.priority, 0), len(self._first) - 1)]
            rest = self._predict([(request.target - request.computed, request.computed)], 0, 0)
            return view.now + rest > due, due, request.index

        return sorted(prompts, key=place)

    def _total(self, view: RankView, prompt: Request) -> int:
        """Tokens of the iteration: the most that the decodes have time for, at least the least."""
        decoding = [r for r in view.ordered() if r.computed >= r.target]
        slack = min((self._due(r) - view.now for r in decoding), default=FOREVER)
        context = sum(r.context() for r in decoding)
        low = view.free_blocks * view.limits.block_size < self.low_kv_tokens
        most = min(view.limits.max_num_batched_tokens, self.low_total if low else TOTALS[-1])
        totals = [total for total in TOTALS if len(decoding) < total <= most]
        for total in reversed(totals):
            chunk = (min(total - len(decoding), prompt.target - prompt.computed), prompt.computed)
            if self.margin * self._predict([chunk], len(decoding), context) <= slack:
                return total
        return totals[0] if totals else most

    def _due(self, request: Request) -> int:
        """When a decode's next token is due."""
        kind = max(request.priority, 0)
        first, each = self._first[min(kind, len(self._first) - 1)], self._next[min(kind, len(self._next) - 1)]
        return request.arrival + first + request.tokens() * each

    def _predict(self, chunks: Sequence[tuple[int, int]], decodes: int, context: int) -> int:
        """Ticks of an iteration."""
        mean = context // decodes if decodes else 0
        pieces = sum(stage.piece(chunks, decodes, context, mean, mean)[0] for stage in self._cost.stages)
        return pieces + self._cost.host(decodes + len(chunks))
