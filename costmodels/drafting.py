"""What drafting costs: the passes of a drafter, maybe itself one that drafts and verifies, and the memory it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from ..configs.catalog import find_model
from ..configs.device import HardwareCard
from ..configs.model import ModelCard, Parallelism
from ..configs.speculation import Draft, Speculation
from ..configs.techniques import Techniques
from ..errors import InputError
from .base import Chunk
from .choice import ROOFLINE, cost_model
from .composed import ComposedCost
from .host import HostOverhead
from .launch import Launch
from .shapes import KVShape, kv_shape, stage_operators, weight_bytes
from .techniques import with_techniques

R = TypeVar("R")
Accepted = Callable[[R, Speculation], int]  # how many of a round's drafted tokens a request accepts


class Drafter:
    """Ticks of drafting for a batch of decodes.

    Drafts of one round come one after another, each a pass over the batch; the context grows with them. A drafter that
    drafts in its turn goes round after round until it has enough tokens for everyone.
    """

    def __init__(self, cost: ComposedCost, speculation: Speculation | None, inner: Drafter | None) -> None:
        self._cost, self._speculation, self._inner = cost, speculation, inner
        self._verifying: dict[int, ComposedCost] = {1: cost}

    def decode(self, decodes: int, context_sum: int, queries: int = 1) -> int:
        """One pass in which every request computes so many consecutive tokens."""
        if queries not in self._verifying:
            self._verifying[queries] = self._cost.verifying(queries)
        mean = context_sum // decodes
        return self._verifying[queries].stages[0].piece((), decodes, context_sum, mean, mean)[0]

    def prefill(self, chunks: Sequence[Chunk]) -> int:
        """The same prompts through the drafter, where it has a cache of its own."""
        own = self._cost.stages[0].piece(chunks, 0, 0, 0, 0)[0] if chunks else 0
        return own + (self._inner.prefill(chunks) if self._inner else 0)

    def round(self, requests: Sequence[R], context_sum: int, tokens: int, accepted: Accepted[R]) -> int:
        """Draft `tokens` tokens for each of `requests`, whose contexts have this sum."""
        if not tokens:
            return 0
        if self._speculation is None:
            return sum(self.decode(len(requests), context_sum + i * len(requests)) for i in range(tokens))
        speculation, ticks = self._speculation, 0
        drafted = dict.fromkeys(range(len(requests)), 0)
        mean = context_sum // len(requests)
        while drafted:
            contexts = sum(mean + done for done in drafted.values())
            going = [requests[i] for i in drafted]
            if self._inner:
                ticks += self._inner.round(going, contexts, speculation.tokens, accepted)
            ticks += self.decode(len(going), contexts, 1 + speculation.tokens)
            more = {i: done + 1 + accepted(requests[i], speculation) for i, done in drafted.items()}
            drafted = {i: done for i, done in more.items() if done < tokens}
        return ticks


def _card(draft: Draft, target: ModelCard) -> ModelCard:
    """The model that drafts: the target's last layers where it is cut to some."""
    card = find_model(draft.model) if draft.model else target
    if draft.layers is None or draft.layers >= card.layers:
        return card
    order = card.order[-draft.layers :]
    return replace(card, order=order, groups=tuple(replace(g, count=order.count(i)) for i, g in enumerate(card.groups)))


def _parallel(draft: Draft, parallel: Parallelism) -> Parallelism:
    return Parallelism(draft.tensor_parallel_size or parallel.tensor_parallel_size) if draft.model else parallel


def make_drafter(
    draft: Draft, source: str, target: ModelCard, hardware: HardwareCard, parallel: Parallelism, kv_cache_dtype: str,
    launch: Launch,
) -> Drafter:  # fmt: skip
    """The drafter of a target whose step times come from `source`; another model's come from the roofline.

    Raises InputError for a model that is not known, or does not fit.
    """
    card = _card(draft, target)
    if card.vocab_size != target.vocab_size:
        found = f"{draft.model} with a vocabulary of {card.vocab_size}, and {target.name} has {target.vocab_size}"
        raise InputError("techniques.speculation.draft.model", found, "a model with the target's tokens")
    cost = cost_model(
        ROOFLINE if draft.model else source, card, hardware, _parallel(draft, parallel),
        kv_cache_dtype=kv_cache_dtype, host=HostOverhead(), launch=launch.kernels_alone(),
        techniques=Techniques(kv=draft.compression),
    )  # fmt: skip
    speculation, inner = draft.speculation, None
    if speculation and speculation.draft:
        inner = make_drafter(speculation.draft, source, target, hardware, parallel, kv_cache_dtype, launch)
    return Drafter(cost, speculation, inner)


def draft_memory(
    draft: Draft, target: ModelCard, parallel: Parallelism, kv_cache_dtype: str
) -> tuple[float, float, float]:
    """Bytes on one rank: (weights, a token of a request, a request besides).

    A target cut to some layers has those once more, without embedding and head; one with a smaller cache has that one.
    """
    card, techniques = _card(draft, target), Techniques(kv=draft.compression)
    stage = stage_operators(card, _parallel(draft, parallel), 0, kv_cache_dtype)
    shape = kv_shape(with_techniques(stage, card, techniques))
    weights = weight_bytes(stage) if draft.model else 0.0
    if draft.layers and not draft.model:
        weights = weight_bytes(replace(stage, tokens=(), sequences=()))
    own_cache = draft.model is not None or draft.layers is not None or shape.outgrown is not None
    total = (weights, *_cache(shape)) if own_cache else (weights, 0.0, 0.0)
    inner = draft.speculation.draft if draft.speculation else None
    if inner is None:
        return total
    more = draft_memory(inner, target, parallel, kv_cache_dtype)
    return total[0] + more[0], total[1] + more[1], total[2] + more[2]


def _cache(shape: KVShape) -> tuple[float, float]:
    """Bytes of a token, and of a request besides."""
    if shape.outgrown is None:
        return shape.token_bytes, shape.constant_bytes
    return 0.0, shape.request_bytes(shape.outgrown)
