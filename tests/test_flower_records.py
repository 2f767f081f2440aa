"""A model's arrays over Flower: shapes, dtypes, names and order survive."""

from __future__ import annotations

import io
import re
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'pytest-fl[flower]'")

from flower_echo import QUIET, echo, run
from flwr.app import Array, ArrayRecord

from fl_impl.flower import RobustStrategy
from fl_impl.flower.decoder import bits_of_bfloat16, header_of, packed, unpacked
from fl_impl.flower.records import form_of
from fl_impl.flower.replies import coordinate_median

SHAPES = {"scalar": (), "one": (1,), "empty": (0, 3), "vector": (3,), "matrix": (2, 3), "high": (1, 2, 1, 2)}
DTYPES = ["?", "i1", "u1", "i4", "i8", "u8", "f2", "f4", ">f4", "f8"]


def arrays_of(shape, dtype):
    return np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2 + 1).astype(dtype)


def strange_model():
    """Every shape in every dtype, half of them in Fortran order."""
    model = {f"{dtype}/{name}": arrays_of(shape, dtype) for dtype in DTYPES for name, shape in SHAPES.items()}
    model |= {f"fortran/{name}": np.asfortranarray(arrays_of(shape, "f4")) for name, shape in SHAPES.items()}
    model["cut"] = np.arange(12, dtype=np.float32).reshape(3, 4)[::2, ::-1]
    record = {name: Array(value) for name, value in model.items()}
    return ArrayRecord({**record, "bfloat16": packed(np.float32([[1.5, -2.0]]), "bfloat16")})


def test_shapes_dtypes_names_and_order_survive_four_rounds():
    model = strange_model()
    said = []

    def honest(i, record):
        said.append({name: (array.shape, array.dtype, header_of(array).shape) for name, array in record.items()})
        return record

    after, strategy = run(echo(honest), model, rounds=4)
    assert not any(strategy.rejected.values())
    assert list(after) == list(model)
    for name, array in model.items():
        assert (after[name].shape, after[name].dtype) == (array.shape, array.dtype), name
        np.testing.assert_array_equal(unpacked(after[name]), unpacked(array), err_msg=name)
    assert all(seen == {name: (array.shape, array.dtype, array.shape) for name, array in model.items()} for seen in said)


@hypothesis.given(
    hnp.arrays(
        st.sampled_from(DTYPES),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False},
    ),
    st.sampled_from(["C", "F", "reversed"]),
)
def test_what_numpy_saves_is_read_as_numpy_reads_it(numbers, order):
    given = numbers[::-1] if order == "reversed" and numbers.ndim else numbers.copy(order="F" if order == "F" else "C")
    array = Array(np.asarray(given))
    again = packed(unpacked(array))
    for read in (unpacked(array), unpacked(again), np.load(io.BytesIO(again.data))):
        assert (read.shape, read.dtype) == (numbers.shape, numbers.dtype)
        np.testing.assert_array_equal(read, given)


def test_bfloat16_is_the_one_of_torch():
    assert form_of(strange_model()).dtypes.count("bfloat16") == 1
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.normal(size=1000), 10.0 ** rng.uniform(-38, 38, 1000), [0, -0.0, 1, 3.3895314e38]])
    numbers = numbers.astype(np.float32)
    theirs = torch.from_numpy(numbers).bfloat16()
    np.testing.assert_array_equal(bits_of_bfloat16(numbers), theirs.view(torch.uint16).numpy())
    array = packed(numbers, "bfloat16")
    assert array.dtype == "bfloat16"
    np.testing.assert_array_equal(unpacked(array), theirs.float().numpy())
    read = torch.from_numpy(array.numpy().view(np.int16)).view(torch.bfloat16)  # as docs/flower.md tells clients to
    assert torch.equal(read, theirs)
    assert np.isfinite(unpacked(packed(np.float32([3.4e38, -3.4e38]), "bfloat16"))).all()


def test_bfloat16_of_ml_dtypes_is_read_and_sent_back_so_that_it_can_be_viewed():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: pip install ml_dtypes")
    array = Array(np.ones((2, 1), ml_dtypes.bfloat16))
    np.testing.assert_array_equal(unpacked(array), np.ones((2, 1), np.float32))
    assert packed(unpacked(array), "bfloat16").numpy().view(ml_dtypes.bfloat16).tolist() == [[1], [1]]


@pytest.mark.parametrize(("dtype", "largest"), [("f2", 65504.0), ("f4", np.finfo("f4").max), ("bfloat16", 3.3895314e38)])
def test_a_model_at_the_edge_of_its_dtype_stays_finite(dtype, largest):
    model = ArrayRecord({"w": packed(np.full(3, largest, np.float64), dtype)})
    after, strategy = run(
        echo(lambda i, record: ArrayRecord({"w": packed(np.full(3, largest - i), dtype)})), model, rule="mean"
    )
    assert not strategy.rejected[1]
    assert np.isfinite(unpacked(after["w"])).all()


def test_counters_are_lower_medians_and_exact():
    sent = {"steps": np.array(2**53 + 1), "seen": np.array([True, False]), "w": np.zeros(2, np.float32)}
    steps = [2**53 + 1, 2**53 + 3, 2**53 + 5, 2**53 + 7, -(2**63), 2**63 - 1]
    seen = [[True, True], [True, False], [True, False], [False, False], [True, True], [False, False]]

    def honest(i, record):
        return ArrayRecord({"steps": Array(np.array(steps[i])), "seen": Array(np.array(seen[i])), "w": record["w"]})

    after, _ = run(echo(honest), ArrayRecord({name: Array(value) for name, value in sent.items()}), n=6)
    assert after["steps"].numpy().tolist() == 2**53 + 3  # no float64 holds it, and no mean is it
    assert after["seen"].numpy().tolist() == [True, False]
    assert coordinate_median([np.array([0.0]), np.array([1.0])]).tolist() == [0.5]


def test_statistics_are_medians_unless_the_rule_is_to_have_them():
    sent = ArrayRecord({"w": Array(np.zeros(2, np.float32)), "bn.running_var": Array(np.ones(1, np.float32))})
    values = [1.0, 2.0, 3.0, 4.0, 1e30]

    def honest(i, record):
        w = np.full(2, i, np.float32) if i < 4 else np.full(2, -1e4, np.float32)
        return ArrayRecord({"w": Array(w), "bn.running_var": Array(np.float32([values[i]]))})

    default, _ = run(echo(honest), sent, rule="mean")
    assert default["bn.running_var"].numpy().tolist() == [3.0]
    through, _ = run(echo(honest), sent, rule="mean", statistics=())
    assert through["bn.running_var"].numpy().tolist()[0] > 1e29
    kept, strategy = run(echo(lambda i, r: ArrayRecord({"w": r["w"]})), sent, exclude=["*running_*"])  # not even sent
    assert not strategy.rejected[1]
    assert kept["bn.running_var"].numpy().tolist() == [1.0]
    with pytest.raises(ValueError, match=r"several patterns: write exclude=\['bn'\]"):
        RobustStrategy("mean", exclude="bn", **QUIET)


ARRAYS = {
    "order of names": ({"n": np.array(3), "w": np.zeros((2, 2), "f4")}, ""),
    "float64 for float32": ({"w": np.zeros((2, 2)), "n": np.array(3)}, ""),
    "integers for floats": ({"w": np.zeros((2, 2), "i4"), "n": np.array(3)}, ""),
    "whole floats for integers": ({"w": np.zeros((2, 2), "f4"), "n": np.array(3.0)}, ""),
    "another width": ({"w": np.zeros((2, 2), "f4"), "n": np.array(3, "u1")}, ""),
    "fractions for integers": ({"w": np.zeros((2, 2), "f4"), "n": np.array(3.5)}, "wrong numbers: expected int64, got fractions"),
    "NaN for integers": ({"w": np.zeros((2, 2), "f4"), "n": np.array(np.nan)}, "wrong numbers"),
    "huge floats for integers": ({"w": np.zeros((2, 2), "f4"), "n": np.array(1e300)}, "got larger ones"),
    "beyond the range": ({"w": np.zeros((2, 2), "f4"), "n": np.array(2**64 - 1, "u8")}, "got some beyond"),
    "one number for none": ({"w": np.zeros((2, 2), "f4"), "n": np.array([3])}, r"wrong shape: expected \(\), got \(1,\)"),
    "complex": ({"w": np.zeros((2, 2), "c8"), "n": np.array(3)}, "not plain numbers"),
    "dates": ({"w": np.zeros((2, 2), "M8[s]"), "n": np.array(3)}, "not plain numbers"),
    "records": ({"w": np.zeros((2, 2), [("a", "f4")]), "n": np.array(3)}, "not plain numbers"),
    "void": ({"w": np.zeros((2, 2), "V2"), "n": np.array(3)}, "not plain numbers"),
    "long double": ({"w": np.zeros((2, 2), np.longdouble), "n": np.array(3)}, "not plain numbers"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "reason"), ARRAYS.values(), ids=ARRAYS)
def test_what_a_reply_may_have_instead(arrays, reason):
    model = ArrayRecord({"w": Array(np.zeros((2, 2), "f4")), "n": Array(np.array(3))})
    other = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after, strategy = run(echo(lambda i, record: other if i == 2 else record), model)
    assert list(after) == ["w", "n"]
    assert after["n"].numpy().tolist() == 3
    (said,) = strategy.rejected[1].values() or [""]
    assert bool(said) is bool(reason)
    assert re.search(reason, said)
