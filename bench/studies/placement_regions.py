"""`python bench/studies/placement_regions.py`: layer placement over regions with slow links, value and bound.

Three regions in the manner of Helix's geo-distributed cluster (ASPLOS'25): every pair of nodes in two regions has a
link of its own. The nodes are those of its 24-node instance (4 A100; 2 L4 and 8 T4; 6 L4 and 4 T4), or 42 and 105 of
seven types with those speeds times a factor. A machine may be shared, so CPU seconds are shown as well.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from servecast.planner.placement.instance import Instance, instance_from
from servecast.planner.placement.solve import place

INSIDE = 61_035.0  # 8 Gb/s in activations of Llama-2-70B, tokens/s
L4, T4, A100 = range(3)  # as in the file
# (GPU, speed, nodes, region)
SMALL = [(A100, 1, 4, 0), (L4, 1, 2, 1), (T4, 1, 8, 1), (L4, 1, 6, 2), (T4, 1, 4, 2)]
LARGE = [(A100, 1, 4, 0), (A100, 0.6, 6, 0), (L4, 1, 8, 0), (L4, 1.7, 4, 1), (T4, 1, 10, 1), (T4, 1.6, 6, 2),
         (L4, 0.8, 4, 2)]  # fmt: skip
HUGE = [(gpu, speed, round(2.5 * nodes), region) for gpu, speed, nodes, region in LARGE]


def instance(name: str, tables: list[dict[str, float]], groups: Any, inside: float, between: float) -> Instance:
    """Groups of nodes by region; source and sink are in the first."""
    key = "throughput_tokens_per_s_by_layers_held"
    kinds = [
        {"count": nodes, "name": f"g{i}", key: {k: speed * rate for k, rate in tables[gpu].items()}}
        for i, (gpu, speed, nodes, _) in enumerate(groups)
    ]
    regions = [region for *_, region in groups]
    links: list[list[Any]] = [
        [f"g{i}", f"g{j}", inside if a == b else between] for i, a in enumerate(regions) for j, b in enumerate(regions)
    ]
    for i, region in enumerate(regions):  # tokens are small: their links bind a hundred times later
        ends = 1e6 if region == 0 else 100 * between
        links += [["source", f"g{i}", ends], [f"g{i}", "sink", ends]]
    return instance_from({"name": name, "layers": 80, "node_types": kinds, "links": links}, name)


def main() -> None:
    """A row of a table for each instance."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--time-limit", type=float, default=4.0, help="seconds an instance")
    limit = parser.parse_args().time_limit
    path = Path(os.environ["SERVECAST_DATA"], "planner-instances", "layer_placement.json")
    (data,) = (d for d in json.loads(path.read_text()) if d["name"] == "single_cluster/layout_llama70b/ilp")
    tables = [kind["throughput_tokens_per_s_by_layers_held"] for kind in data["node_types"]]
    problems = [instance(f"24 nodes, {rate:,}", tables, SMALL, INSIDE, rate) for rate in (2000, 763, 400, 200, 100)]
    problems += [instance(f"42 nodes, {rate:,}", tables, LARGE, INSIDE, rate) for rate in (2000, 763)]
    problems.append(instance("42 nodes, 300, and 2,000 inside", tables, LARGE, 2000, 300))
    problems.append(instance("105 nodes, 763", tables, HUGE, INSIDE, 763))
    print("| links between regions, tokens/s | value | bound | gap | CPU s |\n|---|---|---|---|---|", flush=True)
    for problem in problems:
        before = time.process_time()
        placed = place(problem, limit)
        gap = "proven" if placed.gap == 0 else f"{placed.gap:.2%}"
        row = [problem.name, f"{placed.value:,.1f}", f"{placed.bound:,.1f}", gap, f"{time.process_time() - before:.1f}"]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
