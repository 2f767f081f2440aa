"""`python -m pytest_fl verify RULE --updates FILE`: a rule judged on somebody's own round."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from pytest_fl.__main__ import formula, main
from pytest_fl.engine.updates import load_updates

X = np.random.default_rng(0).normal(size=(9, 12))


def saved(folder, kind):
    path = folder / f"round.{kind}"
    if kind == "npz":
        np.savez(path, updates=X)
    elif kind == "csv":
        np.savetxt(path, X, delimiter=",")
    elif kind == "npy":
        np.save(path, X)
    else:
        save_file({"a.weight": X[:, :8].reshape(9, 2, 4).copy(), "b.bias": X[:, 8:].copy()}, path)
    return path


@pytest.mark.parametrize("kind", ["npz", "csv", "npy", "safetensors"])
def test_updates_are_read(tmp_path, kind):
    np.testing.assert_allclose(load_updates(saved(tmp_path, kind)), X, rtol=1e-12)


def test_what_holds_no_updates_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros((3, 2)), b=np.zeros((4, 2)))
    with pytest.raises(ValueError, match="layers"):
        load_updates(tmp_path / "other.npz")
    assert main(["verify", "trimmed_mean", "--updates", str(tmp_path / "other.npz")]) == 2


def test_a_sound_rule_holds_and_the_mean_does_not(tmp_path, capsys):
    path = str(saved(tmp_path, "npz"))
    assert main(["verify", "trimmed_mean", "--updates", path, "--byzantine", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["check"] for row in rows} == {"saved_updates", "saved_updates_attacked"}
    assert main(["verify", "fl_impl.aggregators:mean", "--updates", path, "--byzantine", "2", "--kappa", "f/(n-2*f)"]) == 1
    assert "36 choices of attackers" in capsys.readouterr().out


def test_formulas_are_arithmetic_and_nothing_else():
    assert formula("2*f+3", "f")(2) == 7
    assert formula("f/(n-2*f)", "n", "f")(7, 2) == pytest.approx(2 / 3)
    for text in ("__import__('os')", "f if f else 0", "g", "f +"):
        with pytest.raises(ValueError, match="expected a formula"):
            formula(text, "f")
