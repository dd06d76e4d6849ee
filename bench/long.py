"""`make bench-long`: ten million requests over seven months on eight replicas, killed once on the way.

The load is `traces/samples/burstgpt.yaml` (61 days, 1.43 million requests) made longer and denser, floods included, to
the size of the whole BurstGPT collection: 10.31 million requests in 213 days. Prints, as Markdown, CPU seconds (user +
system) and peak memory of `servecast simulate --checkpoint --out`, and of a second run that is killed with SIGKILL
half-way and goes on from its last checkpoint; fails where the two leave different bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

SAMPLE = Path(__file__).parent.parent / "traces/samples/burstgpt.yaml"
REQUESTS, DAYS = 10.31e6, 213.0
SAMPLE_REQUESTS, SAMPLE_DAYS = 1.43e6, 61.0


def spec(folder: Path, share: float) -> Path:
    """A generator's parameter file for `share` of the 213 days."""
    text = yaml.safe_load(SAMPLE.read_text())
    text["duration"] = round(DAYS * share * 86400)
    denser = REQUESTS / DAYS / (SAMPLE_REQUESTS / SAMPLE_DAYS)
    for stream in text["streams"]:
        stream["rate"] *= denser
    path = folder / "long.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def start(trace: Path, plan: str, out: Path, every: float) -> int:
    """A simulation in a process of its own."""
    command = [sys.executable, "-m", "servecast", "simulate", "--trace", str(trace), "--plan", plan]
    command += ["--checkpoint", str(every), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL).pid


def finish(pid: int) -> tuple[float, float]:
    """Wait for it: (CPU seconds, peak memory in MB)."""
    _, status, usage = os.wait4(pid, 0)
    if status and os.WTERMSIG(status) != signal.SIGKILL:
        raise SystemExit("the simulation failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def digest(folder: Path) -> dict[str, str]:
    """What a run left, by file."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.*")) if p.is_file()}


def rows(folder: Path) -> int:
    """Requests in a run's report."""
    return int(yaml.safe_load((folder / "report.json").read_text())["num_prompts"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the 213 days (default all)")
    parser.add_argument("--plan", default="bench-8")
    parser.add_argument("--checkpoint", type=float, default=60.0, help="seconds of real time between two")
    parser.add_argument("--unbroken", action="store_true", help="without the second run, which is killed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trace, whole, broken = spec(folder, args.share), folder / "whole", folder / "broken"
        began = time.monotonic()
        seconds, memory = finish(start(trace, args.plan, whole, args.checkpoint))
        took = time.monotonic() - began
        print("| run | requests | CPU s | requests/CPU s | peak MB |\n| --- | ---: | ---: | ---: | ---: |")
        count = rows(whole)
        print(f"| unbroken | {count:,} | {seconds:,.0f} | {count / seconds:,.0f} | {memory:,.0f} |", flush=True)
        if args.unbroken:
            return
        pid = start(trace, args.plan, broken, args.checkpoint)
        time.sleep(took / 2)
        os.kill(pid, signal.SIGKILL)
        before, _ = finish(pid)
        after, memory = finish(start(trace, args.plan, broken, args.checkpoint))
        print(f"| killed after {before:,.0f} CPU s, resumed | {count:,} | {after:,.0f} | | {memory:,.0f} |")
        if digest(whole) != digest(broken):
            raise SystemExit("the resumed run left other bytes")


if __name__ == "__main__":
    main()
