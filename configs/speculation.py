"""Speculative decoding as data: how much is drafted, by what, and how much of it is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from .compression import KVCompression, find_compression
from .strict import check

Acceptance = float | tuple[float, ...] | dict[str, float]


@dataclass(frozen=True)
class Draft:
    """What drafts: a model beside the target, or the target itself with fewer layers or a smaller cache.

    model : a model card; None: the target. tensor_parallel_size : of that model; None: as the target.
    layers : so many layers only, with weights of their own (multi-token prediction has one, with the target's head).
    kv : what drafting keeps of the KV cache (a preset's name, or figures).
    speculation : the drafter drafts in its turn, by something smaller.
    """

    model: str | None = None
    tensor_parallel_size: int | None = None
    layers: int | None = None
    kv: str | KVCompression | None = None
    speculation: Speculation | None = None

    def __post_init__(self) -> None:
        for key in ("layers", "tensor_parallel_size"):
            check(getattr(self, key) is None or getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        if self.model is self.layers is self.kv is None:
            found = "the target itself, whole"
            raise InputError("model", found, "`model`, `layers` or `kv`: something that is faster than the target")

    @property
    def compression(self) -> KVCompression | None:
        """The figures of `kv`. Raises InputError for an unknown name."""
        where = "techniques.speculation.draft.kv"
        return find_compression(self.kv, where) if isinstance(self.kv, str) else self.kv


@dataclass(frozen=True)
class Speculation:
    """Drafted tokens verified by one pass of the target (Leviathan et al., 2023): of `tokens` drafted ones the first
    few are accepted, and the pass adds one of its own.

    acceptance : probability that a drafted token is accepted where all before it were: one, one a position, or one a
        class of requests (the trace's request_class; "default" for all others).
    draft : None: drafting takes no time (n-grams, looked up).
    ragged : what requests of different lengths cost: nothing with a paged cache; all keys and values moved to be equal
        again ("realign", EQSPEC); or not where enough of equal length run by themselves ("group", EXSPEC).
    group_size : with "group", requests that run in a step, chosen from all that decode.
    """

    tokens: int
    acceptance: Acceptance
    draft: Draft | None = None
    ragged: Literal["paged", "realign", "group"] = "paged"
    group_size: int = 8

    def __post_init__(self) -> None:
        check(1 <= self.tokens <= 64, "tokens", self.tokens, "1 to 64 drafted tokens")
        check(self.group_size >= 1, "group_size", self.group_size, "at least 1")
        given = self.acceptance
        listed = isinstance(given, tuple)
        if isinstance(given, tuple):
            check(len(given) == self.tokens, "acceptance", list(given), f"one for each of {self.tokens} tokens")
        values = given.values() if isinstance(given, dict) else given if isinstance(given, tuple) else (given,)
        for value in values:
            check(0 <= value <= 1, "acceptance", list(values) if listed else value, "probabilities from 0 to 1")

    def expected(self, acceptance: float) -> float:
        """Tokens a pass gives on average where each drafted one is accepted with this probability."""
        if acceptance == 1:
            return self.tokens + 1.0
        return (1 - acceptance ** (self.tokens + 1)) / (1 - acceptance)
