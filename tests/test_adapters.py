"""as_subject: functions, classes, configured objects, pipes, specs and claims, told f in the way of each."""

import functools
import math
import sys

import numpy as np
import pytest
import torch

from fl_impl.aggregators import PRE
from pytest_fl.adapters import adapter, as_subject
from pytest_fl.adapters.registry import ADAPTERS
from pytest_fl.oracles.theory import RULES
from pytest_fl.subjects.subject import Subject

X = np.random.default_rng(0).normal(size=(11, 5))


def trimmed_mean(updates, f):
    ordered = np.sort(updates, axis=0)
    return ordered[f : len(ordered) - f].mean(axis=0)


def torch_only(updates, f):
    return updates.sort(dim=0).values[f : len(updates) - f].mean(dim=0)


def pure_python(updates, f):
    del f
    return [sorted(column)[len(column) // 2] for column in zip(*updates, strict=True)]


class PerF:
    def __init__(self, num_byzantine):
        self.num_byzantine = num_byzantine

    def __call__(self, vectors):
        return trimmed_mean(vectors, self.num_byzantine)


class Configured:
    def __init__(self, f):
        self.f = f

    def aggregate(self, vectors):
        return trimmed_mean(vectors, self.f)


class Fraction:
    def __init__(self, trim_fraction):
        self.trim_fraction = trim_fraction

    def aggregate(self, vectors):
        return trimmed_mean(vectors, round(self.trim_fraction * len(vectors)))


class Module(torch.nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, updates):
        return torch_only(updates, self.f)


class TakesN:
    @classmethod
    def aggregate(cls, gradients, /, out=None, *, n, f, **more):
        assert (n, more, out) == (len(gradients), {}, None)
        return trimmed_mean(gradients, f)


@pytest.mark.parametrize(
    ("rule", "container"),
    [
        (trimmed_mean, "numpy"),
        (torch_only, "torch"),
        (pure_python, "list"),
        (lambda updates, f: trimmed_mean(updates, f), "numpy"),
        (lambda *arguments: trimmed_mean(*arguments), "numpy"),
        (functools.partial(trimmed_mean), "numpy"),
        (PerF, "numpy"),
        (Module, "torch"),
        (TakesN, "numpy"),
        (Fraction, "numpy"),
        ((lambda x: x, trimmed_mean), "numpy"),
    ],
    ids=["numpy", "torch", "lists", "lambda", "hidden", "partial", "class", "module", "takes n", "fraction", "pipe"],
)
def test_a_rule_that_can_be_told_f_is_told_it(rule, container):
    subject = as_subject(rule)
    result = subject.call(X, 2)
    expected = pure_python(X, 2) if rule is pure_python else trimmed_mean(X, 2)
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-12)
    assert (subject.container, subject.fixed_f) == (container, None)
    assert subject.takes(5, 2)
    assert not subject.takes(4, 2)


@pytest.mark.parametrize(
    "rule",
    [Configured(2), Configured(2).aggregate, functools.partial(trimmed_mean, f=2), functools.partial(PerF, num_byzantine=2)],
    ids=["object", "method", "partial", "partial class"],
)
def test_a_configured_rule_keeps_its_f(rule):
    subject = as_subject(rule)
    assert subject.fixed_f == 2
    assert "=2" in subject.name.replace("aggregate", "")
    assert subject.takes(11, 2)
    assert not subject.takes(11, 1)
    np.testing.assert_allclose(subject.call(X, 2), trimmed_mean(X, 2))


@pytest.mark.parametrize(("fraction", "n", "f"), [(0.29, 100, 29), (1 / 3, 9, 3), (0.3, 10, 3), (0.2, 14, 2)])
def test_a_configured_fraction_promises_its_floor_computed_exactly(fraction, n, f):
    subject = as_subject(Fraction(fraction))
    assert [k for k in range(n) if subject.takes(n, k)] == [f]


def test_a_rule_that_needs_no_f_is_not_told_one():
    subject = as_subject(lambda updates: np.median(updates, axis=0))
    assert subject.fixed_f is None
    np.testing.assert_array_equal(subject.call(X, 3), np.median(X, axis=0))


def test_a_tensor_shares_the_memory_of_the_array_so_that_writing_to_it_shows():
    def writes(updates, f):
        del f
        updates.mul_(2.0)
        return updates.mean(dim=0)

    given = X.copy()
    as_subject(writes).call(given, 1)
    np.testing.assert_array_equal(given, 2 * X)


def test_the_trial_leaves_nothing_in_a_configured_object():
    class Remembers:
        seen = 0

        def __call__(self, updates):
            self.seen += 1
            return updates.mean(0)

    rule = Remembers()
    subject = as_subject(rule)
    assert rule.seen == 0
    subject.call(X, 0)
    assert rule.seen == 1


def test_a_class_keeps_one_object_for_each_n_f_and_row_so_that_state_shows():
    class Drifts:
        def __init__(self, f):
            self.calls = f

        def __call__(self, updates):
            self.calls += 1
            return updates[0] * self.calls

    subject = as_subject(Drifts)
    first, second, wider = (subject.call(x, 1) for x in (X, X, np.ones((11, 6))))
    np.testing.assert_array_equal(second, first * 1.5)
    np.testing.assert_array_equal(wider, np.full(6, 2.0))


@pytest.mark.parametrize("broken", [lambda _: None, lambda updates: updates], ids=["None", "wrong shape"])
def test_a_rule_that_gives_no_vector_still_becomes_a_subject_for_the_checks_to_fail(broken):
    subject = as_subject(broken)
    assert subject.container == "numpy"
    assert np.shape(subject.call(X, 1)) != (5,)


def test_a_rule_that_takes_no_form_says_what_each_attempt_said():
    def broken(updates, f):
        raise KeyError(type(updates).__name__, f)

    with pytest.raises(ValueError, match=r"(?s)numpy array: KeyError.*ndarray.*torch tensor.*Tensor.*list"):
        as_subject(broken).call(X, 1)


def test_a_rule_that_only_dislikes_the_trial_works_afterwards():
    def wants_five(updates, f):
        if updates.shape[1] != 5:
            raise IndexError("d must be 5")
        return trimmed_mean(updates, f)

    np.testing.assert_array_equal(as_subject(wants_five).call(X, 1), trimmed_mean(X, 1))


def test_a_rule_that_hangs_is_given_up_in_the_trial(monkeypatch):
    monkeypatch.setattr("pytest_fl.adapters.containers.SECONDS", 0.2)

    def hangs(updates, f):
        del updates
        while f >= 0:
            pass

    assert as_subject(hangs).container == "numpy"


def test_a_jax_rule_runs_in_the_precision_of_the_updates():
    jnp = pytest.importorskip("jax.numpy", reason="JAX is not installed")
    subject = as_subject(lambda updates, f: jnp.sort(updates, axis=0)[f : len(updates) - f].mean(axis=0))
    for dtype in (np.float32, np.float64):
        result = subject.call(X.astype(dtype), 2)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, trimmed_mean(X.astype(dtype), 2), rtol=8 * np.finfo(dtype).eps)


def two_more(updates, f, radius, steps):
    return updates[0] * f * radius * steps


class CannotBeBuilt:
    def __init__(self):
        raise KeyError("no licence")


class NeedsRadius:
    def __init__(self, f, radius):
        self.f = f * radius


@pytest.mark.parametrize(
    ("nonsense", "said"),
    [
        (3, "expected an aggregator.*int"),
        (two_more, "also needs radius, steps.*partial"),
        (NeedsRadius, "also needs radius.*partial"),
        (CannotBeBuilt, "no licence"),
        ((), "an empty one"),
        ((Configured(1), Configured(2)), "for one f"),
        ("krumm", "krum"),
        ("no_such_package.rules:krum", "no_such_package"),
        ("math:krum", "krum"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_remedy(nonsense, said):
    with pytest.raises(ValueError, match=said):
        as_subject(nonsense)


def test_specs_name_our_rules_and_anything_importable():
    subject = as_subject("trimmed_mean")
    assert (subject.name, subject.rule, subject.exact, subject.strict_dtype) == ("trimmed_mean", "trimmed_mean", True, True)
    assert subject.kappa is not None
    assert math.isclose(subject.kappa(7, 2), 2 / 3)
    assert as_subject(subject.details["path"]).name == subject.name
    np.testing.assert_allclose(subject.call(X, 2), trimmed_mean(X, 2))
    sys.modules["rules_of_the_test"] = sys.modules[__name__]
    assert as_subject("rules_of_the_test:PerF").call(X, 1).shape == (5,)
    assert as_subject("rules_of_the_test:Configured(f=1)").fixed_f == 1


def test_a_pre_aggregator_alone_is_refused():
    with pytest.raises(ValueError, match=r"nnm \| trimmed_mean"):
        as_subject(PRE["nnm"])


def test_claims_hold_a_rule_to_its_constants_and_the_caller_goes_before():
    subject = as_subject(trimmed_mean, claims="trimmed_mean")
    theory = RULES["trimmed_mean"]
    assert (subject.rule, subject.kappa, subject.symmetries) == (theory.name, theory.kappa, theory.symmetries)
    assert subject.exact
    own = {"kappa": lambda n, f: f / n, "min_clients": lambda f: 3 * f + 1, "symmetries": {"sign"}}
    stricter = as_subject(trimmed_mean, claims="trimmed_mean", **own)
    assert stricter.kappa is not None
    assert (stricter.kappa(10, 2), stricter.exact, stricter.min_clients(2)) == (0.2, False, 7)
    assert stricter.symmetries == {"sign"}
    assert as_subject(trimmed_mean, claims="krum_blanchard").min_clients(1) == 5


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({"claims": "krumm"}, "krum"),
        ({"kappa": 0.5}, "a function of n, f"),
        ({"min_clients": 5}, "a function of f"),
        ({"symmetries": {"rotations"}}, "did you mean 'rotation'"),
        ({"symmetries": "rotations"}, "did you mean 'rotation'"),
    ],
)
def test_claims_of_the_wrong_kind_are_refused(claim, said):
    with pytest.raises(ValueError, match=said):
        as_subject(trimmed_mean, **claim)


def test_an_adapter_is_one_decorated_function():
    with ADAPTERS.scoped():

        @adapter(__name__)
        def of_this_module(rule):
            return Subject(name="adapted", call=rule) if rule is trimmed_mean else None

        assert as_subject(trimmed_mean).name == "adapted"

    assert as_subject(functools.partial(trimmed_mean)).name != "adapted"
    assert as_subject(torch_only).container == "torch"


@pytest.mark.parametrize(
    "rule",
    [trimmed_mean, PerF, Configured(2), functools.partial(PerF, num_byzantine=2), (trimmed_mean, trimmed_mean)],
    ids=["function", "class", "object", "partial", "pipe"],
)
def test_the_path_of_a_subject_is_a_spec_of_the_same_rule(rule):
    subject = as_subject(rule)
    again = as_subject(subject.details["path"])
    assert (again.name, again.fixed_f) == (subject.name, subject.fixed_f)
