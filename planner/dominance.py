"""Which kinds of replicas are at least as good as which: what a fleet misses with the one, it misses with the other.

Two kinds compare where a plan gives them the same roles, settings and limits, so that their schedulers make the same
decisions. One is at least as good where no iteration takes longer, on a grid of iterations of all sorts, its KV cache
has at least as much room, and its links are no slower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..sim.deployment import Deployment

Better = Mapping[str, frozenset[str]]  # by kind, itself and those that are at least as good

_PROMPTS = ((16, 0), (256, 0), (2048, 0), (256, 8192))  # tokens of a chunk, and of its context
_DECODES = ((1 / 256, 512), (1 / 16, 512), (1, 512), (1 / 4, 4096))  # share of the slots, and tokens of a context


@dataclass(frozen=True)
class Pace:
    """settings : what must be equal. ticks : of each iteration of the grid on each pipeline stage.

    attention : time of a prompt token for each token of its context, as a share of its other time.
    """

    settings: str
    ticks: tuple[int, ...]
    attention: float


def pace(deployment: Deployment) -> Pace:
    """The pace of a replica."""
    limits, cost = deployment.limits, deployment.cost
    bare = replace(
        deployment.pool,
        name="",
        hardware="",
        tensor_parallel_size=1,
        price_per_hour=None,
        cost=None,
        gpu_clock_mhz=None,
    )
    bare = replace(bare, max_num_seqs=limits.max_num_seqs, max_num_batched_tokens=limits.max_num_batched_tokens)
    settings = repr((bare, limits.block_size, deployment.preset.name, deployment.prefix_caching))
    ticks: list[int] = []
    for stage in cost.stages:
        for tokens, context in _PROMPTS:
            chunk = ((min(tokens, limits.max_num_batched_tokens), context),)
            ticks.append(stage.piece(chunk, 0, 0, 0, 0)[0])
        for share, context in _DECODES:
            n = max(1, round(share * limits.max_num_seqs))
            ticks.append(stage.piece((), n, n * context, context, context)[0])
    (_, _), (few, _), (many, _), (_, context) = _PROMPTS
    many = min(many, limits.max_num_batched_tokens)
    each = (ticks[3] - ticks[1]) / (min(few, many) * context)
    return Pace(settings, tuple(ticks), each / max(ticks[2] / many - each * many / 2, each))


def better_of(paces: Mapping[str, tuple[Pace, Sequence[float]]]) -> Better:
    """By kind of replica, which are at least as good. paces : each with its figures of which more is better."""
    return {
        name: frozenset(other for other, theirs in paces.items() if _as_good(*theirs, *own))
        for name, own in paces.items()
    }


def _as_good(one: Pace, its: Sequence[float], other: Pace, others: Sequence[float]) -> bool:
    return (
        one.settings == other.settings
        and all(a <= b for a, b in zip(one.ticks, other.ticks, strict=True))
        and all(a >= b for a, b in zip(its, others, strict=True))
    )
