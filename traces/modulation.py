"""How a burst stream's rate changes: hour profile x day factor x flood episodes."""

from __future__ import annotations

import math

import numpy as np

from .arrivals import StepRate
from .columns import Floats
from .spec import DAY, Floods, Spec, StreamSpec
from .streams import Stream


def day_factors(spec: Spec, stream: StreamSpec, seed: int) -> Floats:
    """The factor of each clock day that the trace touches, scaled so that their mean over the trace is 1.

    Log-normal factors are stratified (each 1/n of the law is hit once, in random order), so that a trace of n
    days has the law's spread and not a lucky one.
    """
    first, last = spec.starts_at, spec.starts_at + spec.duration
    n = max(1, math.ceil(last / DAY) - math.floor(first / DAY)) if math.isfinite(last) else 1
    factors = np.ones(n)
    if stream.day_factors:
        factors = np.resize(stream.day_factors, n)
    elif stream.day_cv:
        from scipy.special import ndtri

        order = np.argsort(Stream(seed, f"trace/{stream.name}/day-order").uniform(n), kind="stable")
        place = (order + Stream(seed, f"trace/{stream.name}/day-factor").uniform(n)) / n
        factors = np.exp(math.sqrt(math.log1p(stream.day_cv**2)) * ndtri(place + 2.0**-54))
    if stream.floods is not None:
        factors = factors * _flood_factors(stream.floods, n, Stream(seed, f"trace/{stream.name}/floods"))
    edges = np.clip((np.arange(n + 1) + math.floor(first / DAY)) * DAY, first, last) if n > 1 else np.array([0.0, 1.0])
    mean = float(np.average(factors, weights=np.diff(edges)))
    return np.asarray(factors / mean) if mean > 0 else np.ones(n)


def _flood_factors(floods: Floods, n: int, draws: Stream) -> Floats:
    """1 on ordinary days, the episode's factor on its days; the number of episodes is within 1 of the expected."""
    factors = np.ones(n)
    for _ in range(int(n / floods.every_days + draws.next())):
        start = draws.below(n)
        length = floods.days[0] + draws.below(floods.days[1] - floods.days[0] + 1)
        low, high = floods.factor
        episode = low + (high - low) * draws.next()
        factors[start : start + length] = np.maximum(factors[start : start + length], episode)
    return factors


def step_rate(spec: Spec, stream: StreamSpec, factors: Floats, start: float, end: float) -> StepRate:
    """The stream's rate from `start` to `end` (seconds of the trace); before 0 it is what it is at 0."""
    if start < 0:
        rate = step_rate(spec, stream, factors, 0.0, end)
        return StepRate(np.concatenate([[start], rate.edges[1:]]), rate.rates)
    clock_start, clock_end = start + spec.starts_at, end + spec.starts_at
    profile = stream.profile
    steps = [DAY] if len(factors) > 1 else []
    if profile is not None:
        steps.append(profile.seconds)
    inner = [np.arange(math.floor(clock_start / s) + 1, math.ceil(clock_end / s)) * s for s in steps]
    clock = np.unique(np.concatenate([[clock_start, clock_end], *inner]))
    middle = (clock[1:] + clock[:-1]) / 2.0
    rates = np.full(len(middle), stream.rate)
    if profile is not None:
        values = np.array(profile.values)
        place = np.floor(middle / profile.seconds).astype(np.int64) % len(values)
        rates *= values[place] / values.mean()
    if len(factors) > 1:
        day = np.floor(middle / DAY).astype(np.int64) - math.floor(spec.starts_at / DAY)
        rates *= factors[np.clip(day, 0, len(factors) - 1)]
    return StepRate(clock - spec.starts_at, rates)
