"""What a fit learns from conversations: turns, remembered history, new text, and when sessions begin."""

from __future__ import annotations

import numpy as np

from .columns import Floats, Ints
from .sessions import draw_sessions, warm_up
from .spec import Sessions, StreamSpec

MOST_HISTORY = 12  # earlier exchanges; a longer memory counts as unlimited
ROUNDS = 20  # of the deconvolution: enough to follow the hours, too few to follow the noise


def turn_numbers(order: Ints, follows: Ints) -> Ints:
    """0, 1, 2, ... within each session of `order`; `follows` are the places of second and later turns."""
    place = np.arange(len(order))
    begins = np.ones(len(order), bool)
    begins[follows] = False
    return place - np.maximum.accumulate(np.where(begins, place, 0))


def history_and_growth(prompt: Ints, output: Ints, turn: Ints) -> tuple[int, Ints]:
    """How many earlier exchanges a prompt repeats, and the new text of later turns, from rows session by session.

    A prompt less the exchanges that it repeats is the user's new text. With the right number of them that is
    hardly ever negative (BurstGPT_3's service repeats 4: 5 of 259 turns are negative, 71 with all of them).
    """
    best: tuple[int, int, Ints] | None = None
    for history in (Sessions.history, *range(MOST_HISTORY, 0, -1)):
        text = prompt.copy()
        for number in range(1, int(turn.max()) + 1):
            now = np.flatnonzero(turn == number)
            for back in range(1, min(number, history) + 1):
                text[now] -= text[now - back] + output[now - back]
        negative = int((text[turn > 0] < 0).sum())
        if best is None or negative < best[0]:
            best = negative, history, text[turn > 0]
    assert best is not None
    return best[1], np.maximum(best[2], 1)


def sharpened(begins: Floats, requests: Floats, sessions: Sessions, seconds: float) -> Floats:
    """Session begins per step that lead to these requests per step, from the observed begins.

    Later turns spread a step's requests over the steps after it, so generated requests would be smoother than
    the trace. Richardson-Lucy deconvolution (Richardson 1972, Lucy 1974) with the sessions' own spread.
    """
    stream = StreamSpec("fit", 1.0, sessions=sessions)
    starts = (np.arange(4096, dtype=np.float64) + 0.5) * (seconds / 4096)
    time, *_ = draw_sessions(stream, sessions, 0, 0, starts)
    steps = int(warm_up(sessions) / seconds) + 1
    spread = np.bincount((time / seconds).astype(np.int64))[:steps] / 4096
    n, result = len(begins), np.maximum(begins, 1e-3)

    def shared(values: Floats) -> Floats:  # what each step's begins contribute to
        return np.convolve(values, spread[::-1])[len(spread) - 1 :][:n]

    for _ in range(ROUNDS):
        before = np.full(len(spread), result[0])  # the generator too lets sessions begin before the trace
        led_to = np.convolve(np.concatenate([before, result]), spread)[len(spread) :][:n]
        result = result * shared(requests / np.maximum(led_to, 1e-9)) / shared(np.ones(n))
    return result
