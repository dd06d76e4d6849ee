"""Times work on a device: by its events on a GPU, where calls return before the work is done; else by thread time."""

from __future__ import annotations

from time import thread_time
from typing import Any

import torch


class Stopwatch:
    """`with Stopwatch(device) as watch: ...`, then `watch.seconds()` once the device has finished."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def _now(self) -> Any:
        if not self._cuda:
            return thread_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __enter__(self) -> Stopwatch:
        self._start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = self._now()

    def seconds(self) -> float:
        """Between entry and exit; waits for the device."""
        if not self._cuda:
            return float(self._stop - self._start)
        self._stop.synchronize()
        return float(self._start.elapsed_time(self._stop)) / 1e3
