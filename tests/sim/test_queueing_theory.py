"""Invariant 9: where queueing theory has an exact answer, the engine gives it.

Every test goes the whole way from a plan to the report; only the durations are ours (`EvenCost`: an iteration takes the
same time whatever runs in it, or a time proportional to the requests in it), so that the theory applies exactly:

- one seat (`max_num_seqs` = 1) is a single server: M/D/1 and M/G/1, Pollaczek and Khinchine;
- c seats in iterations of constant length are c servers that start and stop at iteration boundaries: M/M/c in steps,
  which becomes Erlang's as services last many iterations;
- many seats in iterations as long as the requests in them are processor sharing.

Estimates carry a confidence interval from batch means: 40 batches, each long against the memory of the queue, make the
mean nearly normal. A test allows 3.55 standard errors, Student's t for 99.9 % with 39 degrees of freedom, and first
asks that this is a small part of the value, so that it can fail.
"""

from __future__ import annotations

import dataclasses
from math import ceil, exp, factorial

import numpy as np
import pytest
from scipy.stats import binom, poisson

from servecast.configs.plan import plan_from
from servecast.sim.deploy import deploy
from servecast.sim.report.metrics import Finished, summary
from servecast.sim.report.timeseries import time_series
from servecast.sim.run import run
from servecast.traces.laws import Constant, Exponential, Geometric, tokens
from servecast.traces.streams import Stream
from servecast.traces.table import RequestTable

STEP = 2**-10  # seconds an iteration
BATCHES, T_999 = 40, 3.55


@pytest.fixture
def serve(lab, monkeypatch):
    """Run a trace on one engine with `seats`, iterations of STEP seconds (or STEP for each request in them)."""

    def serve(table, seats, each=False, replicas=1, router="random", **closed_loop):
        pool = {"name": "p", "hardware": "a100-80gb", "max_num_seqs": seats, "max_num_batched_tokens": 100_000}
        # A batch decided ahead lets a request wait one iteration more than the theory has it.
        pool |= {"replicas": replicas, "num_gpu_blocks_override": 10**6, "async_scheduling": False}
        plan = plan_from({"model": "mistral-7b", "engine": "vllm-0.19", "pools": [pool], "router": router})
        ticks = int(STEP * lab.TICKS)
        cost = lab.EvenCost(0, ticks) if each else lab.EvenCost(ticks)
        ours = [dataclasses.replace(d, cost=cost) for d in deploy(plan)]
        monkeypatch.setattr("servecast.sim.run.deploy", lambda plan: ours)
        return run(table, plan, **closed_loop)

    return serve


def poisson_trace(n, rate, law, seed):
    """Poisson arrivals; prompts of one token, so that an answer of k tokens takes k iterations."""
    stream = Stream(seed, "queue")
    arrival = np.cumsum(Exponential(1 / rate).draw(stream.uniform(n)))
    return RequestTable(arrival, np.ones(n, np.int64), tokens(law, stream.uniform(n)))


def column(result, name):
    c = result.recorder.requests.columns()
    return c[name][np.argsort(c["index"])] / 2**36


def agrees(values, expected, precision, slack=0.0):
    """The mean of a stationary sequence agrees with `expected`; `precision` is the half-width that a fair test needs.

    slack : what the expectation itself may be off by, relative.
    """
    means = np.array([part.mean() for part in np.array_split(values, BATCHES)])
    half_width = T_999 * means.std(ddof=1) / BATCHES**0.5
    assert half_width < precision * expected, f"too short a run: +-{half_width / expected:.1%}"
    assert abs(means.mean() - expected) < half_width + slack * expected, (means.mean(), expected, half_width)


# -- one server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.2, 0.9, 1.5])
def test_lindleys_recursion_to_the_tick(serve, lab, load):
    """Whatever the load, the single server's waits obey W' = max(0, W + S - A) for every single request, A being the
    time to the next arrival: no statistics needed, and no tolerance."""
    table = poisson_trace(5000, load / (10 * STEP), Geometric(10), seed=0)
    rows = serve(table, seats=1).recorder.requests.columns()
    arrival, service = rows["arrival"].tolist(), (table.output_tokens * int(STEP * lab.TICKS)).tolist()
    wait, expected = 0, []
    for i in range(len(arrival)):
        expected.append(wait)
        if i + 1 < len(arrival):
            wait = max(0, wait + service[i] - (arrival[i + 1] - arrival[i]))
    np.testing.assert_array_equal(rows["scheduled"] - rows["arrival"], expected)


@pytest.mark.parametrize(("load", "n"), [(0.3, 20_000), (0.6, 40_000), (0.8, 60_000)])
@pytest.mark.parametrize(("law", "moment"), [(Constant(10), 100.0), (Geometric(10), 190.0)], ids=["M/D/1", "M/G/1"])
def test_pollaczek_khinchine(serve, load, n, law, moment):
    """W = lambda E[S^2] / 2 (1 - load), from arrival to the first iteration. There is no discretisation: the seat is
    free exactly when an iteration ends. A geometric service of mean m has E[S^2] = 2 m^2 - m. More load needs longer
    runs for the same precision."""
    rate = load / (10 * STEP)
    result = serve(poisson_trace(n, rate, law, seed=1), seats=1)
    waits = column(result, "scheduled") - column(result, "arrival")
    agrees(waits, rate * moment * STEP**2 / (2 * (1 - load)), 0.18)
    agrees((waits == 0).astype(float), 1 - load, 0.1)  # Poisson arrivals see time averages: P(idle)


def test_the_whole_law_of_waiting_in_m_d_1(serve):
    """Erlang's P(W <= x) = (1 - load) sum_k (lambda (k D - x))^k / k! exp(-lambda (k D - x)), k = 0..x/D."""
    load, service = 0.6, 10 * STEP
    rate = load / service
    result = serve(poisson_trace(40_000, rate, Constant(10), seed=2), seats=1)
    waits = column(result, "scheduled") - column(result, "arrival")
    for x in (0.5 * service, 1.5 * service, 3.2 * service):
        terms = ((k, rate * (k * service - x)) for k in range(ceil(x / service)))
        expected = (1 - load) * sum(y**k / factorial(k) * exp(-y) for k, y in terms)
        agrees((waits <= x).astype(float), expected, 0.04)


def test_random_routing_splits_one_poisson_stream_into_several(serve):
    """A random router thins: each of three replicas is M/D/1 at its own third of the rate."""
    load, service = 0.6, 10 * STEP
    rate = load / service
    result = serve(poisson_trace(50_000, 3 * rate, Constant(10), seed=3), seats=1, replicas=3)
    agrees(column(result, "scheduled") - column(result, "arrival"), rate * service**2 / (2 * (1 - load)), 0.1)


# -- several servers ---------------------------------------------------------------------------------------------


def mean_in_system(rate, mean, seats, each=False, most=150):
    """Exact mean number of requests in the system for Poisson arrivals, geometric answers of `mean` tokens and an
    engine that lets requests in and out at iteration boundaries.

    The number N at the start of an iteration is a Markov chain: in one iteration, of duration d(N), each of the
    min(N, seats) that are served ends with probability 1 / mean, and Poisson(rate d) arrive. An empty engine waits for
    the next arrival and starts at once with N = 1. Over an iteration the number averages N + rate d / 2.
    """
    p = 1 / mean
    n = np.arange(most)
    duration = STEP * (n if each else np.ones(most))
    move = np.zeros((most, most))
    for i in range(1, most):
        served = min(i, seats)
        left = binom.pmf(np.arange(served + 1), served, p)
        came = poisson.pmf(n, rate * duration[i])
        for ended, chance in enumerate(left):
            if chance > 1e-15:
                move[i, i - ended :] += chance * came[: most - i + ended]
    empty = move[:, 0].copy()  # chance that the iteration leaves nobody
    move[:, 1] += empty
    move[:, 0] = 0
    share = np.zeros(most)
    share[1] = 1.0
    for _ in range(60):  # square the chain until it has forgotten where it began
        after = share @ move
        if np.abs(after - share).max() < 1e-14:
            break
        move = move @ move
        share = after / after.sum()
    inside = share @ (n * duration + rate * duration**2 / 2)
    return inside / (share @ duration + share @ empty / rate)


def erlang(rate, mean, seats):
    """Mean number in the system of M/M/c."""
    offered = rate * mean * STEP
    top = offered**seats / factorial(seats) * seats / (seats - offered)
    waits = top / (sum(offered**k / factorial(k) for k in range(seats)) + top)
    return offered + waits * offered / (seats - offered)


@pytest.mark.parametrize(("seats", "load"), [(2, 0.6), (4, 0.8), (8, 0.7)])
def test_m_m_c_in_steps_of_an_iteration(serve, seats, load):
    """c seats in one engine are c servers with one queue (c replicas behind a router would be c queues). Mean time in
    the system from the exact chain and Little's law, with services of 20 iterations."""
    rate = load * seats / (20 * STEP)
    result = serve(poisson_trace(40_000, rate, Geometric(20), seed=4), seats=seats)
    expected = mean_in_system(rate, 20, seats) / rate
    agrees(column(result, "ended") - column(result, "arrival"), expected, 0.12)


@pytest.mark.parametrize(("seats", "load"), [(1, 0.7), (2, 0.6), (4, 0.8), (8, 0.7)])
def test_the_steps_become_erlangs_queue_as_services_get_long(seats, load):
    """The chain above against the textbook: who comes while others run waits for the end of an iteration, which is
    nothing beside services of 200 of them. A difference of first order in 1 / 200, of which twice is allowed."""
    rate = load * seats / (200 * STEP)
    assert mean_in_system(rate, 200, seats) == pytest.approx(erlang(rate, 200, seats), rel=0.01)


def test_seats_for_all_are_infinitely_many_servers(serve):
    """M/G/inf: nobody queues, and a request's time is its own length and the rest of the iteration in which it came.
    The number under way is Poisson's: mean and variance are both rate x time, whatever the law of lengths."""
    rate = 3.0 / (20 * STEP)
    result = serve(poisson_trace(20_000, rate, Constant(20), seed=5), seats=1000)
    time = column(result, "ended") - column(result, "arrival")
    busy = 1 - exp(-rate * 20 * STEP)  # that somebody is there, to first order in the step
    agrees(time, 20 * STEP + busy * STEP / 2, 0.005)
    c = result.recorder.leaps[0].columns()
    weight = c["iterations"] * c["base"] / result.duration
    number = c["decodes"] + c["prefills"]
    mean = (weight * number).sum()
    assert mean == pytest.approx(3.0, rel=0.04)  # the count of 20,000 Poisson arrivals varies by 0.7 %
    assert (weight * number**2).sum() - mean**2 == pytest.approx(3.0, rel=0.08)


# -- processor sharing -------------------------------------------------------------------------------------------


def test_processor_sharing_in_steps(serve):
    """Iterations as long as the requests in them share the engine evenly. Mean time from the exact chain."""
    load, mean = 0.7, 20
    rate = load / (mean * STEP)
    result = serve(poisson_trace(40_000, rate, Geometric(mean), seed=6), seats=5000, each=True)
    expected = mean_in_system(rate, mean, 10**6, each=True) / rate
    agrees(column(result, "ended") - column(result, "arrival"), expected, 0.12)


@pytest.mark.parametrize("law", [Constant(100), Geometric(100)], ids=["constant", "geometric"])
def test_processor_sharing_does_not_care_about_the_law_of_lengths(serve, law):
    """E[T] = E[S] / (1 - load) for any law, and in proportion to one's own length: E[T | x] = x / (1 - load).

    A newcomer waits for the end of an iteration first, which is of first order in 1 / 100: hence 2 % of slack."""
    load, mean = 0.6, 100
    rate = load / (mean * STEP)
    table = poisson_trace(30_000, rate, law, seed=7)
    result = serve(table, seats=5000, each=True)
    time = column(result, "ended") - column(result, "arrival")
    agrees(time, mean * STEP / (1 - load), 0.1, slack=0.02)
    long = table.output_tokens > mean
    if law == Geometric(mean):  # whose second half is as long again; a newcomer's first wait is nothing to these
        agrees(time[long] / table.output_tokens[long], STEP / (1 - load), 0.1, slack=0.01)


# -- closed loops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("users", "think"), [(3, 1.0), (5, 4.0), (12, 4.0)])
def test_machine_repair(serve, users, think):
    """M/M/1 with a finite source (the machine repairman): of `users` clients that think for an exponential time of
    `think` services on average, nobody is there with P = 1 / sum_k users! / (users - k)! / think^k, k = 0..users.
    Answers of 100 tokens are exponential but for 1 / 100 of their variance. A standard error is below 0.7 %."""
    n, stream = 20_000, Stream(10, "queue")
    table = RequestTable(np.zeros(n), np.ones(n, np.int64), tokens(Geometric(100), stream.uniform(n)))
    seconds = Exponential(think * 100 * STEP).draw(stream.uniform(n))
    result = serve(table, seats=1, users=users, think_time=seconds)
    idle = 1 / sum(factorial(users) / factorial(users - k) / think**k for k in range(users + 1))
    duration = result.duration / 2**36
    assert table.output_tokens.sum() * STEP / duration == pytest.approx(1 - idle, rel=0.02)
    # The response time law for any distributions: users = throughput x (response + think), but for the last round.
    response = (column(result, "ended") - column(result, "arrival")).sum() + seconds.sum()
    assert response / duration == pytest.approx(users, rel=1e-3)


# -- Little's law ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seats", [1, 3, 50])
@pytest.mark.parametrize("each", [False, True])
def test_littles_law_holds_exactly_for_the_requests_that_run(serve, seats, each):
    """The time integral of the number running, from the log of iterations, is the sum of the times between first
    iteration and end, from the rows: equal to the tick. So are the averages in the time series, to rounding."""
    rate = 0.8 * (1 if each else seats) / (20 * STEP)
    result = serve(poisson_trace(3000, rate, Geometric(20), seed=8), seats, each)
    c = result.recorder.leaps[0].columns()
    area = int((c["iterations"] * c["base"] * (c["decodes"] + c["prefills"]).astype(np.int64)).sum())
    rows = result.recorder.requests.columns()
    assert area == int((rows["ended"] - rows["scheduled"]).sum())
    series = time_series(result, 1.0)
    assert series["running"].sum() == pytest.approx(area / 2**36, rel=1e-9)


@pytest.mark.parametrize("seats", [1, 3])
@pytest.mark.parametrize("each", [False, True])
def test_littles_law_holds_for_the_requests_that_wait(serve, seats, each):
    """The same for the queue, which takes newcomers in between two iterations: also while the engine leaps."""
    rate = 0.8 * seats / (20 * STEP)
    result = serve(poisson_trace(3000, rate, Constant(20), seed=9), seats, each)
    waits = column(result, "scheduled") - column(result, "queued")
    assert waits.sum() > 0
    assert time_series(result, 1.0)["waiting"].sum() == pytest.approx(waits.sum(), rel=1e-9)


def test_the_report_says_what_the_theory_says(serve):
    """The same numbers at the end of the road: mean TTFT of M/D/1 = W + one iteration, mean TPOT = one iteration."""
    load, service = 0.6, 10 * STEP
    rate = load / service
    result = serve(poisson_trace(20_000, rate, Constant(10), seed=1), seats=1)
    figures = summary(result, Finished(result))
    waits = rate * service**2 / (2 * (1 - load))
    assert figures["completed"] == 20_000
    assert figures["mean_ttft_ms"] == pytest.approx((waits + STEP) * 1e3, rel=0.1)  # as precise as the tests above
    assert figures["mean_tpot_ms"] == pytest.approx(STEP * 1e3, rel=1e-12)
    assert figures["request_throughput"] == pytest.approx(rate, rel=0.02)  # a standard error is 1 / sqrt(20,000)
