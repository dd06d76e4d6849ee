"""Every kernel compiles for a Hopper GPU, with what makes it fast there; no GPU is needed. The interpreter takes more
than the compiler does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ON_TENSOR_CORES = {
    "_paged_decode", "_paged_prefill", "_prefix", "_quantised_decode", "_sparse_prefill", "_gemm_w4", "_moe_gemm",
    "_down", "_up",
}  # fmt: skip
OTHERS = {
    "_merge", "_sum_parts", "_lay_out", "_place", "_rms_norm", "_silu_mul", "_rotary", "_kv_write", "_copy", "_sample",
}  # fmt: skip


@pytest.mark.slow
def test_kernels_compile_for_hopper():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    words = [sys.executable, str(Path(__file__).with_name("offline.py"))]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["kernel"] for row in rows} == ON_TENSOR_CORES | OTHERS
    for row in rows:
        assert row["LDL"] <= 2, f"spills registers: {row}"  # a word or two outside the loop is none
        if row["kernel"] in ON_TENSOR_CORES:
            assert row["HGMMA"] + row["HMMA"] > 0, f"no tensor cores: {row}"
        if row["kernel"] not in ("_lay_out", "_place", "_merge"):
            assert row["wide"] > 0, f"no loads of 16 bytes: {row}"
