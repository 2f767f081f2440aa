"""Rules with memory: sound ones with what is claimed of them, and broken ones with the check that must see it."""

from __future__ import annotations

from functools import partial

import numpy as np
from sound import median_of_sorted, trimmed_mean_by_sort

SOUND = {}
"""name -> (class, factory, partial or object, keywords for `verify`)."""
BROKEN = {}
"""name -> (the same, the check that must fail, keywords)."""


def sound(**claims):
    def register(kind):
        SOUND[kind.__name__] = (kind, claims)
        return kind

    return register


def broken(check, **claims):
    def register(kind):
        BROKEN[kind.__name__] = (kind, check, claims)
        return kind

    return register


def median(updates):
    """NaN counts as infinite: one of f outliers."""
    return median_of_sorted(np.where(np.isnan(updates), np.inf, updates).astype(np.float64), 0)


def numbers(updates):
    return updates[np.isfinite(updates).all(1)].astype(np.float64)


def clipped(rows, radius):
    """Each row at most that long, whatever its size."""
    size = np.abs(rows).max(1, keepdims=True)
    size[size == 0] = 1
    length = size[:, 0] * np.linalg.norm(rows / size, axis=1)
    return rows * np.minimum(1, radius / np.maximum(length, 1e-300))[:, None]


CLIPPING = {"step": 10.0, "warm_up": 12, "influence": lambda n, f: 10.1 * f / (n - f) + 0.1, "recovers": 1}
"""Centered clipping to 10 around rows of norm 10: within 12 rounds 2^-12 of the way is left."""


# --- sound ----------------------------------------------------------------------------------------------------------


@sound(warm_up=20, within=1e-4, recovers=20)
class MedianWithMomentum:
    """m <- m / 2 + median / 2: after 20 rounds 2^-20 of what was before."""

    def __init__(self, beta=0.5):
        self.beta, self.m = beta, None

    def aggregate(self, updates, f):
        found = median(updates)
        self.m = found if self.m is None else self.beta * self.m + (1 - self.beta) * found
        return self.m.astype(updates.dtype)


@sound(**CLIPPING)
class CenteredClipping:
    """v <- v + mean clip(x - v, tau)."""

    def __init__(self, tau=10.0):
        self.tau, self.v = tau, None

    def __call__(self, updates, f):
        rows = numbers(updates)
        if self.v is None:
            self.v = np.zeros(updates.shape[1])
        self.v = self.v + clipped(rows - self.v, self.tau).sum(0) / len(updates)
        return self.v.astype(updates.dtype)


@sound(**CLIPPING)
class CenteredClippingByLoops:
    """The same, client by client: written against the other."""

    def __init__(self):
        self.centre = []

    def aggregate(self, updates, f):
        n, d = updates.shape
        self.centre = self.centre or [0.0] * d
        total = [0.0] * d
        for row in updates.tolist():
            away = [x - v for x, v in zip(row, self.centre, strict=True)]
            largest = max(map(abs, away))
            if not np.isfinite(largest):
                continue
            length = largest * sum((x / largest) ** 2 for x in away) ** 0.5 if largest else 0.0
            share = min(1.0, 10.0 / length) if length else 1.0
            total = [t + share * x for t, x in zip(total, away, strict=True)]
        self.centre = [v + t / n for v, t in zip(self.centre, total, strict=True)]
        return np.array(self.centre, updates.dtype)


def reputations(standing, updates):
    """Standings in [0.1, 1], which fall by half where a client is far from the median, and rise by a tenth elsewhere."""
    with np.errstate(over="ignore", invalid="ignore"):
        away = np.abs(updates - median(updates)).max(1)
    away = np.where(np.isnan(away), np.inf, away)
    near = away <= 3 * np.sort(away)[(len(away) - 1) // 2]
    return np.clip(np.where(near, standing + 0.1, standing / 2), 0.1, 1.0)


@sound(warm_up=0, recovers=0)
class ReputationWithinTheTrimmed:
    """Per coordinate the middle n - 2f values, weighed by standing: where n - f agree they are all the same."""

    def __init__(self):
        self.standing = None

    def aggregate(self, updates, f):
        n = len(updates)
        self.standing = reputations(np.ones(n) if self.standing is None else self.standing, updates)
        order = np.argsort(updates, axis=0, kind="stable")[f : n - f]
        weights = self.standing[order]
        kept = np.take_along_axis(updates.astype(np.float64), order, axis=0)
        return ((weights * kept).sum(0) / weights.sum(0)).astype(updates.dtype)


@sound(warm_up=0, recovers=0)
class ReputationByClient:
    """The same with a dictionary of clients: written against the other."""

    def __init__(self):
        self.standing = {}

    def aggregate(self, updates, f):
        n = len(updates)
        known = reputations(np.array([self.standing.get(i, 1.0) for i in range(n)]), updates)
        self.standing = dict(enumerate(known.tolist()))
        result = []
        for column in updates.T:
            ranked = sorted(range(n), key=lambda i, column=column: (np.isnan(column[i]), column[i]))[f : n - f]
            total = sum(self.standing[i] for i in ranked)
            result.append(sum(self.standing[i] * float(column[i]) for i in ranked) / total)
        return np.array(result, updates.dtype)


@sound()
class ClipsToTheMedianDistance:
    """Centered clipping whose radius is the median distance from its last result: of the honest ones' size."""

    def __init__(self):
        self.v = None

    def __call__(self, updates, f):
        rows = numbers(updates)
        self.v = median(updates) if self.v is None else self.v
        with np.errstate(over="ignore"):
            away = np.sort(np.where(np.isfinite(updates).all(1), np.linalg.norm(updates - self.v, axis=1), np.inf))
        self.v = self.v + clipped(rows - self.v, away[(len(away) - 1) // 2]).sum(0) / len(updates)
        return self.v.astype(updates.dtype)


@sound(root=True)
class TrustsItsOwnUpdate:
    """FLTrust, with the mean of the server's own updates so far: never longer than that."""

    def __init__(self):
        self.own, self.rounds = 0.0, 0

    def aggregate(self, updates, f, root):
        self.rounds += 1
        self.own = self.own + (np.asarray(root, np.float64) - self.own) / self.rounds
        own = np.linalg.norm(self.own)
        rows = numbers(updates)
        units = clipped(rows * 1e-150, 1.0) if np.abs(rows).max() > 1e150 else rows
        units = units / np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-300)
        trust = np.maximum(units @ self.own, 0)
        return (own * (trust[:, None] * units).sum(0) / (trust.sum() or 1.0)).astype(updates.dtype)


SOUND["a factory"] = (lambda: MedianWithMomentum(0.5), SOUND["MedianWithMomentum"][1])
SOUND["a partial"] = (partial(CenteredClipping, tau=10.0), CLIPPING)
SOUND["an object"] = (CenteredClippingByLoops(), CLIPPING)
SOUND["our centered_clipping"] = ("centered_clipping", {**CLIPPING})
SOUND["our foolsgold"] = ("foolsgold", {})
SOUND["our fltrust"] = ("fltrust", {})
SOUND["our trimmed_mean"] = ("trimmed_mean", {"warm_up": 0, "recovers": 0})


# --- broken ---------------------------------------------------------------------------------------------------------


@broken("bounded_in_every_round")
class MeanWithMomentum:
    def __init__(self):
        self.m = 0.0

    def __call__(self, updates, f):
        self.m = 0.9 * self.m + 0.1 * numbers(updates).mean(0)
        return self.m + 0.0


@broken("bounded_in_every_round")
class TrustsTheReputable:
    """The mean, weighed by a standing that is looked at before this round's updates are."""

    def __init__(self):
        self.standing = None

    def __call__(self, updates, f):
        weights = np.ones(len(updates)) if self.standing is None else self.standing
        self.standing = reputations(weights, updates)
        return weights @ updates / weights.sum()


@broken("bounded_in_every_round")
class BelievesTheFirstRound:
    """Nothing is known yet, so it takes the mean."""

    def __init__(self):
        self.m = None

    def __call__(self, updates, f):
        self.m = updates.mean(0) if self.m is None else median(updates)
        return self.m + 0.0


@broken("bounded_in_every_round")
class ClipsToTheLongestSoFar:
    """The radius is the greatest norm that was ever seen: attackers set it one round, and use it in the next."""

    def __init__(self):
        self.radius = None

    def __call__(self, updates, f):
        lengths = np.linalg.norm(updates, axis=1)
        radius = np.median(lengths) if self.radius is None else self.radius
        self.radius = max(radius, lengths.max())
        return clipped(updates.astype(np.float64), radius).mean(0)


@broken("bounded_in_every_round")
class TrimsLessAndLess:
    """By now the bad ones are known: f falls by one every four rounds."""

    def __init__(self):
        self.rounds = 0

    def __call__(self, updates, f):
        self.rounds += 1
        return trimmed_mean_by_sort(updates, max(f - self.rounds // 4, 0))


@broken("bounded_in_every_round")
class ScreensEverySecondRound:
    """Whom it kept the last time it keeps this time too."""

    def __init__(self):
        self.kept, self.rounds = None, 0

    def __call__(self, updates, f):
        if self.rounds % 2 == 0:
            self.kept = np.argsort(np.abs(updates - median(updates)).max(1), kind="stable")[: len(updates) - f]
            self.rounds += 1
            return median(updates)
        self.rounds += 1
        return updates[self.kept].mean(0)


@broken("bounded_in_every_round")
class DetectsAfterTheFact:
    """Like FLDetector with nothing behind it: clients whose last five updates were ill predicted are left out."""

    def __init__(self):
        self.last, self.scores = None, []

    def __call__(self, updates, f):
        if self.last is not None:
            away = np.linalg.norm(updates - self.last, axis=1)
            self.scores = [*self.scores[-4:], away / max(away.sum(), 1e-300)]
        flagged = np.argsort(-np.mean(self.scores, axis=0))[:f] if len(self.scores) == 5 else []
        self.last = np.delete(updates, flagged, axis=0).mean(0)
        return self.last + 0.0


@broken("exact_after_warm_up", warm_up=2)
class FollowsWhoeverIsNear:
    """The mean of the rows within a tenth of its size of its last result: small steps lead it away."""

    def __init__(self):
        self.last = None

    def __call__(self, updates, f):
        self.last = median(updates) if self.last is None else self.last
        near = np.linalg.norm(updates - self.last, axis=1) <= 0.1 * np.linalg.norm(self.last) + 1e-9
        self.last = updates[near].mean(0) if near.any() else median(updates)
        return self.last + 0.0


@broken("exact_after_warm_up", warm_up=5, within=1e-6)
class RemembersLongerThanItSays:
    """A momentum of 0.9 leaves 0.59 after five rounds."""

    def __init__(self):
        self.m = 0.0

    def __call__(self, updates, f):
        self.m = 0.9 * self.m + 0.1 * median(updates)
        return self.m + 0.0


@broken("exact_after_warm_up", warm_up=12, influence=lambda n, f: 0.5)
class ClipsFartherThanItSays(CenteredClipping):
    """An influence of 0.5 is that of another radius."""


@broken("exact_after_warm_up", warm_up=0)
class AveragesWithItsPast:
    """Half of what clients sent before counts too, theirs who strike now and then as well."""

    def __init__(self):
        self.past = None

    def __call__(self, updates, f):
        self.past = updates.astype(np.float64) if self.past is None else (self.past + updates) / 2
        return median(self.past)


@broken("bans_nobody_for_anothers_act")
class BansWhoeverIsOutlying:
    """For good, by one round in which a client stands three median distances off."""

    def __init__(self):
        self.banned = set()

    def __call__(self, updates, f):
        left = [i for i in range(len(updates)) if i not in self.banned] or list(range(len(updates)))
        rows = updates[left]
        away = np.linalg.norm(rows - median(rows), axis=1)
        limit = 3 * np.sort(away)[(len(away) - 1) // 2]
        self.banned |= {i for i, far in zip(left, away, strict=True) if far > limit and np.ptp(updates) < 1e3}
        return median(rows)


@broken("bans_nobody_for_anothers_act")
class BansBothOfTwoThatAreAlike:
    """As FoolsGold does for a round, for ever: a copy of an honest row is enough."""

    def __init__(self):
        self.banned = set()

    def __call__(self, updates, f):
        n = len(updates)
        for i in range(n):
            alike = (updates == updates[i]).all(1).sum()
            if 1 < alike <= f + 1 and alike < n - f:
                self.banned.add(i)
        left = [i for i in range(n) if i not in self.banned] or list(range(n))
        return median(updates[left])


@broken("objects_are_apart")
class SharesADefaultArgument:
    def __init__(self, state={}):  # noqa: B006  # the mistake
        self.state = state

    def __call__(self, updates, f):
        key = updates.shape[1]
        last = self.state.get(key, 0.0)
        self.state[key] = median(updates)
        return 0.5 * last + 0.5 * self.state[key]


@broken("objects_are_apart")
class KeepsItsMomentumInTheClass:
    momentum = {}  # noqa: RUF012  # the mistake

    def __call__(self, updates, f):
        key = updates.shape
        self.momentum[key] = 0.5 * self.momentum.get(key, 0.0) + 0.5 * median(updates)
        return self.momentum[key] + 0.0


_module = {}


@broken("objects_are_apart")
class CountsRoundsInItsModule:
    def __call__(self, updates, f):
        _module["rounds"] = _module.get("rounds", 0) + 1
        return median(updates) * (1 + 1e-9 * _module["rounds"])


@broken("keeps_no_buffers")
class KeepsTheCallersArray:
    """What was sent last, by reference: by now the server has written over it."""

    def __init__(self):
        self.last = None

    def __call__(self, updates, f):
        last = updates if self.last is None else self.last
        result = 0.5 * median(updates) + 0.5 * median(last)
        self.last = updates
        return result


@broken("keeps_no_buffers")
class HandsOutItsState:
    """The momentum itself, which the next round changes in place."""

    def __init__(self):
        self.m = None

    def __call__(self, updates, f):
        if self.m is None:
            self.m = median(updates)
        else:
            self.m *= 0.5
            self.m += 0.5 * median(updates)
        return self.m


@broken("keeps_no_buffers")
class CentresInPlace:
    """Differences from its last result, written over the updates."""

    def __init__(self):
        self.last = 0.0

    def __call__(self, updates, f):
        updates -= np.asarray(self.last, updates.dtype)
        self.last = self.last + median(updates)
        return self.last + 0.0


@broken("survives_bad_messages")
class SpoiltByOneNaN:
    """A NaN in the mean norm so far stays there."""

    def __init__(self):
        self.norm = None

    def __call__(self, updates, f):
        found = np.linalg.norm(updates, axis=1).mean()
        self.norm = found if self.norm is None else 0.9 * self.norm + 0.1 * found
        result = median(updates)
        return result * np.minimum(1.0, 1e3 * self.norm) if np.isfinite(updates).all() else result


@broken("answers_every_round")
class AWindowOfTwentyRounds:
    """It does not turn round."""

    def __init__(self):
        self.window, self.rounds = np.zeros(20), 0

    def __call__(self, updates, f):
        self.window[self.rounds] = np.abs(updates).max()
        self.rounds += 1
        return median(updates)


@broken("forgets_an_attack")
class LearnsLessAfterEachOutlier:
    """Its step is halved whenever somebody is far, and never grows again."""

    def __init__(self):
        self.step, self.v = 0.5, None

    def __call__(self, updates, f):
        found = median(updates)
        if np.abs(updates - found).max() > 100 * np.abs(found).max():
            self.step /= 2
        self.v = np.zeros_like(found) if self.v is None else self.v
        self.v = self.v + self.step * (found - self.v)
        return self.v + 0.0


@broken("forgets_an_attack")
class DividesByEverythingSoFar:
    """As Adamax without decay, over all that anybody sent."""

    def __init__(self):
        self.largest = 0.0

    def __call__(self, updates, f):
        self.largest = max(self.largest, float(np.abs(updates).max()))
        return median(updates) / (1 + self.largest)


@broken("forgets_an_attack", recovers=3)
class RecoversLaterThanItSays:
    def __init__(self):
        self.late = []

    def __call__(self, updates, f):
        self.late = [*self.late[-5:], median(updates) if np.ptp(updates) == 0 else updates.mean(0) / (1 + np.ptp(updates))]
        return np.mean(self.late, axis=0)


@broken("moves_by_steps", step=10.0)
class ClipsTwiceARound(CenteredClipping):
    """Two iterations move it by two radii."""

    def __call__(self, updates, f):
        super().__call__(updates, f)
        self.v = self.v + clipped(numbers(updates) * 1e3 - self.v, self.tau).mean(0)
        return self.v + 0.0


@broken("clients_may_be_renamed", symmetries={"permutation"})
class AnotherLeaderEachRound:
    """The result leans towards the client whose turn it is."""

    def __init__(self):
        self.rounds = 0

    def __call__(self, updates, f):
        leader = updates[self.rounds % len(updates)]
        self.rounds += 1
        return np.clip(leader, np.sort(updates, 0)[f], np.sort(updates, 0)[len(updates) - 1 - f])


@broken("robust_in_every_round", kappa=lambda n, f: 4 * (1 + f / (n - 2 * f)) ** 2)
class LagsBehind:
    """A momentum does not keep the constant of what it averages: the honest mean moves on."""

    def __init__(self):
        self.m = 0.0

    def __call__(self, updates, f):
        self.m = 0.99 * self.m + 0.01 * median(updates)
        return self.m + 0.0
