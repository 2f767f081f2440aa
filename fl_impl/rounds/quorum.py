"""f is what was promised: who must answer in a round for it to hold, and how surely a sample of the clients holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fl_impl.common.counts import excess_probability, floor_of

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator
    from fl_impl.config import FLConfig


class QuorumError(ValueError):
    """Fewer sound updates came than the rule needs for the f that was promised; nothing was aggregated."""


def check_quorum(
    rule: Aggregator,
    came: int,
    asked: int,
    f: int,
    rejected: Mapping[int, str],
    *,
    min_clients: int = 1,
    where: str = "a round",
) -> None:
    """Raise QuorumError unless `came` sound updates, of so many clients that were asked, suffice for the rule with f.

    f is never lowered to what came: an honest client that fails does not make an attacker honest.
    """
    needed = max(min_clients, rule.min_clients(f), 1)
    if came >= needed:
        return
    reasons = "; ".join(f"client {client}: {reason}" for client, reason in sorted(rejected.items())) or "none"
    raise QuorumError(
        f"{where}: {came} sound updates, but {needed} are needed of the {asked} clients asked (min_clients={min_clients}, "
        f"{rule.spec} with f={f}). Rejected: {reasons}. Ask more clients, tolerate a smaller fraction, or take a rule that "
        "needs fewer"
    )


def sampling_note(config: FLConfig, population: int, asked: int) -> tuple[str, ...]:
    """How often a sampled round holds more attackers than f, as a sentence; nothing where it never does.

    The probability is hypergeometric: `asked` of the population, floor(byzantine_fraction population) of which attack.
    """
    attackers, f = floor_of(config.byzantine_fraction, population), config.tolerated(asked, population)
    probability = excess_probability(population, attackers, min(asked, population), f)
    if not probability or config.rule.name == "mean":
        return ()
    if config.sample_tolerance is None:
        remedy = "With sample_tolerance=0.001 f is one that is exceeded less often, with fraction_fit=1 everybody is asked"
    else:
        remedy = f"sample_tolerance={config.sample_tolerance:g} allows that"
    note = (
        f"A round asks {asked} of {population} clients, of which byzantine_fraction lets {attackers} attack, and the rule is "
        f"told f={f}: with probability {probability:.3g} a round holds more attackers than f, and nothing bounds its result. "
        f"{remedy}."
    )
    return (note,)
