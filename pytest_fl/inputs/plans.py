"""Random plans of faults, as a Hypothesis strategy: what fails is shrunk to the fewest faults, clients and rounds."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from fl_impl.faults import FaultPlan


def fault_plans(clients: int, rounds: int, f: int, kinds: Collection[str] | None = None) -> st.SearchStrategy[FaultPlan]:
    """Plans of up to five faults for so many clients and rounds, in which at most f clients ever send a wrong update.

    Faults that lose an update, or keep it, strike any clients: they are not what f is for. kinds: names of
    `fl_impl.faults.KINDS`, all where None. Raises ValueError for a name that is none.
    """
    from fl_impl.faults import KINDS, Fault, FaultPlan  # noqa: PLC0415  # they import torch
    from fl_impl.faults.kinds import effect_of  # noqa: PLC0415  # likewise

    for kind in kinds or ():
        _ = KINDS[kind]
    chosen = [kind for kind in KINDS if (kinds is None or kind in kinds) and (f or effect_of(kind) != "wrong")]

    @st.composite
    def plans(draw: st.DrawFn) -> FaultPlan:
        liars = draw(st.lists(st.integers(0, clients - 1), max_size=f, unique=True)) if f else []
        faults: list[Fault] = []
        for kind in draw(st.lists(st.sampled_from(chosen), max_size=5) if chosen else st.just(list[str]())):
            wrong = effect_of(kind) == "wrong"
            if wrong and not liars:
                continue
            those = st.sampled_from(liars) if wrong else st.integers(0, clients - 1)
            struck = draw(st.lists(those, min_size=1, max_size=clients if kind == "partition" else 3, unique=True))
            first = draw(st.integers(1, rounds))
            faults.append(Fault(kind, tuple(sorted(struck)), (first, draw(st.integers(first, rounds)))))
        return FaultPlan(tuple(faults))

    return plans()
