"""What the host adds to an iteration, measured in the real engine from the start of one iteration to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ..configs.model import Parallelism
from ..configs.plan import Plan
from ..costmodels.base import seconds
from ..costmodels.shapes import stage_operators
from ..real_backend.batch import Row, make_batch
from ..real_backend.clocks import CpuClock, WallClock
from ..real_backend.engine import RealEngine
from ..real_backend.graphs import DecodeGraphs
from ..real_backend.model import Model
from ..real_backend.serve import servable
from ..sim.core import Request
from ..sim.run import run
from ..traces.table import RequestTable

_PROMPT, _ANSWER = 16, 40  # tokens
CONTEXT = _PROMPT + _ANSWER // 2  # of a decode, on average
_EAGER_PASSES = 20


@dataclass(frozen=True)
class Pace:
    """Iterations of so many decodes: median seconds from start to start, and those of the device in them."""

    decodes: int
    iteration: float
    device: float

    @property
    def host(self) -> float:
        return self.iteration - self.device


def paces(model: Model, plan: Plan, decodes: Sequence[int], graphs: DecodeGraphs | None = None) -> list[Pace]:
    """Serve so many requests at once, for each of `decodes`, and look at the iterations that hold all of them."""
    found = []
    for count in decodes:
        table = RequestTable(np.zeros(count), np.full(count, _PROMPT), np.full(count, _ANSWER))
        engines: list[RealEngine] = []

        def engine(*arguments: Any, engines: list[RealEngine] = engines, **keywords: Any) -> RealEngine:
            engines.append(RealEngine(*arguments, model=model, prompt=_prompt, graphs=graphs, **keywords))
            return engines[0]

        run(table, servable(plan), engine=engine, env=WallClock() if model.device.type == "cuda" else CpuClock())
        full = [
            (seconds(ticks), seconds(device))
            for (_, ticks, decoding, prompt), device in zip(engines[0].iterations, engines[0].device, strict=True)
            if decoding == count and not prompt
        ]
        found.append(Pace(count, median(t for t, _ in full), median(d for _, d in full)))
    return found


def _prompt(request: Request) -> list[int]:
    return [0] * request.prompt_tokens


def fitted(measured: Sequence[Pace]) -> tuple[float, float]:
    """(seconds an iteration, seconds a sequence) of host time: the least squares line, neither below 0."""
    if len(measured) == 1:
        return max(0.0, measured[0].host), 0.0
    slope, constant = np.polyfit([p.decodes for p in measured], [p.host for p in measured], 1).tolist()
    if slope < 0:
        return max(0.0, median(p.host for p in measured)), 0.0
    return max(0.0, constant), slope


def launch_seconds(model: Model) -> float:
    """Host seconds to launch the operators of one eager forward pass, an operator; 0 where calls wait for the work."""
    if model.device.type != "cuda":
        return 0.0
    batch = make_batch([], [Row([0], 0, [0])], model.shape())
    times = []
    for _ in range(_EAGER_PASSES):
        torch.cuda.synchronize()
        began = perf_counter()
        model.next_tokens(batch)
        times.append(perf_counter() - began)
    return median(times) / operators_of(model)


def operators_of(model: Model) -> int:
    """Operators of one forward pass as the cost model launches them: those by rows and one attention a layer, and
    embedding, last norm, head and sampler."""
    stage = stage_operators(model.card, Parallelism(), 0)
    return sum(group.count * (len(group.rows) + 1) for group in stage.layers) + len(stage.tokens) + len(stage.sequences)
