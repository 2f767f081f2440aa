"""Lists of vectors and 16-bit numbers: what kernels read where it lies gives the bits of the matrix, without that matrix."""

import tracemalloc

import numpy as np
import pytest
import torch

from fl_impl import aggregators
from fl_impl.aggregators import kernels, resolve
from fl_impl.aggregators.inputs import as_inputs
from fl_impl.aggregators.kernels import on_arrays
from fl_impl.aggregators.vectors import Vectors

N, D, F = 14, 2503, 2
RULES = [name for name, rule in aggregators.ALL.items() if rule.apart and rule.min_clients(F) <= N]
PIPES = ["nnm|trimmed_mean", "nnm|meamed", "bucketing|coordinate_median", "nnm|geometric_median", "nnm|centered_clipping"]
SPECS = [*RULES, *PIPES]


def draws(n=N, d=D, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def unaligned(row):
    """A copy that begins in the middle of a number's natural place for vectors."""
    held = np.empty(len(row) + 3, row.dtype)
    held[3:] = row
    return held[3:]


FORMS = {
    "list of arrays": lambda x: [row.copy() for row in x],
    "tuple of views": lambda x: tuple(unaligned(row) for row in x),
    "read-only rows of float64": lambda x: [_read_only(row.astype(np.float64)) for row in x],
    "rows of float16": lambda x: [row.astype(np.float16) for row in x],
    "matrix of float16": lambda x: x.astype(np.float16),
    "tensors": lambda x: [torch.from_numpy(row.copy()) for row in x],
    "tensors of float16": lambda x: [torch.from_numpy(row.copy()).half() for row in x],
    "tensors of bfloat16": lambda x: [torch.from_numpy(row.copy()).bfloat16() for row in x],
    "matrix of bfloat16": lambda x: torch.from_numpy(x).bfloat16(),
    "some columns of a tensor of bfloat16": lambda x: torch.from_numpy(np.hstack([x, x])).bfloat16()[:, :D],
}


def _read_only(row):
    row.flags.writeable = False
    return row


def side_by_side(form):
    """The same numbers as one matrix, in the type that rules compute in; and the way back."""
    if isinstance(form, torch.Tensor) or isinstance(form[0], torch.Tensor):
        rows = form if isinstance(form, torch.Tensor) else torch.stack(list(form))
        return rows.float().numpy(), lambda result: torch.from_numpy(result).to(rows.dtype)
    rows = np.asarray(form)
    wide = rows.astype(np.float32) if rows.dtype == np.float16 else rows
    return wide, lambda result: result.astype(rows.dtype)


def test_every_rule_of_distances_and_ranks_reads_vectors_where_they_lie():
    assert {"krum", "trimmed_mean", "meamed", "geometric_median", "mean", "bulyan", "monna", "multi_krum"} <= set(RULES)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["numpy", "generated"])
@pytest.mark.parametrize("spec", ["trimmed_mean", "meamed", "krum", "geometric_median", *PIPES])
def test_the_bits_are_those_of_the_matrix(spec, path, form, monkeypatch):
    monkeypatch.setenv(on_arrays.VARIABLE, path)
    assert_bits_of_the_matrix(spec, form)


@pytest.mark.parametrize("spec", SPECS)
def test_every_rule_that_reads_vectors_gives_the_bits_of_the_matrix(spec):
    for form in ("list of arrays", "matrix of bfloat16"):
        assert_bits_of_the_matrix(spec, form)


def assert_bits_of_the_matrix(spec, form):
    given = FORMS[form](draws())
    assert isinstance(as_inputs(given, apart=True).matrix, Vectors)
    matrix, back = side_by_side(given)
    rule, expected = resolve(spec), back(resolve(spec)(matrix, f=F))
    found = rule(given, f=F)
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    assert (found == expected).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spec", ["trimmed_mean", "krum", "geometric_median", "nnm|trimmed_mean", "nnm|meamed"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_dropped_as_from_a_matrix(spec, form, bad):
    x = draws()
    x[3, 2000] = bad
    given = FORMS[form](x)
    matrix, back = side_by_side(given)
    assert (resolve(spec)(given, f=F) == back(resolve(spec)(matrix, f=F))).all()


@pytest.mark.parametrize("scale", [1e-38, 1e30, 3e38])
def test_extreme_rows_are_screened_as_from_a_matrix(scale):
    x = draws()
    x[3] = np.clip(x[3].astype(np.float64) * scale, -3e38, 3e38)
    for spec in ("trimmed_mean", "krum", "geometric_median", "nnm|meamed", "multi_krum"):
        assert np.array_equal(resolve(spec)(list(x), f=F), resolve(spec)(x, f=F))


@pytest.mark.parametrize("what", ["denormals", "zeros", "largest"])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_every_16_bit_number_is_widened_as_torch_does(kind, what):
    bits = {"denormals": [1, 0x8001, 5, 0x7F], "zeros": [0, 0x8000], "largest": [0x7BFF, 0xFBFF, 0x3C00]}[what]
    rows = torch.tensor(np.random.default_rng(0).choice(bits, (N, D)).astype(np.uint16).view(np.int16))
    x = rows.view(getattr(torch, kind))
    middle = (N - 1) // 2
    found = kernels.rank_mean(as_inputs(x, apart=True).matrix, middle, middle + 1)
    assert np.array_equal(found, x.float().sort(dim=0).values[middle].numpy())


@pytest.mark.parametrize("spec", ["trimmed_mean", "meamed", "krum", "nnm|trimmed_mean", "geometric_median"])
@pytest.mark.parametrize("form", ["list of arrays", "tensors", "matrix of bfloat16", "rows of float16"])
def test_no_matrix_is_put_together(spec, form):
    given, rule = FORMS[form](draws(20, D * 20)[:, : D * 20]), resolve(spec)
    rule(given, f=F)
    tracemalloc.start()
    rule(given, f=F)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * 4 * 20 * D * 20


def test_what_kernels_cannot_read_is_copied():
    x = draws()
    for given in (
        [row[::-1][::-1] for row in x[:, ::2]],  # strided
        [row.astype(">f4") for row in x],  # of another machine
        [np.frombuffer(b"0" + row.tobytes(), np.float32, offset=1) for row in x],  # not aligned
        list(np.asfortranarray(x)),
    ):
        inputs = as_inputs(given, apart=True)
        assert isinstance(inputs.matrix, np.ndarray)
        assert np.array_equal(resolve("trimmed_mean")(given, f=F), resolve("trimmed_mean")(np.array(given), f=F))


def test_a_gradient_still_flows_through_a_list():
    rows = [torch.from_numpy(row).requires_grad_() for row in draws()]
    resolve("trimmed_mean")(rows, f=F).sum().backward()
    assert all(row.grad is not None for row in rows)


@pytest.mark.parametrize("given", [[[1.0, 2.0], [3.0]], [np.zeros(40000), np.zeros(40001)], [np.zeros((2, 20000))] * 3])
def test_malformed_lists_are_still_refused(given):
    with pytest.raises(ValueError, match="updates must be|must have one shape"):
        resolve("coordinate_median")(given)
