"""A claim: which convention of the named rule is followed, found by asking, and what the subject is then held to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_fl.oracles.conventions import Convention, conventions
from pytest_fl.subjects.guard import Hung, Misbehaved, Rule
from pytest_fl.subjects.subject import Subject, majority

SECONDS = 2.0
PAIRS = ((11, 2), (7, 1), (10, 1), (12, 2), (15, 3))
"""(n, f) in which the conventions differ."""


def claiming(subject: Subject, claims: str) -> Subject:
    """The subject, held to the definition, symmetries and constants of the convention that it follows.

    Where it follows none, it is held to the usual one. Raises ValueError for a claim that cannot be tested.
    """
    known = conventions(claims)
    followed = known[0] if len(known) == 1 else _followed(subject, known)
    one = followed or known[0]
    theory, needed = one.theory, subject.min_clients
    says = one.says if len(known) == 1 else f"recognised as {one.says}" if followed else f"taken for {one.says}"
    # What nobody says stays unsaid: then a refusal of few clients is heeded, with a claim as without.
    plain = needed is majority and all(theory.min_clients(f) == majority(f) for f in range(1, 8))
    return replace(
        subject,
        kappa=theory.kappa,
        exact=theory.exact,
        symmetries=theory.symmetries,
        rule=theory.name,
        definition=one.answers,
        min_clients=majority if plain else lambda f: max(needed(f), theory.min_clients(f)),
        called=", ".join(filter(None, (subject.called, f"claims {claims}: {says}"))),
    )


def _followed(subject: Subject, known: tuple[Convention, ...]) -> Convention | None:
    """The convention that agrees with every answer; None where none does or nothing was answered."""
    left, asked = list(known), 0
    rule = Rule(subject, SECONDS)
    for index, (n, f) in enumerate((*PAIRS, *PAIRS)):
        if not subject.takes(n, f):
            continue
        rng = np.random.default_rng([41, index])
        x = rng.standard_normal((n, min(3, subject.most_d or 3)))
        x[:f] += (2.0 if index % 2 else 8.0) * rng.standard_normal(x.shape[1])
        try:
            answer = rule(x, f)
        except Hung:
            break
        except Misbehaved:
            continue
        asked += 1
        left = [one for one in left if _agrees(one, x, f, answer)]
    return left[0] if left and asked else None


def _agrees(one: Convention, x: np.ndarray, f: int, answer: np.ndarray) -> bool:
    if len(x) < one.theory.min_clients(f):
        return True
    answers = one.answers(x, f)
    return bool(len(answers)) and float(np.abs(answers - answer).max(1).min()) <= 1e-5 * float(np.ptp(x))
