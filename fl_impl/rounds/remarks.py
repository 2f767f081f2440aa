"""What a federation has to say of itself when it ends: an attack that did nothing, a model that learnt nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from fl_impl.data import Dataset
    from fl_impl.metrics import RoundResult
    from fl_impl.rounds.attackers import Attackers

LEAST: Final = 0.1
"""Of the way from guessing to perfection: a model that has come less far has learnt nothing."""


def guessing(test: Dataset) -> float:
    """The accuracy of always naming the most frequent class of these data; NaN where there are no classes."""
    return float(np.bincount(test.y).max() / len(test)) if test.classes and len(test) else math.nan


def learnt_nothing(accuracy: float, test: Dataset | None) -> str:
    """Why this accuracy is none, or empty: NaN, or less than a tenth of the way from guessing to 1."""
    guess = guessing(test) if test is not None else math.nan
    if math.isnan(guess) or accuracy >= guess + LEAST * (1 - guess):
        return ""
    return (
        f"the model has learnt nothing: its accuracy is {accuracy:.1%}, and naming the most frequent class always gives "
        f"{guess:.1%}. Train longer or faster (num_rounds, local_epochs, learning_rate), or take a named task"
    )


def remarks(rounds: list[RoundResult], attackers: Attackers, test: Dataset | None) -> tuple[str, ...]:
    """What is to be said of a run that is over; empty where all is as one would think."""
    struck = any(result.byzantine for result in rounds)
    found = "" if struck or not rounds else learnt_nothing(rounds[-1].accuracy, test)
    return tuple(remark for remark in (without_effect(attackers, struck=struck), found) if remark)


def without_effect(attackers: Attackers, *, struck: bool) -> str:
    """Why an attack that was asked for did nothing; empty where there is none, or it did."""
    if attackers.attack is None:
        return ""
    if not struck:
        return (
            f"the attack {attackers.spec} had no attacker in any round: attack_fraction, or else byzantine_fraction, times the "
            f"number of clients must be 1 at least, and rounds {attackers.start} to "
            f"{attackers.stop or 'the last'} must be among those that were run"
        )
    if attackers.strikes and attackers.idle == attackers.strikes:
        return (
            f"the attack {attackers.spec} sent the mean of the honest updates in every round, which harms nobody: at this "
            "number of clients and attackers its formula is 0 (a_little_is_enough has z = 0 at 2 of 10); give it a strength"
        )
    return ""
