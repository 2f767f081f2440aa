"""Compression of the updates of a client over the rounds: a codec, and what is remembered of earlier rounds.

`send` and `receive` are pure: the state goes in and out, (d,) float32, None before the first round. Where a message is
lost or refused, client and server both keep the state they had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np

from fl_impl.common.specs import import_attribute, nearest, parse, split
from fl_impl.compression.codecs import CODECS, Codec, Vector
from fl_impl.compression.wire import pack, size, unpack

if TYPE_CHECKING:
    import numpy.typing as npt

Feedback = Literal["memoryless", "error_feedback", "ef21"]

FEEDBACK: Final = ("error_feedback", "ef21")
ALIASES: Final = {"sparse": "ef21|top_k(fraction=0.1)", "quantize": "int8"}
"""The short names, and the compressions that they stand for."""


@dataclass(frozen=True)
class Compression:
    """A codec with its feedback, what `resolve("ef21|top_k(0.01)")` gives.

    - memoryless: C(x).
    - error_feedback: the client sends C(x + e) and keeps e = x + e - C(x + e). Seide et al. 2014; Karimireddy et al. 2019
      (arXiv 1901.09847).
    - ef21: both sides keep g; the client sends C(x - g), both add it, and the server's dense g is the update. Richtarik,
      Sokolov & Fatkhullin 2021 (arXiv 2106.05203); on those a robust rule may run: Byz-EF21, Rammal et al. 2024
      (arXiv 2310.09804).
    """

    codec: Codec
    feedback: Feedback = "memoryless"

    def send(self, update: Any, state: Vector | None, rng: np.random.Generator) -> tuple[bytes, Vector | None]:
        """The message for a (d,) update, and the client's next state.

        Raises ValueError where the update, as float32, is not finite.
        """
        x = finite_float32(update)
        if self.feedback == "memoryless":
            return self._pack(x, rng), state
        memory = np.zeros_like(x) if state is None else state
        target = x + memory if self.feedback == "error_feedback" else x - memory
        message = self._pack(target, rng)
        decoded = self.decode(message, x.size)
        return message, target - decoded if self.feedback == "error_feedback" else memory + decoded

    def receive(self, message: bytes, state: Vector | None, d: int) -> tuple[Vector, Vector | None]:
        """The (d,) update that the server takes from a message, and its next state for that client.

        Raises ValueError for bytes that are no such message, whoever sent them.
        """
        decoded = self.decode(message, d)
        if self.feedback != "ef21":
            return decoded, state
        with np.errstate(over="ignore"):
            following = finite_float32(decoded if state is None else state + decoded)
        return following, following

    def decode(self, message: bytes, d: int) -> Vector:
        """What the message alone stands for. Raises ValueError as `receive`."""
        arrays = unpack(message, self.codec.layout(d), codec=self.codec.name, d=d)
        with np.errstate(all="ignore"):  # what a liar makes of it is refused below
            return finite_float32(self.codec.decode(arrays, d))

    def message_bytes(self, d: int) -> int:
        """The exact length of every message for d coordinates, header and all."""
        return size(self.codec.layout(d), codec=self.codec.name, d=d)

    def _pack(self, x: Vector, rng: np.random.Generator) -> bytes:
        return pack(self.codec.encode(x, rng), codec=self.codec.name, d=x.size)


def resolve(spec: str | Compression) -> Compression:
    """The compression that a spec names: "none", "sparse", "quantize", "int4(bucket=256)", "ef21|top_k(0.01)".

    "package.module:attribute" is a codec of somebody else's.
    Raises ValueError for an unknown name, and for feedback around a codec that is no contraction.
    """
    if isinstance(spec, Compression):
        return spec
    *before, name = split(ALIASES.get(spec, spec), "|")
    if len(before) > 1 or any(word.strip() not in FEEDBACK for word in before):
        raise ValueError(f"expected at most one of {', '.join(FEEDBACK)} before a codec, got {spec!r}")
    codec = _codec(name)
    if not before:
        return Compression(codec)
    if codec.contraction(10**6) <= 0:
        raise ValueError(
            f"{before[0]} needs a codec that is a contraction, and {name.strip()} is not: its error may be longer than its "
            "input, and would grow from round to round. Use top_k, sign, power_sgd, int8 or rand_k(scaled=False)"
        )
    return Compression(codec, "ef21" if before[0].strip() == "ef21" else "error_feedback")


def _codec(spec: str) -> Codec:
    if ":" in spec:
        return cast("Codec", import_attribute(spec))
    parsed = parse(spec)
    if parsed.name not in CODECS:
        raise ValueError(f"expected a compression, got {parsed.name!r}{nearest(parsed.name, (*ALIASES, *CODECS))}")
    try:
        return CODECS[parsed.name](*parsed.arguments, **parsed.options)
    except TypeError as error:
        raise ValueError(f"the codec {parsed.name!r} does not take these options: {error}") from error


def finite_float32(values: npt.ArrayLike) -> Vector:
    """The (d,) values as float32. Raises ValueError where they are not one finite vector in that range."""
    with np.errstate(over="ignore"):
        x = np.asarray(values).astype(np.float32, copy=False)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"an update must be one vector of length d >= 1; got shape {x.shape}. Flatten it first")
    if not np.isfinite(x).all():
        raise ValueError("an update must be finite, and within the range of float32; got NaN or infinite entries")
    return x
