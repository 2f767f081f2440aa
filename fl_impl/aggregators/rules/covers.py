"""The exact search behind the minimum diameter: which points to leave out so that all others are close together."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt


def least_diameter(distances: npt.NDArray[np.float64], leave_out: int, *, max_nodes: int) -> list[int]:
    """n - leave_out points with the least greatest distance among them.

    A set has diameter <= t if what is left out covers every edge {d_ij > t}: so the least t, by bisection over the
    distances, such that this graph has a vertex cover of at most `leave_out` points, by a search tree of bounded
    depth.
    Raises ValueError if one search takes more than max_nodes nodes.
    """
    thresholds = np.unique(distances)
    low, high = 0, len(thresholds) - 1
    while low < high:
        middle = (low + high) // 2
        if _cover(distances > thresholds[middle], leave_out, max_nodes) is None:
            low = middle + 1
        else:
            high = middle
    cover = _cover(distances > thresholds[low], leave_out, max_nodes)
    assert cover is not None  # nothing is further apart than the greatest distance
    return _of_size([i for i in range(len(distances)) if not cover >> i & 1], distances, len(distances) - leave_out)


def _of_size(points: list[int], distances: npt.NDArray[np.float64], size: int) -> list[int]:
    """Of the points, `size`: those furthest from the others go first."""
    while len(points) > size:
        points.pop(int(np.argmax(distances[np.ix_(points, points)].sum(axis=1))))
    return points


def _cover(edges: npt.NDArray[np.bool_], budget: int, max_nodes: int) -> int | None:
    """A vertex cover of at most `budget` points, as bits of an integer; None if there is none."""
    neighbours = [sum(1 << int(v) for v in np.flatnonzero(row)) for row in edges]
    nodes = itertools.count()

    def covering(alive: int, budget: int) -> int | None:
        if next(nodes) >= max_nodes:
            raise ValueError(f"minimum_diameter searched max_nodes={max_nodes} nodes: raise max_nodes, or lower f")
        degrees = {v: (neighbours[v] & alive).bit_count() for v in range(len(neighbours)) if alive >> v & 1}
        busiest = max(degrees, key=degrees.__getitem__, default=0)
        most = degrees.get(busiest, 0)
        if most == 0:
            return 0
        if sum(degrees.values()) > 2 * budget * most:
            return None
        leaf = next((v for v, degree in degrees.items() if degree == 1), None)
        # The neighbour of a leaf covers no less than the leaf. Else a cover holds a point, or all its neighbours.
        choices = [1 << busiest, neighbours[busiest] & alive] if leaf is None else [neighbours[leaf] & alive]
        for taken in choices:
            size = taken.bit_count()
            rest = covering(alive & ~taken, budget - size) if size <= budget else None
            if rest is not None:
                return rest | taken
        return None

    return covering((1 << len(neighbours)) - 1, budget)
