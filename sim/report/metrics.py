"""Latency and throughput of a run under the names and definitions of `vllm bench serve`.

TTFT runs from arrival to the first token; TPOT is (E2EL - TTFT) / (tokens - 1) of requests with more than one token;
ITL pools all gaps between tokens of all requests; E2EL runs from arrival to the last token. Only finished requests
count. `*_from_queue` start where the engine took the request in. Percentiles are linear between order statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...costmodels.base import FOREVER, TICKS_PER_SECOND
from ..records import COMPONENTS, End
from ..run import Run
from .gaps import Gaps

Floats = NDArray[np.float64]
PERCENTS = (50, 90, 95, 99)


class Finished:
    """The finished requests of a run in order of submission, columns made when asked for.

    warmup : seconds of arrivals to leave out.
    all_rows, all_ends : trace row and end of every counted request, finished or not. rows : of the finished ones.
    """

    def __init__(self, run: Run, warmup: float = 0.0) -> None:
        self._columns = run.recorder.requests.columns()
        order = np.argsort(self._columns["index"], kind="stable").astype(np.int32)
        if warmup:
            arrival = self._columns["arrival"]
            counted = arrival - arrival.min(initial=FOREVER) >= warmup * TICKS_PER_SECOND
            order = order[counted[order]]
        self._counted = order
        self.all_rows, self.all_ends = self._columns["row"][order], self._columns["end"][order]
        finished = self.all_ends == End.FINISHED
        self._finished = order if finished.all() else order[finished]
        self.rows = self._columns["row"][self._finished]
        self.ttft = self.seconds("first_token", "arrival")
        self.e2el = self.seconds("last_token", "arrival")
        tokens = self.column("generated")
        self.has_tpot = tokens > 1
        self.tpot = np.divide(  # 0 for one token, as vLLM counts it for goodput
            self.seconds("last_token", "first_token"), tokens - 1, out=np.zeros(len(tokens)), where=self.has_tpot
        )

    def __len__(self) -> int:
        return len(self._finished)

    def column(self, name: str) -> NDArray:
        """A column of the finished requests."""
        return self._columns[name][self._finished]

    def seconds(self, to: str, since: str) -> Floats:
        """Seconds between two times of the finished requests."""
        return (self.column(to) - self.column(since)) / TICKS_PER_SECOND

    def component(self, name: str) -> Floats:
        """Seconds of a time component of the finished requests."""
        return self.column(name) / TICKS_PER_SECOND

    def span(self) -> float:
        """Seconds from the first counted arrival to the last end."""
        arrival, ended = self._columns["arrival"][self._counted], self._columns["ended"][self._counted]
        return float(ended.max(initial=0) - arrival.min(initial=FOREVER)) / TICKS_PER_SECOND if len(arrival) else 0.0

    def good(
        self, limits: Mapping[str, float], classes: Mapping[int, Mapping[str, float]], codes: Any
    ) -> NDArray[np.bool_]:
        """Which finished requests keep their limits; `classes` by code of the request's class, in `codes`."""
        good = self._within(limits)
        for code, own in classes.items():
            mine = codes == code
            good[mine] = self._within(own)[mine]
        return good

    def _within(self, limits: Mapping[str, float]) -> NDArray[np.bool_]:
        good = np.ones(len(self), bool)
        for metric, limit in limits.items():
            good &= getattr(self, metric) <= limit
        return good


def latency_statistics(name: str, seconds: Floats) -> dict[str, float | None]:
    """mean, median, std and percentiles in milliseconds; None where there is nothing to measure."""
    keys = [f"mean_{name}_ms", f"median_{name}_ms", f"std_{name}_ms", *(f"p{p}_{name}_ms" for p in PERCENTS)]
    if not len(seconds):
        return dict.fromkeys(keys)
    values = [seconds.mean(), np.median(seconds), seconds.std(), *np.percentile(seconds, PERCENTS)]
    return {key: float(value) * 1e3 for key, value in zip(keys, values, strict=True)}


def gap_statistics(gaps: Gaps) -> dict[str, float | None]:
    """The same for ITL, from the log of leaps."""
    keys = ["mean_itl_ms", "median_itl_ms", "std_itl_ms", *(f"p{p}_itl_ms" for p in PERCENTS)]
    if not gaps.count:
        return dict.fromkeys(keys)
    mean, std = gaps.mean_and_std()
    median, *percentiles = gaps.percentiles((50, *PERCENTS))
    scale = 1e3 / TICKS_PER_SECOND
    return {key: value * scale for key, value in zip(keys, [mean, median, std, *percentiles], strict=True)}


def summary(run: Run, requests: Finished) -> dict[str, Any]:
    """The headline figures of a run, flat, under vLLM's keys."""
    duration = requests.span()
    offered, completed = len(requests.all_ends), len(requests)
    prompt_tokens = int(requests.column("prompt_tokens").sum(dtype=np.int64))
    output_tokens = int(requests.column("generated").sum(dtype=np.int64))
    ends = {end.name.lower(): int((requests.all_ends == end).sum()) for end in End}

    def rate(amount: float) -> float | None:
        return amount / duration if duration else None

    return {
        "num_prompts": offered,
        "completed": completed,
        "failed": offered - completed,
        "rejected": ends["rejected"],
        "cancelled": ends["cancelled"],
        "unfinished": ends["unfinished"],
        "duration": duration,
        "total_input_tokens": prompt_tokens,
        "total_output_tokens": output_tokens,
        "request_throughput": rate(completed),
        "output_throughput": rate(output_tokens),
        "total_token_throughput": rate(prompt_tokens + output_tokens),
        **latency_statistics("ttft", requests.ttft),
        **latency_statistics("tpot", requests.tpot[requests.has_tpot]),
        **gap_statistics(Gaps(run.recorder)),
        **latency_statistics("e2el", requests.e2el),
        **latency_statistics("ttft_from_queue", requests.seconds("first_token", "queued")),
        **latency_statistics("e2el_from_queue", requests.seconds("last_token", "queued")),
        **{
            f"mean_{name}_ms": float(requests.component(name).mean()) * 1e3 if completed else None
            for name in COMPONENTS
        },
    }
