"""Every rule, at every admissible f for n <= 12 and on both sides of n = 25, in each dtype, against what it claims."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fl_impl.aggregators import ALL, resolve
from pytest_fl.adapters import as_subject
from pytest_fl.checks import all_checks
from pytest_fl.engine.runner import judge
from pytest_fl.inputs.clouds import CLOUDS
from pytest_fl.inputs.colluders import COLLUDERS
from pytest_fl.inputs.corpus import POSITIONS, assemble
from pytest_fl.subjects.guard import Rule

PIPES = ("nnm|trimmed_mean", "nnm|coordinate_median", "nnm|krum", "bucketing(size=2)|krum", "arc|geometric_median")
GENERIC = ("permutation", "scale", "sign", "rotation", "hull", "monotone", "keeps_dtype", "leaves_input_alone")
ATTACKED = ("coefficient", "boundedness", "box", "honest_box", "selects", "returns_a_vector")
UNANIMOUS = ("exactness",)
LARGE = ((24, 1), (24, 11), (25, 12), (26, 6), (26, 12), (27, 1), (27, 13))
SUBSETS = 5000
"""What a rule that tries all subsets gets at most here: more take seconds a call."""


def pairs(name: str) -> list[tuple[int, int]]:
    rule = resolve(name)
    # Two clients are always tied: Krum may take either, and every point between is a geometric median.
    small = [(n, f) for n in range(3, 13) for f in range(n) if n >= rule.min_clients(f)]
    large = [(n, f) for n, f in LARGE if n >= rule.min_clients(f)]
    combinatorial = name in ("smea", "minimum_variance")
    return [
        (n, f)
        for n, f in small + large
        if not combinatorial or np.prod(range(n - f + 1, n + 1)) <= SUBSETS * np.prod(range(1, f + 1))
    ]


def rounds(n: int, f: int, dtype: type):
    """(the checks that apply, the round): without ties, a cloud of each kind in turn under colluders, unanimous."""
    rng, turn = np.random.default_rng([n, f]), 5 * n + f
    d = (3, 17, 64)[turn % 3]
    position = POSITIONS[turn % len(POSITIONS)]
    plot = list(COLLUDERS)[turn % len(COLLUDERS)]
    few = ("definition",) if n <= 10 else ()  # definitions search all subsets
    yield (
        (*GENERIC, *few),
        assemble(rng.standard_normal((n - f, d)).astype(dtype), 2 + rng.standard_normal((f, d)), position, rng, "generic"),
    )
    for step, reach in ((0, 1.0), (3, 30.0)):
        cloud = list(CLOUDS)[(turn + step) % len(CLOUDS)]
        honest = CLOUDS[cloud](n - f, d, rng).astype(dtype)
        size = reach * float(np.abs(honest - honest.mean(0)).max() or 1.0)
        byzantine = COLLUDERS[plot](honest.astype(np.float64), f, size, rng) if f else np.empty((0, d))
        yield ATTACKED, assemble(honest, byzantine, position, rng, f"{cloud}, {plot}")
    value = np.tile(rng.standard_normal(d).astype(dtype), (n - f, 1))
    byzantine = COLLUDERS[plot](value.astype(np.float64), f, 10.0, rng) if f else np.empty((0, d))
    yield UNANIMOUS, assemble(value, byzantine, position, rng, f"unanimous, {plot}", ("tied",))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", [*ALL, *PIPES])
def test_claims_hold_at_every_admissible_f(name, dtype):
    subject = as_subject(name)
    rule, checks = Rule(subject), all_checks()
    judged = 0
    for n, f in pairs(name):
        for names, round_ in rounds(n, f, dtype):
            for check in (checks[each] for each in names if not checks[each].needs(subject)):
                bound = judge(rule, check, round_)
                judged += bound is not None
                assert bound is None or bound.holds, f"{check.name}, n={n}, f={f}, {round_.origin}: {bound}"
    assert judged >= 4 * len(pairs(name))


@pytest.mark.parametrize("name", [*ALL, *PIPES])
def test_bfloat16_is_computed_in_a_wider_type(name):
    """A bfloat16 round gives what the same numbers in float32 give, rounded once."""
    rule = resolve(name)
    for (n, f), d in itertools.product([(5, 1), (11, 2), (26, 3)], [7, 65]):
        if n < rule.min_clients(f):
            continue
        x = torch.from_numpy(np.random.default_rng([n, d]).standard_normal((n, d)).astype(np.float32)).to(torch.bfloat16)
        told = {"root": x[0]} if "root" in rule.keywords.required else {}
        wide = {key: value.float() for key, value in told.items()}
        result = rule(x, f=f, **told)
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result, rule(x.float(), f=f, **wide).to(torch.bfloat16), rtol=0, atol=0)
