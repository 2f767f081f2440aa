"""What every rule owes its caller: the kind that came in, untouched inputs, one clear error for what cannot be done."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import oracles
import pytest
import torch

from fl_impl import aggregators
from fl_impl.aggregators import ALL, PRE, resolve

N, F, D = 12, 2, 6
CONTEXT = {"root": np.ones(D)}
PIPES = ["nnm|trimmed_mean", "nnm|krum", "arc|geometric_median", "bucketing(size=2)|krum", "arc|nnm|meamed", "clipping|mean"]
EVERY = [*ALL, *PIPES]


def updates(n=N):
    return oracles.generic(np.random.default_rng(0), n, F, D)


def call(rule, x, f=F, **context):
    rule = resolve(rule)
    required = {name: CONTEXT[name] for name in rule.keywords.required}
    return rule(x, f=f, **(required | context))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numpy_in_numpy_out(name, dtype):
    x = updates().astype(dtype)
    x.setflags(write=False)
    before = x.copy()
    result = call(name, x)
    assert type(result) is np.ndarray
    assert (result.shape, result.dtype) == ((D,), x.dtype)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(call(name, x), result)  # neither random numbers nor state from the call before


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensor_in_tensor_out(name, dtype):
    x = torch.tensor(updates()).to(dtype)
    before, version = x.clone(), x._version
    result = call(name, x)
    assert (tuple(result.shape), result.dtype, result.device) == ((D,), dtype, x.device)
    assert x._version == version
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", EVERY)
def test_every_form_gives_one_result(name):
    x = updates()
    expected = call(name, x)
    forms = [list(x), tuple(x), x.tolist(), np.asfortranarray(x), x[::-1][::-1], torch.tensor(x), list(torch.tensor(x))]
    for form in forms:
        result = call(name, form)
        assert torch.is_tensor(result) == torch.is_tensor(form[0])
        np.testing.assert_array_equal(np.asarray(result), expected)


@pytest.mark.parametrize("name", EVERY)
def test_float64_is_computed_in_float64(name):
    x = updates() * (1 + 2.0**-40)
    assert not np.array_equal(call(name, x), call(name, x.astype(np.float32)).astype(np.float64))


def test_integers_become_float64():
    result = aggregators.trimmed_mean(np.arange(5)[:, None], f=1)
    assert result.dtype == np.float64
    assert result[0] == 2


@pytest.mark.parametrize("name", [name for name in PRE if name != "bucketing"])
def test_a_pre_aggregator_alone_gives_the_matrix_in_its_kind(name):
    x = torch.tensor(updates()).bfloat16()
    out = PRE[name](x, f=F)
    assert (tuple(out.shape), out.dtype) == ((N, D), torch.bfloat16)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no client reported"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.zeros(3), "Flatten"),
        (np.zeros((3, 2, 2)), "Flatten"),
        ([np.zeros(3), np.zeros(4)], r"row 1 has \(4,\)"),
        ([np.zeros(3), np.zeros(3, np.float32)], "one dtype"),
        ([torch.zeros(3), torch.zeros(3).double()], "one dtype"),
        ([np.zeros(3), torch.zeros(3)], "mixture"),
        (np.zeros((3, 2), complex), "got complex128"),
        (np.zeros((3, 2), bool), "got bool"),
        (np.array([["a"], ["b"]]), "got <U1"),
        ([["a"], ["b"]], "got <U1"),
        (torch.zeros(3, 2, dtype=torch.int64), "torch.int64"),
        (torch.eye(3).to_sparse(), "dense"),
        ("krum", "got str"),
        (3, "got int"),
        ({"a": 1}, "got dict"),
    ],
)
def test_malformed_updates(bad, message):
    with pytest.raises(ValueError, match=message):
        aggregators.trimmed_mean(bad, f=1)


@pytest.mark.parametrize("name", EVERY)
def test_inadmissible_f(name):
    rule = resolve(name)
    for f in range(5):
        needed = rule.min_clients(f)
        if needed > 1:
            with pytest.raises(ValueError, match=rf"needs n >= {needed} clients for f={f}; got n={needed - 1}"):
                call(name, updates(needed - 1), f)
        assert np.isfinite(call(name, updates(needed), f)).all()
    for f in (-1, 0.5, "2", None, True):
        with pytest.raises(ValueError, match=rf"must be 0, 1, 2, ...; got {f!r}"):
            call(name, updates(), f)
    assert call(name, updates(), np.int64(F)).tolist() == call(name, updates(), F).tolist()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("krum(neighbours='n')", "neighbours must be"),
        ("coordinate_median(convention='upper')", "convention must be"),
        ("multi_krum(m=0)", "m must be at least 1"),
        ("multi_krum(m=11)", "needs n >= 13"),
        ("krum(neighbours='n-f-2')", None),
        ("monna(pivot=12)", "pivot must be the row"),
        ("bucketing(size=0)|krum", "size must be at least 1"),
        ("bucketing(size=3)|krum", "needs n >= 13"),
        ("centered_clipping(tau=0)", "tau must be positive"),
        ("norm_clipping(radius=-1)", "radius must be positive"),
        ("fltrust", "cannot do without root"),
    ],
)
def test_inadmissible_options(spec, message):
    if message is None:
        assert resolve(spec).min_clients(F) == 2 * F + 3
        return
    with pytest.raises(ValueError, match=message):
        resolve(spec)(updates(), f=F)


def test_unknown_keywords_name_the_nearest():
    with pytest.raises(ValueError, match="krum takes no option 'neighbors'; did you mean 'neighbours'"):
        aggregators.krum(updates(), f=F, neighbors="n-f-1")
    with pytest.raises(ValueError, match="krum takes no context 'weights'"):
        aggregators.krum(updates(), f=F, weights=[1] * N)
    with pytest.raises(ValueError, match="nnm takes no option 'size'"):
        aggregators.nnm(size=2)


@pytest.mark.parametrize(
    "weights", [[1] * (N - 1), [-1] + [1] * (N - 1), [0] * N, [np.nan] * N, [np.inf] * N, ["a"] * N, np.ones((N, 1))]
)
def test_sample_counts_are_validated(weights):
    with pytest.raises(ValueError, match=f"weights must be n={N}"):
        aggregators.mean(updates(), weights=weights)


def test_only_the_mean_weighs_by_sample_counts():
    assert [name for name, rule in ALL.items() if "weights" in rule.keywords.context] == ["mean"]
    counts = np.arange(N)
    np.testing.assert_allclose(aggregators.mean(updates(), weights=counts), np.average(updates(), axis=0, weights=counts))
    np.testing.assert_allclose(aggregators.mean(updates(), weights=[1e308] * N), updates().mean(axis=0))


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"root": np.ones(D + 1)}, "root must be one vector of length d=6"),
        ({"root": [np.nan] * D}, "root must be finite"),
        ({"root": "x"}, "root must be numbers"),
    ],
)
def test_context_vectors_are_validated(context, message):
    with pytest.raises(ValueError, match=message):
        aggregators.fltrust(updates(), f=F, **context)


def test_context_comes_in_any_kind():
    expected = aggregators.fltrust(updates(), f=F, root=np.ones(D))
    for root in (torch.ones(D), [1] * D, np.ones(D, np.float32)):
        np.testing.assert_array_equal(aggregators.fltrust(updates(), f=F, root=root), expected)
    assert torch.is_tensor(aggregators.fltrust(torch.tensor(updates()), f=F, root=np.ones(D)))
    with pytest.raises(ValueError, match="rng must be a numpy.random.Generator"):
        aggregators.flame(updates(), f=F, rng=3)
    with pytest.raises(ValueError, match="history must have one row for each of the n=12 clients"):
        aggregators.foolsgold(updates(), f=F, history=np.ones((3, D)))


def test_configuring_makes_a_copy():
    five = aggregators.multi_krum(m=5)
    assert five.spec == "multi_krum(m=5)"
    assert aggregators.multi_krum.options == {}
    np.testing.assert_array_equal(five(updates(), f=F), aggregators.multi_krum(updates(), f=F, m=5))
    assert repr(five.configured(neighbours="n-f-2")) == "<Aggregator multi_krum(m=5, neighbours='n-f-2')>"
    with pytest.raises(AttributeError):
        five.name = "other"  # type: ignore[misc]  # that it cannot is what is tested


@pytest.mark.parametrize("name", [*EVERY, "multi_krum(m=5)"])
def test_rules_travel_between_processes(name):
    rule = pickle.loads(pickle.dumps(resolve(name)))
    assert rule.spec == name
    np.testing.assert_array_equal(call(rule, updates()), call(name, updates()))


def test_help_shows_the_definition():
    assert "least sum of squared distances" in aggregators.krum.__doc__
    assert "nearest to it" in aggregators.nnm.__doc__


def test_importing_costs_no_torch_and_no_sklearn():
    code = "import sys, fl_impl.aggregators; print(sorted({'torch', 'sklearn', 'scipy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
