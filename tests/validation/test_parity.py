"""Parity with Vidur: its rules on a case small enough to follow by hand, and its self-checks where the data is."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from servecast.profiling.parity import CASES, iterations, main, simulate


def write(path: Path, *lines: str) -> None:
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Every iteration takes 1 ms a layer, whatever it computes; two requests, the second during the first's prompt."""
    folder = tmp_path / "data"
    folder.mkdir()
    for model in ("8b_tp1", "70b_tp4"):
        write(folder / f"optable_{model}_tokens.csv.gz", "num_tokens,mlp", *(f"{n},0.5" for n in range(8, 4097, 8)))
        write(
            folder / f"optable_{model}_attn_decode.csv.gz", "batch_size,avg_kv_rounded64,ms",
            *(f"{n},{kv},{0.5 if n == 1 else 0.5 / 1.1}" for n in (1, 2) for kv in range(0, 4097, 64)),
        )  # fmt: skip
    for case in CASES:
        rows = [f"0,{n},0.5" for n in range(1, 4097)]
        write(folder / f"optable_{case.name}_attn_prefill_used.csv.gz", "sum_kv_rounded64,eff_chunk,ms", *rows)
        trace = ("request_id,arrived_at_s,num_prefill_tokens,num_decode_tokens", "0,1.0,100,3", "1,1.001,100,2")
        write(folder / f"{case.trace}_trace.csv.gz", *trace)
    return folder


def test_prompts_first_and_arrivals_at_boundaries(tables, tmp_path):
    """vLLM v0, 32 layers of 1 ms: request 0's prompt until 32 ms; then request 1's, which came meanwhile, until 64 ms;
    then two iterations of both or of one: 96 ms (request 1's last token), 128 ms (request 0's)."""
    assert main([str(tables), str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "a.csv").read_text().splitlines()
    assert lines[0] == "request_id,ttft_s,e2e_s,num_restarts"
    assert lines[1:] == ["0,0.032000000,0.128000000,0", "1,0.063000000,0.095000000,0"]


def test_missing_or_malformed_data_is_refused(tables, tmp_path, capsys):
    (tables / "e_trace.csv.gz").unlink()
    assert main([str(tables), str(tmp_path / "out")]) == 2
    assert "e_trace" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "expected", "restarts"), [("a", 11_529, 0), ("b", 13_693, 0), ("d70", 11_182, 0), ("e", 11_456, 12)]
)
def test_the_published_self_checks(data, case, expected, restarts):
    """Iterations and restarts of Vidur's own runs, and no look-up of a key that its tables do not have."""
    if not (data / "vidur-parity").is_dir():
        pytest.skip("no vidur-parity/ in SERVECAST_DATA")
    simulated = simulate(next(c for c in CASES if c.name == case), data / "vidur-parity")
    assert (iterations(simulated), simulated.engines[0].preemptions) == (expected, restarts)
    assert simulated.engines[0].outside == 0
