"""Attacks on updates: their formulae against independent arithmetic, the kinds they take, specs and pipes."""

from __future__ import annotations

import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest
import torch

from fl_impl.attacks import ALL, Attack, ByzantineAttack, attack, resolve
from fl_impl.attacks.updates import little_z

UPDATES = sorted(name for name, made in ALL.items() if made.kind == "update")
HONEST = np.random.default_rng(5).normal(0.3, 1.0, (7, 24)).astype(np.float32)
F = 3


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def craft(name: str, honest: np.ndarray = HONEST, f: int = F, **keywords: object) -> np.ndarray:
    return resolve(name)(honest, f, rng(), **keywords)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_every_update_attack_gives_f_rows_of_the_same_kind(name: str, dtype: str) -> None:
    made = craft(name, HONEST.astype(dtype))
    assert isinstance(made, np.ndarray)
    assert (made.shape, made.dtype) == ((F, HONEST.shape[1]), np.dtype(dtype))


@pytest.mark.parametrize("name", UPDATES)
def test_tensors_in_tensors_out_with_the_same_numbers(name: str) -> None:
    made = craft(name, torch.from_numpy(HONEST.copy()))
    assert isinstance(made, torch.Tensor)
    assert made.dtype == torch.float32
    np.testing.assert_array_equal(made.numpy(), craft(name))
    assert craft(name, torch.from_numpy(HONEST).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", UPDATES)
def test_every_update_attack_is_deterministic_and_leaves_the_honest_rows_alone(name: str) -> None:
    honest = HONEST.copy()
    first, second = craft(name, honest), craft(name, honest)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(honest, HONEST)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize(("h", "f", "d"), [(2, 1, 3), (3, 0, 2), (6, 5, 1)])
def test_every_update_attack_takes_small_shapes(name: str, h: int, f: int, d: int) -> None:
    assert craft(name, HONEST[:h, :d], f).shape == (f, d)


@pytest.mark.parametrize("name", sorted({*UPDATES} - {"optimized", "worst_case"}))  # those need a rule that admits this
@pytest.mark.parametrize(("h", "f", "d"), [(1, 1, 1), (2, 5, 4)])
def test_update_attacks_take_a_byzantine_majority(name: str, h: int, f: int, d: int) -> None:
    assert craft(name, HONEST[:h, :d], f).shape == (f, d)


@pytest.mark.parametrize("name", sorted({*UPDATES} - {"non_finite", "noise_injection", "optimized", "worst_case"}))
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_attacks_scale_with_the_updates(name: str, scale: float) -> None:
    near, far = craft(name, HONEST.astype(np.float64)), craft(name, HONEST.astype(np.float64) * scale)
    np.testing.assert_allclose(far / scale, near, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros(4), np.zeros((2, 0))])
def test_malformed_honest_updates_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="honest updates"):
        craft("sign_flip", bad)


@pytest.mark.parametrize("f", [-1, 1.5, True])
def test_f_must_be_a_count(f: object) -> None:
    with pytest.raises(ValueError, match="f must be"):
        craft("sign_flip", f=f)  # type: ignore[arg-type]


def test_sign_flip_conventions() -> None:
    own = np.arange(72, dtype=np.float32).reshape(F, 24)
    np.testing.assert_array_equal(craft("sign_flip(scale=2)", own=own), -2 * own)
    np.testing.assert_array_equal(craft("sign_flip"), -HONEST[:F])
    np.testing.assert_allclose(craft("sign_flip(of='mean')")[1], -HONEST.mean(0), rtol=1e-5)
    nulled = np.concatenate([HONEST, craft("sign_flip(nullify=True)")])
    np.testing.assert_allclose(nulled.mean(0), 0, atol=1e-6)


def test_simple_formulae() -> None:
    np.testing.assert_allclose(craft("gradient_scale(factor=7)"), 7 * HONEST[:F])
    np.testing.assert_allclose(craft("inner_product_manipulation(epsilon=0.5)")[0], -0.5 * HONEST.mean(0), rtol=1e-4, atol=1e-6)
    assert not craft("zero").any()
    assert np.isnan(craft("non_finite")).all()
    assert (craft("non_finite(value='-inf')") == -np.inf).all()
    assert 1.5 < craft("noise_injection(std=2)", np.zeros((5, 4000))).std() < 2.5
    np.testing.assert_allclose(craft("noise_injection(std=0, around='own')"), HONEST[:F])


@pytest.mark.parametrize(("n", "f", "z"), [(25, 5, 0.2533), (25, 11, 1.0676), (50, 24, 1.4261), (10, 2, 0.0)])
def test_the_z_of_a_little_is_enough_is_the_published_one(n: int, f: int, z: float) -> None:
    assert little_z(n, f) == pytest.approx(z, abs=1e-4)
    assert little_z(n, n // 2 + 1) == pytest.approx(NormalDist().inv_cdf(1 - 0.5 / (n - n // 2 - 1)))


def test_a_little_is_enough_conventions() -> None:
    mu, s = HONEST.astype(float).mean(0), HONEST.astype(float).std(0, ddof=1)
    np.testing.assert_allclose(craft("a_little_is_enough(z=1.5)")[0], mu - 1.5 * s, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(craft("a_little_is_enough(z=1.5, sign=1)")[2], mu + 1.5 * s, rtol=1e-5, atol=1e-6)
    population = HONEST.astype(float).std(0)
    np.testing.assert_allclose(craft("a_little_is_enough(z=1, ddof=0)")[0], mu - population, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("along", ["std", "unit", "sign"])
def test_min_max_touches_its_bound_and_no_more(along: str) -> None:
    x = HONEST.astype(np.float64)
    row = craft(f"min_max(along={along!r})", x)[0]
    greatest = max(np.linalg.norm(a - b) for a in x for b in x)
    assert max(np.linalg.norm(row - a) for a in x) == pytest.approx(greatest, rel=1e-9)


@pytest.mark.parametrize(("reference", "pick"), [("max", max), ("min", min)])
def test_min_sum_touches_its_bound_and_no_more(reference: str, pick: object) -> None:
    x = HONEST.astype(np.float64)
    row = craft(f"min_sum(reference={reference!r})", x)[0]
    allowed = pick(sum(np.sum((a - b) ** 2) for b in x) for a in x)  # type: ignore[operator]
    assert sum(np.sum((row - a) ** 2) for a in x) == pytest.approx(allowed, rel=1e-9)


@pytest.mark.parametrize("neighbours", ["blanchard", "allouah"])
def test_fang_krum_is_what_krum_picks(neighbours: str) -> None:
    x = np.random.default_rng(3).normal(0.02, 0.2, (9, 30))
    rows = craft(f"fang_krum(neighbours={neighbours!r})", x, 3)
    everybody = np.concatenate([x, rows])
    k = 12 - 3 - (2 if neighbours == "blanchard" else 1)
    d2 = ((everybody[:, None] - everybody[None]) ** 2).sum(-1)
    scores = np.sort(d2, axis=1)[:, 1 : k + 1].sum(1)
    assert scores[9:].min() <= scores[:9].min()
    assert (np.sign(rows[0]) == -np.sign(x.mean(0))).all()


def test_fang_trimmed_mean_lies_beyond_the_honest_extremes_against_the_mean() -> None:
    x = np.random.default_rng(3).normal(0.0, 1.0, (9, 200))
    rows, up = craft("fang_trimmed_mean", x), x.mean(0) < 0
    assert (rows[:, up] >= x[:, up].max(0)).all()
    assert (rows[:, ~up] <= x[:, ~up].min(0)).all()
    partial, mu, s = craft("fang_trimmed_mean(knowledge='partial')", x), x.mean(0), x.std(0, ddof=1)
    assert (np.abs(partial - mu) <= 4 * s + 1e-9).all()
    assert (np.abs(partial - mu) >= 3 * s - 1e-9).all()


def test_mimic_keeps_to_one_client_after_the_warm_up() -> None:
    memory: dict[str, np.ndarray] = {}
    generator = np.random.default_rng(0)
    base = generator.normal(0, 0.1, (7, 24))
    base[4, :5] += 3  # client 14 differs from all others
    for _ in range(6):
        honest = base + generator.normal(0, 0.02, base.shape)
        rows = resolve("mimic")(honest, F, rng(), memory=memory, ids=np.arange(10, 17))
        np.testing.assert_array_equal(rows, np.repeat(honest[4:5], F, axis=0))
    rows = resolve("mimic")(honest[[4, 0, 1]], F, rng(), memory=memory, ids=np.array([14, 10, 11]))
    np.testing.assert_array_equal(rows[0], honest[4])
    np.testing.assert_array_equal(craft("mimic(target=2)")[0], HONEST[2])


def test_model_replacement_puts_the_mean_at_the_attackers_model() -> None:
    own = np.full((F, 24), 2.0)
    rows = craft("model_replacement", np.zeros((7, 24)), own=own)
    np.testing.assert_allclose(np.concatenate([np.zeros((7, 24)), rows]).mean(0), 2.0)


def test_neurotoxin_keeps_off_the_coordinates_that_honest_clients_move() -> None:
    previous = np.zeros(24)
    previous[[3, 8]] = -5.0, 4.0
    rows = craft("neurotoxin(top=0.08)", own=np.ones((F, 24)), previous=previous)
    assert not rows[:, [3, 8]].any()
    assert (np.delete(rows, [3, 8], axis=1) > 0).all()
    assert np.linalg.norm(rows[0]) <= np.median(np.linalg.norm(HONEST, axis=1)) * (1 + 1e-6)


def test_relocated_orthogonal_geometry() -> None:
    previous = np.random.default_rng(2).normal(size=24)
    u = 0.9 * previous + 0.1 * HONEST.mean(0)
    back = craft("relocated_orthogonal(z=2, unit='one')", HONEST.astype(float), previous=previous)[0] - previous
    np.testing.assert_allclose(back, -2 * u / np.linalg.norm(u), atol=1e-6)
    across = craft("relocated_orthogonal(z=1, angle=180, unit='one')", HONEST.astype(float), previous=previous)[0] - previous
    assert abs(across @ u) < 1e-6
    assert np.linalg.norm(across) == pytest.approx(1)


def test_optimized_does_at_least_the_harm_of_any_fixed_factor() -> None:
    from fl_impl.aggregators import trimmed_mean

    def harm(rows: np.ndarray) -> float:
        return float(np.linalg.norm(trimmed_mean(np.concatenate([x, rows]), f=F) - x.mean(0)))

    x = HONEST.astype(np.float64)
    best = harm(craft("optimized(attack='a_little_is_enough')", x, aggregate=lambda updates: trimmed_mean(updates, f=F)))
    fixed = [harm(craft(f"a_little_is_enough(z={z})", x)) for z in (0.5, 1.0, 1.5, 2.0, 4.0, 100.0)]
    assert best >= max(fixed) * 0.999
    assert harm(craft("worst_case", x)) >= 0.9 * best
    with pytest.raises(ValueError, match="factor to search"):
        craft("optimized(attack='zero')")


def test_worst_case_hurts_the_rule_it_is_told_of() -> None:
    from fl_impl.aggregators import krum

    x = HONEST.astype(np.float64)
    rows = craft("worst_case", x, aggregate=lambda updates: krum(updates, f=F))
    found = np.linalg.norm(krum(np.concatenate([x, rows]), f=F) - x.mean(0))
    simple = [craft(name, x) for name in ("sign_flip", "inner_product_manipulation", "a_little_is_enough", "min_max")]
    assert found >= max(np.linalg.norm(krum(np.concatenate([x, other]), f=F) - x.mean(0)) for other in simple)


def test_specs_enum_and_plain_functions_resolve() -> None:
    assert resolve(ByzantineAttack.LABEL_FLIP) is ALL["label_flip"]
    assert {member.value for member in ByzantineAttack} == set(ALL)
    for name in ("SIGN_FLIP", "GRADIENT_SCALE", "MODEL_REPLACEMENT", "NOISE_INJECTION", "LABEL_FLIP"):
        assert isinstance(resolve(ByzantineAttack[name]), Attack)
    assert resolve(ALL["zero"]) is ALL["zero"]
    assert resolve("sign_flip(4)").options == {"scale": 4}
    assert resolve("fl_impl.attacks.updates:zero") is ALL["zero"]
    mine = resolve(lambda honest, f, rng: honest[:1].repeat(f, axis=0))  # rng is part of the contract
    np.testing.assert_array_equal(mine(HONEST, 2, rng()), HONEST[[0, 0]])


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_spec_gives_the_same_attack_back(name: str) -> None:
    assert resolve(ALL[name].spec).spec == name
    assert ALL[name].summary
    assert ALL[name].source


def test_pipes_put_stages_in_order() -> None:
    whole = resolve("backdoor(target=3)|model_replacement(gamma=2)|inflated_count")
    assert [stage.name for stage in whole.chain] == ["backdoor", "model_replacement", "inflated_count"]
    assert whole.spec == "backdoor(target=3)|model_replacement(gamma=2)|inflated_count"
    assert [stage.name for stage in ALL["neurotoxin"].chain] == ["backdoor", "neurotoxin"]
    assert [stage.name for stage in resolve("edge_case|neurotoxin").chain] == ["edge_case", "neurotoxin"]
    twice = resolve("sign_flip(scale=2)|gradient_scale(factor=3)")(HONEST, F, rng())
    np.testing.assert_allclose(twice, -6 * HONEST[:F], rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("sign_flp", "did you mean 'sign_flip'"),
        ("sign_flip(skale=2)", "did you mean 'scale'"),
        ("zero(1)", "at most 0 options"),
        (7, "expected an attack"),
        ("fl_impl.attacks:ALL", "expected an attack"),
        ("fl_impl.attacks:nothing", "no attribute"),
    ],
)
def test_wrong_specs_say_what_is_right(wrong: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(wrong)


def test_a_new_attack_is_one_decorated_function() -> None:
    with ALL.scoped():

        @attack(source="this test", knowledge="omniscient")
        def shout(honest: np.ndarray, f: int, rng: np.random.Generator, *, loud: float = 2.0) -> np.ndarray:
            """loud times the sum."""
            del rng
            return np.repeat(loud * honest.sum(0, keepdims=True), f, axis=0)

        assert resolve("shout(loud=3)").options == {"loud": 3}
    np.testing.assert_allclose(shout(loud=3.0)(HONEST, 1, rng())[0], 3 * HONEST.sum(0), rtol=1e-5)
    assert (shout.summary, shout.spec) == ("loud times the sum.", "shout")


def test_attacks_import_without_torch() -> None:
    code = "import sys, fl_impl.attacks, fl_impl; assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
