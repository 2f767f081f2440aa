"""No size and no place is special: random rounds to 130 clients and 200 003 coordinates, and every choice of rows."""

from __future__ import annotations

import numpy as np

from pytest_fl.checks import Bound, check
from pytest_fl.checks.robustness import is_exact, promises
from pytest_fl.inputs import sweep
from pytest_fl.oracles.coefficient import deviation, rounding
from pytest_fl.oracles.theory import most_of_any_rule
from pytest_fl.subjects.guard import Misbehaved, Rule
from pytest_fl.subjects.round import Round
from pytest_fl.subjects.subject import majority


@check(rounds=sweep.anywhere, needs=is_exact)
def any_size(rule: Rule, round_: Round) -> Bound | None:
    """Exact where the honest agree and bounded where not, at any number of clients and coordinates, whatever attackers keep."""
    if round_.f == 0 or not promises(rule, round_):
        return None
    try:
        result = rule(round_.updates, round_.f)
    except Misbehaved as finding:
        refuses = isinstance(finding.__cause__, ValueError) and rule.subject.min_clients is majority
        if refuses and round_.n > 41:  # beyond what was tried it may say that it takes no more
            return None
        raise
    honest = round_.honest.astype(np.float64)
    if (honest == honest[0]).all():
        size = max(float(np.abs(honest).max()), 1.0)
        return Bound(float(np.abs(result - honest[0]).max()), rounding(round_.n, round_.d, round_.updates.dtype, size))
    claimed = rule.subject.kappa(round_.n, round_.f) if rule.subject.kappa else 0.0
    allowed = max(claimed, most_of_any_rule(round_.n, round_.f))
    found = deviation(result, round_, allowed, every_set=False)
    return Bound(found.distance, found.limit(allowed))


@check(rounds=sweep.placements, needs=is_exact)
def every_placement(rule: Rule, round_: Round) -> Bound | None:
    """n - f equal rows give that row at whichever rows the others stand, for every choice of them at n <= 9."""
    honest = round_.honest.astype(np.float64)
    if round_.f == 0 or not promises(rule, round_) or (honest != honest[0]).any():
        return None
    size = max(float(np.abs(honest).max()), 1.0)
    error = float(np.abs(rule(round_.updates, round_.f) - honest[0]).max())
    return Bound(error, rounding(round_.n, round_.d, round_.updates.dtype, size))
