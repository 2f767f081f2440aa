"""Aggregation of files: equal to the rule in memory, whatever the blocks; what does not fit together is refused."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from fl_impl.aggregators import ALL, aggregate_files, resolve
from fl_impl.aggregators.files.aggregate import blocks_of, bytes_of
from fl_impl.aggregators.files.tensors import open_tensors

N, F = 9, 2
BY_RANK = ("coordinate_median", "trimmed_mean", "meamed", "phocas")
BY_DISTANCE = (
    "mean", "krum", "multi_krum", "multi_krum(m=3)", "geometric_median", "minimum_diameter", "minimum_variance", "caf", "smea",
    "nnm|trimmed_mean", "nnm|krum", "nnm|meamed", "bucketing|trimmed_mean", "nnm|nnm|coordinate_median",
)  # fmt: skip


def client(i, rng):
    return {
        "layer.weight": (rng.normal(size=(37, 11)) + i / 9).astype(np.float32),
        "layer.bias": rng.normal(size=4000).astype(np.float32),
        "scale": np.array(rng.normal(), np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "steps": np.array(10 * i, np.int64),
        "mask": rng.random(5) < 0.3,
    }


@pytest.fixture
def clients():
    rng = np.random.default_rng(5)
    return [client(i, rng) for i in range(N)]


@pytest.fixture
def paths(tmp_path, clients):
    made = [tmp_path / f"client-{i}.safetensors" for i in range(N)]
    for path, state in zip(made, clients, strict=True):
        save_file(state, path, metadata={"format": "np"})
    return made


def floats(state):
    """One vector, in the order of the files."""
    return np.concatenate([state[name].ravel() for name in state if state[name].dtype.kind == "f"])


def in_order(state, path):
    return {name: state[name] for name in open_tensors(path).tensors}


@pytest.mark.parametrize("spec", BY_RANK + BY_DISTANCE)
def test_it_is_the_rule_in_memory(spec, paths, clients, tmp_path, monkeypatch):
    monkeypatch.setattr("fl_impl.aggregators.files.aggregate.bytes_of", lambda memory: memory)
    f = 0 if spec == "mean" else F
    expected = resolve(spec)(np.stack([floats(in_order(state, paths[0])) for state in clients]), f=f)
    for memory in (3_000, 40_000, 10**9):  # blocks that cut tensors, that join tensors, one block
        out = aggregate_files(paths, spec, f, tmp_path / "out.safetensors", memory=memory)
        result = floats(in_order(load_file(out), out))
        if spec in BY_RANK:
            assert np.array_equal(result, expected)
        else:
            np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_names_shapes_types_and_texts_are_kept_and_counters_get_a_value_that_was_sent(paths, clients, tmp_path):
    out = aggregate_files(paths, "trimmed_mean", F, tmp_path / "out.safetensors")
    result = load_file(out)
    assert {name: (value.shape, value.dtype) for name, value in result.items()} == {
        name: (value.shape, value.dtype) for name, value in clients[0].items()
    }
    assert open_tensors(out).metadata == {"format": "np"}
    assert result["steps"] == 40
    assert np.array_equal(result["mask"], np.sort([state["mask"] for state in clients], axis=0)[4])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floating_types_are_rounded_once(dtype, tmp_path):
    torch.manual_seed(3)  # the data of this test
    states = [{"w": torch.randn(700).to(dtype)} for _ in range(N)]
    paths = [tmp_path / f"{i}.safetensors" for i in range(N)]
    for path, state in zip(paths, states, strict=True):
        save_torch(state, path)
    out = aggregate_files(paths, "trimmed_mean", F, tmp_path / "out.safetensors")
    assert torch.equal(load_torch(out)["w"], resolve("trimmed_mean")(torch.stack([s["w"] for s in states]), f=F))


def test_shards_with_an_index(paths, clients, tmp_path):
    for i, state in enumerate(clients):
        folder = tmp_path / f"sharded-{i}"
        folder.mkdir()
        first, second = dict(list(state.items())[:2]), dict(list(state.items())[2:])
        save_file(first, folder / "a.safetensors")
        save_file(second, folder / "b.safetensors")
        places = {**dict.fromkeys(first, "a.safetensors"), **dict.fromkeys(second, "b.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    whole = load_file(aggregate_files(paths, "krum", F, tmp_path / "whole.safetensors"))
    indices = [tmp_path / f"sharded-{i}" / "model.safetensors.index.json" for i in range(N)]
    sharded = load_file(aggregate_files(indices, "krum", F, tmp_path / "joined.safetensors"))
    assert all(np.array_equal(whole[name], sharded[name]) for name in whole)


def test_files_with_nan_are_dropped_and_counted(paths, clients, tmp_path):
    clients[4]["layer.bias"][3999] = np.nan
    save_file(clients[4], paths[4])
    kept = [in_order(state, paths[0]) for i, state in enumerate(clients) if i != 4]
    for spec in ("trimmed_mean", "multi_krum", "nnm|trimmed_mean"):
        out = aggregate_files(paths, spec, F, tmp_path / "out.safetensors")
        expected = resolve(spec)(np.stack([floats(state) for state in kept]), f=F - 1)
        np.testing.assert_allclose(floats(in_order(load_file(out), out)), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="takes finite updates only"):
        aggregate_files(paths, "mean", 0, tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match=r"1 files hold NaN or infinity .*client-4.*more than the f=0"):
        aggregate_files(paths, "trimmed_mean", 0, tmp_path / "out.safetensors")


def broken_header(path):
    path.write_bytes((10**9).to_bytes(8, "little") + b"{}")


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def renamed(path):
    state = load_file(path)
    save_file({("other" if name == "scale" else name): value for name, value in state.items()}, path)


def reshaped(path):
    save_file({**load_file(path), "layer.weight": np.zeros((11, 37), np.float32)}, path)


def retyped(path):
    save_file({**load_file(path), "scale": np.zeros((), np.float64)}, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken_header, "not a safetensors file"),
        (cut, "ends beyond the end of the file"),
        (renamed, "other is in only one of"),
        (reshaped, r"layer.weight alike; it is \[37, 11\] of F32"),
        (retyped, r"scale alike; it is \[\] of F32 .* \[\] of F64"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_written(spoil, message, paths, tmp_path):
    spoil(paths[3])
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"the last one")
    with pytest.raises(ValueError, match=message):
        aggregate_files(paths, "krum", F, out)
    assert out.read_bytes() == b"the last one"
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], "krum", 0), "expected files to aggregate, got none"),
        ((["model.bin"], "krum", 0), "runs code when it is read"),
        ((["model.csv"], "krum", 0), "expected a .safetensors file"),
    ],
)
def test_what_is_no_request(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        aggregate_files(*arguments, tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_rule_goes_by_columns_or_says_that_it_cannot(name, paths, tmp_path):
    f = 0 if name in {"mean", "bulyan"} else 1
    try:
        aggregate_files(paths, name, f, tmp_path / "out.safetensors")
    except ValueError as error:
        assert "needs whole updates at once" in str(error)  # noqa: PT017  # either is right


def test_amounts_of_memory():
    assert [bytes_of(text) for text in ("256MB", "2GiB", " 1.5 gb", 2**20)] == [256 * 10**6, 2**31, 15 * 10**8, 2**20]
    for text in ("much", "1KB", "-5MB", "1.2.3GB"):
        with pytest.raises(ValueError, match="expected an amount of memory"):
            bytes_of(text)


def test_blocks_cover_every_column_once(paths):
    tensors = list(open_tensors(paths[0]).tensors.values())
    for memory in (500, 5_000, 10**6):
        seen = sorted(
            (piece.name, k)
            for block in blocks_of(tensors, N, memory)
            for piece in block.pieces
            for k in range(piece.start, piece.stop)
        )
        assert seen == sorted((tensor.name, k) for tensor in tensors for k in range(tensor.size))


KILLED = """
import sys
from fl_impl.aggregators.files.aggregate import aggregate_files
aggregate_files(sys.argv[2:], "krum", 1, sys.argv[1], memory=2**20, progress=lambda done, total: print(done, flush=True))
"""


def test_killed_in_the_middle_the_old_file_stays(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(5)]
    for i, path in enumerate(paths):
        save_file({"w": np.full(2_000_000, i, np.float32)}, path)
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(out), *map(str, paths)], stdout=subprocess.PIPE)
    for _ in range(80):  # blocks: in the second of two passes
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert out.read_bytes() == b"old"


def test_memory_stays_as_told(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(12)]
    for i, path in enumerate(paths):
        save_file({"w": np.full((1000, 4000), i, np.float32)}, path)
    code = """
import resource, sys
from fl_impl.aggregators.files.aggregate import aggregate_files
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
aggregate_files(sys.argv[2:4], "mean", 0, sys.argv[1], memory="1MiB")  # what is loaded and compiled, once
before = peak()
aggregate_files(sys.argv[2:], "nnm|trimmed_mean", 2, sys.argv[1], memory="16MiB")
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out.safetensors"), *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 40  # MiB, of 192 in the files; compiling takes its share
