"""A Hypothesis strategy for histories: honest clients that agree, attackers that choose an act in each round."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from pytest_fl.inputs.histories import FAR
from pytest_fl.subjects.histories import History

ACTS: Final = ("behave", "strike", "strike back", "lean", "send zeros", "send the opposite", "one strikes")
"""What attackers do in a round, the simplest first."""


def _acted(act: str, row: Any, f: int, direction: Any, number: int) -> Any:
    rows = np.tile(row, (f, 1))
    if act == "strike":
        rows += FAR * direction
    elif act == "strike back":
        rows -= FAR * direction
    elif act == "lean":
        rows += 0.1 * (number + 1) * direction
    elif act == "send zeros":
        rows[:] = 0
    elif act == "send the opposite":
        rows = -rows
    elif act == "one strikes":
        rows[number % f] += FAR * direction
    return rows


@st.composite
def histories(draw: st.DrawFn, *, clients: tuple[tuple[int, int], ...] = ((3, 1), (5, 2)), longest: int = 30) -> History:
    """A history of 1 to `longest` rounds: n - f clients agree on a row of small integers, f act together."""
    n, f = draw(st.sampled_from(clients))
    d = draw(st.integers(1, 2))
    row = np.array(draw(st.lists(st.integers(-3, 3), min_size=d, max_size=d)), float)
    direction = np.array(draw(st.lists(st.sampled_from((1.0, -1.0, 0.0)), min_size=d, max_size=d)))
    acts = draw(st.lists(st.sampled_from(ACTS), min_size=1, max_size=longest))
    rows = tuple(sorted(draw(st.permutations(range(n)))[:f]))
    updates = np.tile(row, (len(acts), n, 1))
    for number, act in enumerate(acts):
        updates[number, list(rows)] = _acted(act, row, f, direction, number)
    return History(updates, rows, f"found by Hypothesis: {', '.join(acts)}"[:300])
