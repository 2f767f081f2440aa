"""The parts of fl_impl as subjects, and `as_part`, which takes either."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from pytest_fl.subjects.parts import (
    Accountant,
    Adapter,
    AdapterAggregation,
    Compressor,
    Mechanism,
    Part,
    SecureAggregation,
    Updates,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fl_impl.compression import Compression

EXPECTED = (
    f"expected a {', '.join(kind.__name__ for kind in get_args(Part))} of pytest_fl, or a mechanism or a compression of fl_impl"
)


def as_part(thing: object) -> Part:
    """The subject of a part: itself, or what there is an adapter for.

    That is a mechanism of fl_impl, a `Compression` or its spec such as "ef21|top_k(0.1)", and of Flower its
    `DifferentialPrivacy...Clipping` strategies and `LocalDpMod`. Raises ValueError for anything else.
    """
    from fl_impl.compression import Compression, resolve  # noqa: PLC0415  # fl_impl is loaded when a part is chosen

    if isinstance(thing, get_args(Part)):
        return cast("Part", thing)
    if isinstance(thing, str | Compression):
        return compressor(resolve(thing))
    if type(thing).__module__.startswith("flwr."):
        return flower_part(thing)
    if hasattr(thing, "release") and hasattr(thing, "clip_bound"):
        return mechanism(thing)
    raise ValueError(f"{EXPECTED}; got {thing!r}")


def flower_part(thing: object) -> Part:
    """One of Flower's, by the name of its class. Raises ValueError where there is no adapter."""
    from pytest_fl.adapters.flower_parts import clipping_wrapper, local_mod  # noqa: PLC0415  # flwr is optional

    name = type(thing).__name__
    if name.startswith("DifferentialPrivacy") and type(thing).__module__.startswith("flwr.serverapp."):
        return clipping_wrapper(thing)
    if name == "LocalDpMod":
        return local_mod(thing)
    raise ValueError(
        f"{EXPECTED}; of Flower a DifferentialPrivacy...Clipping of flwr.serverapp.strategy, or a LocalDpMod; "
        f"got {type(thing).__module__}.{name}"
    )


def mechanism(ours: Any, *, budget: Any = None) -> Mechanism:
    """A mechanism of `fl_impl.privacy`; with the `Budget` that it was calibrated for, its sampling and its price too."""
    from fl_impl.privacy import Randomness, seeded  # noqa: PLC0415  # see above

    def released(updates: Updates, seed: int) -> Any:
        return ours.release(updates, None, seeded(seed))[0]

    def run(rounds: list[Updates], seed: int) -> list[tuple[Any, float, float]]:
        randomness: Randomness = seeded(seed)
        state, results = ours.start(), list[tuple[Any, float, float]]()
        for updates in rounds:
            release, state = ours.release(updates, state, randomness)
            results.append((release.value, release.noise_std, release.clip_bound))
        return results

    def sample(clients: int, number: int, seed: int) -> Sequence[int]:
        return ours.sample(clients, number, budget, seeded(seed))

    def spent(rounds: int, delta: float) -> float:
        return ours.spent(rounds, replace(budget, delta=delta))

    return Mechanism(
        type(ours).__name__,
        lambda updates, seed: released(updates, seed).value,
        ours.clip_bound,
        noise_std=lambda m: released(np.zeros((m, 1)), 0).noise_std,
        divisor=float if ours.local else (lambda _: ours.expected_clients),
        removes=not ours.local,
        run=run,
        correlated=ours.correlated,
        sample=None if budget is None else sample,
        sampling=None if budget is None or ours.correlated else budget.sampling,
        spent=None if budget is None else spent,
    )


def accountant() -> Accountant:
    """`fl_impl.privacy.spent_epsilon` and `calibrate`."""
    from fl_impl.privacy import calibrate, spent_epsilon  # noqa: PLC0415  # see above

    return Accountant(
        "fl_impl accounting",
        lambda noise, delta, sampling, rounds: spent_epsilon(
            noise_multiplier=noise, delta=delta, sampling=sampling, rounds=rounds
        ),
        lambda epsilon, delta, sampling, rounds: calibrate(epsilon=epsilon, delta=delta, sampling=sampling, rounds=rounds),
        precision=2e-3,
    )


def compressor(ours: Compression) -> Compressor:
    """A compression of `fl_impl.compression` with the claims of its codec."""
    codec = ours.codec
    return Compressor(
        codec.name if ours.feedback == "memoryless" else f"{ours.feedback}|{codec.name}",
        lambda update, state, seed: ours.send(update, state, np.random.default_rng(seed)),
        ours.receive,
        contraction=codec.contraction if codec.contraction(100) else None,
        variance=None if codec.variance(100) is None else cast("Any", codec.variance),
        message_bytes=ours.message_bytes,
        remembers=ours.feedback != "memoryless",
        conserves=ours.feedback == "error_feedback",
    )


def secure_aggregation() -> SecureAggregation:
    """`fl_impl.privacy.secure_aggregation`."""
    from pytest_fl.adapters.secure_protocol import protocol  # noqa: PLC0415  # cryptography is an extra

    return protocol()


def adapters(aggregation: str, *, rank: int = 3) -> AdapterAggregation:
    """A mode of `fl_impl.lora`, a rule on products, or both: "fedex", "krum", "flora|nnm|geometric_median"."""
    from fl_impl.lora.modes import parse  # noqa: PLC0415  # see above

    mode, rule = parse(aggregation)
    robust = rule.name != "mean"
    return AdapterAggregation(
        f"fl_impl {mode.name}|{rule.spec}" if robust else f"fl_impl {mode.name}",
        lambda states, scales, f: _change(states, scales, f, aggregation, rank),
        reference=(lambda products, f: rule(products, f=f)) if robust else None,
        kappa=rule.kappa if robust and mode.exact else None,
        min_clients=rule.min_clients,
        rank=rank if mode.claim == "truncated" else None,
        unanimous="unanimity" in rule.symmetries,
        biased="it averages A and B apart" if mode.claim == "biased" else "",
        shared_a=mode.trains(1) == "B",
        mixed_ranks=mode.mixed_ranks,
    )


def _change(states: list[Adapter], scales: list[float], f: int, aggregation: str, rank: int) -> dict[str, Any]:
    """What `aggregate_states` adds to the weights."""
    from fl_impl.lora.states import aggregate_states  # noqa: PLC0415  # see above

    sent = [
        {f"{name}.lora_{letter}.weight": value for name, pair in one.items() for letter, value in zip("BA", pair, strict=True)}
        for one in states
    ]
    merged = aggregate_states(sent, aggregation, f=f, scales=scales, rank=rank)
    parts = [merged.adapter, *([merged.residual] if merged.residual else [])]
    return {name: sum(part.products()[at][0] for part in parts) for at, name in enumerate(sorted(states[0]))}
