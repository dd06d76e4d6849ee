"""A profile in words and numbers, for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .results import PLAN, TABLES


def profile_summary(summary: dict[str, Any], out: Path) -> str:
    """What was measured, how well iterations add up, and how to use it."""
    machine = summary["machine"]
    lines = [
        f"{summary['model']} on {machine['name']}: {summary['points']:,} points, {len(summary['skipped'])} skipped"
    ]
    if "ceilings" in summary:
        copy, product = summary["ceilings"]["copy_bytes_per_s"], summary["ceilings"]["bf16_flops"]
        lines.append(f"  ceilings          copy {copy / 1e9:,.0f} GB/s, bf16 product {product / 1e12:,.2f} TFLOP/s")
    if summary["host"]:
        host = summary["host"]
        text = f"{host['seconds'] * 1e6:,.0f} us an iteration + {host['seconds_per_sequence'] * 1e6:,.2f} us a sequence"
        lines.append(f"  host              {text}; {host['kernel_seconds'] * 1e6:,.1f} us a launch outside a graph")
    for row in summary.get("closure", ()):
        batch = " + ".join([*(f"chunk of {tokens}" for tokens, _ in row["chunks"]), f"{row['decodes']} decodes"])
        lines.append(
            f"  {batch:<40}{row['measured'] * 1e3:9.3f} ms, sum of operators {row['predicted'] * 1e3:9.3f} ms"
            f" ({100 * row['error']:+.1f} %)"
        )
    lines.append(f"wrote {out / TABLES} and {out / PLAN}: servecast simulate --plan {out / PLAN} --trace T")
    return "\n".join(lines)
