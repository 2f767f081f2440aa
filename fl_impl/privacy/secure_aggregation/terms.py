"""What a session of secure aggregation has agreed on, before anyone speaks."""

from __future__ import annotations

import math
import secrets
import struct
from dataclasses import dataclass, field
from typing import Final

from fl_impl.privacy.fixed_point import FixedPoint, ring_encoding
from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError
from fl_impl.privacy.secure_aggregation.graph import plan

FORMAT: Final = struct.Struct("<4I2d16s")
MOST_CLIENTS: Final = 2**16


@dataclass(frozen=True)
class Terms:
    """The public terms of one session: the sum of `length` reals in [-bound, bound] from each of `clients` clients.

    Stands `dropouts` clients leaving at any stage, and `corrupt` ones that tell the server all they know.
    """

    clients: int
    length: int
    bound: float
    dropouts: int
    corrupt: int
    noise_std: float = 0.0
    """Standard deviation of the discrete Gaussian noise that any `minimum` clients together add to the sum."""
    session: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    """Random: no message of one session is of use in another."""

    @classmethod
    def agreed(cls, *, clients: int, length: int, bound: float, noise_std: float = 0.0) -> Terms:
        """Terms under which a quarter of the clients may leave and a tenth be corrupt. Raises ValueError as `checked`."""
        return cls(clients, length, bound, clients // 4, clients // 10, noise_std).checked()

    def checked(self) -> Terms:
        """These terms, if a client should take part under them; else SecureAggregationError.

        More than half of the clients must remain, or two halves could be told different things; and the terms must
        stand at least a tenth of corrupt clients.
        """
        if not 2 <= self.clients <= MOST_CLIENTS or self.length < 1 or not 0 < self.bound < math.inf:
            raise SecureAggregationError(f"expected 2 to {MOST_CLIENTS} clients, a length and a bound; got {self}")
        if self.clients >= 2 * self.minimum or self.minimum > self.clients:
            raise SecureAggregationError(
                f"more than half of the clients must remain; of {self.clients} with {self.dropouts} drop-outs "
                f"{self.minimum} do. Allow fewer drop-outs"
            )
        if self.corrupt < self.clients // 10 or not 0 <= self.noise_std < math.inf:
            raise SecureAggregationError(f"expected a tenth of corrupt clients to be allowed for; got {self}")
        return self

    @property
    def minimum(self) -> int:
        """Clients that must remain at every stage; the session aborts below."""
        return self.clients - self.dropouts

    @property
    def degree(self) -> int:
        """Neighbours of a client."""
        return plan(self.clients, self.dropouts, self.corrupt)[0]

    @property
    def threshold(self) -> int:
        """Shares, of those of the neighbours and the client's own, that open a secret."""
        return plan(self.clients, self.dropouts, self.corrupt)[1]

    @property
    def encoding(self) -> FixedPoint:
        """The grid on which the sum of all clients' reals, and noise, cannot overflow 32 bits."""
        return ring_encoding(self.bound, self.clients, noise_std=self.client_noise_std * math.sqrt(self.clients))

    @property
    def client_noise_std(self) -> float:
        """What each client adds, so that the noise of `minimum` clients has standard deviation noise_std."""
        return self.noise_std / math.sqrt(self.minimum)

    def to_bytes(self) -> bytes:
        """All fields, in a fixed format."""
        return FORMAT.pack(self.clients, self.length, self.dropouts, self.corrupt, self.bound, self.noise_std, self.session)

    @classmethod
    def from_bytes(cls, data: bytes) -> Terms:
        """The terms that `to_bytes` wrote, `checked`."""
        if len(data) != FORMAT.size:
            raise SecureAggregationError(f"expected terms of {FORMAT.size} bytes, got {len(data)}")
        clients, length, dropouts, corrupt, bound, noise_std, session = FORMAT.unpack(data)
        return cls(clients, length, bound, dropouts, corrupt, noise_std, session).checked()
