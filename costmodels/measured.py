"""Operator times out of a table set, with the roofline behind it for what the set does not cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..configs.model import Attention, DenseMLP, ModelCard, Parallelism
from ..errors import InputError
from .curve import Curve, greater
from .grid import Grid
from .lookup import Lookup, MeasuredRows
from .operators import AttentionCall, Collective, OperatorTimes, RowOperator, StageOperators, Timing
from .prefill import Prefill
from .table import TableSet
from .uneven import Uneven

MEASURED, DERIVED, FALLBACK = ORIGINS = ("measured", "derived", "fallback")


class TableTimes:
    """`OperatorTimes` of one rank.

    behind : the times of operators that the tables do not cover; these are labelled "fallback".
    routing : the skew of expert routing among those of the tables.
    joules : None for seconds; else everything is joules, with so many watts where no power was measured.

    Raises InputError where the tables hold whole layers of another model.
    """

    def __init__(
        self, tables: TableSet, card: ModelCard, parallel: Parallelism, behind: OperatorTimes, *, routing: str,
        gpus_per_node: int, joules: float | None = None,
    ) -> None:  # fmt: skip
        if any(kind in tables.kinds for kind in ("layer", "sequence", "moe_layer")):
            _check_model(tables, card, parallel.tensor_parallel_size)
        self.tables, self.card, self.parallel, self.behind = tables, card, parallel, behind
        self.routing, self._node = routing, gpus_per_node
        self._lookup = Lookup(tables, parallel.tensor_parallel_size, routing, joules)
        self._rows: dict[RowOperator | Collective, MeasuredRows | None] = {}
        self._decode: dict[AttentionCall, Grid | None] = {}
        self._prefill: dict[AttentionCall, Prefill | None] = {}
        self._mixed: dict[AttentionCall, Grid | None] = {}
        buckets = tables.find("uneven_decodes", tp=parallel.tensor_parallel_size)
        self.uneven = Uneven(buckets, tables.provenance.uneven_default) if buckets else None

    # -- OperatorTimes -------------------------------------------------------------------------------------------

    def rows(self, operator: RowOperator, rows: int) -> Timing:
        measured = self._measured(operator)
        return measured(rows) if measured else self.behind.rows(operator, rows)

    def collective(self, operator: Collective, rows: int) -> Timing:
        measured = self._measured(operator)
        return measured(rows) if measured else self.behind.collective(operator, rows)

    def attention(self, operator: AttentionCall) -> Timing:
        """Nothing once a call where attention was measured: those times hold it."""
        return (0.0, 0.0) if self.decodes(operator) else self.behind.attention(operator)

    def decode(self, operator: AttentionCall, decodes: int) -> Curve:
        grid = self.decodes(operator)
        if grid is None:
            return self.behind.decode(operator, decodes)
        curve = grid.curve(decodes).stretched(decodes)
        if operator.queries == 1:
            return curve
        return greater(curve, self.behind.decode(operator, decodes))  # as many reads, and maybe products beyond them

    def prefill(self, operator: AttentionCall, tokens: int) -> Curve:
        prompts = self.prompts(operator)
        return prompts.part(tokens) if prompts else self.behind.prefill(operator, tokens)

    def together(self, operator: AttentionCall, parts: int, tokens: int) -> Timing:
        prompts = self.prompts(operator)
        return prompts.together(parts, tokens) if prompts else self.behind.together(operator, parts, tokens)

    def describe(self, operators: Sequence[StageOperators]) -> dict[str, object]:
        return {
            "tables": {**asdict(self.tables.provenance), "path": self.tables.where},
            "fingerprint": self.tables.fingerprint(),
            "routing": self.routing,
            "operators": self.origins(operators),
            **self.behind.describe(operators),
        }

    def joules(self, watts: float, behind: OperatorTimes) -> TableTimes:
        """The same in joules, with `watts` where no power was measured and the joules of `behind` for the rest."""
        return TableTimes(
            self.tables, self.card, self.parallel, behind,
            routing=self.routing, gpus_per_node=self._node, joules=watts,
        )  # fmt: skip

    # -- beyond it -----------------------------------------------------------------------------------------------

    def mixed(self, operator: AttentionCall) -> Grid | None:
        """Seconds of a call over (tokens of prompts, their context, decodes, context of each), where calls that have
        prompts and decodes were measured."""
        if operator not in self._mixed:
            self._mixed[operator] = self._lookup.mixed(operator)
        return self._mixed[operator]

    def origins(self, stages: Sequence[StageOperators]) -> dict[str, str]:
        """Where the time of each operator comes from: "measured", "derived" or "fallback" (the last of these that holds
        for one of several operators of the same name)."""
        found: dict[str, str] = {}

        def note(name: str, origin: str) -> None:
            found[name] = max(origin, found.get(name, origin), key=ORIGINS.index)

        for stage in stages:
            for operator in (*stage.tokens, *stage.sequences, *(op for group in stage.layers for op in group.rows)):
                note(operator.name, self.origin(operator))
            for group in stage.layers:
                note("decode_attention", self.decode_origin(group.attention))
                note("prefill_attention", self.prefill_origin(group.attention))
        return found

    def origin(self, operator: RowOperator | Collective) -> str:
        """Where the time of an operator by rows comes from."""
        return MEASURED if self._measured(operator) else FALLBACK

    def decode_origin(self, operator: AttentionCall) -> str:
        """Where the time of decode attention comes from."""
        return MEASURED if self.decodes(operator) else FALLBACK

    def prefill_origin(self, operator: AttentionCall) -> str:
        """Where the time of prefill attention comes from."""
        prompts = self.prompts(operator)
        return FALLBACK if prompts is None else DERIVED if prompts.derived else MEASURED

    def _measured(self, operator: RowOperator | Collective) -> MeasuredRows | None:
        if operator not in self._rows:
            self._rows[operator] = self._find(operator)
        return self._rows[operator]

    def _find(self, operator: RowOperator | Collective) -> MeasuredRows | None:
        if isinstance(operator, Collective):
            inside = operator.ranks * operator.stride <= self._node
            return self._lookup.collective(operator) if inside else None
        return self._lookup.rows(operator)

    def decodes(self, operator: AttentionCall) -> Grid | None:
        """Measured decode attention, or None."""
        if operator not in self._decode:
            self._decode[operator] = self._lookup.decode(operator)
        return self._decode[operator]

    def prompts(self, operator: AttentionCall) -> Prefill | None:
        """Measured or derived prefill attention, or None."""
        if operator not in self._prefill:
            self._prefill[operator] = self._lookup.prefill(operator)
        return self._prefill[operator]


def _check_model(tables: TableSet, card: ModelCard, tp: int) -> None:
    """Raise InputError where tables of whole layers were measured on another model, or not with `tp` ranks."""
    where, measured = tables.where, tables.provenance.model
    if measured is None:
        raise InputError(where, "tables of whole layers without the model they belong to", "`model` in table.yaml")
    mixer, mlp = card.groups[0].mixer, card.groups[0].mlp
    facts = {
        "hidden_size": card.hidden_size,
        "intermediate": mlp.intermediate if isinstance(mlp, DenseMLP) else None,
        "heads": mixer.heads if isinstance(mixer, Attention) else None,
        "kv_heads": mixer.kv_heads if isinstance(mixer, Attention) else None,
        "vocab_size": card.vocab_size,
        "dtype": card.linear.compute,
    }
    given = {key: value for key in facts if (value := getattr(measured, key)) is not None}
    for key, value in given.items():
        if facts[key] != value:
            found = f"{key} = {facts[key]} of {card.name}, and {measured.name} with {key} = {value} in {where}"
            raise InputError("model", found, "the model that the table was measured on")
    if not given and measured.name.rsplit("/", 1)[-1].lower() != card.name.lower():
        raise InputError("model", f"{card.name}, and {measured.name} in {where}", "the model of the table")
    for kind in ("layer", "sequence"):
        table = tables.get(kind)
        degrees = sorted({int(degree) for degree in table.columns["tp"].tolist()}) if table else []
        if table and tp not in degrees:
            raise InputError("tensor_parallel_size", f"{tp}, which {where} does not hold", f"one of {degrees}")
