"""The analytic cost model: every operator takes the longer of its arithmetic and its memory traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..configs.device import HardwareCard
from ..configs.model import Attention, ModelCard, Parallelism
from ..configs.techniques import NONE, Techniques
from .attention import Work, decode_work, prefill_work
from .collectives import collective_seconds
from .composed import ComposedCost
from .compressed import compressed_decode, compressed_prefill
from .curve import Curve, greater, total
from .host import HostOverhead
from .launch import Launch
from .operators import AttentionCall, Collective, ExpertFetch, Gemm, Move, RowOperator, StageOperators, Timing
from .sharing import level_works, suffix_work


class RooflineTimes:
    """Seconds of operators from a hardware card: max(operations / rate, bytes / bandwidth) + a fixed part a kernel.

    Rates and bandwidth are the data sheet's times the card's achieved shares. Operators run one after another, and
    communication is not hidden behind computation.
    """

    def __init__(self, hardware: HardwareCard) -> None:
        self.hardware = hardware
        self._bandwidth = hardware.memory_bandwidth * hardware.achieved.memory

    def rows(self, operator: RowOperator, rows: int) -> Timing:
        if isinstance(operator, ExpertFetch):
            return self._fetch(operator, rows), 0.0
        moved = operator.bytes(rows) / self._bandwidth
        if isinstance(operator, Move):
            return moved + self.hardware.achieved.kernel_seconds, 0.0
        rate = self.hardware.rate(operator.format.compute)
        kernels = 1 if isinstance(operator, Gemm) else 2  # experts: up (and gate), then down
        return max(operator.flops(rows) / rate, moved) + kernels * self.hardware.achieved.kernel_seconds, 0.0

    def _fetch(self, operator: ExpertFetch, rows: int) -> float:
        """What is not hidden behind the experts' own time: whatever was not predicted, and what takes longer."""
        seconds = operator.bytes(rows) / (self.hardware.host.bandwidth * self.hardware.achieved.link)
        ahead = operator.predicted * seconds
        meanwhile = sum(self.rows(other, rows)[0] for other in (operator.experts, *operator.beside))
        return seconds - ahead + max(0.0, ahead - meanwhile)

    def collective(self, operator: Collective, rows: int) -> Timing:
        return collective_seconds(self.hardware, operator, rows), 0.0

    def attention(self, operator: AttentionCall) -> Timing:
        return self.hardware.achieved.attention_seconds, 0.0

    def decode(self, operator: AttentionCall, decodes: int) -> Curve:
        mixer = operator.mixer
        if operator.kv and isinstance(mixer, Attention):
            return self._roof(operator, compressed_decode(operator, operator.kv, mixer, decodes))
        if operator.shared and isinstance(mixer, Attention):
            works = [suffix_work(operator, decodes), *level_works(operator, mixer, decodes)]
            launches = Curve.line(len(operator.shared) * self.hardware.achieved.attention_seconds, 0)
            return total([*(self._roof(operator, work) for work in works), launches])
        return self._roof(operator, decode_work(operator, decodes))

    def prefill(self, operator: AttentionCall, tokens: int) -> Curve:
        mixer = operator.mixer
        if operator.kv and isinstance(mixer, Attention):
            return self._roof(operator, compressed_prefill(operator, operator.kv, mixer, tokens))
        return self._roof(operator, prefill_work(operator, tokens))

    def together(self, operator: AttentionCall, parts: int, tokens: int) -> Timing:
        return 0.0, 0.0

    def describe(self, operators: Sequence[StageOperators]) -> dict[str, object]:
        return {"achieved": asdict(self.hardware.achieved)}

    def _roof(self, operator: AttentionCall, work: Work) -> Curve:
        rate = self.hardware.peak(operator.compute) * self.hardware.achieved.attention
        curve = greater(work.flops.times(1 / rate), work.bytes.times(1 / self._bandwidth))
        if operator.kv and operator.kv.bits is not None:
            curve = greater(curve, work.unpacking.times(1 / self.hardware.peak("fp32")))
        if operator.kv and operator.kv.tier == "host":  # what is fetched is known only when the index has been read
            link = self.hardware.host
            fetching = work.fetched.times(1 / (link.bandwidth * self.hardware.achieved.link))
            curve = total([curve, fetching, Curve.line(link.latency, 0)])
        return curve


class Roofline(ComposedCost):
    """The cost model that always works, from data sheets alone; everything it says is labelled "estimated"."""

    def __init__(
        self,
        model: ModelCard,
        hardware: HardwareCard,
        *,
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        data_parallel_size: int = 1,
        enable_expert_parallel: bool = False,
        kv_cache_dtype: str = "auto",
        host: HostOverhead | None = None,
        launch: Launch | None = None,
        techniques: Techniques = NONE,
    ) -> None:
        parallel = Parallelism(tensor_parallel_size, pipeline_parallel_size, data_parallel_size, enable_expert_parallel)
        super().__init__(
            model,
            hardware,
            parallel,
            RooflineTimes(hardware),
            label="estimated" if hardware.gpu_clock_mhz is None else f"estimated, at {hardware.gpu_clock_mhz} MHz",
            kv_cache_dtype=kv_cache_dtype,
            host=host or HostOverhead(),
            launch=launch,
            techniques=techniques,
        )

    def unlocked(self) -> RooflineTimes:
        """See `ComposedCost.unlocked`."""
        return RooflineTimes(self.hardware.unlocked())
