"""DistServe's coefficients: the published formula, the law of pieces, and files that are something else."""

from __future__ import annotations

import json

import pytest

from servecast.costmodels.base import TICKS_PER_SECOND, check_piece
from servecast.costmodels.readers.distserve import DistServeCost
from servecast.errors import InputError

PROFILE = {
    "prefill": [20.0, 0.1, 1e-5],
    "decoding_smallbs": [24.0, 6e-4, 0.06],
    "decoding_largebs": [20.0, 5e-4, 0.12],
    "decoding_large_small_bs_threshold": 95,
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({"toy": {"1": PROFILE}}))
    return file


def milliseconds(piece):
    return piece[0] / TICKS_PER_SECOND * 1e3


def test_the_published_formula(path):
    stage = DistServeCost(path, "toy").stages[0]
    assert milliseconds(stage.piece([(512, 0)], 0, 0, 0, 0)) == pytest.approx(20 + 51.2 + 1e-5 * 512**2, rel=1e-3)
    two = stage.piece([(512, 0), (100, 0)], 0, 0, 0, 0)
    assert milliseconds(two) == pytest.approx(20 + 61.2 + 1e-5 * (512**2 + 100**2), rel=1e-3)
    assert milliseconds(stage.piece([], 10, 5000, 0, 0)) == pytest.approx(24 + 3 + 0.6, rel=1e-3)
    assert milliseconds(stage.piece([], 95, 5000, 0, 0)) == pytest.approx(20 + 2.5 + 11.4, rel=1e-3)


def test_pieces_keep_their_law_and_chunks_add_up(path):
    stage = DistServeCost(path, "toy").stages[0]
    check_piece(stage, [(64, 128)], [10, 20, 30], 40)
    whole, parts = stage.piece([(512, 0)], 0, 0, 0, 0)[0], stage.piece([(256, 0), (256, 256)], 0, 0, 0, 0)[0]
    assert whole == parts


def test_stages_share_the_work_and_add_a_millisecond(path):
    stages = DistServeCost(path, "toy", pipeline_parallel_size=2).stages
    total = sum(milliseconds(stage.piece([(512, 0)], 0, 0, 0, 0)) for stage in stages)
    assert total == pytest.approx(20 + 51.2 + 1e-5 * 512**2 + 2, rel=1e-3)


@pytest.mark.parametrize(
    ("content", "model", "degree", "words"),
    [
        ({"toy": {"1": PROFILE}}, "tot", 1, "did you mean 'toy'"),
        ({"toy": {"1": PROFILE}}, "toy", 2, "one of 1"),
        ({"toy": {"1": {"prefill": [1, 2, 3]}}}, "toy", 1, "not a DistServe profile"),
        ([1], "toy", 1, "mapping"),
    ],
)
def test_other_files_are_refused(path, content, model, degree, words):
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        DistServeCost(path, model, degree)
