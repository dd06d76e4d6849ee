"""Everything that wants a GPU, in runs of a few minutes: kernel tests, benchmarks, profiles and the closed loop.

    python bench/gpu.py --out DIR [--minutes M] [--only NAME] [--list]

What was completed is not done again and what ran out of time goes on where it was, so the command is run until it says
that all is done; DIR may be carried to another machine of the same kind in between. Needs no network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from time import monotonic

ROOT = Path(__file__).parents[1]
NEEDED = ("torch", "triton", "numpy", "simpy", "yaml", "scipy", "pytest")
UNFINISHED = 75  # exit code of what ran out of time
_LEAST = 1.0  # minutes: a step is not begun with less


@dataclass(frozen=True)
class Step:
    """A command. minutes : that it is to have in all.

    limit : the flag that tells it how many it has now; without one it must have all of them at once.
    fills : it uses whatever time it is given, and is done when it has had `minutes`.
    """

    name: str
    words: tuple[str, ...]
    minutes: float
    limit: str = ""
    fills: bool = False


def profile(model: str, minutes: float, tp: int = 1) -> Step:
    words = ("-m", "servecast", "profile", "--device", "cuda", "--model", model, "--tp", str(tp), "--power")
    caches = ("--kv-cache-dtype", "auto", "--kv-cache-dtype", "fp8")
    return Step(f"{model}-tp{tp}", (*words, *caches), minutes, "--budget", fills=True)


CLOSED_LOOP = ("-m", "servecast", "closed-loop", "--device", "cuda")
STEPS = (
    Step("tests", ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/real_backend"), 8),
    Step("attention", ("bench/attention.py",), 20, "--minutes"),
    Step("layers", ("bench/layers.py",), 12, "--minutes"),
    profile("llama-3.1-8b", 8),
    Step("closed-loop", (*CLOSED_LOOP, "--model", "llama-3.1-8b", "--budget", "4"), 9),
    profile("qwen3-30b-a3b", 8),
    profile("qwen3-32b", 5, tp=2),
    profile("qwen3-32b", 5, tp=4),
    profile("qwen3-32b", 5, tp=8),
)  # fmt: skip


def main() -> int:
    """Do what is left while there is time; 0 when all is done, 75 when there is more to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu", help="default: out/gpu")
    parser.add_argument("--minutes", type=float, default=9.5, help="of this run (default 9.5)")
    parser.add_argument("--only", default="", help="steps whose name holds this")
    parser.add_argument("--list", action="store_true", help="only say what is left")
    args = parser.parse_args()
    steps = [step for step in STEPS if args.only in step.name]
    path = args.out.resolve() / "state.json"
    spent: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing and not args.list:
        print(
            f"missing: {', '.join(missing)}; `pip download` the wheels elsewhere and install them here", file=sys.stderr
        )
        return 2
    if not args.list and not has_gpu():
        print("torch finds no GPU here", file=sys.stderr)
        return 2
    end = monotonic() + 60 * args.minutes
    for step in steps if not args.list else ():
        left = (end - monotonic()) / 60
        wanted = step.minutes - spent.get(step.name, 0.0)
        if wanted <= 0 or left < (_LEAST if step.limit else wanted):
            continue
        began = monotonic()
        code = run(step, min(left, wanted) - 0.5, left, path.parent / step.name)
        if step.limit and code in (0, UNFINISHED):
            spent[step.name] = spent.get(step.name, 0.0) + (monotonic() - began) / 60
        if not step.fills and (code == 0 or (code == 1 and step.name == "closed-loop")):  # 1: not accepted, but told
            spent[step.name] = step.minutes
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(spent, indent=1))
        print(f"== {step.name}: exit code {code}", flush=True)
    for step in steps:
        left = max(0.0, step.minutes - spent.get(step.name, 0.0))
        print(f"{step.name:<20}{f'{left:.1f} min left' if left else 'done'}")
    return 0 if all(spent.get(step.name, 0.0) >= step.minutes for step in steps) else UNFINISHED


def has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def run(step: Step, minutes: float, at_most: float, folder: Path) -> int:
    """The step's exit code; its output goes to the terminal and to `folder`.log."""
    words = [sys.executable, *step.words]
    if step.limit:
        words += [step.limit, f"{minutes:.2f}"]
    if step.name != "tests":
        words += ["--out", str(folder)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT / ".types"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    clock = Timer(60 * at_most, process.kill)
    clock.start()
    try:
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
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
