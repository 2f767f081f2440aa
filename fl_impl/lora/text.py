"""Clients that hold text: the speakers of Hamlet, or whoever the user's own texts are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fl_impl.data.play import hamlet

SHORTEST: Final = 1000
"""Characters: a speaker of fewer has no held-out text to speak of."""


@dataclass(frozen=True)
class TextClient:
    """A client with text of its own; `held_out` is the end of it, on which nobody trains."""

    name: str
    text: str
    held_out: str

    @property
    def num_samples(self) -> int:
        """The number of characters that it trains on."""
        return len(self.text)


def make_text_clients(
    num_clients: int | None = None, *, texts: Mapping[str, str] | None = None, held_out: float = 0.2
) -> list[TextClient]:
    """Clients that hold texts by name: the `num_clients` speakers of Hamlet with most to say, or all of your own.

    held_out: the share at the end of each text that is kept for evaluation. Raises ValueError for a text of fewer than
    1000 characters, more clients than there are texts, and a share that is none.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is the share of each text to evaluate on, between 0 and 1; got {held_out}")
    known = dict(texts) if texts is not None else {name: text for name, text in hamlet().items() if len(text) >= SHORTEST}
    short = [name for name, text in known.items() if len(text) < SHORTEST]
    if short:
        raise ValueError(f"the text of {short[0]!r} has {len(known[short[0]])} characters; {SHORTEST} are needed")
    count = len(known) if num_clients is None else num_clients
    if not 1 <= count <= len(known):
        raise ValueError(f"num_clients must be from 1 to {len(known)}, one for each text; got {num_clients}")
    return [parted(name, text, held_out) for name, text in list(known.items())[:count]]


def parted(name: str, text: str, held_out: float) -> TextClient:
    """A client that trains on the beginning of its text."""
    end = round(len(text) * (1 - held_out))
    return TextClient(name, text[:end], text[end:])
