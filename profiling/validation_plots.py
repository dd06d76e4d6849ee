"""Pictures of a validation: distributions of simulated over recorded latencies, and request against request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .validate import Comparison

_PANELS = {
    "ttft_from_arrival": "time to first token, s",
    "tpot": "time per output token, s",
    "e2e_from_arrival": "end-to-end latency, s",
}


def write_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """`cdf.png` and `scatter.png` in `folder`; returns their paths."""
    paths = []
    for name, draw in (("cdf", _distributions), ("scatter", _requests)):
        figure, axes = plt.subplots(1, len(_PANELS), figsize=(13, 4), layout="constrained")
        for axis, (metric, label) in zip(axes, _PANELS.items(), strict=True):
            draw(axis, *comparison.pairs(metric))
            axis.set_title(label, fontsize=10)
            axis.grid(alpha=0.3)
        axes[0].legend(fontsize=8)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120, metadata={"Software": None})  # no version inside: same run, same bytes
        plt.close(figure)
    return paths


def _distributions(axis: Any, simulated: Any, recorded: Any) -> None:
    for seconds, label in ((recorded, "recorded"), (simulated, "simulated")):
        axis.plot(np.sort(seconds), (np.arange(len(seconds)) + 1) / max(1, len(seconds)), label=label)
    axis.set_ylim(0, 1)


def _requests(axis: Any, simulated: Any, recorded: Any) -> None:
    axis.plot(recorded, simulated, ".", ms=3, label="a request")
    most = max(recorded.max(initial=0), simulated.max(initial=0))
    axis.plot([0, most], [0, most], color="grey", lw=0.8, label="equal")
    axis.set_xlabel("recorded")
    axis.set_ylabel("simulated")
