"""docs/theory.md: every formula in a block is read out of the page and evaluated."""

from __future__ import annotations

import math
import re
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fl_impl.aggregators import bounds, resolve
from pytest_fl.oracles import constants, krum_dual, theory

PAGE = (Path(__file__).parents[1] / "docs" / "theory.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
KAPPA = [line for kind, _, text in BLOCKS if kind == "kappa" for line in text.splitlines()]
HOLDS = [(scene, line) for kind, scene, text in BLOCKS if kind == "holds" for line in text.splitlines()]
LINE = re.compile(r"(?P<name>[\w|]+)(?: \((?P<when>.*?)\))?: (?P<formula>.*?)(?: where t = (?P<t>.*))?")
SIZES = [(n, f) for n in range(3, 41) for f in range(1, (n + 1) // 2)]


def ours(name, n, f):
    """The constant of fl_impl."""
    special = {
        "least": bounds.least,
        "coordinate_median_lower": lambda n, f: bounds.coordinate_median(n, f, convention="lower"),
        "krum_blanchard": lambda n, f: bounds.krum(n, f, neighbours="n-f-2"),
        "multi_krum_blanchard": lambda n, f: bounds.multi_krum(n, f, neighbours="n-f-2"),
        "multi_krum_seven": lambda n, f: bounds.multi_krum(n, f, m=7),
        "fewer_2": lambda n, f: bounds.fewer_attackers(bounds.krum(n, f), n, f, 2),
        "bucketing_2|trimmed_mean": lambda n, f: bounds.bucketing(bounds.trimmed_mean, n, f, size=2),
        "bucketing_3|trimmed_mean": lambda n, f: bounds.bucketing(bounds.trimmed_mean, n, f, size=3),
        "bucketing_2|krum": lambda n, f: bounds.bucketing(bounds.krum, n, f, size=2),
    }
    return special[name](n, f) if name in special else resolve(name).kappa(n, f)


def oracle(name, n, f):
    """The constant of the harness."""
    special = {
        "least": constants.lower_bound,
        "multi_krum_blanchard": constants.multi_krum_blanchard,
        "multi_krum_seven": lambda n, f: constants.multi_krum(n, f, m=7),
        "fewer_2": lambda n, f: constants.fewer_attackers(krum_dual.krum(n, f), n, f, 2),
        "bucketing_2|trimmed_mean": constants.after_bucketing(constants.trimmed_mean),
        "bucketing_3|trimmed_mean": constants.after_bucketing(constants.trimmed_mean, 3),
        "bucketing_2|krum": constants.after_bucketing(krum_dual.krum),
    }
    return special[name](n, f) if name in special else theory.RULES[name].kappa(n, f)


def names(n, f):
    """What a formula may use."""
    found = {"n": n, "f": f, "h": n - f, "a": n - 2 * f, "sqrt": math.sqrt, "min": min, "max": max, "range": range}
    found |= {name: ours(name, n, f) for name in ("trimmed_mean", "coordinate_median", "krum")}
    return found | {"krum_half": bounds.krum(n // 2, f) if n // 2 > 2 * f else math.inf}


def parsed(line):
    match = LINE.fullmatch(line)
    assert match is not None, line
    return match["name"], match["when"] or "True", match["formula"], match["t"]


def evaluated(text, scope):
    return eval(text, {"__builtins__": {}, **scope})  # our own page


@pytest.mark.parametrize("line", KAPPA)
def test_a_constant_on_the_page_is_that_of_the_rule_and_of_the_harness(line):
    name, when, formula, t = parsed(line)
    tried = 0
    for n, f in SIZES:
        scope = names(n, f)
        if not evaluated(when, scope):
            continue
        if t:
            scope["t"] = evaluated(t, scope)
        value = evaluated(formula, scope)
        tried += 1
        if name == "krum_at_most":
            assert ours("krum", n, f) <= value * (1 + 1e-12)
        elif name == "krum_outside":
            assert value == pytest.approx(krum_dual.chosen_outside(n - f, f), rel=1e-9)
            assert value <= ours("krum", n, f) * (1 + 1e-12)
        elif name == "krum_inside":
            assert value == pytest.approx(krum_dual.chosen_inside(n - f, f, 0.0), rel=1e-6)
            assert max(value, krum_dual.chosen_outside(n - f, f)) == pytest.approx(ours("krum", n, f), rel=1e-6)
        elif name == "trimmed_mean_2":
            weights = [1 / (n - 2 * f) if f <= rank < n - f else 0.0 for rank in range(n)]
            assert value == pytest.approx(constants.kappa_of_ranks(weights, 2))
        else:
            assert value == pytest.approx(ours(name, n, f), rel=1e-9), (n, f)
            assert value == pytest.approx(oracle(name, n, f), rel=1e-6), (n, f)
    assert tried >= 2


def test_every_rule_with_a_constant_is_on_the_page():
    written = {parsed(line)[0] for line in KAPPA}
    known = {name for name in theory.RULES if name not in {"mean", "krum_unsquared"}}
    assert known <= written
    assert len(re.findall(r"^## \d+\. Theorem \d+|^\*\*Theorem 11", PAGE, re.MULTILINE)) == 11


def norm2(values):
    return (np.atleast_2d(values) ** 2).sum(-1) if np.ndim(values) > 1 else float((np.asarray(values) ** 2).sum())


def var(rows):
    return float(((rows - rows.mean(0)) ** 2).sum(1).mean())


def pair_sum(rows):
    """The squared distances of all unordered pairs."""
    return sum(((one - other) ** 2).sum() for one, other in combinations(rows, 2))


def rounds():
    """Random, tied and stored inputs; the first f rows are Byzantine."""
    rng = np.random.default_rng(0)
    for found in theory.all_worst_inputs()[::9]:
        size = np.abs(found.updates).max()
        if size < 1e4:
            yield found.updates, found.f
    for _ in range(150):
        n = int(rng.integers(3, 10))
        x = rng.integers(-2, 3, (n, 2)) + (1e-3 if rng.random() < 0.5 else 1.0) * rng.standard_normal((n, 2))
        x[: n // 3] *= rng.choice([1.0, 3.0, 30.0])
        yield x, int(rng.integers(1, (n - 1) // 2 + 1))


def basics(x, f, members):
    n, rows = len(x), list(members)
    mu = x[rows].mean(0)
    return {
        "x": x, "n": n, "f": f, "h": n - f, "a": n - 2 * f, "S": rows, "x_S": x[rows], "mu": mu, "s": var(x[rows]),
        "norm2": norm2, "var": var, "sum": np.sum, "mean": lambda rows: rows.mean(0), "len": len,
    }  # fmt: skip


def neighbourhoods(x, f):
    distances = ((x[:, None] - x) ** 2).sum(2)
    order = np.argsort(distances, axis=1, kind="stable")[:, : len(x) - f]
    return order, np.take_along_axis(distances, order, 1).sum(1)


def any_scene(x, f, members):
    scope = basics(x, f, members)
    part = scope["S"][: max(1, len(scope["S"]) // 2)]
    yield scope | {"A": part, "m_A": x[part].mean(0), "pair_sum": lambda rows: pair_sum(x[rows])}


def nnm_scene(x, f, members):
    scope = basics(x, f, members)
    mixed = x[neighbourhoods(x, f)[0]].mean(1)
    yield scope | {"y_S": mixed[scope["S"]]}


def multi_krum_scene(x, f, members):
    scope = basics(x, f, members)
    near, scores = neighbourhoods(x, f)
    taken = np.argsort(scores, kind="stable")[: scope["h"]].tolist()
    outsiders, left = [z for z in taken if z not in scope["S"]], [i for i in scope["S"] if i not in taken]
    for z in outsiders:
        part = [j for j in near[z] if j in scope["S"]][: scope["a"]]
        yield scope | {
            "z": x[z], "b": len(left), "c": x[left].mean(0), "x_C": x[left], "A": part, "x_A": x[part], "m_A": x[part].mean(0)
        }  # fmt: skip


def krum_scene(x, f, members):
    scope = basics(x, f, members)
    near, scores = neighbourhoods(x, f)
    winner = int(np.argmin(scores))
    part = [j for j in near[winner] if j in scope["S"]][: scope["a"]]
    yield scope | {"z": x[winner], "A": part, "m_A": x[part].mean(0)}


def arc_scene(x, f, members):
    scope = basics(x, f, members)
    k = 2 * f * scope["h"] // scope["n"]
    if k:
        lengths = np.linalg.norm(x, axis=1)
        shortened = x * np.minimum(1, np.sort(lengths)[::-1][k] / np.maximum(lengths, 1e-300))[:, None]
        yield scope | {"k": k, "clipped_S": shortened[scope["S"]]}


def integers_scene():
    """All admissible (a, f, b, o) of case II."""
    for a in range(1, 13):
        for f in range(2, 40):
            for b in range(2, f + 1):
                for o in range(1, min(a, b - 1) + 1):
                    h, b1 = a + f, b - o
                    if b1 > h - b:
                        t = o * (a - o) / (2 * h)
                        c = 4 * b / (2 * b1 + o + t)
                        yield {"a": a, "h": h, "b": b, "o": o, "b1": b1, "c": c, "p": c * b1 - b}


SCENES = SimpleNamespace(any=any_scene, nnm=nnm_scene, multi_krum=multi_krum_scene, krum=krum_scene, arc=arc_scene)


@pytest.mark.parametrize(("scene", "line"), HOLDS)
def test_a_step_on_the_page_holds(scene, line):
    left, relation, right = re.fullmatch(r"(.*) (<=|==) (.*)", line).groups()
    tried = 0
    if scene == "integers":
        scopes = integers_scene()
    else:
        everywhere = ((x, f, members) for x, f in rounds() for members in list(combinations(range(len(x)), len(x) - f))[-12:])
        scopes = (scope for x, f, members in everywhere for scope in getattr(SCENES, scene)(x, f, members))
    for scope in scopes:
        size = float((scope["x"] ** 2).max()) if "x" in scope else 1.0
        smaller, greater = evaluated(left, scope), evaluated(right, scope)
        tried += 1
        slack = 1e-9 * (abs(greater) + (size if scene != "integers" else 0.0))
        assert smaller <= greater + slack
        if relation == "==":
            assert greater <= smaller + slack
    assert tried > 100
