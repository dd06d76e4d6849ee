"""Which sizes are measured, in which order, and where the next point goes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import yaml

from servecast.errors import InputError
from servecast.profiling.grids import coarse_to_fine, load_grid, spread
from servecast.profiling.journal import Journal, Point
from servecast.profiling.refine import next_points
from servecast.profiling.timer import Sample, joined


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_grids_that_come_along_are_valid(device):
    grid = load_grid(device)
    assert grid.attention_tokens >= grid.decode.context[-1] and grid.prefill.chunk[-1] <= grid.tokens[-1]
    assert grid.host[-1] <= grid.decode.batch[-1]


@pytest.mark.parametrize("n", [1, 2, 3, 8, 21])
def test_every_beginning_of_the_order_is_an_even_coarser_grid(n):
    values = [3 * i for i in range(n)]
    order = coarse_to_fine(values)
    assert sorted(order) == values
    for stop in range(2, n + 1):
        first = sorted(order[:stop])
        assert first[0] == values[0] and first[-1] == values[-1]  # the range is whole from the second point on
        gaps = [b - a for a, b in pairwise(first)]
        assert max(gaps) <= 3 * -(-4 * (n - 1) // stop)  # no gap is left behind for long


def test_combinations_come_by_their_latest_coordinate():
    points = spread([1, 2, 3], [10, 20, 30])
    assert len(points) == 9
    assert set(points[:4]) == {(1, 10), (1, 30), (3, 10), (3, 30)}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"tokens": []}, "tokens"),
        ({"tokens": [4, 2]}, "tokens"),
        ({"decode": {"batch": [0], "context": [1]}}, "decode.batch"),
        ({"prefill": {"chunk": [4], "context": [8]}}, "prefill.context"),
        ({"sm_shares": [1.5]}, "sm_shares"),
        ({"token": [1]}, "token"),
        ({"host": ["many"]}, "host"),
    ],
)
def test_a_wrong_grid_is_refused_by_its_key(files, change, place):
    _, path = files(grid={**files.grid, **change})
    with pytest.raises(InputError) as caught:
        load_grid("cpu", path)
    assert str(path) in str(caught.value) and place in str(caught.value)
    path.write_text(yaml.safe_dump(files.grid))
    load_grid("cpu", path)


def sample(seconds: float, spread: float = 0.0) -> Sample:
    return Sample(seconds, seconds * (1 - spread / 2), seconds * (1 + spread / 2), 7)


def curve(journal: Journal, operator: str, seconds: dict[int, float], noise: float = 0.0) -> None:
    for tokens, value in seconds.items():
        journal.add(Point("layer", {"operator": operator, "tp": 1, "tokens": tokens}), sample(value, noise))


def test_the_next_point_halves_the_cell_that_interpolation_misses_most(tmp_path):
    journal = Journal(tmp_path / "points.jsonl", {})
    curve(journal, "straight", {1: 1.0, 101: 2.0, 1001: 11.0})
    assert next_points(journal) is None
    curve(journal, "bent", {1: 1.0, 101: 1.0, 1001: 1.1})
    curve(journal, "step", {1: 1.0, 101: 3.0, 1001: 3.0})
    (point,), error = next_points(journal)
    assert point.keys == {"operator": "step", "tp": 1, "tokens": 551}  # the wider side of the point that is missed
    assert error == pytest.approx(1.8 / 3.0)  # 1.2 by its neighbours
    journal.skip(point, "out of memory")
    assert next_points(journal)[0] != [point]


def test_noise_calls_for_no_points(tmp_path):
    journal = Journal(tmp_path / "points.jsonl", {})
    curve(journal, "noisy", {1: 1.0, 101: 1.3, 1001: 1.0}, noise=0.5)
    curve(journal, "near", {1000: 1.0, 1100: 1.3, 1200: 1.0})  # so near that only noise can tell them apart
    assert next_points(journal) is None


def test_a_new_place_on_an_outer_axis_is_measured_all_along_the_inner_ones(tmp_path):
    """A look-up goes through rows: a row of one point would be flat."""
    journal = Journal(tmp_path / "points.jsonl", {})
    for chunk in (16, 64, 256):
        for batch, context in ((1, 0), (1, 100), (1, 1000), (2, 0)):
            if chunk * batch <= 256:
                seconds = 1.0 + (chunk == 256) * 5.0 + context * 1e-3
                keys = {"head_dim": 64, "batch": batch, "chunk": chunk, "context": context}
                journal.add(Point("prefill_attention", keys), sample(seconds))
    points, _ = next_points(journal)
    assert {p.keys["chunk"] for p in points} == {160}
    assert {(p.keys["batch"], p.keys["context"]) for p in points} == {(1, 0), (1, 100), (1, 1000)}


def test_a_row_that_lacks_a_point_is_left_as_it_is(tmp_path):
    journal = Journal(tmp_path / "points.jsonl", {})
    for batch, contexts in ((1, (1, 900)), (2, (1,)), (3, (1, 900)), (9, (1, 900))):
        for context in contexts:
            keys = {"head_dim": 64, "batch": batch, "context": context}
            journal.add(Point("decode_attention", keys), sample(1.0 + (context == 900) * batch**3))
    points, _ = next_points(journal)
    assert {p.keys["batch"] for p in points} == {6}  # not 2, between 1 and 3


def test_several_measurements_of_a_point_are_one_by_their_medians():
    one = joined([Sample(1.0, 0.9, 1.1, 5, 100.0), Sample(9.0, 8.0, 10.0, 5, 200.0), Sample(2.0, 1.9, 2.2, 5, None)])
    assert one == Sample(2.0, 1.9, 2.2, 15, 150.0)
