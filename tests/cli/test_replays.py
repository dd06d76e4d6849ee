"""Real traces as a user replays them, as recorded and faster: nothing lost, no invariant broken, load is no relief.

The files lie in the data folder; the same readers meet traces of our own in the same formats below.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from servecast.traces.load import load

SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "chat-sample.jsonl.gz"
LONGEST = 32768  # max_model_len of the plan "default"
ROWS = 1200
RECORDED = {  # file -> how much faster it keeps four H100 busy
    "azure/AzureLLMInferenceTrace_conv.csv.gz": 15,
    "azure/AzureLLMInferenceTrace_code.csv.gz": 20,
    "burstgpt/burstgpt_slice.csv": 10_000,
    "burstgpt/burstgpt3_slice.csv": 10_000,
    "mooncake/conversation_trace.jsonl.gz": 2,
}


def recorded(name: str) -> Path:
    """A trace in the data folder."""
    if "SERVECAST_DATA" not in os.environ:
        pytest.skip("SERVECAST_DATA does not name the data folder")
    path = Path(os.environ["SERVECAST_DATA"]) / "traces" / name
    if not path.exists():
        pytest.skip(f"the data folder has no {path.name}")
    return path


def replay(servecast: Any, trace: Path, *flags: object) -> dict[str, Any]:
    """The report of a run on the plan "default"."""
    outcome = servecast("simulate", "--trace", trace, "--plan", "default", "--slo", "chat", "--json", *flags)
    assert outcome.code == 0 and outcome.err == ""
    report: dict[str, Any] = json.loads(outcome.out)
    assert all(report["simulation"]["invariants"].values()), report["simulation"]["invariants"]
    return report


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_traces(servecast: Any, name: str) -> None:
    trace = recorded(name)
    table = load(trace)
    rows = min(ROWS, len(table))
    fits = table.prompt_tokens[:rows] < LONGEST
    calm = replay(servecast, trace, "--limit", ROWS)
    busy = replay(servecast, trace, "--limit", ROWS, "--rate-scale", RECORDED[name])
    for report in (calm, busy):
        assert (report["num_prompts"], report["completed"], report["rejected"]) == (rows, fits.sum(), (~fits).sum())
        assert report["total_input_tokens"] == table.prompt_tokens[:rows][fits].sum()
        cut = report["simulation"]["truncated_by_max_model_len"]
        asked = int(table.output_tokens[:rows][fits].sum())
        assert report["total_output_tokens"] == asked if not cut else asked > report["total_output_tokens"] > 0
    source = calm["simulation"]["source"]
    assert source["rows"] - source["dropped"] == len(table)
    for metric in ("median_ttft_ms", "mean_e2el_ms", "mean_tpot_ms", "output_throughput"):
        assert calm[metric] < busy[metric]
    assert calm["simulation"]["mean_decode_batch"] < busy["simulation"]["mean_decode_batch"]


def test_whole_second_stamps_may_be_spread(servecast: Any) -> None:
    """BurstGPT's stamps are whole seconds: at 5000 x, jitter keeps what falls into one second from being a heap."""
    trace = recorded("burstgpt/burstgpt_slice.csv")
    heaped, spread = (replay(servecast, trace, "--rate-scale", 5000, *j) for j in ((), ("--jitter", 1)))
    assert heaped["completed"] == spread["completed"] == heaped["simulation"]["source"]["rows"] - 17  # failed ones
    assert heaped["simulation"]["trace_fingerprint"] != spread["simulation"]["trace_fingerprint"]


@pytest.mark.parametrize("form", ["azure", "burstgpt", "mooncake"])
def test_our_own_sample_in_the_formats_of_others(servecast: Any, tmp_path: Path, form: str) -> None:
    """The same requests at the same times, but for what the format rounds (100 ns, 1 ns, 1 ms)."""
    path = tmp_path / "trace.gz"
    assert servecast("trace", "convert", SAMPLE, "--limit", 500, "--to", form, "--out", path).code == 0
    ours, theirs = replay(servecast, SAMPLE, "--limit", 500), replay(servecast, path)
    assert theirs["simulation"]["source"]["format"] == form
    for key in ("completed", "total_input_tokens", "total_output_tokens"):
        assert theirs[key] == ours[key]
    # Who arrives a millisecond later may wait for another iteration, or go to another replica.
    assert theirs["duration"] == pytest.approx(ours["duration"], rel=0.01)
    assert theirs["mean_ttft_ms"] == pytest.approx(ours["mean_ttft_ms"], rel=0.05)
