"""Adapters as peft keeps them, state dicts with lora_A and lora_B, aggregated with no model at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fl_impl.lora.factors import Factors, Module, Shape, zeros
from fl_impl.lora.modes import Merged, parse
from fl_impl.lora.product import gram, weigh

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
) -> Merged:
    """One adapter of n, by a mode, a rule or both as in `LoRAFLAdapter.federated_fit`; products of the result have scale 1.

    states: what `peft.get_peft_model_state_dict` gives. scales: alpha / r of each, or of all. rank: of the result in
    flexlora, the greatest of the clients' where not given. counts: claimed sample counts, for the mean.
    Raises ValueError for missing or foreign keys, wrong shapes, NaN and infinity.
    """
    mode, rule = parse(aggregation)
    clients = as_factors(states, scales)
    if not mode.mixed_ranks and len({ranks_of(state) for state in states}) > 1:
        raise ValueError(f"{mode.name} averages factors, so all have one rank: take flora or flexlora for mixed ones")
    shapes = tuple(Shape("", up.shape[2], down.shape[2]) for up, down in clients.modules)
    everything = clients.beside(zeros(shapes, clients.rank))
    weights = weigh(rule, gram(everything), rule.check_clients(len(clients), f), counts)
    return mode.merge(everything, weights, rank or clients.rank)


def as_factors(states: Sequence[State], scales: Sequence[float] | float = 1.0) -> Factors:
    """The factors of state dicts, modules in the order of their names. Raises ValueError as `aggregate_states` does."""
    if not states:
        raise ValueError("expected the adapters of some clients, got none")
    each = [float(scales)] * len(states) if isinstance(scales, int | float) else [float(scale) for scale in scales]
    if len(each) != len(states) or not all(np.isfinite(each)):
        raise ValueError(f"expected {len(states)} finite scales, one for each adapter; got {each}")
    names, rows = module_names(states[0]), list[Factors]()
    for client, (state, scale) in enumerate(zip(states, each, strict=True)):
        modules = [one_module(state, name, scale, client) for name in names]
        rank = max(module.up.shape[1] for module in modules)
        foreign = state.keys() - {key for name in names for key in pair(name)}
        if foreign:
            raise ValueError(f"client {client}: foreign key {min(foreign)!r}, which client 0 does not have")
        rows.append(Factors(tuple(Factors((module,)).padded(rank).modules[0] for module in modules)))
        check_shapes(rows[0], rows[-1], names, client)
    return joined(rows)


def joined(rows: Sequence[Factors]) -> Factors:
    """All of them as one, at the greatest rank."""
    rank = max(row.rank for row in rows)
    padded = [row.padded(rank).modules for row in rows]
    return Factors(tuple(Module(*map(np.concatenate, zip(*alike, strict=True))) for alike in zip(*padded, strict=True)))


def module_names(state: State) -> list[str]:
    """What comes before lora_A and lora_B."""
    names = {key.rpartition("lora_")[0] for key in state if "lora_" in key}
    if not names:
        raise ValueError(f"expected keys such as 'q_proj.lora_A.weight'; got {sorted(state)[:3]}")
    return sorted(names)


def pair(name: str) -> tuple[str, str]:
    """The keys of B and A."""
    return f"{name}lora_B.weight", f"{name}lora_A.weight"


def ranks_of(state: State) -> tuple[int, ...]:
    """The rank of each module."""
    return tuple(int(state[pair(name)[1]].shape[0]) for name in module_names(state))


def one_module(state: State, name: str, scale: float, client: int) -> Module:
    """The factors of one client. Raises ValueError for what is missing, not finite, or does not fit together."""
    missing = [key for key in pair(name) if key not in state]
    if missing:
        raise ValueError(f"client {client}: missing key {missing[0]!r}")
    b, a = (as_matrix(state[key], key, client) for key in pair(name))
    if b.shape[1] != a.shape[0]:
        raise ValueError(f"client {client}: {pair(name)[0]} has rank {b.shape[1]}, but A has {a.shape[0]}")
    return Module((b.T * scale)[None], a[None])


def as_matrix(value: Any, key: str, client: int) -> npt.NDArray[np.float64]:
    """A finite matrix in float64."""
    plain = value.detach().cpu().double().numpy() if hasattr(value, "detach") else value
    matrix = np.asarray(plain, np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"client {client}: {key} must be a matrix; got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"client {client}: {key} holds NaN or infinity; leave this client out, and count it against f")
    return matrix


def check_shapes(first: Factors, other: Factors, names: Sequence[str], client: int) -> None:
    """Raise ValueError where a client's modules have another shape than those of client 0."""
    for name, (up, down), (their_up, their_down) in zip(names, first.modules, other.modules, strict=True):
        expected, got = (up.shape[2], down.shape[2]), (their_up.shape[2], their_down.shape[2])
        if expected != got:
            raise ValueError(f"client {client}: the product of {name} must have shape {expected}; got {got}")
