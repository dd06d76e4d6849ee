"""BatchPrompt as a change of the workload: calls, tokens, who is merged with whom."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from servecast.cli import main
from servecast.errors import InputError
from servecast.traces.batch_prompt import batch_prompts
from servecast.traces.columns import Labels
from servecast.traces.load import load
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable


def questions(n: int = 320, shared: int = 150) -> RequestTable:
    """Short questions behind the same instructions, a second apart."""
    s = Stream(0, "questions")
    return RequestTable(np.arange(n) * 1.0, shared + 20 + s.integers(n, 61), 1 + s.integers(n, 8))


def test_calls_and_tokens() -> None:
    """A call for every n questions and round; the instructions once a call, every answer as before."""
    table = questions()
    for n, rounds in [(1, 1), (16, 1), (32, 5)]:
        merged = batch_prompts(table, n, 150, rounds)
        assert len(merged) == rounds * 320 // n
        assert merged.output_tokens.sum() == rounds * table.output_tokens.sum()
        assert merged.prompt_tokens.sum() == rounds * (table.prompt_tokens.sum() - 150 * (320 - 320 // n))


def test_one_question_a_request_is_the_trace() -> None:
    table, same = questions(), batch_prompts(questions(), 1, 150)
    for name in ("arrival", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(table, name), getattr(same, name))


def test_published_calls() -> None:
    """Abstract, batches of 32: 9 % to 16 % of the calls. Calls are rounds / 32, with three to five rounds."""
    table = questions()
    shares = {rounds: len(batch_prompts(table, 32, 150, rounds)) / len(table) for rounds in (3, 5)}
    assert shares == {3: 0.09375, 5: 0.15625}


def test_share_of_tokens() -> None:
    """The abstract's 18.6 % to 30.8 % rest on questions that are not public; the share is the instructions' n-th part
    and the questions, over both, a round."""
    shares = []
    for shared in (150, 300, 600):
        table = questions(shared=shared)
        mean = table.prompt_tokens.mean()
        merged = batch_prompts(table, 32, shared, 3)
        shares.append(merged.prompt_tokens.sum() / table.prompt_tokens.sum())
        assert shares[-1] == pytest.approx(3 * (shared / 32 + mean - shared) / mean)
    assert shares == sorted(shares, reverse=True)


def test_it_is_sent_when_the_last_question_has_come() -> None:
    merged = batch_prompts(questions(10), 4, 150)
    assert merged.arrival.tolist() == [3.0, 7.0, 9.0]  # the last one with two questions


def test_only_questions_of_one_kind_are_merged() -> None:
    table = dataclasses.replace(questions(6), tenant=Labels(np.array([0, 1, 0, 1, 0, -1], np.int32), ("a", "b")))
    merged = batch_prompts(table, 2, 150)
    assert merged.arrival.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert merged.tenant.codes.tolist() == [0, 1, 0, -1]


def test_it_buys_throughput(bench) -> None:
    """A team's question: the same answers from fewer, longer requests."""
    plan = bench.one_pool({"enable_prefix_caching": False})
    table = dataclasses.replace(questions(), arrival=np.zeros(320))
    apart, merged = (bench.run(t, plan).duration for t in (table, batch_prompts(table, 16, 150)))
    assert merged < apart


def test_on_the_command_line(tmp_path, capsys) -> None:
    trace, out = tmp_path / "q.csv", tmp_path / "merged.jsonl"
    rows = "".join(f"{i},{200},{5}\n" for i in range(8))
    trace.write_text("at,in,out\n" + rows)
    convert = ["trace", "convert", str(trace), "--out", str(out), "--columns"]
    convert += ["arrival=at,prompt_tokens=in,output_tokens=out", "--batch-prompts"]
    assert main([*convert, "4:150:2"]) == 0
    assert load(out).prompt_tokens.tolist() == [350] * 4
    for flag, message in [("4", "N:S or N:S:K"), ("4:200", "shortest prompt has 200"), ("0:10", "at least 1")]:
        assert main([*convert, flag]) == 2
        assert message in capsys.readouterr().err


def test_refused() -> None:
    with pytest.raises(InputError, match="fewer than every prompt has"):
        batch_prompts(questions(), 4, 10_000)
