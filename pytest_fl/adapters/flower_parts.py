"""Flower's differential privacy wrappers and mods, and its mask generator, as subjects."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from pytest_fl.adapters import flower_calls
from pytest_fl.subjects.parts import Mechanism, SecureAggregation, Updates


def clipping_wrapper(wrapper: Any) -> Mechanism:
    """A `DifferentialPrivacy...Clipping` of `flwr.serverapp.strategy`, server-side or client-side, fixed or adaptive.

    It is what its aggregate_train makes of replies, in its first round; those of the client-side ones go through Flower's
    mod first. Flower adds its noise to the mean of the replies, so this is the mean that is held to the claim; presence is
    not said to be hidden. Its noise comes from numpy's global generator, which is set for the call and put back.
    """
    inner, kind = wrapper.strategy, type(wrapper).__name__

    def release(updates: Updates, seed: int, counts: list[int]) -> Any:
        from flwr.app import ArrayRecord  # noqa: PLC0415  # flwr is optional

        first = copy.copy(wrapper)  # an adaptive one moves its bound
        first.current_arrays = ArrayRecord(flower_calls.layers(np.zeros(updates.shape[1])))
        keys = {"weighted_by_key": inner.weighted_by_key, "arrayrecord_key": inner.arrayrecord_key}
        strategy = SimpleNamespace(aggregate_train=first.aggregate_train, **keys)
        with _numpy_seed(seed):
            return flower_calls.serverapp(strategy, updates, counts, _clipping_client(kind, wrapper, updates.shape[1]))

    return Mechanism(
        kind,
        lambda updates, seed: release(updates, seed, [1] * len(updates)),
        wrapper.clipping_norm,
        noise_std=lambda _: wrapper.noise_multiplier * wrapper.clipping_norm / wrapper.num_sampled_clients,
        divisor=float,
        removes=False,
        release_with_counts=release,
    )


def local_mod(mod: Any) -> Mechanism:
    """A `LocalDpMod` of `flwr.clientapp.mod`: the mean of what it makes of the clients' updates, with the noise it states."""

    def sent(update: Any) -> Any:
        reply = _through(mod, np.zeros(len(update)), flower_calls.message(update))
        (arrays,) = reply.content.array_records.values()
        return flower_calls.joined(arrays.to_numpy_ndarrays())

    def release(updates: Updates, seed: int) -> Any:
        with flower_calls.quiet(), _numpy_seed(seed):
            return np.mean([sent(update) for update in updates], axis=0)

    stated = mod.sensitivity * math.sqrt(2 * math.log(1.25 / mod.delta)) / mod.epsilon
    return Mechanism(
        type(mod).__name__, release, mod.clipping_norm, noise_std=lambda m: stated / math.sqrt(m), divisor=float, removes=False
    )


def _clipping_client(kind: str, wrapper: Any, d: int) -> Callable[[Any], Any] | None:
    """What a client does to its reply: Flower's mod of that kind, or nothing where the server clips."""
    if "ClientSide" not in kind:
        return None
    from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod  # noqa: PLC0415  # flwr is optional

    mod = adaptiveclipping_mod if "Adaptive" in kind else fixedclipping_mod
    return lambda reply: _through(mod, np.zeros(d), reply, {"clipping_norm": float(wrapper.clipping_norm)})


def _through(mod: Any, model: Any, reply: Any, config: Mapping[str, float] | None = None) -> Any:
    """What a mod makes of a client's reply to a message with that model."""
    return mod(flower_calls.message(model, config=config), None, lambda *_: reply)


def mask_generator() -> SecureAggregation:
    """`pseudo_rand_gen` of Flower's SecAgg+: the masks alone, which its workflow draws below 2^32."""
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen  # noqa: PLC0415  # flwr is optional

    return SecureAggregation(
        "flwr pseudo_rand_gen", mask=lambda seed, d, modulus: pseudo_rand_gen(seed, modulus, [(d,)])[0], moduli=(8, 2**32)
    )


@contextmanager
def _numpy_seed(seed: int) -> Generator[None]:
    state = np.random.get_state()  # noqa: NPY002  # Flower draws from the global generator, and nothing else reaches it
    np.random.seed(seed % 2**32)  # noqa: NPY002  # see above
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002  # see above
