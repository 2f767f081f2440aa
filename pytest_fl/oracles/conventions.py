"""The conventions under which a named rule is published: which of them a rule that claims the name follows.

Each has its own definition and its own constants. Krum sums over n-f-1 or n-f-2 neighbours; a median of an even number is
the midpoint, the lower or the upper one; Multi-Krum averages any number m <= n-f of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from pytest_fl.oracles.definitions import DEFINITIONS
from pytest_fl.oracles.theory import RULES, RuleTheory, rule_theory
from pytest_fl.oracles.variants import (
    MEDIANS,
    NEIGHBOURS,
    PICKS,
    SHRINKING,
    Definition,
    around,
    bulyan_like,
    clipped_by_rank,
    krum_like,
    median_lower,
    median_upper,
    mixed,
)  # fmt: skip


@dataclass(frozen=True)
class Convention:
    """One published form of a rule: what it is called, what it gives, and what is proven of it."""

    says: str
    answers: Definition
    theory: RuleTheory


def conventions(claims: str) -> tuple[Convention, ...]:
    """The conventions of the rule of that name, the usual one first.

    Raises ValueError for a name that nothing is proven of, and for one without a definition to hold a rule to.
    """
    theory = rule_theory(claims)
    found = TABLE.get(theory.name)
    if found is not None:
        return found()
    if theory.name not in DEFINITIONS:
        raise ValueError(
            f"expected the name of a rule with a definition to hold it to, got {claims!r}: only its constants are known; "
            "pass kappa= and symmetries= instead"
        )
    return (Convention(theory.name, DEFINITIONS[theory.name], theory),)


def _krum() -> tuple[Convention, ...]:
    return (
        Convention("krum, n-f-1 neighbours", krum_like(NEIGHBOURS["n-f-1"]), RULES["krum"]),
        Convention("krum_blanchard, n-f-2 neighbours", krum_like(NEIGHBOURS["n-f-2"]), RULES["krum_blanchard"]),
    )


def _multi_krum() -> tuple[Convention, ...]:
    """Any m <= n-f has Krum's constant: the m least scores are on average at most the mean honest one."""
    found = [
        Convention("multi_krum, n-f-1 neighbours, m = n-f", krum_like(NEIGHBOURS["n-f-1"], PICKS["n-f"]), RULES["multi_krum"])
    ]
    for label, one in (("n-f-1", RULES["krum"]), ("n-f-2", RULES["krum_blanchard"])):
        for m in PICKS:
            if m == "n-f+1" or (label, m) == ("n-f-1", "n-f"):
                continue
            symmetries = (one.symmetries - {"selects"}) | ({"mean"} if m == "n-f" else set[str]())
            needed = _enough(one.min_clients, m)
            theory = replace(RULES["multi_krum"], kappa=one.kappa, exact=False, symmetries=symmetries, min_clients=needed)
            found.append(Convention(f"multi_krum, {label} neighbours, m = {m}", krum_like(NEIGHBOURS[label], PICKS[m]), theory))
    return tuple(found)


def _enough(needed: Callable[[int], int], m: str) -> Callable[[int], int]:
    """The least n with 1 <= m <= n - f."""

    def least(f: int) -> int:
        n = needed(f)
        while not 1 <= PICKS[m](n, f) <= n - f:
            n += 1
        return n

    return least


def _medians() -> tuple[Convention, ...]:
    lower = RULES["coordinate_median_lower"]
    return (
        Convention("coordinate_median, the midpoint", DEFINITIONS["coordinate_median"], RULES["coordinate_median"]),
        Convention("coordinate_median, the lower of the middle two", DEFINITIONS["coordinate_median_lower"], lower),
        Convention("coordinate_median, the upper of the middle two", lambda x, _: median_upper(x)[None], lower),
    )


def _meamed() -> tuple[Convention, ...]:
    theory, lower = RULES["meamed"], RULES["coordinate_median_lower"]

    def looser(n: int, f: int) -> float:
        return 4 * f / (n - f) * (1 + lower.kappa(n, f))  # the mean of the n-f values nearest to a robust centre

    other = replace(theory, kappa=looser, exact=False, symmetries=theory.symmetries - {"sign"})
    return tuple(
        Convention(
            f"meamed around the {label} median",
            lambda x, f, centre=centre: around(x, centre(x), len(x) - f)[None],
            theory if label == "midpoint" else other,
        )
        for label, centre in MEDIANS.items()
    )


def _bulyan() -> tuple[Convention, ...]:
    """The constant speaks of picks of any kind, so that it holds for each count of neighbours."""
    theory = RULES["bulyan"]
    return tuple(
        Convention(
            f"bulyan, {said}, around the {label} median",
            bulyan_like(count, centre, lambda n, f: n - 4 * f, once=once),
            theory if label == "midpoint" else replace(theory, symmetries=theory.symmetries - {"sign"}),
        )
        for label, centre in MEDIANS.items()
        for once in (False, True)
        for said, count in _selections(once)
    )


def _selections(once: bool) -> list[tuple[str, Callable[[int, int], int]]]:
    return [(f"{said}{', one round of scores' if once else ''}", count) for said, count in SHRINKING.items()]


def _mixed_median() -> tuple[Convention, ...]:
    theory, lower = RULES["nnm|coordinate_median"], RULES["coordinate_median_lower"]

    def looser(n: int, f: int) -> float:
        return 8 * f / (n - f) * (1 + lower.kappa(n, f))  # nearest-neighbour mixing before a rule

    other = replace(theory, kappa=looser, exact=False, symmetries=theory.symmetries - {"sign"})
    return (
        Convention("nnm|coordinate_median, the midpoint", DEFINITIONS["nnm|coordinate_median"], theory),
        Convention(
            "nnm|coordinate_median, the lower of the middle two", lambda x, f: median_lower(mixed(x, len(x) - f))[None], other
        ),
    )


def _after(
    claims: str, move: Callable[..., object], inner: Callable[[], tuple[Convention, ...]]
) -> Callable[[], tuple[Convention, ...]]:
    def found() -> tuple[Convention, ...]:
        first = inner()[:1]
        return tuple(
            Convention(f"{claims}, {one.says}", lambda x, f, one=one: one.answers(move(x, f), f), RULES[claims])  # type: ignore[reportArgumentType]  # a matrix
            for one in first
        )

    return found


def _trimmed_mean() -> tuple[Convention, ...]:
    return (Convention("trimmed_mean", DEFINITIONS["trimmed_mean"], RULES["trimmed_mean"]),)


TABLE: Final[dict[str, Callable[[], tuple[Convention, ...]]]] = {
    "krum": _krum,
    "multi_krum": _multi_krum,
    "coordinate_median": _medians,
    "meamed": _meamed,
    "bulyan": _bulyan,
    "nnm|coordinate_median": _mixed_median,
    "nnm|krum": _after("nnm|krum", lambda x, f: mixed(x, len(x) - f), _krum),
    "arc|krum": _after("arc|krum", clipped_by_rank, _krum),
    "arc|trimmed_mean": _after("arc|trimmed_mean", clipped_by_rank, _trimmed_mean),
    "arc|coordinate_median": _after("arc|coordinate_median", clipped_by_rank, _medians),
}
"""Rule -> its conventions, where it has several or no definition of one word."""
