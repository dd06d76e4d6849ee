"""The cost model of measured tables: seconds, joules, and what share of the seconds was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from ..configs.device import HardwareCard
from ..configs.model import ModelCard, Parallelism
from ..configs.techniques import NONE, Techniques
from .base import StageCost
from .clocked import ClockedTables
from .composed import ComposedCost
from .curve import Curve
from .energy import Energy
from .host import HostOverhead
from .launch import Launch
from .layout import laid_out
from .measured import FALLBACK, ORIGINS, TableTimes
from .mixed import MixedStage
from .operators import AttentionCall, Collective, OperatorTimes, RowOperator, StageOperators, Timing
from .roofline import RooflineTimes
from .skipping import SkippingStage
from .table import TableSet

ROUTING = "power_law_1.01"  # nearest to what trained routers do with a batch, between uniform choice and a heavier tail
_NOTHING = Curve.line(0.0, 0.0)
_NONE = (0.0, 0.0)


class MeasuredCost(ComposedCost):
    """Step times from a table set, labelled "measured"; what the set does not cover comes from the roofline.

    routing : the skew of expert routing that the MoE tables are read at.

    Raises InputError where the set holds whole layers of another model.
    """

    times: TableTimes

    def __init__(
        self, tables: TableSet, model: ModelCard, hardware: HardwareCard, parallel: Parallelism, *,
        kv_cache_dtype: str = "auto", host: HostOverhead | None = None, launch: Launch | None = None,
        routing: str = ROUTING, techniques: Techniques = NONE,
    ) -> None:  # fmt: skip
        times: TableTimes
        if hardware.gpu_clock_mhz is None:
            behind, label = RooflineTimes(hardware), "measured"
            times = TableTimes(tables, model, parallel, behind, routing=routing, gpus_per_node=hardware.gpus_per_node)
        else:
            times = ClockedTables(tables, model, parallel, hardware, routing=routing)
            label = f"measured, scaled to {hardware.gpu_clock_mhz} MHz"
        self.extremes = times.uneven is not None
        super().__init__(
            model, hardware, parallel, times, label=label, kv_cache_dtype=kv_cache_dtype,
            host=host or HostOverhead(), launch=launch, techniques=techniques,
        )  # fmt: skip

    def compiled(self, times: OperatorTimes) -> Sequence[StageCost]:
        """As `ComposedCost.compiled`; a stage whose whole attention was measured in mixed calls is priced by them."""
        plain = super().compiled(times)
        if not isinstance(times, TableTimes) or any(isinstance(stage, SkippingStage) for stage in plain):
            return plain
        stages = list(plain)
        for i, operators in enumerate(self.operators):
            grids = [times.mixed(group.attention) for group in operators.layers]
            found = [grid for grid in grids if grid is not None]
            if grids and len(found) == len(grids):
                mixed = MixedStage(operators, times, self._launch_of(times), found, times.uneven)
                stages[i] = laid_out(mixed, self.techniques)
        return tuple(stages)

    def _joules(self, watts: float) -> OperatorTimes:
        return self.times.joules(watts, Energy(self.times.behind, watts))

    @cached_property
    def meters(self) -> Mapping[str, Sequence[StageCost]]:
        """Stages whose pieces are the operators' ticks by origin ("measured", "derived", "fallback"), and 2**-36 joules
        of one rank ("energy") where power was measured."""
        origins = self.times.origins(self.operators).values()
        meters = {o: self.compiled(Only(self.times, o)) for o in ORIGINS if o in origins}
        if self.times.tables.has_power and self.energy is not None:
            meters["energy"] = self.energy
        return {**meters, **self._slowed()}

    def unlocked(self) -> TableTimes:
        """See `ComposedCost.unlocked`."""
        return self.times.free if isinstance(self.times, ClockedTables) else self.times

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "fallback_share": self.fallback_share()}

    def fallen_back(self) -> list[str]:
        """Names of the operators that the tables do not cover."""
        return sorted(name for name, origin in self.times.origins(self.operators).items() if origin == FALLBACK)

    def fallback_share(
        self, batches: Sequence[tuple[int, int, int]] = ((0, 1, 1024), (0, 64, 1024), (2048, 0, 0))
    ) -> dict[str, dict[str, float]]:
        """What share of the time each operator outside the tables has, in batches (prompt tokens, decodes, context)."""
        stages = {name: self.compiled(Only(self.times, FALLBACK, name)) for name in self.fallen_back()}
        everything = self.compiled(self.times)
        shares: dict[str, dict[str, float]] = {}
        for tokens, decodes, context in batches:
            chunks = ((tokens, 0),) if tokens else ()
            batch = (chunks, decodes, decodes * context, context, context)
            whole = sum(stage.piece(*batch)[0] for stage in everything)
            parts = {name: sum(stage.piece(*batch)[0] for stage in of) / whole for name, of in stages.items()}
            label = f"prefill of {tokens}" if tokens else f"{decodes} decodes at {context}"
            shares[label] = {name: round(share, 4) for name, share in parts.items() if share}
        return shares


class Only:
    """Seconds of the operators whose time has one origin, or of the one of them called `name`; the rest takes none."""

    def __init__(self, times: TableTimes, origin: str, name: str | None = None) -> None:
        self._times, self._origin, self._name = times, origin, name

    def rows(self, operator: RowOperator, rows: int) -> Timing:
        counts = self._counts(operator.name, self._times.origin(operator))
        return self._times.rows(operator, rows) if counts else _NONE

    def collective(self, operator: Collective, rows: int) -> Timing:
        counts = self._counts(operator.name, self._times.origin(operator))
        return self._times.collective(operator, rows) if counts else _NONE

    def attention(self, operator: AttentionCall) -> Timing:
        return self._times.attention(operator) if self._decodes(operator) else _NONE

    def decode(self, operator: AttentionCall, decodes: int) -> Curve:
        return self._times.decode(operator, decodes) if self._decodes(operator) else _NOTHING

    def prefill(self, operator: AttentionCall, tokens: int) -> Curve:
        return self._times.prefill(operator, tokens) if self._prompts(operator) else _NOTHING

    def together(self, operator: AttentionCall, parts: int, tokens: int) -> Timing:
        return self._times.together(operator, parts, tokens) if self._prompts(operator) else _NONE

    def describe(self, operators: Sequence[StageOperators]) -> dict[str, object]:
        return self._times.describe(operators)

    def _decodes(self, operator: AttentionCall) -> bool:
        return self._counts("decode_attention", self._times.decode_origin(operator))

    def _prompts(self, operator: AttentionCall) -> bool:
        return self._counts("prefill_attention", self._times.prefill_origin(operator))

    def _counts(self, name: str, origin: str) -> bool:
        return origin == self._origin and self._name in (None, name)
