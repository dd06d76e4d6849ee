"""The numbered invariants that every run checks about itself, cheaply, from its books."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .cluster.cluster import Cluster
from .records import COMPONENTS, TIMES, End, Recorder
from .services import Services


def check_invariants(
    recorder: Recorder, cluster: Cluster, stopped: bool, services: Services | None = None
) -> dict[str, bool]:
    """Name -> holds, for those that can be read off a finished run.

    stopped : the run was cut off, so requests may have been under way and may hold blocks.
    """
    c = recorder.requests.columns()
    finished = c["end"] == End.FINISHED
    engines = [domain.rank for replica in cluster.replicas for domain in replica.domains]
    return {
        "1 requests are conserved": len(c["index"]) == cluster.submitted
        and bool(np.all(np.bincount(c["index"], minlength=cluster.submitted) == 1)),
        "2 KV blocks are conserved": stopped or all(e.pool.free == e.total_blocks and not e.claimed for e in engines),
        "3 arrival <= queued <= scheduled <= first token <= last token": all(
            bool(np.all((c[a] <= c[b]) | ~finished)) for a, b in pairwise(TIMES[:5])
        ),
        "4 the clock never goes back": all(_forward(table.columns()["start"]) for table in recorder.leaps),
        "5 nobody is left waiting": stopped or not any(len(e.waiting) or e.running for e in engines),
        "10 tokens credited = tokens asked": bool(np.all(c["generated"][finished] == c["output_tokens"][finished])),
        **({"11 bytes sent = bytes accounted": stopped or services.balanced()} if services else {}),
        "components sum to E2E": _components_sum(c, finished),
    }


def _components_sum(c: dict[str, NDArray], finished: NDArray) -> bool:
    rest = c["ended"] - c["arrival"]
    for name in COMPONENTS:
        rest -= c[name]
    return not np.any(rest[finished])


def _forward(start: NDArray) -> bool:
    return bool(np.all(np.diff(start) >= 0))
