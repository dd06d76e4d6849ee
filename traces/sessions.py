"""Conversations: turns, gaps and growing contexts, from the times at which sessions begin."""

from __future__ import annotations

import numpy as np

from .columns import Floats, Ints
from .laws import mean_of, mean_tokens, tokens
from .lengths import draw_lengths
from .spec import Sessions, StreamSpec
from .streams import Stream


def warm_up(sessions: Sessions) -> float:
    """Seconds before a trace's zero from which sessions may still run: sixteen times the mean length of one."""
    return 16.0 * mean_tokens(sessions.turns) * mean_of(sessions.gap)


def draw_sessions(
    stream: StreamSpec, sessions: Sessions, seed: int, piece: int, begins: Floats
) -> tuple[Floats, Ints, Ints, Ints]:
    """The requests of the sessions that begin at `begins`: time (s), prompt, output (tokens), index of the session.

    A session's rows are consecutive. A prompt is the user's new text (the stream's law in the first turn, `growth`
    later) and the last `history` exchanges (texts and responses) before it, at most `window` tokens in all.
    """

    def uniform(purpose: str, n: int) -> Floats:
        return Stream(seed, f"trace/{stream.name}/{purpose}/{piece}").uniform(n)

    turns = tokens(sessions.turns, uniform("turns", len(begins)))
    first = np.cumsum(turns) - turns  # row of each session's first turn
    rows = int(turns.sum())
    session = np.repeat(np.arange(len(begins)), turns)
    gap = np.maximum(sessions.gap.draw(uniform("gap", rows)), 0.0)
    gap[first] = 0.0
    passed = np.cumsum(gap)
    time = begins[session] + passed - passed[first][session]

    text, output = draw_lengths(stream, seed, piece, rows)
    new = tokens(sessions.growth, uniform("growth", rows))
    new[first] = text[first]
    said = np.concatenate([[0], np.cumsum(new + output)])
    row = np.arange(rows)
    oldest = np.maximum(first[session], row - sessions.history)
    prompt = np.minimum(new + said[row] - said[oldest], sessions.window)
    return time, prompt, output, session
