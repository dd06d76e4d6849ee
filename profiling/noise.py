"""What small errors of step times do to each request: the same run with every iteration a little longer or shorter.

A run near a limit (KV blocks, slots) can be chaotic: an iteration that ends a millisecond later admits other requests.
The spread between runs that differ by noise alone bounds what a prediction of single requests can reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..configs.strict import check
from ..costmodels.base import Chunk, CostModel, Piece, StageCost
from ..sim.deploy import deploy
from ..sim.run import run
from ..traces.columns import Floats
from .recorded.run import METRICS, RecordedRun
from .validate import simulated_seconds

_MASK = (1 << 64) - 1


class NoisyStage:
    """A stage whose iterations each take up to `noise` of their time more or less, by a hash of what they compute."""

    def __init__(self, stage: StageCost, noise: float, seed: int) -> None:
        self._stage, self._noise, self._seed = stage, noise, seed

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """See `StageCost.piece`; it holds for one iteration."""
        base, _, _, outside = self._stage.piece(chunks, decodes, context_sum, context_min, context_max)
        key = self._seed
        for part in (decodes, context_sum, *(number for chunk in chunks for number in chunk)):
            key = _mixed(key ^ part)
        return max(1, base + round(base * self._noise * (key / 2**63 - 1))), 0, 1, outside


class NoisyCost:
    """A cost model with noise on its iterations."""

    def __init__(self, cost: CostModel, noise: float, seed: int) -> None:
        self._cost = cost
        self.stages: Sequence[StageCost] = [NoisyStage(stage, noise, seed) for stage in cost.stages]
        self.extremes, self.label, self.meters = cost.extremes, cost.label, cost.meters
        self.hop, self.host = cost.hop, cost.host

    def describe(self) -> dict[str, object]:
        """As the cost model."""
        return self._cost.describe()


def _mixed(x: int) -> int:
    """The finaliser of SplitMix64: every bit of x moves half of the result's (Steele, Lea, Flood 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def spread(recorded: RecordedRun, plain: Mapping[str, Floats], noise: float, seeds: int) -> dict[str, Any]:
    """How far single requests move when every iteration's time is off by up to +-`noise`: by metric, the mean and the
    90th percentile over requests and `seeds` runs of |noisy / plain - 1|.

    plain : seconds of the run without noise. Raises InputError for noise outside 0 to 1 or no seed.
    """
    check(0 < noise < 1, "--noise", noise, "a share above 0 and below 1")
    check(seeds >= 1, "--seeds", seeds, "at least 1")
    deployments = deploy(recorded.plan)
    moved: dict[str, list[Floats]] = {metric: [] for metric in METRICS}
    for seed in range(seeds):
        noisy = [dataclasses.replace(d, cost=NoisyCost(d.cost, noise, seed)) for d in deployments]
        simulated = run(recorded.table, recorded.plan, users=recorded.users, deployments=noisy)
        for metric, seconds in simulated_seconds(simulated).items():
            both = np.isfinite(seconds) & np.isfinite(plain[metric]) & (plain[metric] > 0)
            moved[metric].append(np.abs(seconds[both] / plain[metric][both] - 1))
    result: dict[str, Any] = {"noise": noise, "seeds": seeds}
    for metric, parts in moved.items():
        off = np.concatenate(parts)
        if len(off):
            result[metric] = {"mean_abs": float(off.mean()), "p90_abs": float(np.percentile(off, 90))}
    return result
