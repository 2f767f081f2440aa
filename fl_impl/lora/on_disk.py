"""`aggregate_folders`: adapters that peft wrote become one, read a module at a time, however many there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators.files.tensors import Tensor, Written, narrowed, written_whole
from fl_impl.common.randomness import generator
from fl_impl.lora.folders import CONFIG, WEIGHTS
from fl_impl.lora.keys import with_ranks
from fl_impl.lora.modes import parse
from fl_impl.lora.product import check_start, weigh
from fl_impl.lora.stored import (
    OVERSAMPLED,
    TOGETHER,
    Stored,
    blocks,
    check_alike,
    open_folder,
    open_folders,
    product_gram,
    whole_gram,
)

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator
    from fl_impl.lora.modes import Mode

Reals = npt.NDArray[np.float64]
POWERS: Final = 2
"""Times that P P' is applied to them: Halko, Martinsson and Tropp 2011 (arXiv:0909.4061), algorithm 4.4."""


@dataclass(frozen=True, eq=False)
class Folder:
    """What `aggregate_folders` wrote, and what it made of each adapter."""

    path: Path
    weights: tuple[float, ...]
    """Of each adapter's products in the aggregate; 0 for those that were refused."""
    rejected: Mapping[int, str] = field(default_factory=dict[int, str])
    """Why adapters were not used, by number."""
    error: float = 0.0
    """||P - P'|| / ||P||, over all modules, of the weighted sum P of the products and what was written, P'."""


@dataclass(frozen=True, eq=False)
class Source:
    """A weighted sum of one module's factors or products, which is never held: each pass reads the adapters again."""

    adapters: Sequence[Stored]
    weights: Reals
    module: str

    def __iter__(self) -> Iterator[tuple[float, Reals, Reals]]:
        """(w_i, (r, m) up, (r, k) down) of each adapter of weight other than 0."""
        for adapter, weight in zip(self.adapters, self.weights, strict=True):
            if weight:
                yield float(weight), *adapter.factors(self.module)

    def times(self, directions: Reals) -> Reals:
        """P directions, (m, c): sum w_i B_i (A_i directions)."""
        return sum_of(weight * (up.T @ (down @ directions)) for weight, up, down in self)

    def transposed_times(self, directions: Reals) -> Reals:
        """P' directions, (k, c)."""
        return sum_of(weight * (down.T @ (up @ directions)) for weight, up, down in self)

    def means(self) -> tuple[Reals, Reals]:
        """sum w_i B_i', sum w_i A_i."""
        return sum_of(weight * up for weight, up, _ in self), sum_of(weight * down for weight, _, down in self)


def sum_of(terms: Iterator[Reals]) -> Reals:
    """A running sum: two terms are in memory."""
    total = next(terms)
    for term in terms:
        total += term
    return total


def aggregate_folders(
    folders: Sequence[str | Path],
    output: str | Path,
    aggregation: Any = "flexlora",
    *,
    f: int = 0,
    rank: int | None = None,
    counts: Sequence[float] | None = None,
    start: str | Path | None = None,
) -> Folder:
    """Aggregate n adapter folders of peft, up to f of them Byzantine, into one that `PeftModel.from_pretrained` takes.

    The rule gives weights from the n x n inner products of the products B A; magnitudes of DoRA, modules_to_save, biases
    and saved embeddings are one vector, on which the same rule gives weights of its own. fedit, ffa and rolora write the
    weighted means of the factors. flexlora writes the best approximation of the weighted sum P of the products of rank
    `rank`, the greatest of the clients' where None, by a randomised SVD of the factors; fedex and flora write P itself, of
    the sum of all ranks, or with `rank` that approximation. start: the folder that clients began with, which rules that
    clip need for what is saved whole. counts: claimed sample counts, for the mean. Memory is that of one module and a
    result, whatever n.

    Adapters with NaN or infinity count against f. Raises ValueError for folders that do not fit together, more than f of
    those, and a rule that looks at coordinates.
    """
    mode, rule = parse(aggregation)
    if not folders:
        raise ValueError("expected the folders of some adapters, got none")
    adapters = open_folders(folders)
    begun = [] if start is None else [open_folder(start)]
    check_alike([*adapters, *begun])
    check_ranks(mode, adapters, rank)
    judged = weigh_stored(adapters, begun, rule, rule.check_clients(len(adapters), f), counts)
    kept = [*(adapters[int(i)] for i in judged.kept), *begun]
    error = write(Path(output), kept, judged, mode, rank)
    weights = np.zeros(len(adapters))
    weights[list(judged.kept)] = judged.products[: len(judged.kept)]
    return Folder(Path(output), tuple(weights.tolist()), judged.rejected, error)


@dataclass(frozen=True, eq=False)
class Weighed:
    """The weights of those that were kept and, where it is known, of the start after them."""

    kept: tuple[int, ...]
    """Numbers of the adapters."""
    products: Reals
    whole: Reals
    """Of what is saved whole."""
    length: float
    """||P||^2 of the weighted sum of the products."""
    rejected: Mapping[int, str]


def weigh_stored(adapters: Sequence[Stored], begun: Sequence[Stored], rule: Aggregator, f: int, counts: Any) -> Weighed:
    """What the rule gives each adapter, by inner products alone."""
    n, known = len(adapters), bool(begun)
    gram, others = product_gram([*adapters, *begun]), whole_gram(adapters, begun[0] if known else None)
    sound = np.isfinite(np.diag(gram)[:n]) & np.isfinite(np.diag(others))
    rejected = {i: f"{one.folder} holds NaN, infinity or numbers near it" for i, one in enumerate(adapters) if not sound[i]}
    check_rejected(rule, rejected, f)
    kept, left = np.flatnonzero(sound), f - len(rejected)
    claimed = counts if counts is None or np.shape(counts) != (n,) else np.asarray(counts)[kept]
    rows = np.append(kept, n)
    gram = (gram if known else np.pad(gram, ((0, 1), (0, 1))))[np.ix_(rows, rows)]
    products = weigh(rule, gram, left, claimed)
    whole = np.zeros(len(rows))
    if adapters[0].whole:
        check_start(rule, known=known)
        whole = weigh(rule, np.pad(others[np.ix_(kept, kept)], ((0, 1), (0, 1))), left, claimed)
    used = slice(None) if known else slice(-1)
    return Weighed(tuple(map(int, kept)), products[used], whole[used], max(float(products @ gram @ products), 0.0), rejected)


def check_ranks(mode: Mode, adapters: Sequence[Stored], rank: int | None) -> None:
    """Raise ValueError where factors of different ranks would be averaged, or a rank is none."""
    if mode.sums is None:
        raise ValueError(f"{mode.name} does not say what it sums, so it needs all adapters in memory: take aggregate_states")
    if rank is not None and (mode.sums == "factors" or rank < 1):
        raise ValueError(f"rank is of flexlora, fedex and flora, and 1 at least; got rank={rank} with {mode.name}")
    for module in adapters[0].modules if mode.sums == "factors" else ():
        if len({adapter.rank(module) for adapter in adapters}) > 1:
            raise ValueError(
                f"{mode.name} averages factors, so all have one rank, and those of {module} differ: take flora or "
                "flexlora for mixed ones"
            )


def check_rejected(rule: Aggregator, rejected: Mapping[int, str], f: int) -> None:
    """Raise ValueError where more adapters are not finite than may be Byzantine."""
    if rejected and (not rule.defended or len(rejected) > f):
        raise ValueError(f"{rule.spec} with f={f}: {'; '.join(rejected.values())}. Leave them out, or raise f")


def write(output: Path, adapters: Sequence[Stored], judged: Weighed, mode: Mode, rank: int | None) -> float:
    """Write the folder; the error of what was cut to a rank, relative to the length of the whole sum."""
    weights, length = judged.products, judged.length
    first = adapters[0]
    means = mode.sums == "factors"
    exact = not means and mode.exact and rank is None
    ranks, scales = dict[str, int](), {module: first.scale(module) for module in first.modules}
    for module in first.modules:
        each = [adapter.rank(module) for adapter, weight in zip(adapters, weights, strict=True) if weight]
        ranks[module] = sum(each) if exact else rank or max(each, default=first.rank(module))
    config = with_ranks(first.config, ranks, scales)
    output.mkdir(parents=True, exist_ok=True)
    put, kept = (put_stack if exact else put_means if means else put_truncated), 0.0
    tensors = [resized(tensor, first, ranks) for tensor in first.layout.tensors.values()]
    with written_whole(output / WEIGHTS, tensors, {"format": "pt"}) as file:
        for module in first.modules:
            kept += put(Source(adapters, weights, module), into(file, first, module, scales[module], ranks), ranks[module])
        put_whole(file, adapters, judged.whole)
    (output / CONFIG).write_text(json.dumps({**config, "inference_mode": True}, indent=2, sort_keys=True), encoding="utf-8")
    return 0.0 if exact or means or not length else float(np.sqrt(max(1 - kept / length, 0.0)))


def resized(tensor: Tensor, first: Stored, ranks: Mapping[str, int]) -> Tensor:
    """A tensor of the result: factors get the new rank, and all that is computed is float32 at least."""
    dtype = "F64" if tensor.dtype == "F64" else "F32"
    shape = tensor.shape
    for module, pair in first.modules.items():
        if tensor.name == pair.b:
            shape = (shape[0], ranks[module], *shape[2:])
        elif tensor.name == pair.a:
            shape = (ranks[module], *shape[1:])
    return Tensor(tensor.name, dtype if tensor.name not in first.whole else tensor.dtype, shape, tensor.file, 0)


Put = Callable[[int, Reals, Reals], None]


def into(file: Written, first: Stored, module: str, scale: float, ranks: Mapping[str, int]) -> Put:
    """A function (row, (r, m) up, (r, k) down) that writes some of the rows of a module's factors."""
    pair = first.modules[module]
    b, a = (resized(first.layout.tensors[key], first, ranks) for key in (pair.b, pair.a))

    def put(row: int, up: Reals, down: Reals) -> None:
        whole = ranks[module]
        if len(up) == whole:
            file.put(b, 0, narrowed(up.T / scale, b.dtype))
        else:  # B is (m, r): these columns of each row
            values = narrowed(up.T / scale, b.dtype)
            for line in range(len(values)):
                file.put(b, line * whole + row, values[line])
        file.put(a, row * down.shape[1], narrowed(down, a.dtype))

    return put


def put_means(source: Source, put: Put, rank: int) -> float:
    """The weighted means of the factors."""
    del rank
    put(0, *source.means())
    return 0.0


def put_stack(source: Source, put: Put, rank: int) -> float:
    """All factors beside each other: exactly the weighted sum of the products."""
    del rank
    row = 0
    for weight, up, down in source:
        put(row, weight * up, down)
        row += len(up)
    return 0.0


def put_truncated(source: Source, put: Put, rank: int) -> float:
    """The sum of the products cut to a rank by a randomised SVD; the squared length of what was written."""
    up, down, s = truncated(source, rank)
    put(0, up, down)
    return float(s @ s)


def truncated(source: Source, rank: int) -> tuple[Reals, Reals, Reals]:
    """((rank, m) up, (rank, k) down, singular values): Q Q' P cut to the rank, Q of (P P')^2 P on random directions."""
    m, k = source.adapters[0].shape(source.module)
    width = min(2 * rank + OVERSAMPLED, m, k)
    q = np.linalg.qr(source.times(generator(0, "directions", source.module).standard_normal((k, width))))[0]
    for _ in range(POWERS if width < min(m, k) else 0):
        other = np.linalg.qr(source.transposed_times(q))[0]
        q = np.linalg.qr(source.times(other))[0]
    u, s, vt = np.linalg.svd(source.transposed_times(q).T, full_matrices=False)
    u, s, vt = q @ u[:, :rank], s[:rank], vt[:rank]
    root = np.sqrt(s)[:, None]
    missing = ((0, rank - len(s)), (0, 0))
    return np.pad(root * u.T, missing), np.pad(root * vt, missing), s


def put_whole(file: Written, adapters: Sequence[Stored], weights: Reals) -> None:
    """The weighted sums of what is saved whole, by blocks; an adapter beyond the clients is the start."""
    first = adapters[0]
    if len(adapters) < len(weights):
        weights = weights[:-1]
    for key in first.whole:
        tensor = first.layout.tensors[key]
        for at, end in blocks(tensor.size, TOGETHER):
            used = [(adapter, weight) for adapter, weight in zip(adapters, weights, strict=True) if weight]
            file.put(
                tensor, at, narrowed(sum_of(weight * adapter.numbers(key, at, end) for adapter, weight in used), tensor.dtype)
            )
