"""Products of factors: Gram matrices, weights, stacks and re-factoring, against the products themselves."""

from __future__ import annotations

import numpy as np
import pytest

from fl_impl.aggregators import centered_clipping, krum, mean, resolve
from fl_impl.lora import MODES, Factors, Module, aggregate_states, gram, product_rules
from fl_impl.lora.factors import Shape, length, unflat, zeros
from fl_impl.lora.modes import parse
from fl_impl.lora.product import geometry, refactored, stack, weigh

SHAPES = (Shape("q", 9, 300), Shape("v", 600, 5))


def factors(n=7, r=3, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return Factors(tuple(Module(*(rng.standard_normal((n, r, w)).astype(dtype) for w in s[1:])) for s in SHAPES))


def dense(adapters):
    return np.concatenate([product.reshape(len(adapters), -1) for product in adapters.products()], axis=1)


def test_gram_is_that_of_the_products():
    rows = dense(factors())
    np.testing.assert_allclose(gram(factors()), rows @ rows.T, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_gram_holds_what_float32_holds(scale):
    small = factors(dtype=np.float32)
    scaled = Factors(tuple(Module(up * np.float32(scale), down * np.float32(scale)) for up, down in small.modules))
    np.testing.assert_allclose(gram(scaled) / scale**2 / scale**2, gram(small), rtol=1e-5, atol=1e-3)


def test_distances_of_equal_products_are_next_to_nothing():
    same = factors(1).at([0] * 5)
    distances = geometry(gram(same)).distances
    assert (np.diag(distances) == 0).all()
    assert distances.max() <= 1e-13 * gram(same).max()


@pytest.mark.parametrize("spec", [*product_rules(), "nnm|krum", "arc|geometric_median"])
def test_weights_give_the_rule_on_products_minus_the_start(spec):
    rule, start, clients = resolve(spec), factors(1, seed=9), factors(9)
    rows, origin = dense(clients), dense(start)
    weights = weigh(rule, gram(clients.beside(start)), 2)
    expected = origin[0] + rule(rows - origin, f=2)
    np.testing.assert_allclose(weights @ np.concatenate([rows, origin]), expected, rtol=1e-6, atol=1e-6)
    assert weights.sum() == pytest.approx(1)


def test_clipping_keeps_the_digits_of_near_products_beside_a_far_one():
    clients = factors(6)
    clients.modules[0].up[0] *= 1e9
    rows, start = dense(clients), zeros(SHAPES, 3)
    weights = weigh(centered_clipping(tau=50.0), gram(clients.beside(start)), 1)
    np.testing.assert_allclose(weights[:-1] @ rows, centered_clipping(rows, f=1, tau=50.0), rtol=1e-6, atol=1e-5)


def test_rules_on_coordinates_are_refused_with_those_that_work():
    for spec in ("coordinate_median", "trimmed_mean", "nnm|trimmed_mean", "byzantine_robust"):
        with pytest.raises(ValueError, match=r'geometric_median.*space="factors"'):
            weigh(resolve(spec), gram(factors()), 1)


def test_the_mean_goes_by_claimed_counts():
    np.testing.assert_allclose(weigh(mean, np.eye(3), 0, [1, 3]), [0.25, 0.75, 0])
    with pytest.raises(ValueError, match="all 0"):
        weigh(mean, np.eye(3), 0, [0, 0])


def test_too_few_clients_are_refused_by_the_rule():
    with pytest.raises(ValueError, match="krum needs n >= 7"):
        weigh(krum, gram(factors(6)), 3)


def test_a_stack_is_the_weighted_sum_and_reads_no_row_of_weight_zero():
    clients = factors(4)
    clients.modules[1].up[2] = np.nan
    rows, weights = dense(clients.at([0, 1, 3])), np.array([0.5, -2.0, 0.0, 3.0])
    np.testing.assert_allclose(dense(stack(clients, weights))[0], weights[[0, 1, 3]] @ rows)


@pytest.mark.parametrize("rank", [1, 3, 5, 8])
def test_refactoring_is_the_best_approximation(rank):
    whole = stack(factors(3), np.ones(3))
    cut = refactored(whole, rank)
    assert cut.rank == rank
    for product, found in zip(whole.products(), cut.products(), strict=True):
        u, s, vt = np.linalg.svd(product[0])
        np.testing.assert_allclose(found[0], u[:, :rank] * s[:rank] @ vt[:rank] if rank <= len(s) else product[0], atol=1e-9)


def test_refactoring_finds_the_rank_and_orders_it():
    clients = factors(2, r=2)
    found = refactored(stack(clients.at([0, 0, 1]), np.ones(3)))
    assert found.rank == 4
    np.testing.assert_allclose(dense(found)[0], 2 * dense(clients)[0] + dense(clients)[1], atol=1e-9)
    lengths = np.linalg.norm(found.modules[0].up[0], axis=1)
    assert (np.diff(lengths) <= 1e-12).all()


def test_flat_and_back():
    clients = factors(3).padded(4)
    flat = clients.flat(2.0)
    assert flat.shape == (3, length(SHAPES, 4))
    np.testing.assert_allclose(dense(unflat(flat, SHAPES, 4, 2.0)), dense(clients), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "mode", "rule"),
    [
        ("fedex", "fedex", "mean"),
        ("krum", "flexlora", "krum"),
        ("nnm|krum", "flexlora", "nnm|krum"),
        ("flora|bucketing(size=3)|multi_krum(m=2)", "flora", "bucketing(size=3)|multi_krum(m=2)"),
    ],
)
def test_what_an_aggregation_names(text, mode, rule):
    found = parse(text)
    assert (found[0].name, found[1].spec) == (mode, rule)
    assert parse(krum)[1] is krum


def test_a_wrong_name_lists_rules_and_modes():
    with pytest.raises(ValueError, match=r"expected an aggregator, got 'fedx'.*did you mean 'fedex'"):
        parse("fedx")


def test_modes_say_what_they_are():
    assert {name: mode.claim for name, mode in MODES.items()} == {
        "fedit": "biased", "ffa": "mean", "rolora": "mean", "fedex": "mean", "flora": "mean", "flexlora": "truncated",
    }  # fmt: skip
    assert all(mode.__doc__ and "arXiv" in mode.source for mode in MODES.values())
    assert [mode.name for mode in MODES.values() if mode.exact] == ["ffa", "rolora", "fedex", "flora"]


def test_the_bias_of_fedit_is_what_fedex_adds():
    states = [{"x.lora_A.weight": down, "x.lora_B.weight": up.T} for up, down in zip(*factors(3).modules[0], strict=True)]
    fedit, fedex = aggregate_states(states, "fedit"), aggregate_states(states, "fedex")
    exact = np.mean(factors(3).products()[0], axis=0)
    assert np.linalg.norm(fedit.adapter.products()[0][0] - exact) > 0.1 * np.linalg.norm(exact)
    np.testing.assert_allclose(fedit.adapter.products()[0][0] + fedex.residual.products()[0][0], exact, atol=1e-9)


def test_mixed_ranks_where_the_mode_takes_them():
    wide, narrow = factors(1, r=4).modules[0], factors(1, r=2, seed=1).modules[0]
    states = [{"x.lora_A.weight": m.down[0], "x.lora_B.weight": m.up[0].T} for m in (wide, narrow)]
    assert aggregate_states(states, "flexlora").adapter.rank == 4
    assert aggregate_states(states, "flora").residual.rank == 8
    with pytest.raises(ValueError, match="take flora or flexlora"):
        aggregate_states(states, "fedit")
