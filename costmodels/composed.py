"""A cost model of one replica from the times of its operators, wherever those come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property
from typing import Self

from ..configs.device import HardwareCard
from ..configs.model import ModelCard, Parallelism, check_parallel
from ..configs.techniques import NONE, Techniques
from .base import StageCost, ticks
from .collectives import point_to_point, ranks_of
from .energy import Energy, Slowed, busy_watts
from .host import HostOverhead
from .launch import Launch, fed
from .layout import laid_out, tabled
from .operators import OperatorTimes, StageOperators
from .shapes import stage_operators
from .skipping import SkippingStage
from .stage import Stage
from .techniques import fewer_layers, with_techniques


class ComposedCost:
    """A `CostModel`: stages compiled from operators, hops between them, and host time.

    With `data_parallel_size` > 1 (experts shared by data-parallel ranks in lockstep) every rank is taken to run a batch
    as large as the one asked about.
    """

    extremes = False  # contexts count by their sum

    @cached_property
    def meters(self) -> Mapping[str, Sequence[StageCost]]:
        """Nothing besides time, but for what a locked clock adds to it."""
        return self._slowed()

    def __init__(
        self,
        model: ModelCard,
        hardware: HardwareCard,
        parallel: Parallelism,
        times: OperatorTimes,
        *,
        label: str,
        kv_cache_dtype: str,
        host: HostOverhead,
        launch: Launch | None = None,
        techniques: Techniques = NONE,
    ) -> None:
        check_parallel(model, parallel)
        self.model, self.hardware, self.parallel, self.label = model, hardware, parallel, label
        self.times, self._kv_cache_dtype, self.techniques = times, kv_cache_dtype, techniques
        self.host_overhead, self.launch = host, launch or Launch()
        self._host_ticks: dict[int, int] = {}
        self._hop_ticks: dict[int, int] = {}
        stages = range(parallel.pipeline_parallel_size)
        plain = [stage_operators(model, parallel, stage, kv_cache_dtype) for stage in stages]
        self.operators = [with_techniques(stage, model, techniques) for stage in plain]
        self.stages: Sequence[StageCost] = self._fed()

    def _fed(self) -> Sequence[StageCost]:
        plain = zip(self.compiled(self.times), self.operators, strict=True)
        stages = [fed(stage, operators.launches, self.launch, self.host_overhead) for stage, operators in plain]
        return [tabled(stages[0], self.techniques), *stages[1:]]

    def compiled(self, times: OperatorTimes) -> Sequence[StageCost]:
        """The stages with these times, or with another quantity in the place of time; what the host adds left out."""
        stages = (self._stage(operators, times) for operators in self.operators)
        return tuple(laid_out(stage, self.techniques) for stage in stages)

    def _stage(self, operators: StageOperators, times: OperatorTimes) -> Stage:
        executed, launch = self.techniques.layers, self._launch_of(times)
        if executed is None or executed.kv == "absent":  # the others are not there at all
            return Stage(operators, times, launch)
        if executed.prompts:
            return Stage(fewer_layers(operators, executed.share), times, launch)
        return SkippingStage(operators, times, launch, executed)

    def _launch_of(self, times: OperatorTimes) -> Launch:
        return self.launch if times is self.times else self.launch.kernels_alone()

    def with_launch(self, launch: Launch, host: HostOverhead) -> Self:
        """The same operator times with other waits and other host time."""
        other = copy(self)
        other.launch, other.host_overhead, other._host_ticks = launch, host, {}
        for derived in ("energy", "fallback", "meters"):
            other.__dict__.pop(derived, None)
        other.stages = other._fed()
        return other

    def verifying(self, queries: int) -> Self:
        """The same where every decoding request computes so many consecutive tokens. Its pieces hold for one iteration:
        nobody knows how many of them will count."""
        other = copy(self)
        for derived in ("energy", "fallback", "meters"):
            other.__dict__.pop(derived, None)
        other.operators = [
            replace(
                stage, layers=tuple(replace(g, attention=replace(g.attention, queries=queries)) for g in stage.layers)
            )
            for stage in self.operators
        ]
        other.stages = other._fed()
        return other

    @cached_property
    def energy(self) -> Sequence[StageCost] | None:
        """Stages whose pieces are units of 2**-36 joules of one rank, or None where the hardware's power is unknown.
        Multiply by the ranks of a stage; a waiting device draws `energy.idle_watts`."""
        watts = busy_watts(self.hardware)
        return None if watts is None else self.compiled(self._joules(watts))

    def _joules(self, watts: float) -> OperatorTimes:
        """watts : of kernels bound by memory."""
        return Energy(self.times, watts)

    def _slowed(self) -> dict[str, Sequence[StageCost]]:
        """Stages whose pieces are the ticks that a locked clock adds to kernels."""
        locked = self.hardware.gpu_clock_mhz is not None
        return {"slowed": self.compiled(Slowed(self.times, self.unlocked()))} if locked else {}

    def unlocked(self) -> OperatorTimes:
        """The times of the same operators on a device whose clock is not locked."""
        raise NotImplementedError

    def hop(self, tokens: int) -> int:
        """Ticks to hand `tokens` tokens to the next stage, as vLLM does it: hidden state and residual, each of the
        tensor-parallel ranks sending its part over its own link, then an all-gather among the receivers. One link
        stands for all hops: the network where the replica does not fit into a node."""
        known = self._hop_ticks.get(tokens)
        if known is None:
            known = self._hop_ticks[tokens] = self._hop(tokens)
        return known

    def _hop(self, tokens: int) -> int:
        tp = self.parallel.tensor_parallel_size
        link = self.hardware.between(tp * self.parallel.pipeline_parallel_size)
        size = 2.0 * tokens * self.model.hidden_size * self.model.dtype_bytes
        seconds = point_to_point(link, size / tp, self.hardware.achieved.link)
        if tp > 1:
            seconds += ranks_of(self.hardware, tp).all_gather(size)
        return ticks(seconds)

    def host(self, sequences: int) -> int:
        """Ticks of host time an iteration with `sequences` requests adds."""
        known = self._host_ticks.get(sequences)
        if known is None:
            known = self._host_ticks[sequences] = self.host_overhead.added(sequences)
        return known

    def describe(self) -> dict[str, object]:
        """Provenance and parameters, for the report."""
        clock = self.hardware.gpu_clock_mhz
        used = {} if self.techniques == NONE else {"techniques": asdict(self.techniques.resolved())}
        return {
            "label": self.label,
            "model": self.model.name,
            "hardware": self.hardware.name,
            "hardware_source": self.hardware.source,
            **({} if clock is None else {"gpu_clock_mhz": clock}),
            "parallel": asdict(self.parallel),
            "kv_cache_dtype": self._kv_cache_dtype,
            "host": asdict(self.host_overhead),
            "launch": asdict(self.launch),
            **used,
            **self.times.describe(self.operators),
        }
