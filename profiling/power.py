"""The power of an NVIDIA GPU by NVML's energy counter, where the driver has one."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

_SECONDS = 0.25  # the counter advances every 20 to 100 ms


class PowerMeter:
    """Mean watts of a device while something runs on it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def watts(self, work: Callable[[], object], wait: Callable[[], object]) -> float:
        """Do `work` over and over for a quarter of a second."""
        wait()
        joules, began = self.joules(), perf_counter()
        while perf_counter() - began < _SECONDS:
            work()
            wait()
        return (self.joules() - joules) / (perf_counter() - began)

    def joules(self) -> float:
        """Used since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


def power_meter(uuid: str) -> PowerMeter | None:
    """The meter of the GPU with this UUID, or None where there is no NVML, no such device or no energy counter."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        meter = PowerMeter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
        meter.joules()
    except pynvml.NVMLError:
        return None
    return meter
