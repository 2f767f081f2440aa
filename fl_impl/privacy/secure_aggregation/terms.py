"""What a session of secure aggregation has agreed on, before anyone speaks."""

from __future__ import annotations

import math
import secrets
import struct
from dataclasses import dataclass, field
from typing import Final

from fl_impl.privacy.fixed_point import FixedPoint, ring_encoding
from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError
from fl_impl.privacy.secure_aggregation.graph import COMPLETE_UP_TO, largest_cut, most_complaints, plan

FORMAT: Final = struct.Struct("<4I2d16s")
MOST_CLIENTS: Final = 2**16


@dataclass(frozen=True)
class Terms:
    """The public terms of one session: the sum of `length` reals in [-bound, bound] from each of `clients` clients.

    Stands `dropouts` clients that leave at any stage or lie, and `corrupt` ones that tell the server all they know.
    """

    clients: int
    length: int
    bound: float
    dropouts: int
    corrupt: int
    noise_std: float = 0.0
    """Standard deviation of the discrete Gaussian noise that the fewest honest clients of a sum together add to it."""
    session: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    """Random: no message of one session is of use in another."""

    @classmethod
    def agreed(cls, *, clients: int, length: int, bound: float, noise_std: float = 0.0, corrupt: int | None = None) -> Terms:
        """Terms under which a quarter of the clients may leave and a tenth be corrupt, or as many as are given.

        Raises SecureAggregationError as `checked`.
        """
        taken = clients // 10 if corrupt is None else corrupt
        leaving = min(clients // 4, max(0, clients - 2 * taken - 1), max(0, (clients - taken - 1) // 2))
        return cls(clients, length, bound, leaving, taken, noise_std).checked()

    def checked(self) -> Terms:
        """These terms, if a client should take part under them; else SecureAggregationError.

        Two lists of `minimum` clients must share an honest one, 2 minimum - clients > corrupt, or two groups could be told
        different things; a sum must hold two honest clients; and a tenth of corrupt clients is the least to allow for.
        """
        if not 2 <= self.clients <= MOST_CLIENTS or self.length < 1 or not 0 < self.bound < math.inf:
            raise SecureAggregationError(f"expected 2 to {MOST_CLIENTS} clients, a length and a bound; got {self}")
        if self.corrupt < self.clients // 10 or not 0 <= self.noise_std < math.inf:
            raise SecureAggregationError(f"expected a tenth of corrupt clients to be allowed for; got {self}")
        if 2 * self.minimum - self.clients <= self.corrupt or self.minimum > self.clients:
            raise SecureAggregationError(
                f"more than half of the clients must remain, or two lists of {self.minimum} of {self.clients} clients could "
                f"have only the {self.corrupt} corrupt ones in common: 2 minimum - clients > corrupt. Allow fewer drop-outs"
            )
        if self.minimum - self.corrupt < 2:
            raise SecureAggregationError(
                f"a sum of {self.minimum} clients of which {self.corrupt} side with the server is the update of one: at "
                "least two honest clients must remain. Sum more clients"
            )
        try:
            plan(self.clients, self.dropouts, self.corrupt)
        except ValueError as error:
            raise SecureAggregationError(str(error)) from error
        return self

    @property
    def minimum(self) -> int:
        """Clients that must remain at every stage; the session aborts below."""
        return self.clients - self.dropouts

    @property
    def honest(self) -> int:
        """The fewest honest clients whose updates are in any sum that the server can read: what a client is promised."""
        few = self.clients <= COMPLETE_UP_TO  # then everyone is everyone's neighbour
        cut = 0 if few else largest_cut(self.clients, self.dropouts, self.corrupt, self.degree)
        return self.minimum - self.corrupt - cut

    @property
    def degree(self) -> int:
        """Holders of a client's shares, beside itself."""
        return plan(self.clients, self.dropouts, self.corrupt)[0]

    @property
    def threshold(self) -> int:
        """Shares, of those of the holders and the client's own, that open a secret."""
        return plan(self.clients, self.dropouts, self.corrupt)[1]

    @property
    def most_complaints(self) -> int:
        """Holders that may complain of a client's shares before all of them cannot be lying."""
        return most_complaints(self.clients, self.dropouts, self.corrupt, self.degree)

    @property
    def encoding(self) -> FixedPoint:
        """The grid on which the sum of all clients' reals, and noise, cannot overflow 32 bits."""
        return ring_encoding(self.bound, self.clients, noise_std=self.client_noise_std * math.sqrt(self.clients))

    @property
    def client_noise_std(self) -> float:
        """What each client adds, so that the noise of `honest` clients has standard deviation noise_std.

        The corrupt know their own shares of the noise and take them off.
        """
        return self.noise_std / math.sqrt(self.honest)

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


@dataclass(frozen=True)
class Least:
    """What a client insists on, whatever terms the server opens a session with."""

    noise_std: float = 0.0
    """Standard deviation of the noise on the sum, or more."""
    bound: float = math.inf
    """Bound of the encoding, or less: a greater one is a coarser grid, on which a small update is lost."""
    honest: int = 2
    """Honest clients in the sum, or more."""
    corrupt: int = 0
    """Clients that may side with the server, or more."""

    @classmethod
    def of(cls, terms: Terms) -> Least:
        """Exactly these terms."""
        return cls(terms.noise_std, terms.bound, terms.honest, terms.corrupt)

    def check(self, terms: Terms) -> None:
        """Raise SecureAggregationError where the terms give a client less."""
        short = [
            f"{name} of {offered:g}, where {wanted:g} is the {limit}"
            for name, offered, wanted, limit, worse in (
                ("noise", terms.noise_std, self.noise_std, "least", terms.noise_std < self.noise_std),
                ("a bound", terms.bound, self.bound, "greatest", terms.bound > self.bound),
                ("a sum", terms.honest, self.honest, "least", terms.honest < self.honest),
                ("a number of corrupt clients", terms.corrupt, self.corrupt, "least", terms.corrupt < self.corrupt),
            )
            if worse
        ]
        if short:
            raise SecureAggregationError(f"the server offers {'; '.join(short)} that this client insists on")
