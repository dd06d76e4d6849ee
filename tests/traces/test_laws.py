"""The probability laws have the quantiles and means that their names promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from servecast.traces.arrivals import StepRate, renewal
from servecast.traces.laws import (
    Constant,
    Exponential,
    Geometric,
    Law,
    Llumnix,
    LogNormal,
    Pareto,
    Quantiles,
    Zipf,
    mean_of,
    tokens,
)
from servecast.traces.lengths import correlated
from servecast.traces.streams import Stream


@pytest.mark.parametrize(
    ("law", "mean"),
    [
        (Constant(7.0), 7.0),
        (Exponential(3.0), 3.0),
        (Geometric(2.92), 2.92),
        (Geometric(1.0), 1.0),
        (LogNormal(100.0, 0.5), 100.0 * math.exp(0.125)),
        (Pareto(2.0, 3.0), 3.0),
        (Quantiles((0.0, 0.5, 1.0), (0.0, 10.0, 30.0)), 12.5),
        (Zipf(1.5, 3), (1 + 2**-0.5 + 3**-0.5) / (1 + 2**-1.5 + 3**-1.5)),
    ],
)
def test_means(law: Law, mean: float) -> None:
    assert mean_of(law) == pytest.approx(mean, rel=2e-3)


def test_cuts_and_whole_counts() -> None:
    u = Stream(0, "u").uniform(10_000)
    assert LogNormal(100.0, 2.0, 10.0, 500.0).draw(u).min() == 10.0
    assert LogNormal(100.0, 2.0, 10.0, 500.0).draw(u).max() == 500.0
    assert Pareto(1.0, 0.5, 100.0).draw(u).max() == 100.0
    assert Zipf(1.1, 1024).draw(np.array([0.0, 1.0 - 2**-53])).tolist() == [1.0, 1024.0]
    counts = tokens(Quantiles((0.0, 1.0), (-5.0, 5.0)), u)
    assert counts.dtype == np.int64 and counts.min() == 1 and counts.max() == 5


@pytest.mark.parametrize(
    ("mean", "alpha", "p50", "p99"), [(128, 2.0, 38, 1464), (256, 1.5, 32, 4208), (512, 1.15, 55, 5166)]
)
def test_llumnix_lengths_are_those_of_the_paper(mean: int, alpha: float, p50: int, p99: int) -> None:
    """The paper's table is one draw of 10,000 with numpy's legacy generator, seed 0xCADE, which numpy never changes."""
    uniforms = np.random.RandomState(0xCADE).random_sample(10_000)
    drawn = Llumnix(mean, alpha, "sample").draw(uniforms)
    assert (np.percentile(drawn, 50), np.percentile(drawn, 99)) == (p50, p99)
    assert drawn.max() <= 6144


@pytest.mark.parametrize(("mean", "alpha"), [(128, 2.0), (256, 1.5), (512, 1.15)])
def test_llumnix_as_a_law_has_its_mean(mean: int, alpha: float) -> None:
    assert mean_of(Llumnix(mean, alpha)) == pytest.approx(mean, rel=0.02)  # rounding up and the cap nearly cancel


@pytest.mark.parametrize("r", [-0.6, 0.3, 0.9])
def test_correlated_uniforms_are_uniform_and_correlated(r: float) -> None:
    from scipy.special import ndtri

    first, second = Stream(1, "a").uniform(50_000), Stream(1, "b").uniform(50_000)
    mixed = correlated(first, second, r)
    assert np.corrcoef(ndtri(first + 2.0**-54), ndtri(mixed + 2.0**-54))[0, 1] == pytest.approx(r, abs=0.02)
    assert np.percentile(mixed, [5, 50, 95]) == pytest.approx([0.05, 0.5, 0.95], abs=0.01)


@pytest.mark.parametrize("shape", [0.25, 0.5, 1.0, 4.0, math.inf])
def test_renewal_has_the_rate_and_the_cv_of_its_shape(shape: float) -> None:
    rate = StepRate(np.array([0.0, 10_000.0]), np.array([2.0]))
    times, wait = renewal(Stream(3, "r"), rate, shape)
    assert len(times) == pytest.approx(20_000, rel=0.04)
    gaps = np.diff(times)
    cv = 0.0 if math.isinf(shape) else shape**-0.5
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05, abs=1e-9)
    assert np.all(gaps >= 0) and times[0] >= 0.0 and times[-1] <= 10_000.0 and wait >= 0.0


def test_renewal_follows_the_steps_and_skips_silence() -> None:
    rate = StepRate(np.array([0.0, 100.0, 200.0, 300.0]), np.array([10.0, 0.0, 40.0]))
    times, _ = renewal(Stream(4, "r"), rate, 1.0)
    counts = np.histogram(times, rate.edges)[0]
    assert counts[1] == 0
    assert counts[[0, 2]] == pytest.approx([1000, 4000], rel=0.1)


def test_renewal_is_one_process_over_pieces() -> None:
    """Constant gaps of 0.7 s do not notice that the trace is cut into pieces of 1 s."""
    whole: list[float] = []
    wait = None
    for second in range(20):
        piece = StepRate(np.array([second, second + 1.0]), np.array([1 / 0.7]))
        times, wait = renewal(Stream(5, f"r{second}"), piece, math.inf, wait)
        whole += times.tolist()
    assert np.allclose(np.diff(whole), 0.7)
    assert len(whole) == int(20 / 0.7)
