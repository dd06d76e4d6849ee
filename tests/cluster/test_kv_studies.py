"""The fast halves of the KV studies: published orders and signs on synthetic twins, a few seconds each."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[2] / "bench" / "studies"


def study(name):
    spec = importlib.util.spec_from_file_location(f"{name}_study", STUDIES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def jct():
    """Mean completion time of a system of the Continuum study, seconds, with 50 programs."""
    continuum = study("continuum")

    def mean(system, name, rate, turns=0.0, **keys):
        table = continuum.workload(name, rate, 0, turns, programs=50)
        return continuum.figures(table, **continuum.SYSTEMS[system], **keys)["mean_jct_ms"] / 1e3

    return mean


def test_continuum_gains_with_load_and_nothing_without_a_queue(jct):
    idle = [jct(system, "swe-agent", 0.1, tokens=128_000) for system in ("vLLM", "Continuum")]
    assert idle[0] == pytest.approx(idle[1], rel=0.01)
    systems = ("vLLM", "program FCFS", "static TTL 2 s", "Continuum")
    busy = [jct(system, "swe-agent", 0.6, tokens=96_000) for system in systems]
    assert busy == sorted(busy, reverse=True)  # the paper's ablation, each step better than the one before
    assert busy[0] > 1.2 * busy[-1]


def test_continuum_gains_with_turns(jct):
    """The same calls a second, in programs of 5 turns and of 14 (median)."""
    few, many = (
        [jct(system, "swe-agent", 6 / turns, turns, tokens=96_000) for system in ("vLLM", "Continuum")]
        for turns in (5.0, 14.0)
    )
    assert many[0] / many[1] > few[0] / few[1] * 1.1


def test_plas_helps_programs_of_many_sizes_and_hurts_those_that_are_nearly_done(jct):
    """Where slots bind: shorter completion than FCFS on the web-search twin, longer on the SWE twin."""
    for name, rate, better in (("web-search", 0.3, True), ("swe-agent", 0.5, False)):
        fcfs, plas = (jct(s, name, rate, tokens=960_000, max_num_seqs=8) for s in ("vLLM", "Autellix PLAS"))
        assert (plas < fcfs) == better
