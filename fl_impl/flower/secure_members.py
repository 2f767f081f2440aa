"""What server and nodes of a secure sum know beforehand: keys, what a node insists on, and which sessions it was in.

A node reads all of it from a folder of its own, never from a message or from the run config, which are the server's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fl_impl.common.files import write_atomically
from fl_impl.privacy.secure_aggregation import Least, SecureAggregationError
from fl_impl.privacy.secure_aggregation.client import STAGES

IDENTITY: Final = "identity.key"
"""The secret Ed25519 key of the owner of the folder, in hexadecimal digits."""
FEDERATION: Final = "federation.json"
"""{"server": public key, "clients": [public key of client 0, of client 1, ...]}: the same for all."""
LEAST: Final = "least.json"
"""What a node insists on: fields of `Least`, by name."""
SESSIONS: Final = "sessions"
"""A folder for each session of a node, with one file, named after what it is to do next."""


@dataclass(frozen=True, eq=False)
class Member:
    """The owner of a folder: its identity, and the public keys of server and clients."""

    folder: Path
    identity: Ed25519PrivateKey
    server: Ed25519PublicKey
    clients: Mapping[int, Ed25519PublicKey]
    least: Least

    @property
    def number(self) -> int:
        """Which client this is. Raises ValueError where it is none of them."""
        own = self.identity.public_key()
        for number, key in self.clients.items():
            if key == own:
                return number
        raise ValueError(f"the key in {self.folder / IDENTITY} is not that of a client in {FEDERATION}: exchange keys anew")

    def begin(self, session: bytes) -> None:
        """Enter a session into the folder. Raises SecureAggregationError where this node was in it before."""
        place = self._place(session)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            place.mkdir(mode=0o700)
        except FileExistsError:
            raise SecureAggregationError("this client has taken part in this session before: the server replays it") from None
        (place / STAGES[1]).touch()

    def turn(self, session: bytes, stage: str) -> None:
        """Go on to the next stage, of two processes that try at the same time only one: each stage is answered once.

        Raises SecureAggregationError where the session is at another stage.
        """
        place, following = self._place(session), STAGES[STAGES.index(stage) + 1]
        try:
            (place / stage).rename(place / following)
        except FileNotFoundError:
            raise SecureAggregationError(
                f"this client is not to {stage} now: it has done so, or is to do other things"
            ) from None

    def _place(self, session: bytes) -> Path:
        return self.folder / SESSIONS / session.hex()


def read_member(folder: str | Path) -> Member:
    """The member whose folder this is. Raises ValueError for a folder that lacks a file, or has one that cannot be read."""
    place = Path(folder)
    keys, least = _json(place / FEDERATION), _json(place / LEAST) if (place / LEAST).exists() else {}
    unknown = set(least) - {each.name for each in fields(Least)}
    if set(keys) != {"server", "clients"} or unknown:
        raise ValueError(
            f"{place}: expected server and clients in {FEDERATION}, fields of Least in {LEAST}; got {unknown or keys}"
        )
    clients = {number: _public(key, place) for number, key in enumerate(keys["clients"])}
    identity = Ed25519PrivateKey.from_private_bytes(_key(_text(place / IDENTITY), place / IDENTITY))
    return Member(place, identity, _public(keys["server"], place), clients, Least(**least))


def make_identity(folder: str | Path) -> str:
    """Make the secret key of a server or node, readable by its owner alone; the public one in hexadecimal digits.

    Raises FileExistsError where there is one already.
    """
    place = Path(folder)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    if (place / IDENTITY).exists():
        raise FileExistsError(f"{place / IDENTITY} exists, and without it its owner is nobody: take another folder")
    write_atomically(place / IDENTITY, key.private_bytes_raw().hex().encode(), private=True)
    return key.public_key().public_bytes_raw().hex()


def write_federation(folder: str | Path, server: str, clients: Sequence[str], least: Least | None = None) -> None:
    """Write down the public keys of server and clients, in their order, and what the owner of the folder insists on."""
    place = Path(folder)
    write_atomically(place / FEDERATION, json.dumps({"server": server, "clients": list(clients)}).encode())
    given = {name: value for name, value in asdict(least or Least()).items() if value != getattr(Least(), name)}
    write_atomically(place / LEAST, json.dumps(given).encode())


def make_federation(folder: str | Path, clients: int, least: Least | None = None) -> None:
    """Folders `server`, `client-0`, `client-1`, ... with all that each must know: for a federation on machines of one owner.

    Where nodes have other owners, each calls `make_identity` itself, and `write_federation` with everybody's public keys.
    """
    place = Path(folder)
    server = make_identity(place / "server")
    names = [f"client-{number}" for number in range(clients)]
    keys = [make_identity(place / name) for name in names]
    for name in ("server", *names):
        write_federation(place / name, server, keys, least)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise ValueError(f"{path} holds no JSON object: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object but {type(found).__name__}")  # noqa: TRY004  # a wrong file
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"cannot read a file that make_federation and make_identity write ({error.strerror}): {path}"
        ) from error


def _public(text: Any, where: Path) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(_key(text, where / FEDERATION))


def _key(text: Any, where: Path) -> bytes:
    try:
        key = bytes.fromhex(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds a key that is not in hexadecimal digits: {error}") from error
    if len(key) != 32:
        raise ValueError(f"{where} holds a key of {len(key)} bytes, and keys have 32")
    return key


__all__ = ["Member", "make_federation", "make_identity", "read_member", "write_federation"]
