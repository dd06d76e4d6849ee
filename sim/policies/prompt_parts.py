"""What several batch policies do alike with prompts under way."""

from __future__ import annotations

from ..core import FOREVER, Part, RankView


def prompt_parts(view: RankView, budget: int) -> tuple[list[Part], int, int]:
    """(parts of the prompts under way that `budget` tokens have room for, first come first served; what is left of the
    budget; how many iterations in a row they can be the same)."""
    parts: list[Part] = []
    iterations = FOREVER
    for request in view.prefills:
        left = request.target - request.computed
        tokens = min(left, budget)
        if tokens > 0:
            parts.append((request, tokens))
            budget -= tokens
            iterations = min(iterations, left // tokens)
    return parts, budget, iterations
