"""Flower's differential privacy wrapper and mask generator as subjects."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from pytest_fl.adapters import flower_calls
from pytest_fl.parts import Mechanism, SecureAggregation, Updates


def server_side_clipping(wrapper: Any) -> Mechanism:
    """A `flwr.serverapp.strategy.DifferentialPrivacyServerSideFixedClipping`: what its aggregate_train makes of replies.

    Flower adds its noise to the mean of the replies, so this is the mean that is held to the claim; presence is not said
    to be hidden. Its noise comes from numpy's global generator, which is set for the call and put back.
    """
    inner = wrapper.strategy

    def release(updates: Updates, seed: int, counts: list[int]) -> Any:
        from flwr.app import ArrayRecord  # noqa: PLC0415  # flwr is optional

        wrapper.current_arrays = ArrayRecord(flower_calls.layers(np.zeros(updates.shape[1])))
        keys = {"weighted_by_key": inner.weighted_by_key, "arrayrecord_key": inner.arrayrecord_key}
        strategy = SimpleNamespace(aggregate_train=wrapper.aggregate_train, **keys)
        with _numpy_seed(seed):
            return flower_calls.serverapp(strategy, updates, counts)

    return Mechanism(
        type(wrapper).__name__,
        lambda updates, seed: release(updates, seed, [1] * len(updates)),
        wrapper.clipping_norm,
        noise_std=lambda _: wrapper.noise_multiplier * wrapper.clipping_norm / wrapper.num_sampled_clients,
        divisor=float,
        removes=False,
        release_with_counts=release,
    )


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
