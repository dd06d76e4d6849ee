"""Pictures of a run: how latency is distributed, and how load, memory and throughput went over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from ...costmodels.base import TICKS_PER_SECOND
from ..run import Run
from .gaps import Gaps
from .metrics import Finished
from .timeseries import time_series


def write_plots(run: Run, folder: Path) -> list[Path]:
    """`latency.png` and `timeseries.png` in `folder`; returns their paths."""
    paths = []
    for name, figure in (("latency", latency_figure(run)), ("timeseries", time_series_figure(run))):
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=100, metadata={"Software": None})  # no version inside: same run, same bytes
        plt.close(figure)
    return paths


def latency_figure(run: Run) -> Any:
    """Cumulative distributions of TTFT, TPOT, ITL and E2EL on logarithmic axes."""
    requests = Finished(run)
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.2), sharey=True, layout="constrained")
    curves = {
        "time to first token": requests.ttft,
        "time per output token": requests.tpot[requests.has_tpot],
        "end-to-end latency": requests.e2el,
    }
    for axis, (name, seconds) in zip((axes[0], axes[1], axes[3]), curves.items(), strict=True):
        values = np.sort(seconds) * 1e3
        _cdf(axis, name, values, np.linspace(0, 1, len(values)))
    gaps = Gaps(run.recorder)
    shares = np.concatenate([np.linspace(0, 99, 100), 100 - np.geomspace(1, 1e-3, 31)])
    values = np.array(gaps.percentiles(list(shares))) / TICKS_PER_SECOND * 1e3 if gaps.count else np.empty(0)
    _cdf(axes[2], "inter-token latency", values, shares[: len(values)] / 100)
    axes[0].set_ylabel("share of requests (ITL: of gaps)")
    return figure


def _cdf(axis: Any, name: str, milliseconds: NDArray, share: NDArray) -> None:
    axis.set_title(name, fontsize=10)
    axis.set_xlabel("ms")
    axis.grid(alpha=0.3)
    axis.set_ylim(0, 1.02)
    if not len(milliseconds):
        axis.text(0.5, 0.5, "nothing finished", ha="center", transform=axis.transAxes)
        return
    axis.plot(np.maximum(milliseconds, 1e-3), share, drawstyle="steps-post")
    axis.set_xscale("log")
    narrow = np.ptp(np.log10(axis.get_xlim())) < 2
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter("")
    p50, p99 = np.interp((0.5, 0.99), share, milliseconds)
    axis.text(0.97, 0.04, f"p50 {p50:,.1f} ms\np99 {p99:,.1f} ms", fontsize=9, ha="right", transform=axis.transAxes)


def time_series_figure(run: Run) -> Any:
    """Running and waiting requests, KV use and tokens per second, a line an engine."""
    series = time_series(run)
    engines = np.unique(series["engine"])
    panels = {
        "running": "running requests",
        "waiting": "waiting requests",
        "kv_cache_usage": "KV cache in use",
        "generation_throughput": "decoded tokens/s",
        "prompt_throughput": "prompt tokens/s",
    }
    figure, axes = plt.subplots(len(panels), 1, figsize=(11, 10), sharex=True, layout="constrained")
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        for engine in engines:
            mine = series["engine"] == engine
            axis.plot(series["t"][mine], series[name][mine], lw=0.9, label=f"engine {engine}")
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    if len(engines) <= 12:
        axes[0].legend(fontsize=7, ncols=6, loc="upper left")
    axes[-1].set_xlabel("seconds")
    return figure
