"""Workflows with deadlines, and offline jobs grouped by prefix."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from servecast.errors import InputError
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.prefix_groups import group_prefixes, prefix_groups, saved_share
from servecast.traces.programs import ParentRows, Programs
from servecast.traces.table import RequestTable
from servecast.traces.workflow import expected_output, share_of_work

STUDY = Path(__file__).parents[2] / "bench" / "studies" / "hexgen.py"


def test_all_engines_agree_on_urgency_and_the_two_levels(small, programs):
    pools = [{"queue": "hexgen", "max_num_seqs": 3}, {"queue": "hexgen", "hardware": "a100-80gb", "max_num_seqs": 3}]
    for seed in range(2):
        small.run_all(small.plan(pools, router={"name": "hexgen", "alpha": 0.3}), programs(seed))


def test_a_call_gets_its_share_of_what_is_left():
    """Stages a -> two b -> c with works 100, 50, 25 (prompts of no weight): 100 / 175, 50 / 75, all of the rest."""
    links = Programs(ParentRows.of([[], [0], [0], [1, 2]]), np.zeros(4), Labels.of([None] * 4), np.full(4, np.inf))
    table = RequestTable(
        np.zeros(4), np.full(4, 1), np.array([100, 40, 60, 25]), session=Labels.of(["p"] * 4),
        request_class=Labels.of(["a", "b", "b", "c"]), programs=links,
    )  # fmt: skip
    assert expected_output(table).tolist() == [100, 50, 50, 25]
    assert share_of_work(table) == pytest.approx([100 / 175, 50 / 75, 50 / 75, 1], abs=1e-3)


def test_hexgen_keeps_tighter_deadlines_than_first_come_first_served():
    """The deadline that 95 % of text-to-SQL programs meet: published 1.42 to 1.67 times tighter than vLLM's; at least
    1.3 times here."""
    spec = importlib.util.spec_from_file_location("hexgen_study", STUDY)
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    names = ("vLLM, in turn", "HexGen-Flow")
    in_turn, ours = (study.figures(0.35, *study.SYSTEMS[name])["p95_jct_ms"] for name in names)
    assert in_turn > 1.3 * ours


def tree():
    """Six prompts: four share four blocks and of these two share ten in all; two share one block."""
    rows = [
        [0, 1, 2, 3, *range(10, 16), 100], [0, 1, 2, 3, *range(10, 16), 101], [0, 1, 2, 3, 102], [0, 1, 2, 3, 103],
        [50, 104], [50, 105],
    ]  # fmt: skip
    prompt = np.array([16 * len(row) for row in rows])
    return RequestTable(
        np.zeros(6), prompt, np.array([10, 10, 10, 10, 90, 90]), blocks=PrefixBlocks.of(16, "floor", rows),
        request_class=Labels.of(["x", "x", "x", "x", "y", "y"]),
    )  # fmt: skip


def test_groups_are_cut_where_they_save_most():
    """Cut at four blocks three prompts save four blocks each; at ten, one saves ten: twelve is more."""
    table = tree()
    group, shared = prefix_groups(table.blocks, table.prompt_tokens)
    assert group.tolist() == [0, 0, 0, 0, 1, 1]
    assert shared.tolist() == [64] * 4 + [16] * 2
    total = table.prompt_tokens.sum()
    most, saved = saved_share(table.blocks, table.prompt_tokens)
    assert saved == pytest.approx((3 * 64 + 16) / total) and most == pytest.approx((3 * 64 + 6 * 16 + 16) / total)
    assert group_prefixes(table).priority.tolist() == [1, 1, 1, 1, 0, 0]  # much to decode for little prefill first


def test_grouping_saves_prompts_that_a_small_cache_would_compute_again(small):
    """Six families of prompts in turn, in a cache for two: first come first served finds next to nothing."""
    rows = [[1000 * (i % 6) + j for j in range(20)] + [10**6 + i] for i in range(60)]
    prompt = np.array([16 * len(row) for row in rows])
    table = RequestTable(np.zeros(60), prompt, np.full(60, 4), blocks=PrefixBlocks.of(16, "floor", rows))
    keys = {"num_gpu_blocks_override": 66, "max_num_seqs": 2}
    found = [
        small.run_all(small.plan([{**keys, "queue": queue}]), t).recorder.requests.columns()["cached_tokens"].sum()
        for t, queue in ((table, "fcfs"), (group_prefixes(table), "priority"))
    ]
    assert found[1] > 0.8 * 54 * 320 > 4 * found[0]
    with pytest.raises(InputError, match="no block ids"):
        group_prefixes(small.table(5, 1.0))
