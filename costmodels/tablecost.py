"""The cost model of measured tables: seconds, joules, and the seconds that fall back to the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ..configs.device import HardwareCard
from ..configs.model import ModelCard, Parallelism
from .base import StageCost
from .composed import ComposedCost
from .curve import Curve
from .energy import Energy
from .host import HostOverhead
from .launch import Launch
from .measured import FALLBACK, TableTimes
from .mixed import MixedStage
from .operators import AttentionCall, Collective, OperatorTimes, RowOperator, StageOperators, Timing
from .roofline import RooflineTimes
from .table import TableSet

ROUTING = "power_law_1.01"  # nearest to what trained routers do with a batch, between uniform choice and a heavier tail
_NOTHING = Curve.line(0.0, 0.0)


class MeasuredCost(ComposedCost):
    """Step times from a table set, labelled "measured"; what the set does not cover comes from the roofline.

    routing : the skew of expert routing that the MoE tables are read at.

    Raises InputError where the set holds whole layers of another model.
    """

    times: TableTimes

    def __init__(
        self,
        tables: TableSet,
        model: ModelCard,
        hardware: HardwareCard,
        parallel: Parallelism,
        *,
        kv_cache_dtype: str = "auto",
        host: HostOverhead | None = None,
        launch: Launch | None = None,
        routing: str = ROUTING,
    ) -> None:
        times = TableTimes(
            tables, model, parallel, RooflineTimes(hardware), routing=routing, gpus_per_node=hardware.gpus_per_node
        )
        self.extremes = times.uneven is not None
        super().__init__(
            model,
            hardware,
            parallel,
            times,
            label="measured",
            kv_cache_dtype=kv_cache_dtype,
            host=host or HostOverhead(),
            launch=launch,
        )

    def compiled(self, times: OperatorTimes) -> Sequence[StageCost]:
        """As `ComposedCost.compiled`; a stage whose whole attention was measured in mixed calls is priced by them."""
        plain = super().compiled(times)
        if not isinstance(times, TableTimes):
            return plain
        stages = list(plain)
        for i, operators in enumerate(self.operators):
            grids = [times.mixed(group.attention) for group in operators.layers]
            found = [grid for grid in grids if grid is not None]
            if grids and len(found) == len(grids):
                stages[i] = MixedStage(operators, times, self._launch, found, times.uneven)
        return tuple(stages)

    def _joules(self, watts: float) -> OperatorTimes:
        return self.times.joules(watts, Energy(self.times.behind, watts))

    @cached_property
    def fallback(self) -> Sequence[StageCost]:
        """Stages whose pieces are the ticks that operators outside the tables take."""
        return self.compiled(Fallback(self.times))

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "fallback_share": self.fallback_share()}

    def fallback_share(
        self, batches: Sequence[tuple[int, int, int]] = ((0, 1, 1024), (0, 64, 1024), (2048, 0, 0))
    ) -> dict[str, dict[str, float]]:
        """What share of the time each operator outside the tables has, in batches (prompt tokens, decodes, context)."""
        origins = self.times.origins(self.operators)
        names = sorted(name for name, origin in origins.items() if origin == FALLBACK)
        stages = {name: self.compiled(Fallback(self.times, name)) for name in names}
        shares: dict[str, dict[str, float]] = {}
        for tokens, decodes, context in batches:
            chunks = ((tokens, 0),) if tokens else ()
            batch = (chunks, decodes, decodes * context, context, context)
            whole = sum(stage.piece(*batch)[0] for stage in self.stages)
            parts = {name: sum(stage.piece(*batch)[0] for stage in of) / whole for name, of in stages.items()}
            label = f"prefill of {tokens}" if tokens else f"{decodes} decodes at {context}"
            shares[label] = {name: round(share, 4) for name, share in parts.items() if share}
        return shares


class Fallback:
    """Seconds of the operators that a table set does not cover; everything else takes none.

    name : of one such operator, or None for all of them.
    """

    def __init__(self, times: TableTimes, name: str | None = None) -> None:
        self._times, self._name = times, name

    def rows(self, operator: RowOperator, rows: int) -> Timing:
        counts = self._counts(operator.name) and not self._times.covers(operator)
        return self._times.rows(operator, rows) if counts else (0.0, 0.0)

    def collective(self, operator: Collective, rows: int) -> Timing:
        counts = self._counts(operator.name) and not self._times.covers(operator)
        return self._times.collective(operator, rows) if counts else (0.0, 0.0)

    def attention(self, operator: AttentionCall) -> Timing:
        return self._times.attention(operator) if self._counts("decode_attention") else (0.0, 0.0)

    def decode(self, operator: AttentionCall, decodes: int) -> Curve:
        counts = self._counts("decode_attention") and not self._times.decodes(operator)
        return self._times.decode(operator, decodes) if counts else _NOTHING

    def prefill(self, operator: AttentionCall, tokens: int) -> Curve:
        counts = self._counts("prefill_attention") and not self._times.prompts(operator)
        return self._times.prefill(operator, tokens) if counts else _NOTHING

    def together(self, operator: AttentionCall, parts: int, tokens: int) -> Timing:
        counts = self._counts("prefill_attention") and not self._times.prompts(operator)
        return self._times.together(operator, parts, tokens) if counts else (0.0, 0.0)

    def describe(self, operators: Sequence[StageOperators]) -> dict[str, object]:
        return self._times.describe(operators)

    def _counts(self, name: str) -> bool:
        return self._name in (None, name)
