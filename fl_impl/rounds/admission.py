"""Which updates of a round are sound: one matrix of those, and a reason for each of the others, from stage to stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from fl_impl.clients import ClientUpdate

Matrix = npt.NDArray[np.float32]
Reasons = dict[int, str]
NON_FINITE = "non-finite numbers"


@dataclass(frozen=True, eq=False)
class Admitted:
    """The sound updates of a round: row i is of client ids[i]. Each stage takes one of these and gives one."""

    ids: tuple[int, ...]
    deltas: Matrix
    counts: npt.NDArray[np.float64]
    """Claimed numbers of samples."""
    losses: tuple[float, ...]
    rejected: Mapping[int, str] = field(default_factory=Reasons)
    """Why an answer is not used, or not all of it, by client."""

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """The counts, for a rule that weighs by them. Raises ValueError where all are 0: then there is no weighted mean."""
        if self.ids and not self.counts.any():
            raise ValueError(
                f"all {len(self.ids)} clients say num_samples=0, so a mean weighted by num_samples is not defined: send how "
                "many samples an update was trained on, or take a rule that does not weigh by that, as median"
            )
        return self.counts

    def parted(self, byzantine: frozenset[int]) -> tuple[Admitted, Admitted]:
        """Those of the honest clients, and those of the Byzantine ones."""
        theirs = np.array([client in byzantine for client in self.ids], bool)
        honest = self if not theirs.any() else self.at(np.flatnonzero(~theirs))
        mine, others = dict[int, str](), dict[int, str]()
        for client, reason in self.rejected.items():
            (others if client in byzantine else mine)[client] = reason
        return replace(honest, rejected=mine), replace(self.at(np.flatnonzero(theirs)), rejected=others)

    def at(self, rows: npt.NDArray[np.intp]) -> Admitted:
        """Some of the rows."""
        ids, losses = tuple(self.ids[row] for row in rows), tuple(self.losses[row] for row in rows)
        return Admitted(ids, self.deltas[rows], self.counts[rows], losses, self.rejected)

    def without(self, reasons: Mapping[int, str]) -> Admitted:
        """These updates but for the clients that have a reason, which is kept."""
        rows = np.flatnonzero([client not in reasons for client in self.ids])
        return (self if len(rows) == len(self.ids) else self.at(rows)).noting(reasons)

    def noting(self, reasons: Mapping[int, str]) -> Admitted:
        """The same updates, with more reasons."""
        return replace(self, rejected={**self.rejected, **reasons}) if reasons else self


def admit(messages: Mapping[int, Any], d: int, round_number: int) -> Admitted:
    """The sound updates among the messages as one matrix, and why the others are not used."""
    rows, kept, rejected = list[Matrix](), dict[int, "ClientUpdate"](), Reasons()
    for asked, message in messages.items():
        reason = message_fault(asked, message, round_number, kept)
        row = None if reason else as_row(message.delta)
        reason = reason or delta_fault(row, d)
        if reason or row is None:
            rejected[asked] = reason
        else:
            kept[asked] = message
            rows.append(row)
    deltas = np.stack(rows) if rows else np.zeros((0, d), np.float32)
    counts = np.array([message.num_samples for message in kept.values()], np.float64)
    return Admitted(tuple(kept), deltas, counts, tuple(float(message.loss) for message in kept.values()), rejected)


def without_non_finite(admitted: Admitted) -> Admitted:
    """The rows that are finite, for updates that are sound but for that."""
    if np.isfinite(admitted.deltas).all():
        return admitted
    wrong = np.flatnonzero(~np.isfinite(admitted.deltas).all(axis=1))
    return admitted.without({admitted.ids[row]: NON_FINITE for row in wrong})


def message_fault(asked: int, message: Any, round_number: int, kept: Mapping[int, Any]) -> str:
    """What is wrong with a message, its delta apart; "" where nothing is."""
    if message is None:
        return "sent nothing"
    lacking = [name for name in ("delta", "num_samples", "loss") if not hasattr(message, name)]
    if lacking:
        return f"expected a ClientUpdate, got {type(message).__name__} without {lacking[0]}"
    about, sender = getattr(message, "round", None), getattr(message, "client", None)
    if about is not None and about != round_number:
        return f"late: its update is of round {about}" if 0 < about < round_number else f"unknown round {about}"
    if sender is not None and sender != asked:
        return f"duplicate: it answers as client {sender}" if sender in kept else f"unknown sender: it answers as {sender}"
    for name, low in (("num_samples", 0.0), ("loss", -math.inf)):
        value = getattr(message, name)
        if not isinstance(value, int | float | np.number) or not low <= value < math.inf:
            return f"expected a finite {name}, got {value!r}"
    return ""


def as_row(delta: Any) -> Matrix | None:
    """The delta as float32, or None for what is no array of numbers."""
    try:
        row = delta.detach().cpu().numpy() if hasattr(delta, "detach") else delta
        with np.errstate(over="ignore"):
            return np.asarray(row, np.float32)
    except (TypeError, ValueError):
        return None


def delta_fault(row: Matrix | None, d: int) -> str:
    """What is wrong with a delta; "" where nothing is."""
    if row is None:
        return "its delta is no array of numbers"
    if row.shape != (d,):
        return f"wrong shape: expected ({d},), got {row.shape}"
    return "" if np.isfinite(row).all() else NON_FINITE


def stacked(first: Admitted, second: Admitted) -> Admitted:
    """Both, the second after the first."""
    return Admitted(
        first.ids + second.ids,
        np.concatenate([first.deltas, second.deltas]),
        np.concatenate([first.counts, second.counts]),
        first.losses + second.losses,
        {**first.rejected, **second.rejected},
    )


def joined(parts: Iterable[Admitted]) -> Admitted:
    """All of them, in the order of the clients."""
    whole, *others = parts
    for part in others:
        if not part.ids or not whole.ids:
            whole = (whole if whole.ids else part).noting({**whole.rejected, **part.rejected})
        else:
            both = stacked(whole, part)
            whole = both.at(np.argsort(both.ids, kind="stable"))
    return whole


def replaced(trained: Admitted, byzantine: frozenset[int], sent: Admitted) -> Admitted:
    """What was trained, with the rows of the Byzantine clients overwritten by what they sent, or left out if they did not."""
    place = {client: row for row, client in enumerate(trained.ids)}
    rows = [place[client] for client in sent.ids]
    trained.deltas[rows], trained.counts[rows] = sent.deltas, sent.counts
    silent = byzantine.difference(sent.ids)
    kept = [row for row, client in enumerate(trained.ids) if client not in silent]
    whole = trained if len(kept) == len(trained.ids) else trained.at(np.array(kept, np.intp))
    return whole.noting(sent.rejected)
