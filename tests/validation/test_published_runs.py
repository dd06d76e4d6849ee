"""Recorded runs of vLLM 0.19 on two GPUs, with one engine preset: how close we must be."""

from __future__ import annotations

import pytest

from servecast.profiling.recorded.load import load_run
from servecast.profiling.validate import compare, missed, validation

EVERY_RUN = {
    **{f"{metric}.mean": 0.02 for metric in ("e2e_from_arrival", "tpot")},
    **{f"{metric}.{stat}": 0.03 for metric in ("e2e_from_arrival", "tpot") for stat in ("p50", "p90", "p99")},
    "ttft_from_arrival.mean": 0.04,
    "ttft_from_arrival.p50": 0.06,
}
OF_A_REQUEST = {"rtxpro6000-llama-3.1-8b-tp1": 0.02, "rtx4090-llama-3.1-8b-tp1": 0.03}  # bound by slots, by KV blocks


@pytest.mark.parametrize("name", OF_A_REQUEST)
def test_the_recorded_runs_are_met(data, name):
    if not (data / "vllm-runs" / name).is_dir():
        pytest.skip(f"no vllm-runs/{name} in SERVECAST_DATA")
    result = validation(compare(load_run(data / "vllm-runs" / name)))
    assert result["compared"] == 300
    assert missed(result, EVERY_RUN | {"e2e_from_arrival.mean_abs": OF_A_REQUEST[name]}) == []
    assert result["extrapolated_share"] < 0.01
