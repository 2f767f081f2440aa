"""The text of Hamlet: who says what, and windows of its characters as a data set for small language models."""

from __future__ import annotations

import lzma
import re
from collections import defaultdict
from importlib import resources
from typing import Final

import numpy as np

from fl_impl.data.labelled import Dataset
from fl_impl.data.sources import dataset

SPEECH: Final = re.compile(r"^\n([A-Z0-9][^\n]{0,28}\.)\n(\S.*?)(?=^\n[A-Z0-9][^\n]{0,28}\.\n\S|\Z)", re.MULTILINE | re.DOTALL)
"""After an empty line the speaker's short name on a line of its own, then the speech, until the next one."""
DIRECTION: Final = re.compile(r"\[[^\]]*\]")
NAMES: Final = {
    "Ham.": "Hamlet", "Hor.": "Horatio", "King.": "Claudius", "Pol.": "Polonius", "Queen.": "Gertrude",
    "Laer.": "Laertes", "Oph.": "Ophelia", "Ros.": "Rosencrantz", "Guil.": "Guildenstern", "Mar.": "Marcellus",
    "Ber.": "Bernardo", "Osr.": "Osric", "Ghost.": "Ghost", "1 Clown.": "First Clown", "P. King.": "Player King",
    "P. Queen.": "Player Queen", "I Play.": "First Player", "Capt.": "Captain", "Fort.": "Fortinbras", "Rey.": "Reynaldo",
}  # fmt: skip
ALPHABET: Final = " abcdefghijklmnopqrstuvwxyz.,;:!?'-"
"""The 35 characters of the data set; upper case is read as lower, white space as a space, all else is left out."""


def hamlet() -> dict[str, str]:
    """What each person of Hamlet says, without stage directions; who says most comes first."""
    packed = resources.files("fl_impl.data").joinpath("hamlet.txt.xz").read_bytes()
    play = lzma.decompress(packed).decode("ascii")
    spoken: dict[str, list[str]] = defaultdict(list)
    speeches: list[tuple[str, str]] = SPEECH.findall(play[play.index("ACT I.") :])
    for heading, speech in speeches:
        spoken[NAMES.get(heading, heading.removesuffix("."))].append(DIRECTION.sub("", speech).strip())
    texts = {name: "\n\n".join(said) for name, said in spoken.items()}
    return dict(sorted(texts.items(), key=lambda item: (-len(item[1]), item[0])))


@dataset
def characters(*, context: int = 8, speakers: int = 20, stride: int = 4) -> Dataset:
    """The character that follows `context` characters, in the words of the 20 with most to say in Hamlet, by speaker.

    x: (m, context) positions in ALPHABET, y: that of the next one; a window begins at each `stride`-th character.
    """
    known = {character: number for number, character in enumerate(ALPHABET)}
    x, y, groups = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for speaker, text in enumerate(list(hamlet().values())[:speakers]):
        plain = re.sub(r"\s+", " ", text.lower())
        numbers = np.array([known[character] for character in plain if character in known], np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(numbers, context + 1)[::stride]
        x.append(windows[:, :-1])
        y.append(windows[:, -1])
        groups.append(np.full(len(windows), speaker, np.int64))
    inputs = np.concatenate(x).astype(np.float32)
    return Dataset(inputs, np.concatenate(y), len(ALPHABET), groups=np.concatenate(groups), name="characters")
