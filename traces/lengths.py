"""Prompt and output lengths of a stream: from laws, correlated if asked, or from another trace's rows."""

from __future__ import annotations

import math

import numpy as np

from .columns import Floats, Ints
from .laws import tokens
from .spec import StreamSpec
from .streams import Stream


def draw_lengths(stream: StreamSpec, seed: int, piece: int, n: int) -> tuple[Ints, Ints]:
    """n prompt and n output lengths (tokens, >= 1) for one piece of the trace.

    With a correlation r the two uniforms are a Gaussian copula: the normal scores of the lengths correlate by r,
    and each length keeps its own law. Rows of another trace are drawn whole, with replacement.
    """
    draws = Stream(seed, f"trace/{stream.name}/prompt/{piece}")
    if stream.sample is not None:
        rows = draws.integers(n, len(stream.sample))
        return stream.sample.prompt_tokens[rows], stream.sample.output_tokens[rows]
    first = draws.uniform(n)
    second = Stream(seed, f"trace/{stream.name}/output/{piece}").uniform(n)
    if stream.correlation:
        second = correlated(first, second, stream.correlation)
    return tokens(stream.prompt, first), tokens(stream.output, second)


def correlated(first: Floats, second: Floats, r: float) -> Floats:
    """Uniforms that are `second` pulled towards `first`, so that the normal scores of both correlate by r."""
    from scipy.special import ndtr, ndtri

    mixed = r * ndtri(first + 2.0**-54) + math.sqrt(1.0 - r * r) * ndtri(second + 2.0**-54)
    return np.minimum(ndtr(mixed), 1.0 - 2.0**-53)
