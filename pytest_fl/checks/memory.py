"""What holds of a sound rule with memory in every round, whatever the rounds before it were.

Each docstring says which claim it is, and why a sound rule keeps it. An object is made anew for each history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pytest_fl.checks import Bound, verdict
from pytest_fl.checks.histories import over_rounds
from pytest_fl.checks.robustness import is_robust
from pytest_fl.inputs import histories
from pytest_fl.oracles.coefficient import deviation, rounding
from pytest_fl.subjects.guard import Misbehaved, Rule, to_float64
from pytest_fl.subjects.histories import History, anew, tell, told
from pytest_fl.subjects.memory import Memory
from pytest_fl.subjects.subject import Subject

Floats = npt.NDArray[np.float64]
BOUNDED: Final = 1e6
"""Honest sizes within which a bounded rule stays under attackers at 1e12 of them; a clipping radius lies well below."""
FADES: Final = 0.9
"""What may be left of an attack's effect when it has stopped for 25 rounds: a momentum of 0.99 leaves 0.78."""


def claimed(name: str) -> Callable[[Subject], str]:
    """Whether the subject states this of `Memory`."""

    def reason(subject: Subject) -> str:
        known = subject.memory is not None and getattr(subject.memory, name) is not None
        return "" if known else f"no {name} is stated; pass {name}="

    return reason


def is_bounded(subject: Subject) -> str:
    """Whether attackers may move it by so much only: every rule but those that claim no finite kappa and state nothing."""
    memory = subject.memory
    stated = memory is not None and (memory.warm_up is not None or memory.step is not None)
    return "" if stated else is_robust(subject)


def _memory(rule: Rule) -> Memory:
    return rule.subject.memory or Memory()


def _slack(history: History, size: float) -> float:
    return rounding(history.n, history.d, history.updates.dtype, max(size, 1e-3))


def _worst(bounds: Iterable[tuple[int, float, float, str]], rounds: int) -> Bound | None:
    """The bound that is exceeded the most of (round, value, limit, what is compared)."""
    worst: tuple[float, Bound] | None = None
    for number, value, limit, what in bounds:
        bad = not value <= limit
        reason = f"in round {number + 1} of {rounds} {what}: {value:.4g}, where at most {limit:.4g} is allowed" if bad else ""
        ratio = value / max(limit, 1e-300) if math.isfinite(value) else math.inf
        if worst is None or ratio > worst[0]:
            worst = ratio, Bound(value, limit, reason)
    return None if worst is None else worst[1]


@over_rounds(histories=histories.ordinary, gate=True)
def answers_every_round(rule: Rule, history: History) -> Bound:
    """In each of 1 to 300 rounds the result is one finite vector of length d. Nobody may break it."""
    told(rule, history)
    return verdict("")


@over_rounds(histories=histories.spoiling, needs=is_bounded)
def survives_bad_messages(rule: Rule, history: History) -> Bound:
    """NaN, infinity or 1e308 in up to f messages is refused with a ValueError or left out; every result is finite.

    Of a rule with a finite influence: such a message is one of f outliers, and what it leaves in the memory is bounded.
    """
    call = anew(rule.subject)
    for number in range(len(history)):
        try:
            tell(rule, call, history, number)
        except Misbehaved as finding:
            spoilt = not np.isfinite(history.updates[number]).all()
            if not (spoilt and isinstance(finding.__cause__, ValueError)):
                raise
    return verdict("")


@over_rounds(histories=histories.ordinary)
def objects_are_apart(rule: Rule, history: History) -> Bound:
    """The same history gives an object the same results, to the bit, whatever another object is told in between.

    Of every rule whose memory is its object's own: what lies in a class, a module or a default argument is shared.
    """
    alone = told(rule, history)
    other = History(-3 * history.updates[::-1] + 1, history.byzantine, history.origin)
    mine, theirs = anew(rule.subject), anew(rule.subject)
    together = list[Floats]()
    for number in range(len(history)):
        tell(rule, theirs, other, number)
        together.append(tell(rule, mine, history, number))
    change = float(np.abs(np.stack(together) - alone).max())
    return Bound(change, 0.0, f"beside another object it answers {change:.3g} away from what it does alone" if change else "")


@over_rounds(histories=histories.ordinary)
def keeps_no_buffers(rule: Rule, history: History) -> Bound:
    """Updates are not written to, may be overwritten once a round is over, and results stay as they were handed out.

    Of every rule that copies what it remembers.
    """
    expected, call = told(rule, history), anew(rule.subject)
    buffer, results = np.empty_like(history.updates[0]), list[Any]()
    for number, updates in enumerate(history.updates):
        buffer[:] = updates
        result = rule.attempt(lambda: call(buffer, history.f))
        if not np.array_equal(buffer, updates):
            return verdict(f"in round {number + 1} of {len(history)} it wrote to the updates that it was given")
        now = to_float64(result)
        if now is None or not np.array_equal(now, expected[number]):
            return verdict(f"in round {number + 1} it answers by an array that was overwritten after an earlier round")
        results.append(_apart_from(result, buffer))
        buffer[:] = 1e3
    for number, result in enumerate(results):
        later = to_float64(result)
        if later is None or not np.array_equal(later, expected[number]):
            return verdict(f"the result of round {number + 1} was overwritten in a later one")
    return verdict("")


def _apart_from(result: Any, buffer: npt.NDArray[np.floating]) -> Any:
    """The result; a copy of it where it is a row of the caller's own updates, which a rule that selects may hand out."""
    selected = isinstance(result, np.ndarray) and np.shares_memory(result, buffer)
    return result.copy() if selected else result


@over_rounds(histories=histories.far, needs=is_bounded, search=True)
def bounded_in_every_round(rule: Rule, history: History) -> Bound | None:
    """Attackers at 1e12 of the honest size move no result by more than 1e6 of it from where it is had nobody attacked.

    Of every rule whose influence is bounded in each round and whose memory adds up at most 30 of them: a rule that
    clips to a radius below 3e4 honest sizes, one that trims, or weighs what it has trimmed.
    """
    attacked, calm = told(rule, history), told(rule, history.calm())
    distances = np.linalg.norm(attacked - calm, axis=1)
    sizes = np.maximum(history.sizes(), 1.0)
    what = "the attack moves the result by"
    return _worst(((number, distances[number], BOUNDED * sizes[number], what) for number in range(len(history))), len(history))


def _from_agreement(rule: Rule, history: History) -> Bound | None:
    """The distance from the row on which the honest have agreed for longer than the warm-up, in the worst round."""
    memory, sizes = _memory(rule), history.sizes()
    assert memory.warm_up is not None
    rounds = np.flatnonzero(history.agreed() > memory.warm_up)
    if not rounds.size:
        return None
    results = told(rule, history.until(int(rounds[-1])))
    rows = history.honest[:, 0].astype(np.float64)
    reach = memory.reach(history.n, history.f) * (1 + 1e-9)
    what = "the result is away from what all honest clients sent by"
    return _worst(
        (
            (
                number,
                float(np.linalg.norm(results[number] - rows[number])),
                reach + memory.within * sizes[number] + math.sqrt(history.d) * _slack(history, sizes[number]),
                what,
            )
            for number in rounds.tolist()
        ),
        len(history),
    )


@over_rounds(histories=histories.agreeing, needs=claimed("warm_up"), search=True)
def exact_after_warm_up(rule: Rule, history: History) -> Bound | None:
    """Where n - f clients agree for longer than `warm_up` rounds, the result is their row, but for `within` and `influence`.

    Of a rule that is exact in each round and forgets nothing of that: 0. Of m <- b m + (1 - b) G with such a G, after k
    rounds b^k of what was before. Of centered clipping within tau of the row, f tau / (n - f): e <- f e / n + f tau / n.
    """
    return _from_agreement(rule, history)


@over_rounds(histories=histories.framing, needs=is_bounded)
def bans_nobody_for_anothers_act(rule: Rule, history: History) -> Bound | None:
    """After attackers have put honest clients into a bad light, the n - f honest ones that agree still outvote f who strike.

    Of every rule that is exact, or bounded, by the votes of n - f: with one of them banned for ever, f may be as many as
    the rest. Where a warm-up is stated the result is their row, else within 1e6 honest sizes of it.
    """
    if _memory(rule).warm_up is not None:
        return _from_agreement(rule, history)
    last = len(history) - 1
    moved = float(np.linalg.norm(told(rule, history)[last] - history.honest[last, 0]))
    limit = BOUNDED * max(float(history.sizes()[last]), 1.0)
    return _worst([(last, moved, limit, "the result is away from what all honest clients sent by")], len(history))


@over_rounds(histories=histories.stopping, needs=is_bounded)
def forgets_an_attack(rule: Rule, history: History) -> Bound | None:
    """When an attack has stopped for `recovers` rounds the result is what all clients send; unstated, its effect has faded.

    Of a momentum b, `recovers` = k leaves b^k of it, within `within`; of centered clipping, the distance over tau, since
    then all clients pull one way. Unstated: 25 rounds later at most 0.9 is left of the greatest effect that it had.
    """
    memory, stopped = _memory(rule), history.attacked_last()
    results, rows, sizes = told(rule, history), history.honest[:, 0].astype(np.float64), history.sizes()
    if memory.recovers is not None:
        away = np.linalg.norm(results - rows, axis=1)
        rounds = range(stopped + memory.recovers, len(history))
        what = f"{memory.recovers} rounds after the attack the result is away from what all clients send by"
        room = math.sqrt(history.d)
        bounds = ((k, float(away[k]), memory.within * sizes[k] + room * _slack(history, sizes[k]), what) for k in rounds)
        return _worst(bounds, len(history))
    effect = np.linalg.norm(results - told(rule, history.calm()), axis=1)
    last = len(history) - 1
    limit = FADES * float(effect[: stopped + 1].max(initial=0.0)) + math.sqrt(history.d) * _slack(history, sizes[last])
    return _worst([(last, float(effect[last]), limit, "what is left of the attack's effect is")], len(history))


@over_rounds(histories=histories.scattering, needs=claimed("step"))
def moves_by_steps(rule: Rule, history: History) -> Bound | None:
    """From one round to the next the result moves by at most `step`. Of centered clipping: tau, a mean of clipped vectors."""
    step = _memory(rule).step
    assert step is not None
    moves = np.linalg.norm(np.diff(told(rule, history), axis=0), axis=1)
    bounds = ((k + 1, float(m), step * (1 + 1e-9) + _slack(history, step), "it moves by") for k, m in enumerate(moves))
    return _worst(bounds, len(history))


@over_rounds(
    histories=histories.scattering,
    needs=lambda subject: is_robust(subject) if subject.kappa is not None else "no kappa is claimed; pass kappa=",
)
def robust_in_every_round(rule: Rule, history: History) -> Bound | None:
    """||F_t - mean_S||^2 <= kappa (1/h) sum_S ||x_i - mean_S||^2 in each round, for the honest rows S of that round.

    Of a rule whose memory chooses among, or weighs, answers that all keep kappa.
    """
    kappa = rule.subject.kappa
    if kappa is None or not math.isfinite(kappa(history.n, history.f)):
        return None
    results, allowed = told(rule, history), kappa(history.n, history.f)
    bounds = list[tuple[int, float, float, str]]()
    for number in range(len(history)):
        found = deviation(results[number], history.round(number), allowed, every_set=False)
        bounds.append((number, found.distance, found.limit(allowed), "the result is away from the honest mean by"))
    return _worst(bounds, len(history))


@over_rounds(
    histories=histories.ordinary,
    needs=lambda subject: "" if "permutation" in (subject.symmetries or ()) else "no permutation symmetry is claimed",
)
def clients_may_be_renamed(rule: Rule, history: History) -> Bound | None:
    """With the clients in another order in all rounds the results are the same: what is remembered is remembered of whom."""
    order = np.random.default_rng(len(history)).permutation(history.n)
    renamed = History(history.updates[:, order], (), history.origin, history.f)
    change = float(np.abs(told(rule, history) - told(rule, renamed)).max())
    return Bound(change, 100 * _slack(history, float(np.abs(history.updates).max())))
