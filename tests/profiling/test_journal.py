"""What a killed profile leaves, and whom it may go on for."""

from __future__ import annotations

from math import inf

import pytest

from servecast.errors import InputError
from servecast.profiling.journal import Journal, Point
from servecast.profiling.timer import Sample

HEAD = {"machine": {"device": "cpu", "name": "x"}, "model": "small", "tp": 1}
POINTS = [Point("layer", {"operator": "norm", "tp": 1, "tokens": n}) for n in (1, 2, 3)]
SAMPLE = Sample(1e-3, 0.9e-3, 1.2e-3, 9, 55.0)


@pytest.fixture
def path(tmp_path):
    journal = Journal(tmp_path / "points.jsonl", HEAD)
    journal.add(POINTS[0], SAMPLE)
    journal.skip(POINTS[1], "out of memory")
    return tmp_path / "points.jsonl"


def test_a_journal_is_read_back_as_it_was(path):
    journal = Journal(path, HEAD)
    assert list(journal.samples()) == [(POINTS[0], SAMPLE)]
    assert journal.skipped() == [(POINTS[1], "out of memory")]
    assert [journal.count(point) for point in POINTS] == [1, inf, 0]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_cut_short_by_a_kill_is_forgotten(path, cut):
    whole = path.read_text()
    path.write_text(whole[:-cut])
    journal = Journal(path, HEAD)
    assert len(journal) == 1 and not journal.skipped()
    journal.skip(POINTS[1], "out of memory")
    assert path.read_text() == whole


@pytest.mark.parametrize("head", [{**HEAD, "model": "large"}, {**HEAD, "machine": {"device": "cpu", "name": "y"}}])
def test_another_model_or_machine_does_not_go_on_from_it(path, head):
    before = path.read_text()
    with pytest.raises(InputError, match=r"begun with (model|machine) = .*; expected another folder"):
        Journal(path, head)
    assert path.read_text() == before


def test_a_file_that_is_no_journal_is_refused_and_kept(path):
    path.write_text('{"format": 1, "machine": 3}\nnonsense\n')
    with pytest.raises(InputError, match=r"points\.jsonl"):
        Journal(path, HEAD)
    assert path.read_text().endswith("nonsense\n")
