"""What a profile runs on: the device and its software, its measured ceilings, and a hardware card from them."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from .power import power_meter
from .timer import CpuTimer, CudaTimer, Timer

# Shipped hardware cards by the driver's name of the device.
_CARDS = {
    "NVIDIA H100 80GB HBM3": "h100", "NVIDIA H100 PCIe": "h100-pcie", "NVIDIA H200": "h200", "NVIDIA B200": "b200",
    "NVIDIA H20": "h20", "NVIDIA A100-SXM4-80GB": "a100-80gb", "NVIDIA A100 80GB PCIe": "a100-80gb-pcie",
    "NVIDIA A100-SXM4-40GB": "a100-40gb", "NVIDIA A10": "a10", "NVIDIA A10G": "a10g", "NVIDIA A40": "a40",
    "NVIDIA L4": "l4", "NVIDIA L40S": "l40s", "NVIDIA GeForce RTX 4090": "rtx-4090", "Tesla T4": "t4",
}  # fmt: skip
_COPY_BYTES = {"cuda": 4 << 30, "cpu": 32 << 20}
_PRODUCT = {"cuda": 8192, "cpu": 512}  # rows, columns and depth


@dataclass(frozen=True)
class Machine:
    """A device and the software on it. Profiles of machines with the same `key` may go on from each other.

    card : name of the shipped hardware card of this device, or None.
    """

    device: str
    name: str
    processors: int
    memory_bytes: int
    cache_bytes: int
    driver: str
    software: dict[str, str]
    card: str | None

    @property
    def key(self) -> dict[str, object]:
        """What must be the same: not the driver, nor what differs between two of a kind."""
        software = {name: version for name, version in self.software.items() if name in ("torch", "triton")}
        return {"device": self.device, "name": self.name, "processors": self.processors, **software}


def find_machine(device: str) -> Machine:
    """The machine under us. Raises InputError where there is no such device."""
    software = {"torch": str(torch.__version__), "python": platform.python_version()}
    if device == "cpu":
        torch.set_num_threads(1)  # its time is the processor time of one thread
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Machine("cpu", f"{_cpu_name()}, one thread", 1, memory, 32 << 20,
                       platform.release(), software, None)  # fmt: skip
    if not torch.cuda.is_available():
        raise InputError("--device", f"cuda, and torch {torch.__version__} finds no GPU", "cpu, or a machine with one")
    import triton

    properties = torch.cuda.get_device_properties(0)
    software |= {"triton": str(triton.__version__), "cuda": str(torch.version.cuda)}
    return Machine(
        "cuda", properties.name, properties.multi_processor_count, properties.total_memory, properties.L2_cache_size,
        _driver(), software, _CARDS.get(properties.name),
    )  # fmt: skip


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _driver() -> str:
    version = Path("/sys/module/nvidia/version")
    return version.read_text().strip() if version.exists() else "unknown"


def make_timer(device: str, with_power: bool = False) -> Timer:
    """The timer of a device; it also measures power if asked to and where the driver can."""
    if device == "cpu":
        return CpuTimer()
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    return CudaTimer(meter=power_meter(uuid) if with_power else None)


def ceilings(machine: Machine, timer: Timer) -> dict[str, float]:
    """The device's limits as measured: bytes/s of a large copy, read and written; operations/s of a large product."""
    size, n = _COPY_BYTES[machine.device] // 2, _PRODUCT[machine.device]
    source = torch.randn(size // 4, device=machine.device)
    target = torch.empty_like(source)
    copy = timer.measure([lambda: target.copy_(source)])
    a, b = (torch.randn(n, n, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    product = timer.measure([lambda: a @ b])
    return {"copy_bytes_per_s": 2 * size / copy.seconds, "bf16_flops": 2 * n**3 / product.seconds}


def hardware_card(machine: Machine, limits: dict[str, float]) -> dict[str, Any]:
    """The values of a hardware card for a device that none is shipped for: measured limits in place of a data sheet.

    Links are not measured here: a single device is described.
    """
    bandwidth, flops = limits["copy_bytes_per_s"], limits["bf16_flops"]
    link = {"bandwidth": bandwidth, "latency": 1e-6, "name": "not measured: memory bandwidth"}
    return {
        "source": f"measured by servecast profile on {machine.name}: a large copy, a large bf16 product",
        "memory_bytes": machine.memory_bytes, "memory_bandwidth": bandwidth,
        "flops": {"bf16": flops, "fp16": flops, "fp32": flops / 2}, "link": link, "network": link, "host": link,
        "gpus_per_node": 1, "sm_count": machine.processors,
        "achieved": {"compute": 1.0, "memory": 1.0, "source": "the figures above are measured"},
        "note": "fp16 is taken to be as fast as bf16, fp32 half as fast",
    }  # fmt: skip
