"""What the pictures of sweeps, capacity searches and plans have in common."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ..sim.report.write import write_bytes


def panels(titles: list[str]) -> tuple[Any, list[Any]]:
    """A figure with one panel beside the other, drawn without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = 4.6 * len(titles), 3.6
    figure, axes = plt.subplots(1, len(titles), figsize=size, layout="constrained", squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    return figure, list(axes[0])


def save(figure: Any, path: Path) -> None:
    """As PNG, complete or not at all, without a version inside: the same figure gives the same bytes."""
    import matplotlib.pyplot as plt

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    write_bytes(png.getvalue(), path)
