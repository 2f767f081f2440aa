"""Checks of adapter aggregation: each catches what is broken its way, and no mode or product-space rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import pytest_fl
from fl_impl.aggregators import krum
from fl_impl.lora import MODES, product_rules
from pytest_fl import audit_report
from pytest_fl.adapters.parts import adapters
from pytest_fl.checks.parts import audits_of
from pytest_fl.subjects.parts import AdapterAggregation

PRODUCT_RULES = [*product_rules(), "nnm|krum", "nnm|geometric_median", "bucketing|multi_krum", "arc|geometric_median"]


@pytest_fl.audit(*map(adapters, MODES))
def test_every_mode_keeps_its_claims(check):
    check()


@pytest_fl.audit(*(adapters(f"flora|{rule}") for rule in PRODUCT_RULES[::4]))
def test_rules_on_products_keep_their_claims(check):
    check()


@pytest.mark.slow
@pytest_fl.audit(*(adapters(f"{mode}|{rule}") for mode in ("flora", "flexlora") for rule in PRODUCT_RULES))
def test_every_rule_on_products_keeps_its_claims(check):
    check()


@pytest_fl.audit(*(adapters(f"{mode}|nnm|krum") for mode in MODES))
def test_a_rule_keeps_the_claims_of_every_mode(check):
    check()


@pytest.mark.slow
def test_gauge_is_checked_for_every_rule_on_products():
    for rule in PRODUCT_RULES:
        (row,) = [row for row in audit_report(adapters(f"flora|{rule}")).rows if row.check == "gauge_changes_nothing"]
        assert row.outcome == "passed", rule


def checked(states):
    """Refuse what is no adapter."""
    for state in states:
        if state.keys() != states[0].keys():
            raise ValueError("keys")
        for name, (b, a) in state.items():
            first = states[0][name]
            if (len(b), a.shape[1]) != (len(first[0]), first[1].shape[1]) or b.shape[1] != len(a):
                raise ValueError("shapes")
            if not (np.isfinite(b).all() and np.isfinite(a).all()):
                raise ValueError("finite")
    return states


def products(states, scales):
    return {
        name: np.array([s * b @ a for s, (b, a) in zip(scales, [one[name] for one in states], strict=True)])
        for name in states[0]
    }


def on_products(rule):
    def aggregate(states, scales, f):
        dense = products(checked(states), scales)
        rows = np.concatenate([stack.reshape(len(states), -1) for stack in dense.values()], axis=1)
        return cut_up(np.asarray(rule(rows, f)), dense)

    return aggregate


def cut_up(vector, dense):
    ends = np.cumsum([stack[0].size for stack in dense.values()])[:-1]
    return {name: part.reshape(dense[name].shape[1:]) for name, part in zip(dense, np.split(vector, ends), strict=True)}


def on_factors(middle):
    """A and B by themselves, entry by entry."""

    def aggregate(states, scales, f):
        del f
        found = {}
        for name in checked(states)[0]:
            b, a = (np.array([one[name][at] for one in states]) for at in (0, 1))
            found[name] = middle(b * np.array(scales)[:, None, None], axis=0) @ middle(a, axis=0)
        return found

    return aggregate


def mean(rows, f):
    del f
    return rows.mean(axis=0)


SOUND = AdapterAggregation("sound mean", on_products(mean), mixed_ranks=True)
SOUND_KRUM = AdapterAggregation(
    "sound krum", on_products(lambda rows, f: krum(rows, f=f)), reference=lambda rows, f: krum(rows, f=f), kappa=krum.kappa,
    mixed_ranks=True,
)  # fmt: skip


def unscaled(states, scales, f):
    return on_products(mean)(states, [1.0] * len(scales), f)


def clipped_ranks(states, scales, f):
    low = min(len(a) for one in states for _, a in one.values())
    return on_products(mean)([{k: (b[:, :low], a[:low]) for k, (b, a) in one.items()} for one in checked(states)], scales, f)


def without_a_word(states, scales, f):
    whole = [one for one in states if one.keys() == states[0].keys()]
    return on_products(mean)(whole, scales[: len(whole)], f)


def last_one_missing(rows, f):
    return rows[:-1].mean(axis=0)


def off_centre(rows, f):
    return rows.mean(axis=0) * 0.99 if (rows == rows[0]).all() else rows.mean(axis=0)


BROKEN = {
    "median of factors": (AdapterAggregation("broken", on_factors(np.median)), "gauge_changes_nothing"),
    "mean of factors": (AdapterAggregation("broken", on_factors(np.mean)), "gauge_changes_nothing"),
    "a client is forgotten": (replace(SOUND, aggregate=on_products(last_one_missing)), "agrees_with_the_dense_rule"),
    "cut to rank 2 and said to be exact": (replace(adapters("flexlora", rank=2), rank=None), "agrees_with_the_dense_rule"),
    "equal ones shrink": (replace(SOUND, aggregate=on_products(off_centre)), "equal_products_give_that_product"),
    "the mean, said to be robust": (
        replace(SOUND_KRUM, aggregate=on_products(mean), reference=mean), "coefficient_holds_for_products",
    ),
    "scales are ignored": (replace(SOUND, aggregate=unscaled), "scale_is_part_of_the_product"),
    "the least rank wins": (replace(SOUND, aggregate=clipped_ranks), "zeros_add_no_rank"),
    "missing modules are passed over": (replace(SOUND, aggregate=without_a_word), "broken_adapters_are_refused"),
    "NaN is taken": (
        replace(SOUND, aggregate=lambda states, scales, f: cut_up(
            np.concatenate([p.mean(axis=0).ravel() for p in products(states, scales).values()]), products(states, scales))),
        "broken_adapters_are_refused",
    ),
}  # fmt: skip


@pytest.mark.parametrize("part", [SOUND, SOUND_KRUM], ids=lambda part: part.name)
def test_what_is_sound_passes(part):
    report = audit_report(part)
    assert report.passed, str(report)


@pytest.mark.parametrize(("part", "check"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(part, check):
    failed = {row.check: row.reason for row in audit_report(part).rows if row.outcome == "failed"}
    assert check in failed


def test_every_check_catches_something():
    assert {check for _, check in BROKEN.values()} == {
        audit.name for audit in audits_of(SOUND) if audit.judge.__module__ == "pytest_fl.checks.lora"
    }
