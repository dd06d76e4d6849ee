"""Everything that wants a GPU, in runs of a few minutes: kernel tests, benchmarks, profiles and the closed loop.

    python bench/gpu.py --out DIR [--minutes M] [--only NAME] [--list]

What was completed is not done again, what ran out of time goes on where it was, and what failed is tried again after
all the rest; so the command is run until it says that all is done. DIR may be carried to another machine of the same
kind in between. Needs no network: wheels in out/wheels (`make gpu-wheels`) are used as they lie there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from time import monotonic

ROOT = Path(__file__).parents[1]
NEEDED = ("torch", "triton", "numpy", "simpy", "yaml", "scipy", "pytest")
WHEELS = ROOT / "out" / "wheels"  # pure Python, which runs from the archive
UNFINISHED = 75  # exit code of what ran out of time
NOT_ACCEPTED = 1  # exit code of a closed loop that ran and missed its limits
_LEAST = 1.0  # minutes: a step is not begun with less
_MARGIN = 0.5  # minutes: to write what was measured


@dataclass(frozen=True)
class Step:
    """A command. minutes : that it is to have in all.

    limit : the flag that tells it how many it has now; without one it must have all of them at once.
    fills : it uses whatever time it is given, and is done when it has had `minutes`.
    keeps : it writes into a folder of its own, `--out`.
    """

    name: str
    words: tuple[str, ...]
    minutes: float
    limit: str = ""
    fills: bool = False
    keeps: bool = True


def tests(path: Path) -> Step:
    """The tests of one file: a run has time for some of them."""
    workers = ("-n", "4") if find_spec("xdist") else ()  # most of the time is compilation
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, str(path.relative_to(ROOT)))
    return Step(path.stem, words, 5, keeps=False)


def profile(model: str, minutes: float, tp: int = 1) -> Step:
    words = ("-m", "servecast", "profile", "--device", "cuda", "--model", model, "--tp", str(tp), "--power")
    caches = ("--kv-cache-dtype", "auto", "--kv-cache-dtype", "fp8")
    return Step(f"{model}-tp{tp}", (*words, *caches), minutes, "--budget", fills=True)


CLOSED_LOOP = ("-m", "servecast", "closed-loop", "--device", "cuda")
STEPS = (
    *(tests(path) for path in sorted((ROOT / "tests" / "real_backend").glob("test_*.py"))),
    Step("attention", ("bench/attention.py",), 20, "--minutes"),
    Step("layers", ("bench/layers.py",), 12, "--minutes"),
    profile("llama-3.1-8b", 8),
    Step("closed-loop", (*CLOSED_LOOP, "--model", "llama-3.1-8b", "--budget", "4"), 9),
    profile("qwen3-30b-a3b", 8),
    profile("qwen3-32b", 5, tp=2),
    profile("qwen3-32b", 5, tp=4),
    profile("qwen3-32b", 5, tp=8),
)  # fmt: skip


class Ledger:
    """Minutes that each step has had and how it ended last, in `folder`/state.json."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._path = folder, folder / "state.json"
        rows = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.minutes: dict[str, float] = rows.get("minutes", {})
        self.failed: dict[str, int] = rows.get("failed", {})

    def left(self, step: Step) -> float:
        return max(0.0, step.minutes - self.minutes.get(step.name, 0.0))

    def book(self, step: Step, code: int, minutes: float) -> None:
        """A step ended with `code` after so long."""
        well = code in (0, UNFINISHED) or (code == NOT_ACCEPTED and "closed-loop" in step.words)
        self.failed.pop(step.name, None)
        if not well:
            self.failed[step.name] = code
        elif code == UNFINISHED or step.fills:
            self.minutes[step.name] = self.minutes.get(step.name, 0.0) + minutes
        else:
            self.minutes[step.name] = step.minutes
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"minutes": self.minutes, "failed": self.failed}, indent=1))
        new.replace(self._path)

    def table(self, steps: Sequence[Step]) -> str:
        """What is done and what is left."""
        lines = []
        for step in steps:
            text = f"{self.left(step):.1f} min left" if self.left(step) else "done"
            if step.name in self.failed:
                text = f"FAILED with exit code {self.failed[step.name]}: {self.folder / step.name}.log"
            lines.append(f"{step.name:<24}{text}")
        return "\n".join(lines)


def main() -> int:
    """Do what is left while there is time; 0 when all is done, 75 when there is more to do, 2 where nothing can be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu", help="default: out/gpu")
    parser.add_argument("--minutes", type=float, default=9.5, help="of this run (default 9.5)")
    parser.add_argument("--only", default="", help="steps whose name holds this")
    parser.add_argument("--list", action="store_true", help="only say what is left")
    args = parser.parse_args()
    sys.path += map(str, sorted(WHEELS.glob("*.whl")))
    steps = [step for step in STEPS if args.only in step.name]
    ledger = Ledger(args.out.resolve())
    if not args.list:
        if why := lacking():
            print(why, file=sys.stderr)
            return 2
        work(steps, ledger, monotonic() + 60 * args.minutes)
    print(ledger.table(steps))
    return UNFINISHED if any(map(ledger.left, steps)) else 0


def work(steps: Sequence[Step], ledger: Ledger, end: float) -> None:
    """One step after the other until `end`, those that failed last."""
    for step in sorted(steps, key=lambda step: step.name in ledger.failed):
        left, wanted = (end - monotonic()) / 60, ledger.left(step)
        if not wanted or left < (_LEAST if step.limit else wanted):
            continue
        began = monotonic()
        code = run(step, min(left, wanted) - _MARGIN, left, ledger.folder)
        ledger.book(step, code, (monotonic() - began) / 60)
        print(f"== {step.name}: exit code {code}", flush=True)


def lacking() -> str:
    """What is missing here, or nothing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        return f"missing: {', '.join(missing)}; `make gpu-wheels` where there is a network brings simpy"
    import torch

    return "" if torch.cuda.is_available() else "torch finds no GPU here"


def run(step: Step, minutes: float, at_most: float, folder: Path) -> int:
    """The step's exit code, killed after `at_most` minutes; its output goes to the terminal and to a log."""
    words = [sys.executable, *step.words]
    if step.limit:
        words += [step.limit, f"{minutes:.2f}"]
    if step.keeps:
        words += ["--out", str(folder / step.name)]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT / ".types"), *map(str, sorted(WHEELS.glob("*.whl"))), os.environ.get("PYTHONPATH")]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"
    }  # fmt: skip
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    clock = Timer(60 * at_most, process.kill)
    clock.start()
    try:
        with (folder / f"{step.name}.log").open("ab") as log:
            for line in process.stdout:
                log.write(line)
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
        return process.wait()
    finally:
        clock.cancel()
        process.kill()


if __name__ == "__main__":
    raise SystemExit(main())
