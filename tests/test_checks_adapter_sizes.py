"""Merges of LoRA adapters at any size: what breaks for many clients, other orders or zeros is caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import pytest_fl
from fl_impl.lora import MODES
from pytest_fl.adapters.parts import adapters
from pytest_fl.checks import adapter_sizes
from pytest_fl.checks.parts import AUDITS
from pytest_fl.subjects.parts import AdapterAggregation

HERE = [name for name, check in AUDITS.items() if check.judge.__module__ == adapter_sizes.__name__]


def merged(states, scales, weights=None):
    chosen = np.ones(len(states)) / len(states) if weights is None else weights
    return {
        name: sum(w * s * one[name][0] @ one[name][1] for w, s, one in zip(chosen, scales, states, strict=True))
        for name in states[0]
    }


def mean(states, scales, f):
    return merged(states, scales)


def by_position(states, scales, f):
    names = list(states[0])
    return merged([dict(zip(names, one.values(), strict=True)) for one in states], scales)


def by_shape(states, scales, f):
    """Modules of one shape are told apart by their place."""
    ordered = [dict(sorted(one.items(), key=lambda item: item[1][0].shape)) for one in states]
    return by_position(ordered, scales, f)


def normalised(states, scales, f):
    result = merged(states, scales)
    return {name: value / np.linalg.norm(value) * np.linalg.norm(value) for name, value in result.items()}


def by_length(states, scales, f):
    """Weights by the length of B."""
    lengths = np.array([sum(float(np.linalg.norm(b)) for b, _ in one.values()) for one in states])
    return merged(states, scales, lengths / lengths.sum())


def rebalanced(states, scales, f):
    """Factors of one length, as some do before they average."""
    even = [
        {name: (b * (r := np.sqrt(np.linalg.norm(a) / np.linalg.norm(b))), a / r) for name, (b, a) in one.items()}
        for one in states
    ]
    return merged(even, scales)


def the_first(count):
    return lambda states, scales, f: merged(states[:count], scales[:count])


def another_rule_above(n):
    def aggregate(states, scales, f):
        if len(states) <= n:
            return merged(states, scales)
        return {
            name: np.median([s * one[name][0] @ one[name][1] for s, one in zip(scales, states, strict=True)], axis=0)
            for name in states[0]
        }

    return aggregate


def rounded(states, scales, f):
    return {name: value.astype(np.float16).astype(float) for name, value in merged(states, scales).items()}


def unseen_alone(states, scales, f):
    return merged(states, scales) if len(states) > 1 else {name: 0.5 * b @ a for name, (b, a) in states[0].items()}


def noisy_zero(states, scales, f):
    return {name: value if value.any() else value + 1e-3 for name, value in merged(states, scales).items()}


ORDER, ZERO, ALIKE = "order_of_modules_does_not_matter", "zero_adapters_are_adapters", "every_number_of_clients_is_merged_alike"
BROKEN = {
    "modules by position": (by_position, ORDER),
    "modules of one shape by position": (by_shape, ORDER),
    "divided by its length": (normalised, ZERO),
    "weights by the length of B": (by_length, ZERO),
    "factors of one length": (rebalanced, ZERO),
    "zero is a little more": (noisy_zero, ZERO),
    "ten clients at most": (the_first(10), ALIKE),
    "sixteen clients at most": (the_first(16), ALIKE),
    "the median above sixteen": (another_rule_above(16), ALIKE),
    "half precision": (rounded, ALIKE),
    "half of a single client": (unseen_alone, ALIKE),
}
SOUND = AdapterAggregation("sound mean", mean)


@pytest.mark.parametrize(("aggregate", "check"), BROKEN.values(), ids=BROKEN)
def test_a_broken_merge_is_caught(aggregate, check):
    (row,) = pytest_fl.verify(replace(SOUND, aggregate=aggregate), checks=[check]).rows
    assert row.outcome == "failed"


@pytest.mark.parametrize("part", [SOUND, *map(adapters, MODES), adapters("flora|krum"), adapters("flexlora|nnm|geometric_median")],
                         ids=lambda part: part.name)  # fmt: skip
def test_sound_merges_pass(part):
    for seed in range(2):
        report = pytest_fl.verify(part, seed=seed, checks=HERE)
        assert report.passed, str(report)


def test_every_check_has_a_broken_merge():
    assert {check for _, check in BROKEN.values()} == set(HERE)
