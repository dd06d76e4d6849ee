"""The live prefix cache of an engine as a radix tree: what a prompt finds, and who shares it. Reads only.

A prefix id stands for all that comes before it as well, so the tree needs no links: a node is a run of the store, its
children are the runs of the prompts that go on from it, and a walk from the root is one look-up a node. What SGLang
keeps as a `RadixCache`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ..core import Request
from .prefix import PrefixPool


class Node(NamedTuple):
    """A node on the way of a prompt.

    key : its prefix id. tokens : of the prompt that are cached from the root to its end. holders : requests that have
    it in their KV cache now. hits : requests that have used it since it was computed.
    """

    key: int
    tokens: int
    holders: int
    hits: int


class RadixView:
    """Of one engine's store, as it is when asked."""

    def __init__(self, pool: PrefixPool) -> None:
        self._pool = pool

    def path(self, request: Request) -> list[Node]:
        """The cached nodes of a prompt, root first. O(depth)."""
        nodes: list[Node] = []
        blocks = 0
        for run in self._pool.path(request):
            blocks += run.cached
            assert run.key is not None
            nodes.append(Node(run.key, blocks * self._pool.block_size, run.holders, run.hits))
        return nodes

    def match(self, request: Request) -> int:
        """Tokens of the longest cached prefix of a prompt, its last token included. O(depth)."""
        path = self.path(request)
        return path[-1].tokens if path else 0

    def common(self, one: Request, other: Request) -> int:
        """Tokens in full blocks that two prompts begin with in common, cached or not. O(depth)."""
        blocks = 0
        pairs = zip(self._chain(one), self._chain(other), strict=False)
        for (key, mine), (theirs, size) in pairs:
            if key != theirs:
                break
            blocks += min(mine, size)
        return blocks * self._pool.block_size

    def sharing(self, requests: Iterable[Request]) -> Counter[int]:
        """By prefix id, how many of some requests pass through each cached node. O(depth) a request."""
        return Counter(node.key for request in requests for node in self.path(request))

    def _chain(self, request: Request) -> list[tuple[int, int]]:
        return self._pool.chain(request, request.prompt_tokens)
