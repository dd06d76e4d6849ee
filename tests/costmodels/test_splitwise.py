"""Splitwise's step times: medians, straight lines between and beyond them, and files that are something else."""

from __future__ import annotations

import pytest

from servecast.costmodels.base import TICKS_PER_SECOND, check_piece
from servecast.costmodels.readers.splitwise import SplitwiseCost
from servecast.errors import InputError

HEADER = "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel"
ROWS = (
    "toy,a100,128,1,64,10,40,8", "toy,a100,128,1,64,12,42,8", "toy,a100,128,1,64,30,90,8",  # median 12 and 42
    "toy,a100,128,2,64,20,50,8", "toy,a100,256,1,64,22,50,8",  # 256 tokens both: 21 and 50
    "toy,a100,512,1,64,50,60,8", "toy,a100,512,1,64,1,1,4",
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "perf_model.csv"
    file.write_text("\n".join([HEADER, *ROWS]) + "\n")
    return file


def milliseconds(piece):
    return piece[0] / TICKS_PER_SECOND * 1e3


def test_batches_are_priced_by_their_tokens(path):
    stage = SplitwiseCost(path, "toy", "a100").stages[0]
    assert milliseconds(stage.piece([(128, 0)], 0, 0, 0, 0)) == pytest.approx(12)
    assert milliseconds(stage.piece([(100, 0), (92, 0)], 0, 0, 0, 0)) == pytest.approx(12 + 9 / 2)  # 192 of 128..256
    assert milliseconds(stage.piece([(768, 0)], 0, 0, 0, 0)) == pytest.approx(50 + 29)  # beyond: the last line goes on
    assert milliseconds(stage.piece([], 256, 10**6, 0, 0)) == pytest.approx(50)
    assert milliseconds(stage.piece([], 64, 10**6, 0, 0)) == pytest.approx(42 - 4)
    assert milliseconds(stage.piece([(250, 0)], 6, 900, 0, 0)) == pytest.approx(1.1 * 21)  # mixed


def test_what_was_not_measured_is_counted(path):
    stage = SplitwiseCost(path, "toy", "a100").stages[0]
    for chunks, decodes, measured in (([(300, 0)], 0, True), ([(513, 0)], 0, False), ([], 127, False), ([], 128, True)):
        base, _, _, outside = stage.piece(chunks, decodes, 0, 0, 0)
        assert outside == (0 if measured else base)


def test_pieces_keep_their_law(path):
    check_piece(SplitwiseCost(path, "toy", "a100").stages[0], [(64, 0)], [10, 20, 30], 40)


@pytest.mark.parametrize(
    ("text", "keys", "words"),
    [
        (None, {"model": "tot"}, "did you mean 'toy'"),
        (None, {"hardware": "a1000"}, "did you mean 'a100'"),
        (None, {"tensor_parallel_size": 2}, "tensor_parallel"),
        (None, {"tensor_parallel_size": 4}, "at least two"),
        ("a,b\n1,2\n", {}, "no column model"),
        (HEADER + "\ntoy,a100,128,1,64,ten,40,8\n", {}, "not a number"),
        ("", {}, "no column model"),
    ],
)
def test_other_files_and_names_are_refused(path, text, keys, words):
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=words):
        SplitwiseCost(path, **{"model": "toy", "hardware": "a100", **keys})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        SplitwiseCost(tmp_path / "nowhere.csv.gz", "toy", "a100")
