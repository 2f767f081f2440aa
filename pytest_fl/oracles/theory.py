"""What is proven of each rule under one convention: the harness's own table, apart from the code under test.

The constants are worked out in `constants` and `krum_dual`; no rule has kappa < f / (n - 2f). An exact constant here is
attained by a stored input, at every (n, f) that it is exact for by a shape of `extremal`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fl_impl.common.specs import lookup
from pytest_fl.oracles import constants
from pytest_fl.oracles.constants import Kappa, kappa_of_ranks, lower_bound, most_of_any_rule
from pytest_fl.oracles.krum_dual import krum

__all__ = [
    "ALIASES",
    "RULES",
    "Kappa",
    "RuleTheory",
    "WorstInput",
    "all_worst_inputs",
    "kappa_of_ranks",
    "lower_bound",
    "most_of_any_rule",
    "rule_theory",
    "worst_inputs",
]

Floats = npt.NDArray[np.float64]


def everywhere(n: int, f: int) -> bool:
    """An exact constant that is attained at every (n, f)."""
    del n, f
    return True


@dataclass(frozen=True)
class RuleTheory:
    """What is proven of a rule under one convention: what `claims="krum"` holds an aggregator to."""

    name: str
    kappa: Kappa
    exact: bool
    """Whether kappa is attained, at least at the (n, f) that `attained` names."""
    symmetries: frozenset[str]
    min_clients: Callable[[int], int] = lambda f: 2 * f + 1
    stored: str = ""
    """The key of its worst inputs in data/worst_inputs.npz."""
    attained: Callable[[int, int], bool] = everywhere
    """(n, f) -> whether an input attains an exact kappa there."""
    operator_norm: bool = False
    """Whether the ratios of the stored inputs are over the top eigenvalue of the covariance, not over its trace."""


_GEOMETRIC = frozenset({"permutation", "translation", "scale", "sign", "rotation", "box", "hull"})
_PRINCIPAL = frozenset({"permutation", "translation", "scale", "sign", "rotation"})
_SORTED = frozenset({"permutation", "translation", "scale", "sign", "monotone", "box", "honest_box"})
_NEAREST = frozenset({"permutation", "translation", "scale", "sign", "box"})
_CLIPPED = frozenset({"scale", "sign"})
_MEAN = frozenset({"mean"})

RULES: dict[str, RuleTheory] = {
    theory.name: theory
    for theory in (
        RuleTheory("mean", constants.mean, True, _GEOMETRIC | _MEAN | {"monotone"}),
        RuleTheory("trimmed_mean", constants.trimmed_mean, True, _SORTED | _MEAN, stored="cwtm"),
        RuleTheory("principal_trimmed_mean", constants.trimmed_mean, True, _PRINCIPAL | _MEAN, stored="ptm"),
        RuleTheory("coordinate_median", constants.coordinate_median, True, _SORTED, stored="cwmed"),
        RuleTheory(
            "coordinate_median_lower", constants.coordinate_median_lower, True, _SORTED - {"sign"}, stored="cwmed_low"
        ),
        RuleTheory("meamed", constants.meamed, True, _NEAREST | _MEAN, stored="meamed"),
        RuleTheory("phocas", constants.phocas, True, _NEAREST | _MEAN, stored="phocas"),
        RuleTheory("krum", krum, True, _GEOMETRIC | {"selects"}, stored="krum", attained=lambda n, f: (n, f) != (3, 1)),
        RuleTheory(
            "krum_blanchard", constants.krum_blanchard, False, _GEOMETRIC | {"selects"}, lambda f: 2 * f + 3,
            stored="krum_orig",
        ),
        RuleTheory("krum_unsquared", constants.krum_unsquared, False, _GEOMETRIC | {"selects"}, stored="krum_l1"),
        RuleTheory(
            "multi_krum", constants.multi_krum, True, _GEOMETRIC | _MEAN, stored="multikrum",
            attained=lambda n, f: n >= 3 * f,
        ),
        RuleTheory("geometric_median", constants.geometric_median, True, _GEOMETRIC, stored="gm"),
        RuleTheory("minimum_diameter", constants.minimum_diameter, True, _GEOMETRIC | _MEAN, stored="mda"),
        RuleTheory("minimum_variance", constants.minimum_variance, True, _GEOMETRIC | _MEAN, stored="mva"),
        RuleTheory(
            "smea", constants.minimum_variance, True, _GEOMETRIC | _MEAN, stored="smea_op", operator_norm=True
        ),
        RuleTheory("caf", constants.caf, False, _GEOMETRIC | _MEAN, stored="caf_op", operator_norm=True),
        RuleTheory("bulyan", constants.bulyan, False, _NEAREST - {"permutation"}, lambda f: 4 * f + 3, stored="bulyan"),
        RuleTheory(
            "nnm|trimmed_mean", constants.after_nnm(constants.trimmed_mean), True, _NEAREST | _MEAN, stored="nnm.cwtm"
        ),
        RuleTheory(
            "nnm|coordinate_median", constants.after_nnm(constants.coordinate_median), True, _NEAREST,
            stored="nnm.cwmed", attained=lambda n, f: n - 2 * f <= 2,
        ),
        RuleTheory("nnm|krum", constants.after_nnm(krum), False, _NEAREST - {"permutation"}, stored="nnm.krum"),
        RuleTheory(
            "arc|trimmed_mean", constants.after_arc(constants.trimmed_mean), False, _CLIPPED, stored="arc.cwtm"
        ),
        RuleTheory(
            "arc|coordinate_median", constants.after_arc(constants.coordinate_median), False, _CLIPPED, stored="arc.cwmed"
        ),
        RuleTheory("arc|krum", constants.after_arc(krum), False, _CLIPPED | {"rotation"}, stored="arc.krum"),
    )
}  # fmt: skip
ALIASES = {
    "median": "coordinate_median", "cwmed": "coordinate_median", "lower_median": "coordinate_median_lower",
    "cwtm": "trimmed_mean", "mda": "minimum_diameter", "mva": "minimum_variance", "byzantine_robust": "nnm|trimmed_mean",
    "fedavg": "mean",
}  # fmt: skip


def rule_theory(name: str) -> RuleTheory:
    """What is proven of the rule of that name; ValueError with the nearest name where nothing is."""
    return lookup(ALIASES.get(name, name), RULES, "the name of a rule in pytest_fl.oracles.theory.RULES")


class WorstInput(NamedTuple):
    """The worst input that a search found for a rule: rows 0..f-1 are Byzantine; ratio is the coefficient reached."""

    updates: Floats
    f: int
    ratio: float


@lru_cache(maxsize=1)
def _stored() -> dict[str, list[WorstInput]]:
    with np.load(Path(__file__).parent / "data" / "worst_inputs.npz", allow_pickle=False) as data:
        rules, rule, shape, ratio, values = (data[key] for key in ("rules", "rule", "shape", "ratio", "values"))
    found: dict[str, list[WorstInput]] = {str(name): [] for name in rules}
    ends = np.cumsum(shape[:, 0].astype(int) * shape[:, 2])
    for index, (n, f, d) in enumerate(shape.astype(int)):
        updates = values[ends[index] - n * d : ends[index]].reshape(n, d)
        found[str(rules[rule[index]])].append(WorstInput(updates, int(f), float(ratio[index])))
    return found


def worst_inputs(stored: str) -> list[WorstInput]:
    """The stored worst inputs under a key of data/worst_inputs.npz (`RuleTheory.stored`); empty for an unknown key."""
    return _stored().get(stored, [])


def all_worst_inputs() -> list[WorstInput]:
    """All of them: what breaks one rule is a hard round for the next."""
    return [found for inputs in _stored().values() for found in inputs]
