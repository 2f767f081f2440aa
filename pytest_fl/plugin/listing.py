"""`--fl-list`: the rules, attacks and checks that there are, those of other distributions included."""

from __future__ import annotations

from collections.abc import Iterator


def lines() -> Iterator[str]:
    """A heading for each kind, then a line for each name with the first line of its documentation."""
    from fl_impl import aggregators, attacks  # noqa: PLC0415  # imported where somebody asks what there is
    from pytest_fl.checks import CHECKS  # noqa: PLC0415  # as above
    from pytest_fl.checks.parts import AUDITS  # noqa: PLC0415  # as above

    kinds = {
        "aggregators (--fl-aggregator)": aggregators.ALL,
        'pre-aggregators, before a rule as in "nnm|krum"': aggregators.PRE,
        "attacks (--fl-attack)": attacks.ALL,
        "checks of aggregators": CHECKS,
        "checks of other parts": AUDITS,
    }
    for heading, registry in kinds.items():
        width = max(map(len, registry))
        yield f"{heading}:"
        yield from (f"  {name:{width}}  {registry.summary(name)}".rstrip() for name in sorted(registry))
