"""Fair-shared links: rates, times and bytes against arithmetic by hand and a fluid model in fractions."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from servecast.costmodels.base import TICKS_PER_SECOND, ticks
from servecast.sim.cluster.links import Network
from servecast.sim.events import ARRIVALS, Clock, Moment


def start(env, network, arrivals, at, path, size, latency=0):
    def begin(_):
        network.send(path, size, latency, lambda: arrivals.append((path, size, env.now)))

    Moment(env, at, ARRIVALS, begin)


def test_two_flows_share_and_the_rest_is_faster() -> None:
    """100 MB and 300 MB over 100 MB/s: both at 50 MB/s for 2 s, then the larger one alone for 2 s."""
    env, arrivals = Clock(), []
    network = Network(env)
    link = network.link("a", 100e6)
    start(env, network, arrivals, 0, (link,), 100_000_000)
    start(env, network, arrivals, 0, (link,), 300_000_000, latency=7)
    env.run()
    assert [(size, at) for _, size, at in arrivals] == [(100_000_000, ticks(2)), (300_000_000, ticks(4) + 7)]
    assert link.carried == network.bytes_sent == 400_000_000 and not link.flows


def test_a_flow_that_is_held_elsewhere_leaves_its_share_to_others() -> None:
    """Max-min: a flow that a thin link holds to 10 MB/s leaves 90 MB/s of the thick one to its neighbour."""
    env, arrivals = Clock(), []
    network = Network(env)
    thick, thin = network.link("thick", 100e6), network.link("thin", 10e6)
    start(env, network, arrivals, 0, (thick, thin), 10_000_000)
    start(env, network, arrivals, 0, (thick,), 90_000_000)
    env.run()
    assert [at for *_, at in arrivals] == [ticks(1), ticks(1)]


def test_an_aborted_flow_counts_what_it_sent_and_frees_the_link() -> None:
    env, arrivals, sent = Clock(), [], []
    network = Network(env)
    link = network.link("a", 100e6)
    start(env, network, arrivals, 0, (link,), 100_000_000)
    flow = network.send((link,), 400_000_000, 0, lambda: arrivals.append("never"))
    Moment(env, ticks(1), ARRIVALS, lambda _: sent.append(network.abort(flow)))
    env.run()
    assert sent == [50_000_000] and link.carried == 150_000_000
    assert [at for *_, at in arrivals] == [ticks(1.5)]


def test_a_degraded_link_is_slower_until_it_recovers() -> None:
    env, arrivals = Clock(), []
    network = Network(env)
    link = network.link("a", 100e6)
    start(env, network, arrivals, 0, (link,), 100_000_000)
    Moment(env, ticks(0.5), ARRIVALS, lambda _: network.scale([link], 0.25))
    Moment(env, ticks(1.5), ARRIVALS, lambda _: network.scale([link], 1.0))
    env.run()
    assert arrivals[0][2] == ticks(1.75)  # 50 MB, then 25 MB, then 25 MB at full speed


def fluid(capacities: list[int], flows: list[tuple[int, tuple[int, ...], int]]) -> list[Fraction]:
    """Arrival times, seconds, of (start s, links, bytes) under max-min fairness in exact arithmetic."""
    now, left, ends = Fraction(0), {}, {}
    todo = sorted(range(len(flows)), key=lambda i: flows[i][0])
    while todo or left:
        while todo and flows[todo[0]][0] <= now:
            i = todo.pop(0)
            left[i] = Fraction(flows[i][2])
        rates: dict[int, Fraction] = {}
        room = [Fraction(c) for c in capacities]
        while len(rates) < len(left):
            users = {k: [i for i in left if i not in rates and k in flows[i][1]] for k in range(len(room))}
            k = min((k for k in users if users[k]), key=lambda k: room[k] / len(users[k]))
            share = room[k] / len(users[k])
            for i in users[k]:
                rates[i] = share
                for link in flows[i][1]:
                    room[link] -= share
        step = min((left[i] / rates[i] for i in left), default=None)
        if todo and (step is None or flows[todo[0]][0] - now < step):
            step = flows[todo[0]][0] - now
        now += step
        for i in list(left):
            left[i] -= rates[i] * step
            if left[i] <= 0:
                ends[i] = now
                del left[i]
    return [ends[i] for i in range(len(flows))]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    capacities=st.lists(st.integers(10**6, 10**9), min_size=1, max_size=4),
    flows=st.lists(
        st.tuples(st.integers(0, 5), st.sets(st.integers(0, 3), min_size=1, max_size=3), st.integers(1, 10**9)),
        min_size=1, max_size=7,
    ),
)  # fmt: skip
def test_any_flows_arrive_when_the_fluid_model_says(capacities, flows) -> None:
    """Rates are whole bytes/s, so times may differ by a few parts in a million (1 byte/s of at least 1 MB/s / 7)."""
    flows = [(at, tuple(sorted({k % len(capacities) for k in links})), size) for at, links, size in flows]
    env = Clock()
    network = Network(env)
    links = [network.link(str(i), c) for i, c in enumerate(capacities)]
    ends: dict[int, int] = {}

    def begin(i):
        _, path, size = flows[i]
        network.send([links[k] for k in path], size, 0, lambda: ends.__setitem__(i, env.now))

    for i, (at, _, _) in enumerate(flows):
        Moment(env, at * TICKS_PER_SECOND, ARRIVALS, lambda _, i=i: begin(i))
    env.run()
    expected = fluid(capacities, flows)
    for i, end in enumerate(expected):
        assert abs(ends[i] / TICKS_PER_SECOND - float(end)) <= 1e-4 * max(1.0, float(end) - flows[i][0]), i
    assert network.bytes_sent == sum(size for *_, size in flows)
    for k, link in enumerate(links):
        assert link.carried == sum(size for _, path, size in flows if k in path)
