"""An accelerator as the simulator sees it: data-sheet figures, how much of them is achieved, links and price."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..errors import InputError
from .strict import check

# A product that a device cannot compute in its own number type is computed in the next one of its row.
_FALLBACKS = {
    "fp4": ("fp4", "fp8", "bf16", "fp16"),
    "fp8": ("fp8", "bf16", "fp16"),
    "int8": ("int8", "bf16", "fp16"),
    "int4": ("int8", "bf16", "fp16"),
    "bf16": ("bf16", "fp16"),
    "fp16": ("fp16", "bf16"),
    "fp32": ("fp32",),
}


@dataclass(frozen=True)
class Link:
    """A connection of one accelerator.

    bandwidth : bytes/s in one direction. latency : seconds before the first byte of a message arrives.
    """

    bandwidth: float
    latency: float
    name: str = ""

    def __post_init__(self) -> None:
        check(self.bandwidth > 0, "bandwidth", self.bandwidth, "a positive number of bytes/s")
        check(self.latency >= 0, "latency", self.latency, "seconds, not negative")


@dataclass(frozen=True)
class Achieved:
    """What kernels reach of the data sheet, and the time that no kernel undercuts.

    The defaults are the middle of five cards measured in public tables: NVIDIA's aiconfigurator (vLLM 0.14.0 on A100,
    0.24.0 on H100 and H200) and casys-kaist/LLMServingSim (RTX 4090, RTX PRO 6000), each fitted in bf16 as
    max(operations / (compute x peak), bytes / (memory x bandwidth)) + seconds.

    compute : share of `flops` in matrix products. narrow : the same for types of 8 bits and less (measured in fp8 on
    H100 and H200 only). attention : share of `flops` in prefill attention.
    memory : share of `memory_bandwidth`. link : share of a link's bandwidth in large collectives and copies.
    kernel_seconds, attention_seconds : fixed part of a matrix or element-wise kernel, and of an attention call.
    """

    compute: float = 0.8
    narrow: float = 0.5
    attention: float = 0.51
    memory: float = 0.85
    link: float = 0.75
    kernel_seconds: float = 3.5e-6
    attention_seconds: float = 12e-6
    source: str = "not measured on this card: the middle of the measured cards"

    def __post_init__(self) -> None:
        for key in ("compute", "narrow", "attention", "memory", "link"):
            share = getattr(self, key)
            check(0 < share <= 1, key, share, "a share above 0, at most 1")
        for key in ("kernel_seconds", "attention_seconds"):
            check(getattr(self, key) >= 0, key, getattr(self, key), "seconds, not negative")


@dataclass(frozen=True)
class Clocks:
    """Clocks that `nvidia-smi --lock-gpu-clocks` can set, in MHz.

    lowest, highest : of `nvidia-smi -q -d SUPPORTED_CLOCKS`. flops : the one that the card's matrix rates are stated
    at, taken for what a device without a lock runs at (tensor cores of an H100: 1,830 of 1,980).
    """

    lowest: int
    highest: int
    flops: int
    source: str

    def __post_init__(self) -> None:
        check(0 < self.lowest <= self.highest, "lowest", self.lowest, f"MHz above 0, at most {self.highest}")
        expected = f"MHz from {self.lowest} to {self.highest}"
        check(self.lowest <= self.flops <= self.highest, "flops", self.flops, expected)


@dataclass(frozen=True)
class HardwareCard:
    """One accelerator.

    memory_bytes : what the driver reports to a process, where known; a comment in the card has the data sheet's figure.
    memory_bandwidth : bytes/s.
    flops : peak operations/s by number type, dense (no structured sparsity); null where the device has none.
    link : to the accelerators of the same node. network : to other nodes (a property of the server: an assumption).
    host : to the host's memory.
    price_per_hour : USD for one accelerator: a list-price assumption to edit, not a quote; null where none is known.
    clocks : null where they are not known; such a device cannot be locked.
    gpu_clock_mhz : what it is locked to, by `locked`; no key of a card.
    """

    name: str
    source: str
    memory_bytes: int
    memory_bandwidth: float
    flops: dict[str, float | None]
    link: Link
    network: Link
    host: Link
    gpus_per_node: int
    sm_count: int | None = None
    tdp_watts: float | None = None
    idle_watts: float | None = None
    price_per_hour: float | None = None
    price_source: str = ""
    achieved: Achieved = field(default_factory=Achieved)
    note: str = ""
    clocks: Clocks | None = None
    gpu_clock_mhz: int | None = field(default=None, metadata={"written": False})

    def __post_init__(self) -> None:
        for key in ("memory_bytes", "memory_bandwidth", "gpus_per_node"):
            check(getattr(self, key) > 0, key, getattr(self, key), "a positive number")
        for kind, peak in self.flops.items():
            check(peak is None or peak > 0, f"flops.{kind}", peak, "a positive number of operations/s, or null")
        if self.price_per_hour is not None:
            check(self.price_per_hour >= 0, "price_per_hour", self.price_per_hour, "USD an hour, not negative")

    def locked(self, mhz: int) -> HardwareCard:
        """The device with its clock locked. Raises `InputError` for a clock that it does not have."""
        if self.clocks is None:
            found = f"{mhz}, and nothing is known of the clocks of {self.name}"
            raise InputError("gpu_clock_mhz", found, "`clocks` in its card: lowest, highest, flops and source")
        if not self.clocks.lowest <= mhz <= self.clocks.highest:
            expected = f"{self.clocks.lowest} to {self.clocks.highest} MHz on {self.name}"
            raise InputError("gpu_clock_mhz", f"{mhz} MHz", expected)
        return replace(self, gpu_clock_mhz=mhz)

    def unlocked(self) -> HardwareCard:
        """The device without a lock."""
        return replace(self, gpu_clock_mhz=None)

    @property
    def clock_share(self) -> float:
        """The locked clock as a share of the one that `flops` are stated at; 1 above that and without a lock."""
        if self.gpu_clock_mhz is None or self.clocks is None:
            return 1.0
        return min(1.0, self.gpu_clock_mhz / self.clocks.flops)

    def peak(self, compute: str) -> float:
        """Dense peak operations/s for products in `compute`, or in the number type that stands in for it."""
        return self._peak(compute)[1]

    def rate(self, compute: str) -> float:
        """Operations/s that matrix products in `compute` achieve."""
        kind, peak = self._peak(compute)
        return peak * (self.achieved.narrow if kind in ("fp8", "int8", "fp4") else self.achieved.compute)

    def _peak(self, compute: str) -> tuple[str, float]:
        for kind in _FALLBACKS.get(compute, (compute,)):
            peak = self.flops.get(kind)
            if peak is not None:
                return kind, peak * self.clock_share
        raise InputError(f"flops.{compute}", f"missing on {self.name}", "a number of operations/s")

    def between(self, ranks: int) -> Link:
        """The link that bounds `ranks` neighbouring accelerators: inside a node, or the network."""
        return self.link if ranks <= self.gpus_per_node else self.network
