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

from ..costmodels.base import TICKS_PER_SECOND
from .gaps import Gaps
from .records import COMPONENTS, End
from .run import Run

Floats = NDArray[np.float64]
PERCENTS = (50, 90, 95, 99)


class Finished:
    """The requests of a run as columns of seconds, without those that arrived before the end of the warm-up."""

    def __init__(self, run: Run, warmup: float = 0.0) -> None:
        c = run.recorder.requests.columns()
        first = int(c["arrival"].min(initial=0))
        counted = c["arrival"] - first >= warmup * TICKS_PER_SECOND
        order = np.argsort(c["index"][counted], kind="stable")
        self.all = {name: column[counted][order] for name, column in c.items()}
        self.ends = self.all["end"]
        self.finished = self.ends == End.FINISHED
        self.rows = self.all["row"][self.finished]
        self.columns = {name: column[self.finished] for name, column in self.all.items()}
        self.ttft = self._seconds("first_token", "arrival")
        self.e2el = self._seconds("last_token", "arrival")
        self.ttft_from_queue = self._seconds("first_token", "queued")
        self.e2el_from_queue = self._seconds("last_token", "queued")
        tokens = self.columns["generated"]
        decoding = self._seconds("last_token", "first_token")
        self.tpot = np.divide(decoding, tokens - 1, out=np.zeros(len(tokens)), where=tokens > 1)  # 0 for one token
        self.has_tpot = tokens > 1

    def _seconds(self, to: str, since: str) -> Floats:
        return (self.columns[to] - self.columns[since]) / TICKS_PER_SECOND

    def component(self, name: str) -> Floats:
        """Seconds of a time component, one a finished request."""
        return self.columns[name] / TICKS_PER_SECOND

    def good(self, limits: Mapping[str, float], classes: Mapping[int, Mapping[str, float]], codes: Any) -> NDArray[np.bool_]:
        """Which finished requests keep their limits; `classes` by code of the request's class, in `codes`."""
        good = self._within(limits)
        for code, own in classes.items():
            mine = codes == code
            good[mine] = self._within(own)[mine]
        return good

    def _within(self, limits: Mapping[str, float]) -> NDArray[np.bool_]:
        good = np.ones(len(self.ttft), bool)
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
    c = requests.all
    start = int(c["arrival"].min(initial=0))
    duration = (int(c["ended"].max(initial=0)) - start) / TICKS_PER_SECOND
    prompt_tokens = int(requests.columns["prompt_tokens"].sum())
    output_tokens = int(requests.columns["generated"].sum())
    counts = {end.name.lower(): int((requests.ends == end).sum()) for end in End}

    def rate(amount: float) -> float | None:
        return amount / duration if duration else None

    return {
        "num_prompts": len(c["index"]),
        "completed": counts["finished"],
        "failed": len(c["index"]) - counts["finished"],
        "rejected": counts["rejected"],
        "cancelled": counts["cancelled"],
        "unfinished": counts["unfinished"],
        "duration": duration,
        "total_input_tokens": prompt_tokens,
        "total_output_tokens": output_tokens,
        "request_throughput": rate(counts["finished"]),
        "output_throughput": rate(output_tokens),
        "total_token_throughput": rate(prompt_tokens + output_tokens),
        **latency_statistics("ttft", requests.ttft),
        **latency_statistics("tpot", requests.tpot[requests.has_tpot]),
        **gap_statistics(Gaps(run.recorder)),
        **latency_statistics("e2el", requests.e2el),
        **latency_statistics("ttft_from_queue", requests.ttft_from_queue),
        **latency_statistics("e2el_from_queue", requests.e2el_from_queue),
        **{
            f"mean_{name}_ms": float(requests.component(name).mean()) * 1e3 if counts["finished"] else None
            for name in COMPONENTS
        },
    }
