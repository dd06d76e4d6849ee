"""`make studies`: what chunk reuse makes of RAGPulse (flashserve/RAGPulse): TTFT with and without it.

Passages repeat about 90 % of the time, but only 29 % of them as part of an equal prefix of passages, and next to none
with the system prompt in front, which differs in its last piece. CacheBlend and Cache-Craft reuse them wherever they
stand. Published: CacheBlend 2.2 to 3.3 times lower TTFT than full recomputation; Cache-Craft 51 % less prefill than
prefix caching.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from servecast.configs.plan import plan_from
from servecast.sim.report.metrics import Finished
from servecast.sim.run import run
from servecast.traces.load import load
from servecast.traces.table import RequestTable
from servecast.traces.transform import scale_rate

SYSTEMS: dict[str, dict[str, Any]] = {
    "no reuse": {"caching": False},
    "prefix cache": {},
    "CacheBlend": {"reuse": "cacheblend"},
    "CacheBlend, SSD": {"reuse": {"name": "cacheblend", "bandwidth": 4.8e9}},
    "CacheBlend, 1 M tokens": {"reuse": {"name": "cacheblend", "capacity": 1e6}},
    "Cache-Craft": {"reuse": "cache_craft"},
}


def read(folder: Path, requests: int) -> RequestTable:
    """The first requests of the trace."""
    return load(folder / "0_trace.jsonl.gz", sort=True).take(slice(0, requests))


def passages(table: RequestTable, prompt_in_front: bool = False) -> tuple[float, float]:
    """Share of passages that were there before, and as part of an equal prefix (of passages, or of all before them)."""
    assert table.chunks is not None
    seen: set[int] = set()
    prefixes: set[tuple[int, ...]] = set()
    repeated = in_prefix = count = 0
    for row in map(table.chunks.row, range(len(table))):
        prefix = tuple(id_ for id_, _, kind in row if kind == 0) if prompt_in_front else ()
        for id_, _, kind in row:
            if kind == 1:
                prefix = (*prefix, id_)
                count += 1
                repeated += id_ in seen
                in_prefix += prefix in prefixes
                seen.add(id_)
                prefixes.add(prefix)
    return repeated / count, in_prefix / count


def ttft(table: RequestTable, caching: bool = True, **keys: Any) -> tuple[float, float]:
    """Mean TTFT, seconds, and the share of prompt tokens that were not computed."""
    pool = {"name": "rag", "hardware": "a100-80gb", "enable_prefix_caching": caching}
    done = Finished(run(table, plan_from({"model": "llama-3.1-8b", "engine": "vllm-0.12", "pools": [pool], **keys})))
    return float(done.ttft.mean()), float(done.column("cached_tokens").sum() / done.column("prompt_tokens").sum())


def main() -> None:
    """A table over load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--speed", type=float, nargs="+", default=[30, 60, 90], help="times the recorded rate")
    args = parser.parse_args()
    table = read(Path(os.environ.get("SERVECAST_DATA", "../shared/data"), "traces", "ragpulse"), args.requests)
    for front in (False, True):
        print("passages that repeat, and in an equal prefix: {:.1%}, {:.2%}".format(*passages(table, front)))
    for speed in args.speed:
        for name, keys in SYSTEMS.items():
            mean, saved = ttft(scale_rate(table, speed), **keys)
            print(f"x {speed:g}  {name:<24} mean TTFT {mean:8.3f} s, not computed {saved:6.1%}", flush=True)


if __name__ == "__main__":
    main()
