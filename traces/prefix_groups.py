"""BatchLLM's global prefix grouping for offline jobs: who shares a prefix runs side by side (arXiv 2412.03594).

The tree of all prefixes is cut to one shared level: a node keeps its requests together when that saves more prompt
tokens than its children's groups would in all (dynamic programming from the leaves). Groups come in order of falling
decode to prefill ratio, so that long answers overlap with the prompts of those behind them. Lengths of answers are not
known beforehand: the mean of the request class stands for them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..errors import InputError
from .columns import Ints, PrefixBlocks
from .table import RequestTable
from .workflow import expected_output


def group_prefixes(table: RequestTable) -> RequestTable:
    """The same requests with the number of their group as `priority`; run them with `queue: priority`."""
    if table.blocks is None:
        raise InputError("group prefixes", f"{table.source.name} has no block ids", "a trace with hash_ids")
    group, shared = prefix_groups(table.blocks, table.prompt_tokens)
    once = np.zeros(int(group.max()) + 1)
    once[group] = shared
    prefill = np.bincount(group, table.prompt_tokens - shared) + once
    decode = np.bincount(group, expected_output(table))
    order = np.lexsort((np.arange(len(once)), -decode / np.maximum(prefill, 1)))
    place = np.empty(len(once), np.int64)
    place[order] = np.arange(len(once))
    return dataclasses.replace(table, priority=place[group])


def prefix_groups(blocks: PrefixBlocks, prompt: Ints) -> tuple[Ints, Ints]:
    """(number of each row's group, in order of first appearance; tokens that it shares with the others in it)."""
    depth: dict[int, int] = {}
    parent: dict[int, int] = {}
    count: dict[int, int] = {}
    rows = [blocks.row(i)[: n // blocks.size].tolist() for i, n in enumerate(prompt.tolist())]
    for ids in rows:
        before = -1
        for place, id_ in enumerate(ids):
            depth[id_], parent[id_] = place + 1, before
            count[id_] = count.get(id_, 0) + 1
            before = id_
    below = dict.fromkeys(depth, 0)  # what the children's groups save
    cut = set()
    for id_ in sorted(depth, key=lambda node: -depth[node]):
        own = (count[id_] - 1) * depth[id_]
        if own >= below[id_] and own:
            cut.add(id_)
        if parent[id_] >= 0:
            below[parent[id_]] += max(own, below[id_])
    names: dict[int, int] = {}
    group = np.empty(len(rows), np.int64)
    shared = np.zeros(len(rows), np.int64)
    for i, ids in enumerate(rows):
        node = next((id_ for id_ in ids if id_ in cut), -1 - i)
        group[i] = names.setdefault(node, len(names))
        shared[i] = depth.get(node, 0) * blocks.size
    return group, shared


def saved_share(blocks: PrefixBlocks, prompt: Ints) -> tuple[float, float]:
    """Shares of the prompt tokens that a whole prefix tree would save, and that the groups do."""
    group, shared = prefix_groups(blocks, prompt)
    sizes = np.bincount(group)
    saved = (shared * (1 - 1 / sizes[group])).sum()
    full = np.concatenate([blocks.row(i)[: n // blocks.size] for i, n in enumerate(prompt.tolist())])
    total = int(prompt.sum())
    return (len(full) - len(np.unique(full))) * blocks.size / total, float(saved) / total
