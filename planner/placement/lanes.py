"""How many nodes it takes to cross slow links: the inequalities between a flow and the lanes on its two sides.

At a junction, `e` nodes end and `b` nodes begin at the same layer. Links of capacity `c` between them carry at most
c x e x b, and never more than the whole flow, which is the unit here. What an ending node sends over other links in the
same place is not at its junction's cost, so it counts as 1 less that share; a beginning node likewise. These shares
and the crossing flow are together at most the whole flow. The convex hull of what remains, per unit of crossing flow,
gives pairs (p, q) with

    crossing flow <= p x lanes that end + q x lanes that begin

for every junction, and so for sums of them: a linear constraint on counts of nodes, without positions.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

Point = tuple[float, float]  # lanes that end and lanes that begin, per unit of crossing flow


@lru_cache(maxsize=4096)
def lane_prices(capacity: float, ends: int, begins: int, *, mixed: bool, looped: bool) -> list[Point]:
    """All pairs (p, q) that matter.

    capacity : of a link, as a share of the whole flow, above 0. ends, begins : nodes that there are. mixed : the nodes
    may use other links in the same place. looped : such links may lead from the ending to the beginning nodes counted.
    """
    points = []
    for e in range(1, ends + 1):
        for b in range(1, begins + 1):
            flow = min(1.0, capacity * e * b)
            points.append((e / flow, b / flow))
            if mixed:
                rest = 1 - flow
                points += [((e - rest) / flow, b / flow), (e / flow, (b - rest) / flow)]
            if mixed and looped and e * b > 1:
                flow = min(1.0, capacity * (e * b - 1))  # one pair at least is not joined by such a link
                rest = 1 - flow
                points.append(((e - rest) / flow, (b - rest) / flow))
            if capacity * e * b >= 1:
                break
    return _facets(_lower_hull(points))


def _lower_hull(points: list[Point]) -> list[Point]:
    """The corners, from the left, of what lies above and to the right of the points."""
    hull: list[Point] = []
    for x, y in sorted(points):
        if hull and y >= hull[-1][1]:
            continue
        while len(hull) > 1 and _turns_right(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _turns_right(a: Point, b: Point, c: Point) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def _facets(hull: list[Point]) -> list[Point]:
    """p, q with p x + q y >= 1 for all points of the hull, and equal to 1 on an edge of it."""
    edges = [(1 / hull[0][0], 0.0), (0.0, 1 / hull[-1][1])]
    for (x, y), (u, v) in pairwise(hull):
        area = x * v - u * y
        edges.append(((v - y) / area, (x - u) / area))
    return edges
