"""How long a call takes: warmed up, repeated, the median with its spread; by replays of a graph on a GPU.

The calls of a measurement do the same work on different memory (the weights and caches of different layers), so that
what an engine finds in no cache is found in none here. Source of the method: `triton.testing.do_bench` and NVIDIA's
advice to time replays of a captured graph where launches are as long as kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import thread_time
from typing import Any, Protocol

import numpy as np
import torch

from .power import PowerMeter

Call = Callable[[], object]
_LEAST_REPEATS, _MOST_REPEATS = 7, 200


@dataclass(frozen=True)
class Sample:
    """Seconds of one call: the median, the 20th and 80th percentiles of `repeats`; watts while they ran."""

    seconds: float
    low: float
    high: float
    repeats: int
    watts: float | None = None

    @property
    def spread(self) -> float:
        """(p80 - p20) / median."""
        return (self.high - self.low) / self.seconds


def exactly(seconds: float) -> Sample:
    """A measurement that is a median already."""
    return Sample(seconds, seconds, seconds, 1)


def joined(samples: Sequence[Sample]) -> Sample:
    """Several measurements of the same thing as one: medians of theirs."""
    if len(samples) == 1:
        return samples[0]
    seconds, low, high = (
        float(np.median([getattr(s, name) for s in samples])) for name in ("seconds", "low", "high")
    )  # fmt: skip
    watts = [s.watts for s in samples if s.watts is not None]
    mean = sum(watts) / len(watts) if watts else None
    return Sample(seconds, low, high, sum(s.repeats for s in samples), mean)


class Timer(Protocol):
    def measure(self, calls: Sequence[Call]) -> Sample:
        """Time calls that do the same work on different memory; all are made equally often."""
        ...


class CpuTimer:
    """Rounds of calls by the processor time of this thread; other processes do not count.

    A repeat is the mean of a round: times of single calls are skewed, and medians of such do not add up.
    between : what is done before each call, untimed, so that the caches hold what an iteration leaves there.
    """

    _ROUND = 4  # calls, at least

    def __init__(self, repeats: int = 3) -> None:
        self.between: Call | None = None
        self._repeats = repeats

    def measure(self, calls: Sequence[Call]) -> Sample:
        for call in calls:
            call()
        rounds = -(-self._ROUND // len(calls))
        return _sample([self._round([*calls] * rounds) for _ in range(self._repeats)])

    def _round(self, calls: Sequence[Call]) -> float:
        spent = 0.0
        for call in calls:
            if self.between:
                self.between()
            began = thread_time()
            call()
            spent += thread_time() - began
        return spent / len(calls)


class CudaTimer:
    """Replays of a graph of all calls, by the device's events.

    What is timed is from one start to the next: a kernel with the gap that a graph leaves after it.
    seconds : that the replays of one measurement take, or so. meter : of the device's power, or None.
    stream : to run on, if not one of its own.
    """

    _GRAPH_SECONDS = 1e-3  # a graph is made at least so long, as events have a resolution of half a microsecond
    _MOST_CALLS = 256

    def __init__(self, seconds: float = 0.03, meter: PowerMeter | None = None, stream: Any = None) -> None:
        self._seconds, self.meter = seconds, meter
        self._stream: Any = stream or torch.cuda.Stream()

    def measure(self, calls: Sequence[Call]) -> Sample:
        self._stream.wait_stream(torch.cuda.current_stream())  # which made the inputs
        with torch.cuda.stream(self._stream):
            for call in (*calls, *calls):  # compiles, tunes, allocates
                call()
            once = self._between(lambda: [call() for call in calls]) / len(calls)
            rounds = max(
                1, min(self._MOST_CALLS // len(calls), int(self._GRAPH_SECONDS / max(once, 1e-6) / len(calls)))
            )
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                for _ in range(max(1, rounds)):
                    for call in calls:
                        call()
            count = max(1, rounds) * len(calls)
            replay = self._between(graph.replay)
            repeats = max(_LEAST_REPEATS, min(_MOST_REPEATS, int(self._seconds / replay)))
            times = [self._between(graph.replay) / count for _ in range(repeats)]
            watts = self.meter.watts(graph.replay, self._stream.synchronize) if self.meter else None
        return _sample(times, watts)

    def _between(self, work: Call) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) / 1e3


def _sample(times: Sequence[float], watts: float | None = None) -> Sample:
    low, median, high = np.percentile(times, (20, 50, 80)).tolist()
    return Sample(median, low, high, len(times), watts)
