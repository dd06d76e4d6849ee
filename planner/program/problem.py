"""A planning problem in numbers: kinds of replicas, the load, what there is, and the ways through a fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

from ..dominance import Better

Goal = Literal["cost", "energy"]
Aim = Literal["price", "promise", "goodput", "served"]
Counts = dict[str, int]  # replicas by offer
_SAME = 1e-9  # of joules: rounding
Misses = tuple[tuple[str, tuple[tuple[float, float], ...]], ...]  # by objective, lines: slope and intercept


@dataclass(frozen=True)
class Offer:
    """A kind of replica, in numbers.

    gpu, gpus : what a replica takes; group : GPUs that must share a node. usd_per_hour, idle_watts, busy_watts : of a
    replica. rates : requests/s of each bucket that a replica gets done at best; 0 where the SLO excludes the bucket.
    prompt_rates : the same of their prompts alone.
    share : of the whole trace that a replica carries at best, within the SLO. late : by objective, lines whose
    maximum is thought to be the requests/s beyond its limit, by the requests/s that a replica gets.
    kv_tokens : room of a replica.
    resident : token-seconds in the KV cache that a request of each bucket takes at least, itself. held : by bucket,
    classes of prefixes that it finds: share of their tokens, and token-seconds from one use to the next for a request.
    spared : seconds of work that all of them save it; `rates` and `share` are with that.
    role : "prefill" and "decode" replicas serve a request together, with one `kv_format`. kv_bytes : of a request's
    prompt, by bucket.
    inside, network : bytes/s of KV cache in or out, within a node and beyond.
    """

    name: str
    gpu: str
    gpus: int
    usd_per_hour: float
    most: int
    rates: tuple[float, ...]
    share: float
    late: Misses = ()
    prompt_rates: tuple[float, ...] = ()
    group: int = 1
    role: Literal["mixed", "prefill", "decode"] = "mixed"
    kv_tokens: float = inf
    resident: tuple[float, ...] = ()
    held: tuple[tuple[tuple[float, float], ...], ...] = ()
    spared: tuple[float, ...] = ()
    idle_watts: float = 0.0
    busy_watts: float = 0.0
    kv_format: str = ""
    kv_bytes: tuple[float, ...] = ()
    inside: float = 0.0
    network: float = inf

    def joules(self, bucket: int) -> float:
        """Joules above idling for a request of a bucket."""
        return (self.busy_watts - self.idle_watts) / self.rates[bucket]


@dataclass(frozen=True)
class Scenario:
    """Load that must be done in some seconds. arrivals : requests by bucket; `allowed` of them may fail. prompts : only
    their prompts must be computed."""

    name: str
    seconds: float
    arrivals: tuple[float, ...]
    allowed: float = 0.0
    prompts: bool = False


@dataclass(frozen=True)
class Problem:
    """goal : what a fleet's price is: USD an hour with electricity, or watts.

    scenarios : the first is the whole trace. stock : GPUs and GPUs a node, by kind. zones : by kind; KV cache moves
    within a zone, or over `links`: bytes/s from zone to zone. near : zones that compute prompts and decode may keep to
    themselves; else prompts go from wherever they are computed to wherever replicas decode, and links lead there.
    closed : pairs of offers, and a bucket that they cannot serve together.
    cuts : fleets that missed the SLO: something must be added. better : by offer, which ones are at least as good,
    itself too, so that cuts hold for fleets of lesser ones; where it is not given, only itself.
    needed : share of the trace that must keep its limits in its time. rare : share of the requests that may miss them,
    by objective. rates : requests/s on average, by bucket.
    robust : share by which capacities may fall short, for so many offers at once (Bertsimas and Sim, 2004).
    """

    offers: tuple[Offer, ...]
    scenarios: tuple[Scenario, ...]
    stock: Mapping[str, tuple[int, int]]
    goal: Goal = "cost"
    budget: float = inf
    spare: int = 0
    electricity_per_kwh: float = 0.0
    zones: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[tuple[str, str], float] = field(default_factory=dict)
    closed: frozenset[tuple[str, str, int]] = frozenset()
    cuts: tuple[Counts, ...] = ()
    better: Better = field(default_factory=dict)
    robust: tuple[float, int] = (0.0, 0)
    needed: float = 1.0
    rare: Mapping[str, float] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    near: bool = True

    @property
    def powered(self) -> bool:
        """Whether power is part of a fleet's price."""
        return self.goal == "energy" or self.electricity_per_kwh > 0

    def as_good(self, name: str) -> frozenset[str]:
        """The offers that are at least as good as one, itself too."""
        return self.better.get(name, frozenset((name,)))

    def least_price(self, offer: Offer) -> float:
        """What a replica adds to a fleet's price, even if it does nothing."""
        electricity = self.electricity_per_kwh / 1e3 * offer.idle_watts
        return offer.idle_watts if self.goal == "energy" else offer.usd_per_hour + electricity


def undominated(problem: Problem, replayed: Sequence[Counts]) -> Problem:
    """`problem` without offers that another one replaces at the same price, at least as fast for every bucket.

    Not one of fleets that were replayed, nor one that is cut where these are not: what it misses the other might keep.
    Whoever stays gets the largest KV cache of those it stands for, so that a bound remains one.
    """
    tried = {name for counts in replayed for name in counts}
    cut = {name for counts in problem.cuts for name in counts}
    kept: list[Offer] = []
    for offer in sorted(problem.offers, key=lambda o: -o.share):
        for k, other in enumerate(kept):
            cut_as_well = problem.as_good(other.name) & cut <= problem.as_good(offer.name)
            if other.name not in tried and cut_as_well and _stands_for(other, offer, problem.powered):
                kept[k] = replace(other, kv_tokens=max(other.kv_tokens, offer.kv_tokens))
                break
        else:
            kept.append(offer)
    return replace(problem, offers=tuple(kept))


def _stands_for(one: Offer, other: Offer, powered: bool) -> bool:
    """Whether a program has no need of `other`; what was measured more closely stays."""
    same = ("gpu", "gpus", "group", "role", "kv_format", "usd_per_hour", "network")
    alike = all(getattr(one, name) == getattr(other, name) for name in same)
    faster = zip((*one.rates, *one.prompt_rates), (*other.rates, *other.prompt_rates), strict=True)
    if not alike or other.late or any(a < b for a, b in faster):
        return False
    served = [bucket for bucket, rate in enumerate(other.rates) if rate]
    frugal = one.idle_watts <= other.idle_watts and all(
        one.joules(bucket) <= other.joules(bucket) * (1 + _SAME) for bucket in served
    )
    return frugal or not powered


def below(problem: Problem, price: float) -> Problem:
    """`problem` without what no fleet below a price can have."""
    offers = [(offer, price / (problem.least_price(offer) or price)) for offer in problem.offers]
    return replace(problem, offers=tuple(replace(o, most=min(o.most, int(n))) for o, n in offers if n >= 1))


def phases_of(offers: Sequence[Offer]) -> dict[str, list[Offer]]:
    """The replicas that compute prompts, and those that decode; one and the same where there are no roles."""
    if all(offer.role == "mixed" for offer in offers):
        return {"mixed": list(offers)}
    return {
        "prefill": [o for o in offers if o.role != "decode"], "decode": [o for o in offers if o.role != "prefill"]
    }  # fmt: skip


def pairs_of(problem: Problem) -> list[tuple[int, int]]:
    """Prefill and decode offers that some link connects."""
    offers = list(enumerate(problem.offers))
    first, second = ([(i, o) for i, o in offers if o.role == role] for role in ("prefill", "decode"))
    return [(p, d) for p, source in first for d, target in second if bandwidth(problem, source, target)]


def zones_of(problem: Problem, source: Offer, target: Offer) -> tuple[str, str]:
    """Where two replicas stand."""
    return problem.zones.get(source.gpu, ""), problem.zones.get(target.gpu, "")


def bandwidth(problem: Problem, source: Offer, target: Offer) -> float:
    """Bytes/s of KV cache between two replicas at best; 0 where no link connects them."""
    way = zones_of(problem, source, target)
    beyond = min(source.network, target.network)
    if way[0] != way[1]:
        return min(beyond, problem.links.get(way, 0.0))
    return max(beyond, source.inside) if source.gpu == target.gpu else beyond
