"""Messages that are not numbers: NaN and infinity are legal things for a Byzantine client to send."""

from __future__ import annotations

import numpy as np

from pytest_fl.checks import Bound, check, verdict
from pytest_fl.checks.robustness import is_robust, promises
from pytest_fl.inputs import corpus
from pytest_fl.oracles.coefficient import deviation
from pytest_fl.oracles.theory import most_of_any_rule
from pytest_fl.subjects.guard import Misbehaved, Rule, to_float64
from pytest_fl.subjects.round import Round


@check(rounds=corpus.non_finite, needs=is_robust)
def non_finite(rule: Rule, round_: Round) -> Bound | None:
    """Up to f rows of NaN or infinity are dropped or refused with a ValueError; they never reach the result."""
    if not promises(rule, round_):
        return None
    try:
        result = rule.raw(round_.updates, round_.f)
    except Misbehaved as finding:
        if isinstance(finding.__cause__, ValueError) and not rule.subject.strict_dtype:
            return verdict("")
        raise
    vector = to_float64(result)
    if vector is None or vector.shape != (round_.d,):
        return verdict(f"returned {result!r:.80}")
    if not np.isfinite(vector).all():
        return verdict("NaN or infinity in the result: one client can end the training")
    finite = np.where(np.isfinite(round_.updates), round_.updates, 0)
    allowed = max(rule.subject.kappa(round_.n, round_.f) if rule.subject.kappa else 0.0, most_of_any_rule(round_.n, round_.f))
    found = deviation(vector, round_.with_updates(finite), allowed, every_set=False)
    return Bound(found.distance, found.limit(allowed))
