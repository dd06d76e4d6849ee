"""Probability laws for lengths, gaps, turns and think times: uniforms in, values out, by name from a parameter file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from ..errors import InputError
from .columns import Floats, Ints
from .params import Params

_MIDPOINTS = (np.arange(65_536) + 0.5) / 65_536


class Law(Protocol):
    """A law is drawn by inverse transform, so one uniform gives one value and correlation is a matter of uniforms."""

    def draw(self, u: Floats) -> Floats:
        """One value for each uniform in [0, 1)."""
        ...


@dataclass(frozen=True)
class Constant:
    """Always `value`."""

    value: float

    def draw(self, u: Floats) -> Floats:
        return np.full(len(u), self.value)


@dataclass(frozen=True)
class Quantiles:
    """An empirical law: a table of quantiles, linear in between."""

    at: tuple[float, ...]
    values: tuple[float, ...]

    def draw(self, u: Floats) -> Floats:
        return np.interp(u, self.at, self.values)


@dataclass(frozen=True)
class LogNormal:
    """exp(normal) with this median and log-standard deviation, cut to [minimum, maximum]."""

    median: float
    sigma: float
    minimum: float = 0.0
    maximum: float = math.inf

    def draw(self, u: Floats) -> Floats:
        from scipy.special import ndtri

        return np.clip(self.median * np.exp(self.sigma * ndtri(u + 2.0**-54)), self.minimum, self.maximum)


@dataclass(frozen=True)
class Pareto:
    """P(X > x) = (minimum / x)**alpha, cut at `maximum`."""

    minimum: float
    alpha: float
    maximum: float = math.inf

    def draw(self, u: Floats) -> Floats:
        return np.minimum(self.minimum * (1.0 - u) ** (-1.0 / self.alpha), self.maximum)


@dataclass(frozen=True)
class Zipf:
    """p(k) ~ k**-a for k = 1..maximum: BurstGPT's own generator has a = 1.1 rejected beyond 1,024."""

    a: float
    maximum: int

    def draw(self, u: Floats) -> Floats:
        rank = np.searchsorted(np.cumsum(self.probabilities()), u, side="right") + 1.0
        return np.minimum(rank, self.maximum)  # the last sum may fall short of 1

    def probabilities(self) -> Floats:
        """Of k = 1..maximum."""
        weights: Floats = np.arange(1, self.maximum + 1, dtype=np.float64) ** -self.a
        return weights / weights.sum()


LLUMNIX_ALPHA = {128: 2.0, 256: 1.5, 512: 1.15}
LLUMNIX_CAP = 6_144


@dataclass(frozen=True)
class Llumnix:
    """Llumnix's power-law lengths (OSDI'24; AlibabaPAI/llumnix `benchmark/benchmark_serving.py`).

    Ranks k = 1..2 mean - 1 with p(k) ~ k**-alpha, scaled so that they average `mean`, rounded up, cut at 6,144.
    The authors scale by the average of the ranks they drew (`rescale: sample`); `law` scales by the expectation.
    """

    mean: int
    alpha: float
    rescale: str = "law"

    def draw(self, u: Floats) -> Floats:
        ranks = Zipf(self.alpha, 2 * self.mean - 1)
        drawn = ranks.draw(u)
        expected = float(ranks.probabilities() @ np.arange(1, 2 * self.mean))
        average = float(drawn.mean()) if self.rescale == "sample" and len(drawn) else expected
        return np.minimum(np.ceil(drawn * (self.mean / average)), LLUMNIX_CAP)


@dataclass(frozen=True)
class Geometric:
    """1, 2, ... with this mean; each further one is as likely as the last."""

    mean: float

    def draw(self, u: Floats) -> Floats:
        if self.mean == 1.0:
            return np.ones(len(u))
        return np.floor(np.log1p(-u) / math.log1p(-1.0 / self.mean)) + 1.0


@dataclass(frozen=True)
class Exponential:
    """The memoryless law with this mean."""

    mean: float

    def draw(self, u: Floats) -> Floats:
        return -self.mean * np.log1p(-u)


def tokens(law: Law, u: Floats) -> Ints:
    """Whole counts >= 1: tokens, or turns."""
    return np.maximum(np.floor(law.draw(u) + 0.5), 1.0).astype(np.int64)


def mean_of(law: Law) -> float:
    """The mean, by the midpoint rule over 65,536 quantiles."""
    return float(law.draw(_MIDPOINTS).mean())


def mean_tokens(law: Law) -> float:
    """The mean of `tokens`, by the same rule."""
    return float(tokens(law, _MIDPOINTS).mean())


def law_at(params: Params, key: str) -> Law:
    """The law at `key`, such as `{lognormal: {median: 120, sigma: 1.2}}`."""
    name, given = params.one(key, _LAWS)
    law = _LAWS[name](given)
    given.done()
    return law


def _quantiles(p: Params) -> Law:
    at, values = p.numbers("at"), p.numbers("values")
    if at[0] != 0.0 or at[-1] != 1.0 or any(b <= a for a, b in pairwise(at)):
        raise p.error("at", "probabilities that rise from 0 to 1")
    if len(values) != len(at) or any(b < a for a, b in pairwise(values)):
        raise p.error("values", f"{len(at)} values that do not fall, one for each probability")
    return Quantiles(at, values)


def _lognormal(p: Params) -> Law:
    bounds = {"minimum": p.number("minimum", 0.0, low=0.0), "maximum": p.number("maximum", 1e18, above=0.0)}
    return LogNormal(p.number("median", above=0.0), p.number("sigma", low=0.0), **bounds)


def _pareto(p: Params) -> Law:
    return Pareto(p.number("minimum", above=0.0), p.number("alpha", above=0.0), p.number("maximum", 1e18, above=0.0))


def _llumnix(p: Params) -> Law:
    mean, rescale = p.whole("mean"), p.text("rescale") or "law"
    if rescale not in ("law", "sample"):
        raise p.error("rescale", "law or sample")
    if mean not in LLUMNIX_ALPHA and "alpha" not in p:
        known = ", ".join(map(str, LLUMNIX_ALPHA))
        raise InputError(p.at("alpha"), "missing", f"a number, since the authors give it for means {known} only")
    return Llumnix(mean, p.number("alpha", LLUMNIX_ALPHA.get(mean), above=0.0), rescale)


_LAWS: dict[str, Callable[[Params], Law]] = {
    "constant": lambda p: Constant(p.number("value", low=0.0)),
    "quantiles": _quantiles,
    "lognormal": _lognormal,
    "pareto": _pareto,
    "zipf": lambda p: Zipf(p.number("a", above=0.0), p.whole("maximum")),
    "llumnix": _llumnix,
    "geometric": lambda p: Geometric(p.number("mean", low=1.0)),
    "exponential": lambda p: Exponential(p.number("mean", above=0.0)),
}
