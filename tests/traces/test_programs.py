"""Programs: files, recorded agents, generators, and what cannot be followed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from servecast.errors import InputError
from servecast.traces.contexts import context_blocks
from servecast.traces.load import load
from servecast.traces.transform import limit, merge, window
from servecast.traces.write import write

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"
AGENTIC = Path(os.environ.get("SERVECAST_DATA", "nowhere"), "traces", "agentic")


def rows(*changes, header=None):
    """A diamond: a before b and c, both before d; `changes` are put over the rows."""
    listed = [
        {"arrival": 0, "request_id": "a"}, {"arrival": 1, "request_id": "b", "parents": ["a"], "gap": 0.5},
        {"arrival": 1, "request_id": "c", "parents": ["a"], "gap": 2, "tool": "ls"},
        {"arrival": 9, "request_id": "d", "parents": ["b", "c"], "deadline": 30},
    ]  # fmt: skip
    for row, change in zip(listed, (*changes, {}, {}, {}, {}), strict=False):
        row |= {"session": "p", "input_length": 100, "output_length": 20, **change}
        for key in [key for key, value in row.items() if value is None]:
            del row[key]
    lines = [json.dumps(row) for row in listed]
    return "\n".join([json.dumps({"servecast_trace": 1, **(header or {})}), *lines]) + "\n"


@pytest.fixture
def trace(tmp_path):
    def put(text):
        path = tmp_path / "trace.jsonl"
        path.write_text(text)
        return path

    return put


def test_a_file_of_programs_reads_back_to_the_same(trace, tmp_path):
    table = load(trace(rows()))
    assert [table.programs.parents.row(i).tolist() for i in range(4)] == [[], [0], [0], [1, 2]]
    assert table.programs.gap.tolist() == [0, 0.5, 2, 0]
    assert list(table.programs.tool) == [None, None, "ls", None]
    assert table.programs.next_tool() == [0, -1, -1, -1]
    write(table, tmp_path / "again.jsonl")
    assert load(tmp_path / "again.jsonl").fingerprint() == table.fingerprint()


def test_rows_without_names_and_contexts_read_back_too(tmp_path):
    table = load(SAMPLES / "swe-agent.yaml", seed=3)
    assert table.request_id is None and table.blocks.scope == "context"
    write(table, tmp_path / "again.jsonl.gz")
    again = load(tmp_path / "again.jsonl.gz")
    assert again.blocks.contents()[0] == table.blocks.contents()[0]
    np.testing.assert_array_equal(again.blocks.ids, table.blocks.ids)
    np.testing.assert_array_equal(again.programs.parents.rows, table.programs.parents.rows)
    np.testing.assert_array_equal(again.programs.gap, table.programs.gap)


def test_cutting_and_merging_keep_the_links(trace):
    table = load(trace(rows()))
    assert [limit(table, 3).programs.parents.row(i).tolist() for i in range(3)] == [[], [0], [0]]
    assert [window(table, 0.5, 20).programs.parents.row(i).tolist() for i in range(3)] == [[], [], [0, 1]]
    both = merge([table, table])
    assert both.arrival.tolist() == [0, 0, 1, 1, 1, 1, 9, 9]
    assert [both.programs.parents.row(i).tolist() for i in (6, 7)] == [[2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (rows({"parents": ["d"], "arrival": 9}, {"arrival": 9}, {"arrival": 9}), ["row 1", "cycle"]),
        (rows({"parents": ["a"]}), ["row 1", "waits for itself"]),
        (rows({"arrival": 5}, {"arrival": 5}, {"arrival": 7}, {"arrival": 6}), ["row 4: arrival", "before"]),
        (rows({}, {"gap": -1}), ["row 2", "gap -1 s", "0 or more"]),
        (rows({}, {}, {}, {"deadline": 0}), ["row 4: deadline 0 s"]),
        (rows({}, {}, {"parents": ["aa"]}), ["row 3: parents", "'aa'", "did you mean 'a'?"]),
        (rows({}, {}, {"parents": "a"}), ["row 3: parents is a", "a list of request ids"]),
        (rows({}, {}, {"request_id": "b"}), ["row 3", "'b' a second time"]),
        (rows({}, {"session": "q"}), ["row 2", "another session"]),
        (rows({}, {"session": ""}), ["row 2", "no session"]),
        (rows({}, {"parents": None}, {"parents": None}, {"parents": None}), ["without parents"]),
        (rows(*[{"hash_ids": [1] * 8}] * 4, header={"block_size": 16}), ["row 1: 8 hash_ids for 100 prompt tokens;"]),
        (
            rows(*[{"hash_ids": [1] * 7}] * 4, header={"block_size": 16, "block_scope": "context"}),
            ["row 1: 7 hash_ids for 100 prompt tokens and 20 output tokens", "expected 8", "7 by the rule 'floor'"],
        ),
        (rows(header={"block_scope": "answer"}), ["block_scope", "prompt or context"]),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(trace, text, parts):
    path = trace(text)
    with pytest.raises(InputError) as caught:
        load(path, sort=True)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_a_prompt_continues_the_longest_context_that_fits():
    prompt, output = np.array([100, 130, 40, 125]), np.array([20, 10, 8, 8])
    ids = context_blocks([0, 0, 0, 0], prompt, output, 10, [(7, 30)] * 4)
    a, b, c, d = (ids.row(i).tolist() for i in range(4))
    assert ids.scope == "context" and [len(x) for x in (a, b, c, d)] == [12, 14, 4, 13]
    assert b[:12] == a and not set(b[12:]) & set(a)  # all that was said, then new text
    assert c[:3] == a[:3] and c[3] not in a + b  # truncated: the head only
    assert d[:12] == a and d[12] not in b  # longer than a's context, shorter than b's prompt


@pytest.mark.parametrize(("name", "turns"), [("swe-agent", 10), ("web-search", 10), ("text-to-sql", 20)])
def test_generated_programs_are_what_their_file_says(name, turns):
    table = load(SAMPLES / f"{name}.yaml", seed=1)
    assert len(table.session.names) == 100
    assert len(table) / 100 == pytest.approx(turns, rel=0.15)  # the files quote 10 and 19 to 21; 100 draws
    roots = np.diff(table.programs.parents.offsets) == 0
    assert np.bincount(table.session.codes[roots]).tolist() == [1] * 100
    for row in np.flatnonzero(~roots).tolist():
        parents = table.programs.parents.row(row)
        assert (table.arrival[parents] <= table.arrival[row]).all()
    if name == "text-to-sql":
        sums = [np.bincount(table.session.codes, c).mean() for c in (table.prompt_tokens, table.output_tokens)]
        assert 50e3 < sums[0] < 70e3 and 2.0e3 < sums[1] < 2.5e3
        assert max(len(table.programs.parents.row(i)) for i in range(len(table))) > 3
    else:
        gaps = table.programs.gap[~roots]
        assert gaps.mean() == pytest.approx({"swe-agent": 0.93, "web-search": 1.9}[name], rel=0.4)  # heavy tails
    assert load(SAMPLES / f"{name}.yaml", seed=1).fingerprint() == table.fingerprint()
    assert load(SAMPLES / f"{name}.yaml", seed=2).fingerprint() != table.fingerprint()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("turns:", "turn:"), ["classes[0]", "neither turns nor stages"]),
        (("window: 32768", "window: 2000"), ["classes[0].window", "twice the head"]),
        (("rate: 0.13", "rate: 0"), ["rate", "above 0"]),
        (("- name: cd", "- nam: cd"), ["tools[0].name", "missing"]),
        (("median: 0.0163", "minimum: 1, median: -1"), ["gap.lognormal.median", "above 0"]),
    ],
)
def test_bad_generator_files(tmp_path, change, parts):
    path = tmp_path / "agents.yaml"
    path.write_text((SAMPLES / "swe-agent.yaml").read_text().replace(*change, 1))
    with pytest.raises(InputError) as caught:
        load(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


@pytest.mark.skipif(not AGENTIC.is_dir(), reason="SERVECAST_DATA has no traces/agentic folder")
def test_recorded_agents():
    """Counts and tool times as in the files' own README: 46 sessions with 2,294 calls, of which 148 failed."""
    spans = load(AGENTIC / "swebench_claude_code_spans.csv.gz")
    assert (len(spans), spans.source.rows, spans.source.failed, len(spans.session.names)) == (2146, 2294, 148, 46)
    assert (spans.programs.gap >= 0).all()
    roots = np.diff(spans.programs.parents.offsets) == 0
    assert np.bincount(spans.session.codes[roots]).min() >= 1
    turns = load(AGENTIC / "cc_traces_5000.csv.gz")
    assert len(turns.session.names) == 21
    alone = np.diff(turns.programs.parents.offsets)
    assert alone.max() == 1 and (alone == 0).sum() == 21


def test_spans_of_concurrent_calls_become_a_dag(tmp_path):
    """Two calls side by side after the first; the fourth began when both were done, 2 s after the later one."""
    path = tmp_path / "spans.csv"
    head = "session_id,span_index,start_time_s,end_time_s,input_tokens,output_tokens\n"
    path.write_text(head + "s,0,0,1,9,5\ns,1,1.5,4,9,5\ns,2,2,3,9,5\ns,3,6,7,9,5\ns,4,6,6,0,0\n")
    table = load(path)
    assert [table.programs.parents.row(i).tolist() for i in range(4)] == [[], [0], [0], [1, 2]]
    assert table.programs.gap.tolist() == [0, 0.5, 1, 2]
    path.write_text(head + "s,0,1,0,9,5\n")
    with pytest.raises(InputError, match="row 1: it ends 1 s before it starts"):
        load(path)
