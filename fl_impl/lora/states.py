"""Adapters as peft keeps them, state dicts with lora_A and lora_B, aggregated with no model at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fl_impl.lora.factors import Array, Factors, Module, Shape, zeros
from fl_impl.lora.keys import Pair, pairs, whole
from fl_impl.lora.modes import Merged, parse
from fl_impl.lora.product import check_start, gram, weigh

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator

State = Mapping[str, Any]
"""Key -> tensor or array: "...lora_A.weight" (r, k) and "...lora_B.weight" (m, r) of each module."""


def aggregate_states(
    states: Sequence[State],
    aggregation: Any = "flexlora",
    *,
    f: int = 0,
    scales: Sequence[float] | float = 1.0,
    rank: int | None = None,
    counts: Sequence[float] | None = None,
    start: State | None = None,
) -> Merged:
    """One adapter of n, by a mode, a rule or both as in `LoRAFLAdapter.federated_fit`; products of the result have scale 1.

    states: what `peft.get_peft_model_state_dict` gives. scales: alpha / r of each, or of all. rank: of the result in
    flexlora, the greatest of the clients' where not given. counts: claimed sample counts, for the mean.
    Other keys, as of DoRA's magnitudes and modules_to_save, are one vector, on which the same rule gives weights of its own.
    start: the state that clients began with, which rules that clip need for those. Embeddings have factors too.
    Raises ValueError for missing or foreign keys, wrong shapes, NaN and infinity.
    """
    mode, rule = parse(aggregation)
    clients = as_factors(states, scales)
    if not mode.mixed_ranks and len({ranks_of(state) for state in states}) > 1:
        raise ValueError(f"{mode.name} averages factors, so all have one rank: take flora or flexlora for mixed ones")
    shapes = tuple(Shape("", up.shape[2], down.shape[2]) for up, down in clients.modules)
    everything = clients.beside(zeros(shapes, clients.rank))
    f = rule.check_clients(len(clients), f)
    weights = weigh(rule, gram(everything), f, counts)
    return replace(mode.merge(everything, weights, rank or clients.rank), whole=saved_whole(states, rule, f, counts, start))


def saved_whole(states: Sequence[State], rule: Aggregator, f: int, counts: Any, start: State | None) -> dict[str, Array]:
    """The aggregate of what is no factor, by key: one vector of all of it, with the rule's weights for that."""
    names = whole(states[0])
    if not names:
        return {}
    check_start(rule, known=start is not None)
    begun = {name: 0.0 if start is None else as_array(start[name], name, "the start") for name in names}
    rows = list[npt.NDArray[np.float64]]()
    for client, state in enumerate(states):
        arrays = {name: as_array(state[name], name, f"client {client}") for name in names}
        for name, array in arrays.items():
            if array.shape != np.shape(states[0][name]):
                raise ValueError(f"client {client}: {name} must have shape {np.shape(states[0][name])}; got {array.shape}")
        rows.append(np.concatenate([np.ravel(arrays[name] - begun[name]) for name in names]))
    changes = np.stack(rows)
    weights = weigh(rule, np.pad(changes @ changes.T, ((0, 1), (0, 1))), f, counts)
    flat, found, at = weights[:-1] @ changes, dict[str, Array](), 0
    for name in names:
        shape = np.shape(states[0][name])
        size = int(np.prod(shape))
        found[name], at = begun[name] + flat[at : at + size].reshape(shape), at + size
    return found


def as_factors(states: Sequence[State], scales: Sequence[float] | float = 1.0) -> Factors:
    """The factors of state dicts, modules in the order of their names. Raises ValueError as `aggregate_states` does."""
    if not states:
        raise ValueError("expected the adapters of some clients, got none")
    each = [float(scales)] * len(states) if isinstance(scales, int | float) else [float(scale) for scale in scales]
    if len(each) != len(states) or not all(np.isfinite(each)):
        raise ValueError(f"expected {len(states)} finite scales, one for each adapter; got {each}")
    names, rows = pairs(states[0], "client 0"), list[Factors]()
    for client, (state, scale) in enumerate(zip(states, each, strict=True)):
        lacking = [key for pair in names for key in (pair.b, pair.a) if key not in state]
        if lacking:
            raise ValueError(f"client {client}: missing key {lacking[0]!r}")
        modules = [one_module(state, pair, scale, client) for pair in names]
        rank = max(module.up.shape[1] for module in modules)
        foreign = state.keys() - states[0].keys()
        if foreign:
            raise ValueError(f"client {client}: foreign key {min(foreign)!r}, which client 0 does not have")
        missing = states[0].keys() - state.keys()
        if missing:
            raise ValueError(f"client {client}: missing key {min(missing)!r}")
        rows.append(Factors(tuple(Factors((module,)).padded(rank).modules[0] for module in modules)))
        check_shapes(rows[0], rows[-1], names, client)
    return joined(rows)


def joined(rows: Sequence[Factors]) -> Factors:
    """All of them as one, at the greatest rank."""
    rank = max(row.rank for row in rows)
    padded = [row.padded(rank).modules for row in rows]
    return Factors(tuple(Module(*map(np.concatenate, zip(*alike, strict=True))) for alike in zip(*padded, strict=True)))


def ranks_of(state: State) -> tuple[int, ...]:
    """The rank of each module."""
    return tuple(int(state[pair.a].shape[0]) for pair in pairs(state))


def one_module(state: State, pair: Pair, scale: float, client: int) -> Module:
    """The factors of one client; kernels of convolutions are flattened. Raises ValueError for what does not fit together."""
    b, a = (as_matrix(state[key], key, client) for key in (pair.b, pair.a))
    if b.shape[1] != a.shape[0]:
        raise ValueError(f"client {client}: {pair.b} has rank {b.shape[1]}, but A has {a.shape[0]}")
    return Module((b.T * scale)[None], a[None])


def as_array(value: Any, key: str, owner: str) -> npt.NDArray[np.float64]:
    """Finite numbers in float64."""
    array = np.asarray(value.detach().cpu().double().numpy() if hasattr(value, "detach") else value, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{owner}: {key} holds NaN or infinity; leave this client out, and count it against f")
    return array


def as_matrix(value: Any, key: str, client: int) -> npt.NDArray[np.float64]:
    """A finite matrix in float64."""
    array = as_array(value, key, f"client {client}")
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"client {client}: {key} must be a matrix; got shape {array.shape}")
    return array.reshape(len(array), -1)


def check_shapes(first: Factors, other: Factors, names: Sequence[Pair], client: int) -> None:
    """Raise ValueError where a client's modules have another shape than those of client 0."""
    for pair, (up, down), (their_up, their_down) in zip(names, first.modules, other.modules, strict=True):
        expected, got = (up.shape[2], down.shape[2]), (their_up.shape[2], their_down.shape[2])
        if expected != got:
            raise ValueError(f"client {client}: the product of {pair.module} must have shape {expected}; got {got}")
