"""Recorded runs in three formats: the same workload, settings and latencies come out of each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from servecast.errors import InputError
from servecast.profiling.recorded.folder import engine_preset
from servecast.profiling.recorded.load import load_run
from servecast.profiling.recorded.run import METRICS
from servecast.sim.deploy import deploy

COLUMNS = "id,prompt_tokens,output_tokens,arrival_s,queued_s,scheduled_s,first_token_s,last_token_s"
# Two requests, the later one first: 40 + 3 tokens from 0.5 s, 33 + 1 tokens from 0.25 s.
ROWS = ("b,40,3,0.500,0.510,0.520,0.600,0.700", "a,33,1,0.250,0.250,0.250,0.400,0.400")
RUN = {
    "run": {
        "vllm_version": "0.19.1",
        "engine_kwargs": {
            "model": "example/tiny",
            "tensor_parallel_size": 1,
            "max_num_seqs": 12,
            "max_model_len": 4096,
        },
        "kv_cache": {"num_gpu_blocks": 777, "block_size": 16, "enable_prefix_caching": False},
        "hardware": {"device_name": "NVIDIA GeForce RTX 4090"},
    }
}


@pytest.fixture
def folder(layer_profile) -> Path:
    root = layer_profile()
    (root / "run.json").write_text(json.dumps(RUN))
    (root / "real_requests.csv").write_text("\n".join([COLUMNS, *ROWS]))
    blocks = "\n".join(json.dumps({"block_ids": ids}) for ids in ([1, 2], [1, 5]))
    (root / "prefix_blocks.jsonl.gz").write_bytes(gzip.compress(blocks.encode()))
    return root


def test_a_folder_gives_workload_settings_and_latencies(folder):
    run = load_run(folder)
    assert list(run.table.request_id) == ["a", "b"] and run.table.prompt_tokens.tolist() == [33, 40]
    assert [run.table.blocks.row(i).tolist() for i in (0, 1)] == [[1, 5], [1, 2]]
    expected = {
        "ttft_from_arrival": [0.15, 0.1], "ttft_from_queue": [0.15, 0.09], "tpot": [np.nan, 0.05],
        "e2e_from_arrival": [0.15, 0.2], "e2e_from_queue": [0.15, 0.19],
    }  # fmt: skip
    for metric in METRICS:
        np.testing.assert_allclose(run.seconds[metric], expected[metric])
    deployment = deploy(run.plan)[0]
    assert deployment.preset.name == "vllm-0.19" and deployment.hardware.name == "rtx-4090"
    assert deployment.blocks + 1 == run.kv_blocks == 777 and not deployment.prefix_caching
    assert deployment.limits.max_num_seqs == 12 and deployment.cost.label == "measured"


def test_the_gpu_is_found_without_a_profile(folder):
    (folder / "profile").rename(folder / "elsewhere")
    assert load_run(folder).plan.pools[0].hardware == "rtx-4090"


def test_an_unknown_gpu_is_refused(folder):
    (folder / "profile").rename(folder / "elsewhere")
    record = {"run": {**RUN["run"], "hardware": {"device_name": "NVIDIA Tesla K80"}}}
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="K80"):
        load_run(folder)


def test_a_missing_column_is_refused(folder):
    (folder / "real_requests.csv").write_text("\n".join([COLUMNS.replace("queued_s", "queue_s"), *ROWS]))
    with pytest.raises(InputError, match="queued_s"):
        load_run(folder)


def test_prefix_blocks_of_another_workload_are_refused(folder):
    (folder / "prefix_blocks.jsonl.gz").write_bytes(gzip.compress(b'{"block_ids": [1]}\n'))
    with pytest.raises(InputError, match="one a request"):
        load_run(folder)


@pytest.mark.parametrize(
    ("version", "preset"),
    [("0.19.0", "vllm-0.19"), ("0.28.1", "vllm-0.19"), ("0.7.3", "vllm-0.6"), ("0.5", "vllm-0.6")],
)
def test_a_version_takes_the_newest_preset_that_is_not_newer(version, preset):
    assert engine_preset("vllm", version, "run.json") == preset


BENCH = {
    "model_id": "example/tiny", "request_rate": "inf", "max_concurrency": 2, "input_lens": [40, 33, 10],
    "output_lens": [3, 1, 0], "ttfts": [0.1, 0.15, 0.0], "itls": [[0.04, 0.06], [], []],
    "errors": ["", "", "refused"], "start_times": [100.5, 100.25, 100.0],
}  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    def write(**changes) -> Path:
        path = tmp_path / "bench.json"
        path.write_text(json.dumps({k: v for k, v in (BENCH | changes).items() if v is not None}))
        return path

    return write


def test_a_benchmark_result_gives_what_its_client_saw(bench, plan):
    run = load_run(bench(), plan())
    assert run.table.arrival.tolist() == [0.0, 0.25] and run.table.prompt_tokens.tolist() == [33, 40]
    np.testing.assert_allclose(run.seconds["ttft_from_arrival"], [0.15, 0.1])
    np.testing.assert_allclose(run.seconds["e2e_from_arrival"], [0.15, 0.2])
    assert np.isnan(run.seconds["ttft_from_queue"]).all() and run.users == 0
    np.testing.assert_allclose(run.gaps, [0.04, 0.06])
    assert run.notes == ("1 failed requests left out",)


def test_an_older_result_without_start_times_is_a_closed_loop(bench, plan):
    assert load_run(bench(start_times=None), plan()).users == 2
    assert load_run(bench(start_times=None, max_concurrency=None), plan()).users == 0
    with pytest.raises(InputError, match="start_times"):
        load_run(bench(start_times=None, request_rate=3.0), plan())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"itls": None}, "save-detailed"),
        ({"ttfts": [0.1]}, "1 entries"),
        ({"ttfts": [0.1, "x", 0.2]}, "numbers"),
        ({"errors": ["a", "b", "c"]}, "every request failed"),
    ],
)
def test_a_malformed_result_is_refused(bench, plan, changes, word):
    with pytest.raises(InputError) as error:
        load_run(bench(**changes), plan())
    assert word in str(error.value)


def test_settings_are_asked_for_where_the_record_has_none(bench, tmp_path):
    with pytest.raises(InputError, match="--plan"):
        load_run(bench())
    with pytest.raises(InputError, match="no recorded run"):
        load_run(tmp_path)
