"""Queue policy: SGLang's depth-first order over its radix tree, the subtrees that most waiting requests share first.

Source: sgl-project/sglang `managers/schedule_policy.py` (`CacheAwarePolicy.DFS_WEIGHT`): a node weighs as much as
requests wait that pass through it; children in order of weight, and the requests that end at a node after those below
it. Ties, which SGLang leaves to its dictionaries, go to the earlier arrival.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..core import FOREVER, RankView, Request, Step
from .live_order import LiveOrder


@dataclass
class DfsWeight(LiveOrder):
    """No parameters."""

    def order(self, requests: Iterable[Request], view: RankView) -> list[Request]:
        """The heaviest subtree first, at every depth."""
        waiting = list(requests)
        paths = {r: [run.key for run in view.path(r)] for r in waiting}
        weight = Counter(key for path in paths.values() for key in path)
        first: dict[int | None, int] = {}
        for place, path in enumerate(paths.values()):
            for key in path:
                first.setdefault(key, place)
        after = [(1, 0)]  # who ends at a node comes after those below it
        return sorted(waiting, key=lambda r: [(-weight[key], first[key]) for key in paths[r]] + after)

    def stands(self, step: Step, view: RankView) -> int:
        """While blocks are taken, cached ones may go."""
        return 1 if view.caching and view.waiting else FOREVER
