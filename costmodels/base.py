"""What every cost model offers: the time of one iteration as an exact piece of integer ticks.

The clock of `sim/` counts ticks of 2**-36 s, so a leap over k iterations and k single steps must land on the same
integer. A cost model therefore rounds once, when it builds a piece, and keeps this law (`check_piece` tests it):

    base, slope, valid, outside = stage.piece(chunks, decodes, context_sum, context_min, context_max)

for every j < valid, the piece of the composition j iterations later (every decode context + j, every chunk's
context + j x its tokens) has the base `base + j * slope`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

TICKS_PER_SECOND = 1 << 36
FOREVER = 1 << 62  # more iterations, or ticks, than any run has

Chunk = tuple[int, int]  # (tokens of the prompt computed now, tokens of it already in the KV cache)
Piece = tuple[int, int, int, int]  # base ticks, ticks added an iteration, iterations it holds, ticks not measured


def ticks(seconds: float) -> int:
    """Seconds as the nearest whole number of ticks."""
    return round(seconds * TICKS_PER_SECOND)


def seconds(ticks_: int) -> float:
    """Ticks as seconds."""
    return ticks_ / TICKS_PER_SECOND


class StageCost(Protocol):
    """The accelerator time of one batch on one pipeline stage."""

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """The cost of an iteration that computes `chunks` and one token for each of `decodes` requests.

        chunks : (tokens, context) of every prompt part in the batch; context = tokens of it already in the KV cache.
        decodes, context_sum, context_min, context_max : number of decoding requests, and the sum, least and greatest
            of their contexts, a context being the tokens in the KV cache before this iteration writes one more.
            The extremes are only right where the model's `extremes` is true, else 0.

        Returns (base, slope, valid, outside): ticks of this iteration; ticks that each further iteration of the same
        requests adds; for how many iterations that is exact (>= 1, `FOREVER` when always); and the part of `base`
        that rests on look-ups outside what was measured.
        """
        ...


class CostModel(Protocol):
    """Times of one replica: a model on its tensor- and pipeline-parallel accelerators."""

    stages: Sequence[StageCost]  # one a pipeline stage, first to last
    extremes: bool  # whether `piece` looks at context_min and context_max
    label: str  # "estimated", "measured" or what a report should call it

    @property
    def meters(self) -> Mapping[str, Sequence[StageCost]]:
        """Further stages whose pieces are summed up along with the time: parts of it by origin ("measured", ...), what
        a locked clock adds to it ("slowed"), and 2**-36 joules of a rank ("energy")."""
        ...

    def hop(self, tokens: int) -> int:
        """Ticks to hand the activations of `tokens` tokens to the next pipeline stage."""
        ...

    def host(self, sequences: int) -> int:
        """Ticks of host time an iteration with `sequences` requests needs on top of the accelerator's."""
        ...

    def describe(self) -> dict[str, object]:
        """Provenance and parameters, for the report."""
        ...


def prompt_seconds(cost: CostModel, tokens: int, context: int) -> float:
    """Time of an iteration that computes `tokens` tokens of a prompt after `context` cached ones, and nothing else."""
    pieces = sum(stage.piece(((tokens, context),), 0, 0, 0, 0)[0] for stage in cost.stages)
    return (pieces + cost.host(1)) / TICKS_PER_SECOND


def check_piece(stage: StageCost, chunks: Sequence[Chunk], contexts: Sequence[int], iterations: int) -> None:
    """Assert the law of this module for one composition; for tests of cost models."""
    contexts = list(contexts)
    base, slope, valid, _ = stage.piece(
        chunks, len(contexts), sum(contexts), min(contexts, default=0), max(contexts, default=0)
    )
    assert base > 0 and valid >= 1, (base, valid)
    for j in range(1, min(valid, iterations)):
        later = [c + j for c in contexts]
        moved = [(tokens, context + j * tokens) for tokens, context in chunks]
        now, *_ = stage.piece(moved, len(later), sum(later), min(later, default=0), max(later, default=0))
        assert now == base + j * slope, f"iteration {j}: {now}, promised {base + j * slope}"
