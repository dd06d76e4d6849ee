"""Validation: our own results agree with themselves, errors are what they say, limits are kept, noise is measured."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from servecast.cli import main
from servecast.errors import InputError
from servecast.profiling.calibrate import STEPS, calibrate, with_constants
from servecast.profiling.noise import spread
from servecast.profiling.recorded.load import load_run
from servecast.profiling.recorded.run import METRICS, RecordedRun
from servecast.profiling.validate import compare, missed, parse_limits, simulated_seconds, validation
from servecast.sim.deploy import deploy
from servecast.sim.report.report import build_report
from servecast.sim.report.write import write_results
from servecast.sim.run import run


@pytest.fixture
def recorded(plan, workload) -> RecordedRun:
    """A simulated run in the place of a real one."""
    made = plan()
    return RecordedRun("itself", workload, made, simulated_seconds(run(workload, made)))


def test_our_own_results_are_validated_without_error(plan, workload, tmp_path):
    """Written, read back and replayed, a run is the same to the nanosecond that its file has."""
    made = plan()
    simulated = run(workload, made)
    write_results(simulated, build_report(simulated), tmp_path)
    result = validation(compare(load_run(tmp_path, made)))
    assert result["compared"] == len(workload)
    for errors in result["errors"].values():
        assert max(map(abs, errors.values())) < 1e-6
    for metric, each in result["per_request"].items():
        assert each["mean_abs"] < 1e-6, metric


def test_an_error_is_simulated_over_recorded_less_one(recorded):
    slower = {metric: seconds * 1.25 for metric, seconds in recorded.seconds.items()}
    result = validation(compare(dataclasses.replace(recorded, seconds=slower)))
    for errors in result["errors"].values():
        np.testing.assert_allclose(list(errors.values()), 1 / 1.25 - 1)
    np.testing.assert_allclose(result["per_request"]["e2e_from_arrival"]["mean_abs"], 0.2)


def test_requests_without_a_time_are_not_compared(recorded):
    gaps = recorded.seconds["e2e_from_arrival"].copy()
    gaps[3] = np.nan
    result = validation(compare(dataclasses.replace(recorded, seconds={**recorded.seconds, "e2e_from_arrival": gaps})))
    assert result["compared"] == len(recorded.table) - 1


def test_limits_name_an_error_a_metric_or_everything():
    result = {
        "errors": {"tpot": {"mean": 0.01, "p99": -0.05}, "ttft_from_queue": {"mean": 0.2}},
        "per_request": {"tpot": {"mean_abs": 0.03}},
    }
    assert missed(result, parse_limits(["tpot.mean=2%", "tpot.mean_abs=0.04"])) == []
    assert len(missed(result, parse_limits(["tpot=2%"]))) == 1
    assert len(missed(result, parse_limits(["2%"]))) == 2
    assert len(missed(result, parse_limits(["tpot.mean_abs=1%"]))) == 1
    with pytest.raises(InputError, match=r"tpot\.mean"):
        missed(result, parse_limits(["tpot.meam=1%"]))
    with pytest.raises(InputError, match="max-error"):
        parse_limits(["tpot=much"])


def test_noise_moves_requests_and_more_noise_moves_them_more(recorded):
    little, much = (spread(recorded, recorded.seconds, noise, 2) for noise in (0.001, 0.1))
    for metric in METRICS:
        assert 0 < little[metric]["mean_abs"] < much[metric]["mean_abs"]
    with pytest.raises(InputError, match="noise"):
        spread(recorded, recorded.seconds, 0.0, 1)


def test_calibration_finds_the_constants_of_a_run(recorded):
    """A recording made with other waits: the errors that they cause go, also for the requests held back."""
    waits = {"gap_seconds_per_kernel": 4e-6, "gap_seconds_per_sequence": 9e-6, "host_seconds": 2e-4}
    slower = [with_constants(d, waits) for d in deploy(recorded.plan)]
    made = run(recorded.table, recorded.plan, deployments=slower)
    result = calibrate(dataclasses.replace(recorded, seconds=simulated_seconds(made)), evaluations=40)
    assert (
        set(result["constants"]) == set(STEPS)
        and result["engine_preset"]["host_seconds"] == result["constants"]["host_seconds"]
    )
    for part in ("fitted", "held_back"):
        before, after = result[part]["before"], result[part]["after"]
        assert after["e2e_from_arrival.mean_abs"] < 0.25 * before["e2e_from_arrival.mean_abs"]


def test_calibration_wants_measured_step_times(recorded):
    pool = dataclasses.replace(recorded.plan.pools[0], cost=None)
    with pytest.raises(InputError, match="cost"):
        calibrate(dataclasses.replace(recorded, plan=dataclasses.replace(recorded.plan, pools=(pool,))))


# -- the commands ------------------------------------------------------------------------------------------------


@pytest.fixture
def results(plan, workload, layer_profile, tmp_path):
    """A folder of our own results, and a plan file."""
    made = plan()
    simulated = run(workload.take(slice(24)), made)
    folder = tmp_path / "results"
    folder.mkdir()
    write_results(simulated, build_report(simulated), folder)
    path = tmp_path / "plan.yaml"
    pool = {k: v for k, v in dataclasses.asdict(made.pools[0]).items() if v is not None and v != ()}
    path.write_text(json.dumps({"model": made.model, "engine": made.engine, "pools": [pool]}))
    return folder, path


def test_validate_writes_its_result_and_judges_it(results, tmp_path, capsys):
    folder, path = results
    out = tmp_path / "out"
    words = ["validate", str(folder), "--plan", str(path), "--out", str(out)]
    assert main([*words, "--max-error", "0.1%"]) == 0
    assert "24 of 24 requests" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {"validate.json", "errors.csv.gz", "cdf.png", "scatter.png"}
    written = json.loads((out / "validate.json").read_text())
    assert {"errors", "per_request", "load", "kv_use", "preemptions", "extrapolated_share", "cpu_seconds"} <= set(
        written
    )
    assert main([*words[:-2], "--max-error", "e2e_from_arrival.mean=-1"]) == 1  # nothing is below a negative limit
    assert "MISSED" in capsys.readouterr().out


def test_calibrate_writes_a_preset_that_a_plan_can_name(results, tmp_path, capsys):
    folder, path = results
    out = tmp_path / "out"
    assert main(["calibrate", str(folder), "--plan", str(path), "--out", str(out)]) == 0
    assert "held back" in capsys.readouterr().out
    text = path.read_text().replace('"vllm-0.19"', json.dumps(str(out / "engine.yaml")))
    path.write_text(text)
    assert main(["validate", str(folder), "--plan", str(path), "--json"]) == 0


def test_a_mistake_leaves_with_2_and_writes_nothing(results, tmp_path, capsys):
    folder, path = results
    assert main(["validate", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert main(["validate", str(folder), "--plan", str(path), "--max-error", "tpto=1%"]) == 2
    assert "tpot" in capsys.readouterr().err
