"""The benchmark scripts: their cases can be built and run, on small sizes where there is no GPU."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
from math import inf
from pathlib import Path

import pytest
import torch

from servecast.profiling.benchmark import Benchmark, Case
from servecast.profiling.machine import Machine
from servecast.profiling.timer import CpuTimer

BENCH = Path(__file__).parents[2] / "bench"
FLASH = torch.nn.attention.SDPBackend.MATH  # the one that every device has
SMALL = {
    "attention": {
        "_decode": [(8, 2, [40, 1, 70], torch.float16)],
        "_torch_attention": [(FLASH, 2, 4, 2, 1, 20), (FLASH, 1, 4, 2, 20, 20)],
        "_prefill": [(8, 2, 20, 0), (4, 2, 9, 40)],
        "_shared_prefix": [(4, 2, 3, 70, 9)],
        "_quantised": [(4, 2, 2, 64, 8), (4, 2, 2, 64, 2)],
        "_sparse": [(4, 2, 64, 32, 0.5)],
    },
    "layers": {
        "_gemm_w4": [(3, 256, 64)],
        "_linear": [(3, 64, 32)],
        "_experts": [(4, 8, 2, 64, 32)],
        "_adapters": [(5, [8, 16])],
        "_norm": [(2,)],
        "_silu": [(1,)],
        "_rotary": [(2, False), (2, True)],
        "_write": [(3,)],
        "_copy": [(1, "gather")],
        "_sample": [(1, False)],
    },
}


def script(name: str, lab):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.GPU, module.DTYPE = lab.device, lab.dtypes[0]
    module.VOCABULARY = lab.size(500, 128256)
    return module


@pytest.mark.parametrize("name", SMALL)
def test_every_case_can_be_built_and_run(lab, name):
    module = script(name, lab)
    for maker, sizes in SMALL[name].items():
        for size in sizes:
            out = getattr(module, maker)(*size)()
            assert out is None or out.isfinite().all(), maker


@pytest.mark.parametrize("name", SMALL)
def test_cases_have_names_and_bounds_of_their_own(lab, name):
    cases = list(script(name, lab).cases())
    assert len({case.key for case in cases}) == len(cases)
    assert all(case.bytes + case.flops > 0 for case in cases)
    makers = {getattr(case.make, "func", case.make).__name__ for case in cases}
    assert makers == set(SMALL[name])


def test_rows_are_kept_failures_are_noted_and_nothing_is_measured_twice(tmp_path):
    made = []

    def make(name):
        def call():
            if name == "broken":
                raise RuntimeError("no such back end\nand more")

        made.append(name)
        return call

    cases = [Case(n, "x", {"n": 1}, lambda n=n: make(n), bytes=1e6, flops=f) for n, f in
             (("a", 0.0), ("broken", 0.0), ("b", 1e12))]  # fmt: skip
    machine = Machine("cpu", "test", 1, 1, 1, "", {}, None)
    limits = {"copy_bytes_per_s": 1e9, "bf16_flops": 1e12}

    def benchmark() -> Benchmark:
        return Benchmark(tmp_path / "rows.jsonl", machine, CpuTimer(), limits)

    assert not benchmark().run(cases, deadline=-1.0) and not made  # no time
    first = benchmark()
    assert first.run(cases, deadline=inf)
    assert [row.get("failed") for row in first.rows] == [None, "no such back end", None]
    a, _, b = first.rows
    assert a["share"] == pytest.approx(1e-3 / a["seconds"]) and b["share"] == pytest.approx(1.0 / b["seconds"])
    count = len(made)
    again = benchmark()
    assert again.run(cases, deadline=inf) and len(made) == count and again.rows == first.rows
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == first.rows
    assert all(x != y for x, y in pairwise(again.table().splitlines()))
