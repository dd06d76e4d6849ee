"""Times of single operators as curves, out of a table set; None where the set does not cover the operator."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import reduce

from ..configs.model import Attention, Format
from .curve import Curve, lesser
from .grid import Grid
from .operators import AttentionCall, Collective, ExpertFetch, Experts, Gemm, Move, RowOperator, Timing
from .prefill import Prefill
from .table import Table, TableSet

MeasuredRows = Callable[[int], Timing]  # rows of an operator to its time

# The element-wise kernel that each of these operators is.
_KERNELS = {
    "mlp_norm": "norm",
    "final_norm": "norm",
    "shared_activation": "activation",
    "rotary_and_cache": "rotary",
}

_TILE = 16  # rows: products are computed in tiles of a multiple of it
# Rows of these backends hold the host's launch as well, which a full queue of kernels hides.
_EAGER = ("custom_eager",)


class Lookup:
    """The curves of one rank of a tensor-parallel group of `tp`.

    routing : the skew of expert routing among those of the table ("power_law_1.01", "balanced").
    joules : None for seconds; else joules, with so many watts where no power was measured.
    """

    def __init__(self, tables: TableSet, tp: int, routing: str, joules: float | None = None) -> None:
        self.tables, self.tp, self.routing, self.joules = tables, tp, routing, joules

    def grid(self, table: Table | None, *axes: str) -> Grid | Curve | None:
        return table.grid(axes, self.joules) if table else None

    def _at(self, kind: str, **labels: object) -> Grid | Curve | None:
        return self.tables.grid(kind, self.joules, **labels)

    def rows(self, operator: RowOperator) -> MeasuredRows | None:
        """By name where whole layers were measured, else by shape."""
        for kind in ("layer", "sequence") if self._as_measured(operator) else ():
            named = self._at(kind, operator=operator.name, tp=self.tp)
            if isinstance(named, Curve):
                return _stepped(named) if isinstance(operator, Gemm) else _over(named)
        if isinstance(operator, Gemm):
            inside = operator.name == "router" and self._whole_block() is not None
            return (lambda rows: (0.0, 0.0)) if inside else self._gemm(operator)
        if isinstance(operator, ExpertFetch) or (isinstance(operator, Experts) and operator.chances):
            return None  # measured with even routing, and all experts on the device
        if isinstance(operator, Experts):
            block = self._whole_block()
            return _active(block, operator) if block else self._experts(operator)
        kernel = self._at("elementwise", operator=_KERNELS.get(operator.name, operator.name))
        return _over(kernel, operator.row_bytes) if isinstance(kernel, Curve) else None

    def _as_measured(self, operator: RowOperator) -> bool:
        """Whether tables of whole layers, if there are any, hold weights of the operator's width."""
        model = self.tables.provenance.model
        narrowest = _BITS.get(model.dtype or "", 16) if model else 16
        return isinstance(operator, Move) or operator.format.bits >= narrowest

    def _gemm(self, operator: Gemm) -> MeasuredRows | None:
        """Between measured numbers of rows as measured, tile steps included; the faster of the table's kernels."""
        grids = [self._at("gemm", dtype=dtype) for dtype in dtypes(operator.format)]
        curves = [grid.curve(operator.outputs, operator.inputs) for grid in grids if isinstance(grid, Grid)]
        return _over(reduce(lesser, curves)) if curves else None

    def _experts(self, operator: Experts) -> MeasuredRows | None:
        """By tokens of all data-parallel ranks. Experts cut by tensor parallelism are the same work as whole ones with
        so many columns fewer."""
        ep = round(operator.total / operator.held)
        curves = []
        for dtype in dtypes(operator.format):
            shape = self.tables.find(
                "moe", dtype=dtype, hidden=operator.hidden, topk=operator.top_k, experts=operator.total, ep=ep,
                routing=self.routing,
            )  # fmt: skip
            cuts = sorted(set(shape.columns["tp"].tolist())) if shape else []
            tables = [shape.where(tp=tp, inter=operator.intermediate * tp) for tp in cuts if shape]
            curves += [self.grid(table) for table in tables if len(table)][:1]
        found = [curve for curve in curves if isinstance(curve, Curve)]
        return _over(reduce(lesser, found), operator.batches) if found else None

    def _whole_block(self) -> Grid | None:
        """A router and a rank's experts over (active experts, tokens), where they were measured as one block."""
        grid = self._at("moe_layer", tp=self.tp)
        return grid if isinstance(grid, Grid) else None

    def collective(self, operator: Collective) -> MeasuredRows | None:
        """By bytes; the fastest backend at every size, as engines choose."""
        table = self.tables.find("collective", op=operator.kind, ranks=operator.ranks)
        if table is None:
            return None
        backends = sorted(set(table.columns["backend"].tolist()))
        quiet = [backend for backend in backends if backend not in _EAGER]
        curves = [self.grid(table.where(backend=backend)) for backend in quiet or backends]
        return _over(reduce(lesser, [curve for curve in curves if isinstance(curve, Curve)]), operator.row_bytes)

    # -- attention -----------------------------------------------------------------------------------------------

    def _attention(self, kind: str, call: AttentionCall, **labels: object) -> Table | None:
        mixer = call.mixer
        if not isinstance(mixer, Attention) or call.shared or (call.kv and not call.kv.quantises_only):
            return None
        for dtype in _SIXTEEN.get(call.compute, (call.compute,)):
            kv_dtype = f"int{call.kv.bits:g}" if call.kv else "fp8" if call.cache_bytes == 1 else dtype
            table = self.tables.find(
                kind, dtype=dtype, kv_dtype=kv_dtype, heads=mixer.heads, kv_heads=mixer.kv_heads,
                head_dim=mixer.head_dim, window=mixer.window or 0, **labels,
            )  # fmt: skip
            if table:
                return table
        return None

    def mixed(self, call: AttentionCall) -> Grid | None:
        """Over (tokens of prompts, their context, decodes, context of each) of a call that has both."""
        if (call.decode_factor, call.prefill_factor, call.queries) != (1.0, 1.0, 1):  # not those of the measured calls
            return None
        table = self._attention("mixed_attention", call)
        if table is None:
            return None
        both = (table.columns["chunk"] > 0) & (table.columns["decodes"] > 0)
        grid = self.grid(table.take(both)) if both.any() else None
        return grid if isinstance(grid, Grid) else None

    def decode(self, call: AttentionCall) -> Grid | None:
        """Over (decodes, context of each)."""
        table = self._attention("decode_attention", call)
        axes = ("batch", "context")
        if table is None:
            table, axes = self._attention("mixed_attention", call, chunk=0), ("decodes", "decode_context")
        grid = self.grid(table, *axes)
        return grid if isinstance(grid, Grid) else None

    def prefill(self, call: AttentionCall) -> Prefill | None:
        """Parts of prompts."""
        table = self._attention("prefill_attention", call)
        if table is None:
            mixed = self._attention("mixed_attention", call, decodes=0)
            alone = self.grid(mixed, "chunk", "chunk_context")
            return Prefill(alone, None, None) if isinstance(alone, Grid) else None
        alone = self.grid(table.where(batch=1), "chunk", "context")
        several = len(set(table.columns["batch"].tolist())) > 1
        batch = self.grid(table.where(context=0), "chunk", "batch") if several else None
        decode = self.decode(call)
        if not isinstance(alone, Grid) or isinstance(batch, Curve):
            return None
        return Prefill(alone, batch, decode.curve(1) if decode else None)


_BITS = {"fp8": 8, "int8": 8, "fp4": 4.5}  # of stored weights, by the number type that a model was measured in; else 16
_SIXTEEN = {"bf16": ("bf16", "fp16"), "fp16": ("fp16", "bf16")}  # the same kernels, whichever was measured


def dtypes(stored: Format) -> tuple[str, ...]:
    """Names in tables of the products with weights of this format, first choice first."""
    if stored.bits == 16:
        return _SIXTEEN[stored.compute]
    if stored.bits == 8:
        return ("fp8", "fp8_block") if stored.compute == "fp8" else (stored.compute,)
    if 4 <= stored.bits < 4.2 and stored.compute in _SIXTEEN:  # AWQ, GPTQ, MARLIN; mxfp4 has other kernels
        return ("int4_wo",)
    return ()


def _over(curve: Curve, per_row: float = 1.0) -> MeasuredRows:
    """The times of a curve over `per_row` x the rows."""

    def timing(rows: int) -> Timing:
        x = rows * per_row
        time = curve.at(x)
        return time, 0.0 if x <= curve.measured else time

    return timing


def _stepped(curve: Curve) -> MeasuredRows:
    """A product's time: between sizes measured a tile apart it is that of the next one, for tiles are computed whole;
    elsewhere it lies between them."""
    xs, ys, between = curve.xs, curve.ys, _over(curve)

    def timing(rows: int) -> Timing:
        i = bisect_left(xs, rows)
        return (ys[i], 0.0) if 0 < i < len(xs) and xs[i] - xs[i - 1] <= _TILE else between(rows)

    return timing


def _active(block: Grid, operator: Experts) -> MeasuredRows:
    """A block over (active experts, tokens): as many experts as so many tokens are expected to wake on this rank, and
    this rank's share of the tokens."""

    def timing(rows: int) -> Timing:
        tokens = max(1.0, rows * operator.batches * operator.held / operator.total)
        time, inside = block.at(max(1.0, operator.touched(rows)), tokens)
        return time, 0.0 if inside else time

    return timing
