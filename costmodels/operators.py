"""What a pipeline stage computes, as data, and the protocol of whoever says how long that takes.

`shapes` writes the lists, `stage` adds up their times. The times come from an `OperatorTimes`: the roofline here; a
measured table is another one, for all operators or for those it knows with a roofline behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from ..configs.compression import KVCompression
from ..configs.model import Format, Mixer
from ..configs.techniques import SharedTokens
from .curve import Curve


@dataclass(frozen=True)
class Gemm:
    """A product of (rows x inputs) and a weight matrix (inputs x outputs), both as one rank holds them."""

    name: str
    inputs: int
    outputs: int
    format: Format
    dtype_bytes: int
    bias: bool = False
    stored: bool = True  # False: another operator of the stage counts these weights (tied embeddings)

    @property
    def parameters(self) -> int:
        return (self.inputs + self.bias) * self.outputs if self.stored else 0

    @property
    def weight_bytes(self) -> float:
        return self.parameters * self.format.bits / 8

    def flops(self, rows: int) -> float:
        """Operations, a multiplication and an addition being two."""
        return 2.0 * rows * self.inputs * self.outputs

    def bytes(self, rows: int) -> float:
        """Bytes between memory and chip: the weights once, the activations in and out."""
        weights = self.inputs * self.outputs * self.format.bits / 8
        return weights + rows * (self.inputs + self.outputs) * self.dtype_bytes


@dataclass(frozen=True)
class Move:
    """An element-wise kernel or table look-up: memory traffic only."""

    name: str
    row_bytes: float  # read and written a row
    parameters: int = 0
    dtype_bytes: int = 0

    @property
    def weight_bytes(self) -> float:
        return float(self.parameters * self.dtype_bytes)

    def flops(self, rows: int) -> float:
        return 0.0

    def bytes(self, rows: int) -> float:
        return rows * self.row_bytes


@dataclass(frozen=True)
class Experts:
    """The expert matrices of one layer on one rank, with tokens spread evenly over the experts unless `chances` says.

    held : experts on this rank. total, top_k : of the model. intermediate : columns of an expert on this rank.
    batches : data-parallel ranks whose equally large batches meet here.
    chances : that a token visits each expert of this rank, the most popular first.
    resident : experts in device memory, None = `held`.
    """

    name: str
    hidden: int
    intermediate: int
    held: int
    total: int
    top_k: int
    gated: bool
    bias: bool
    format: Format
    dtype_bytes: int
    batches: int = 1
    chances: tuple[float, ...] = ()
    resident: int | None = None

    @property
    def expert_parameters(self) -> int:
        wide = self.intermediate * (2 if self.gated else 1)
        return self.hidden * (wide + self.intermediate) + (wide + self.hidden if self.bias else 0)

    @property
    def parameters(self) -> int:
        return (self.held if self.resident is None else self.resident) * self.expert_parameters

    @property
    def weight_bytes(self) -> float:
        return self.parameters * self.format.bits / 8

    def visits(self, rows: int) -> float:
        """Pairs of a token and one of this rank's experts."""
        if self.chances:
            return rows * self.batches * sum(self.chances)
        return rows * self.batches * self.top_k * self.held / self.total

    def touched(self, rows: int) -> float:
        """Expected number of this rank's experts that at least one token visits: each is missed by a token with
        probability 1 - top_k / total, so held x (1 - (1 - top_k / total)^tokens)."""
        if self.chances:
            return sum(1 - (1 - chance) ** (rows * self.batches) for chance in self.chances)
        return self.held * (1 - (1 - self.top_k / self.total) ** (rows * self.batches))

    def flops(self, rows: int) -> float:
        matrices = 3 if self.gated else 2
        return 2.0 * self.visits(rows) * self.hidden * self.intermediate * matrices

    def bytes(self, rows: int) -> float:
        """The weights of the experts that are visited, and each visit's activations in, between and out."""
        weights = self.touched(rows) * self.expert_parameters * self.format.bits / 8
        between = self.intermediate * (4 if self.gated else 2)  # up (and gate) written and read, product written, read
        return weights + self.visits(rows) * (2 * self.hidden + between) * self.dtype_bytes


@dataclass(frozen=True)
class ExpertFetch:
    """Experts that tokens visit and that are in the host's memory, brought to the device.

    experts : of the rank. resident : how many of them, the most popular, need not be. predicted : share of the others
    that are known before the experts of the layer before run. beside : other operators that run meanwhile.
    """

    name: str
    experts: Experts
    resident: int
    predicted: float
    beside: tuple[RowOperator, ...] = ()

    parameters = 0
    weight_bytes = 0.0

    @property
    def format(self) -> Format:
        return self.experts.format

    def flops(self, rows: int) -> float:
        return 0.0

    def bytes(self, rows: int) -> float:
        """Bytes over the host's link."""
        missing = replace(self.experts, chances=self.experts.chances[self.resident :])
        return missing.touched(rows) * missing.expert_parameters * missing.format.bits / 8


@dataclass(frozen=True)
class Collective:
    """A message between every `stride`-th of neighbouring accelerators.

    row_bytes : a row's part of the buffer that `collectives` takes for the kind.
    """

    name: str
    kind: Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
    ranks: int
    row_bytes: float
    stride: int = 1


RowOperator = Gemm | Move | Experts | ExpertFetch


@dataclass(frozen=True)
class AttentionCall:
    """The mixing of tokens in one layer on one rank: attention over the cache, or the scan of a state-space layer."""

    mixer: Mixer  # this rank's heads or channels
    cache_bytes: float  # of one number in the KV cache
    dtype_bytes: int
    compute: str
    kv: KVCompression | None = None  # what of the cache is kept and read, if not all
    shared: tuple[SharedTokens, ...] = ()  # what all requests begin with and a decode reads once
    decode_factor: float = 1.0  # of the kernels' time, where another layout of memory changes it
    prefill_factor: float = 1.0
    queries: int = 1  # consecutive tokens that each decoding request computes


@dataclass(frozen=True)
class LayerOperators:
    """A layer of one group, `count` times on the stage: operators by rows (tokens), then the mixing of tokens.

    overlap : half of the rows may exchange messages while the other half computes.
    """

    count: int
    rows: tuple[RowOperator | Collective, ...]
    attention: AttentionCall
    overlap: bool = False


@dataclass(frozen=True)
class StageOperators:
    """One pipeline stage on one rank; `tokens` and `sequences` run once, with a row a token or a sequence."""

    layers: tuple[LayerOperators, ...]
    tokens: tuple[RowOperator | Collective, ...]
    sequences: tuple[RowOperator | Collective, ...]

    @property
    def launches(self) -> int:
        """Operators that run in an iteration, each attention call being one."""
        once = len(self.tokens) + len(self.sequences)
        return once + sum(group.count * (len(group.rows) + 1) for group in self.layers)

    def weights(self) -> list[tuple[int, RowOperator]]:
        """Everything that may hold weights, with how often it is there."""
        once = [(1, op) for op in (*self.tokens, *self.sequences) if not isinstance(op, Collective)]
        return once + [(g.count, op) for g in self.layers for op in g.rows if not isinstance(op, Collective)]


Timing = tuple[float, float]  # seconds, and how many of them rest on a look-up outside what was measured


class OperatorTimes(Protocol):
    """Seconds of single operators on one rank: the seam between what is computed and where times come from."""

    def rows(self, operator: RowOperator, rows: int) -> Timing:
        """One call of a matrix, element-wise or expert operator with `rows` >= 1 rows."""
        ...

    def collective(self, operator: Collective, rows: int) -> Timing:
        """One collective over `rows` >= 1 rows."""
        ...

    def attention(self, operator: AttentionCall) -> Timing:
        """The part of an attention call that an iteration pays once a layer, whatever the batch."""
        ...

    def decode(self, operator: AttentionCall, decodes: int) -> Curve:
        """What `decodes` tokens of as many requests add, over the sum of their contexts (as `StageCost.piece`)."""
        ...

    def prefill(self, operator: AttentionCall, tokens: int) -> Curve:
        """What one prompt part of `tokens` tokens adds, over its context."""
        ...

    def together(self, operator: AttentionCall, parts: int, tokens: int) -> Timing:
        """What `parts` >= 2 prompt parts with `tokens` tokens in all add in one call beyond what each adds alone; maybe
        negative."""
        ...

    def describe(self, operators: Sequence[StageOperators]) -> dict[str, object]:
        """Where the times of these stages come from, for the report."""
        ...
