"""A rule judged on updates that somebody saved: as they are, whoever of the clients lies, and under attacks put among them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Unpack

import numpy as np
import numpy.typing as npt

from pytest_fl.adapters import as_subject
from pytest_fl.adapters.options import Options
from pytest_fl.checks import Bound, Check, everybody
from pytest_fl.engine.rows import Finding, closeness, row_of
from pytest_fl.engine.search import judge
from pytest_fl.inputs.colluders import COLLUDERS, KEEPERS
from pytest_fl.inputs.precision import in_its_precision
from pytest_fl.oracles.coefficient import deviation
from pytest_fl.oracles.theory import most_of_any_rule
from pytest_fl.reporting.report import Report
from pytest_fl.subjects.guard import Rule
from pytest_fl.subjects.profiles import Profile, profile_named
from pytest_fl.subjects.round import Round

Updates = npt.NDArray[np.floating]
REACHES: Final = (1.0, 10.0, 1e3)
"""How far attackers go, in the radius of the updates."""
PLACES: Final = 12
"""Choices of attackers' rows that are tried with each attack, at most."""


def load_updates(path: Path) -> Updates:
    """The (n, d) updates of a file: .npz, .npy, .csv (a line a client) or .safetensors.

    An array `updates` is taken if there is one; otherwise the arrays of a file are layers, stacked over clients along their
    first axis. Raises ValueError where there are no such updates.
    """
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    elif path.suffix == ".npy":
        arrays = {"updates": np.load(path, allow_pickle=False)}
    elif path.suffix == ".safetensors":
        from safetensors.numpy import load_file  # noqa: PLC0415  # only for such a file

        arrays = load_file(path)
    elif path.suffix in {".csv", ".txt"}:
        arrays = {"updates": np.loadtxt(path, delimiter=",", ndmin=2)}
    else:
        raise ValueError(f"expected updates in an .npz, .npy, .csv or .safetensors file, got {path}")
    return _matrix(arrays, path)


def _matrix(arrays: dict[str, npt.NDArray[Any]], path: Path) -> Updates:
    layers = [arrays["updates"]] if "updates" in arrays else [a for a in arrays.values() if a.ndim and a.dtype.kind == "f"]
    clients = {len(layer) for layer in layers if layer.ndim}
    if len(clients) != 1 or not layers[0].size:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"expected one array updates (n, d), or layers (n, ...) of the same n, in {path}; got {shapes}")
    (n,) = clients
    joined = np.concatenate([layer.reshape(n, -1) for layer in layers], axis=1)
    wide = joined.dtype.name in {"float32", "float64"}
    return joined if wide else joined.astype(np.float64)


def verify_updates(
    thing: object, path: Path, byzantine: int, *, profile: str | Profile = "default", seed: int = 0, **options: Unpack[Options]
) -> Report:
    """Judge a rule on the updates of a file with f = byzantine; options as for `verify`.

    Raises ValueError for a file without updates and an f that they do not allow.
    """
    subject, updates = as_subject(thing, **options), load_updates(path)
    if not 0 < byzantine <= (len(updates) - 1) // 2 or not subject.takes(len(updates), byzantine):
        raise ValueError(f"expected --byzantine that {subject.name} takes for {len(updates)} updates, got {byzantine}")
    chosen = profile_named(profile) if isinstance(profile, str) else profile
    rule = Rule(subject, chosen.call_seconds)
    rows = tuple(row_of(subject.name, check, _worst(rule, check, rounds)) for check, rounds in (
        (AS_THEY_ARE, [Round(updates, byzantine, tuple(range(byzantine)), f"{path.name}, as saved")]),
        (UNDER_ATTACK, _attacked(updates, byzantine, seed, path.name)),
    ))  # fmt: skip
    subsets = math.comb(len(updates), byzantine)
    said = f"{len(updates)} updates of {updates.shape[1]} entries, f = {byzantine}: {subsets} choices of attackers"
    return Report(rows, notes=(subject.called, said))


def _worst(rule: Rule, check: Check, rounds: Iterable[Round]) -> Finding:
    worst = Finding(Bound(0.0, 0.0))
    for tried, round_ in enumerate(rounds, 1):
        bound = judge(rule, check, in_its_precision(rule, round_))
        if bound is None:
            continue
        if worst.round is None or closeness(bound) > closeness(worst.bound):
            reason = bound.reason or ("" if bound.holds else round_.origin)
            worst = Finding(Bound(bound.value, bound.limit, reason), round_, tried)
        if not bound.holds:
            return worst
    return worst


def _attacked(updates: Updates, f: int, seed: int, name: str) -> Iterator[Round]:
    """Each plot at each reach, at every choice of f rows where those are few."""
    n = len(updates)
    rng = np.random.default_rng([seed, 51])
    every = math.comb(n, f) <= PLACES
    places = list(itertools.combinations(range(n), f)) if every else [
        tuple(sorted(int(row) for row in rng.permutation(n)[:f])) for _ in range(PLACES)
    ]  # fmt: skip
    for (plot, collude), reach in itertools.product({**COLLUDERS, **KEEPERS}.items(), REACHES):
        for rows in places:
            honest = np.delete(updates, rows, axis=0).astype(np.float64)
            radius = float(np.linalg.norm(honest - honest.mean(0), axis=1).max()) or 1.0
            attacked = updates.copy()
            attacked[list(rows)] = collude(honest, f, reach * radius, rng)
            yield Round(attacked, f, rows, f"{name} with rows {', '.join(map(str, rows))} replaced: {plot}, {reach:g} radii")


def _allowed(rule: Rule, round_: Round) -> float:
    claimed = rule.subject.kappa(round_.n, round_.f) if rule.subject.kappa else 0.0
    return claimed or most_of_any_rule(round_.n, round_.f)


def _as_they_are(rule: Rule, round_: Round) -> Bound:
    allowed = _allowed(rule, round_)
    found = deviation(rule(round_.updates, round_.f), round_, allowed)
    return Bound(found.distance, found.limit(allowed))


def _under_attack(rule: Rule, round_: Round) -> Bound:
    allowed = _allowed(rule, round_)
    found = deviation(rule(round_.updates, round_.f), round_, allowed, every_set=False)
    return Bound(found.distance, found.limit(allowed))


def _none(rule: Rule, profile: Profile) -> Iterator[Round]:
    del rule, profile
    yield from ()


AS_THEY_ARE: Final = Check(
    "saved_updates", "Whichever f of the saved updates are the attackers', the result is near the mean of the others.",
    _as_they_are, _none, everybody,
)  # fmt: skip
UNDER_ATTACK: Final = Check(
    "saved_updates_attacked", "With f of the saved updates replaced by colluders, the result is near the mean of the others.",
    _under_attack, _none, everybody,
)  # fmt: skip
