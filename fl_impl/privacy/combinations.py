"""Which aggregation, privacy, compression and secure aggregation go together, and what then holds."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from fl_impl.common.specs import lookup
from fl_impl.compression import Compression
from fl_impl.privacy.mechanisms import MECHANISMS

if TYPE_CHECKING:
    from fl_impl.privacy.mechanisms import Mechanism


def check_combination(
    *,
    rule: str,
    robust: bool,
    mechanism: str | None,
    compression: Compression,
    secure: bool,
    grouped: bool,
    weighted: bool = False,
) -> tuple[str, ...]:
    """What holds of a run with this rule, privacy mechanism, compression and secure aggregation, in sentences.

    `robust` is whether the rule defends against Byzantine clients, `grouped` whether it runs over secure sums of groups,
    `weighted` whether counts of samples weigh in a secure mean.
    Raises ValueError, with the reason, for what cannot be had together; warns of what is allowed and of no use.
    """
    kind = None if mechanism is None else lookup(mechanism, MECHANISMS, "a privacy mechanism")
    for refused in (
        _rule_without_updates(rule, robust=robust, secure=secure, grouped=grouped),
        _noise_on_a_rule(rule, mechanism, kind, robust=robust, grouped=grouped),
        _noise_in_words(mechanism, kind, secure=secure),
        _sum_of_messages(compression, secure=secure),
        _weighted_noise(private=kind is not None, grouped=grouped, weighted=weighted),
    ):
        if refused:
            raise ValueError(refused)
    sparse = compression.codec.sparse and compression.feedback != "ef21"
    if robust and sparse:
        warnings.warn(
            f"{rule} over sparse messages: most entries of each are 0, so a robust rule finds little (the "
            'median of those that keep 10 % keeps 4 % of the norm). Use "ef21|top_k", or "rand_k" with its shared mask',
            stacklevel=2,
        )
    return tuple(_notes(robust=robust, kind=kind, compression=compression, secure=secure, grouped=grouped, weighted=weighted))


def _rule_without_updates(rule: str, *, robust: bool, secure: bool, grouped: bool) -> str | None:
    if grouped and not secure:
        return "groups are for secure aggregation; without it use a pre-aggregator, e.g. bucketing(size=2)|krum"
    if secure and robust and not grouped:
        return (
            f"{rule} compares the updates of single clients, and secure aggregation hides them: the server has one sum, "
            "in which one Byzantine client can hide anything. Sum in groups and run the rule over these, at least 4 f "
            'groups, or use aggregation="fedavg" and trust the clients'
        )
    return None


def _noise_on_a_rule(
    rule: str, mechanism: str | None, kind: type[Mechanism] | None, *, robust: bool, grouped: bool
) -> str | None:
    if kind is not None and kind.accounted and robust and not grouped:
        return (
            f"the {mechanism} mechanism adds the noise that a sum of clipped updates needs; {rule} is no sum: one client "
            "may move its result by the whole clip bound, q n times what the noise covers. Use the local mechanism, "
            "secure sums of groups with their own noise, or the mean, which clipping alone keeps within 2 C f / (q n)"
        )
    return None


def _noise_in_words(mechanism: str | None, kind: type[Mechanism] | None, *, secure: bool) -> str | None:
    if secure and kind is not None and not kind.divisible:
        return (
            f"under secure aggregation clients add the noise in discrete shares, and the {mechanism} mechanism does not "
            'divide into such. Use "gaussian"'
        )
    return None


def _sum_of_messages(compression: Compression, *, secure: bool) -> str | None:
    summable = compression.codec.linear and compression.feedback != "ef21"
    if secure and not summable:
        return (
            f"secure aggregation adds the messages of clients, and those of {compression.codec.name} do not add: each has "
            'its own support or scale. Use "rand_k", whose mask all clients of a round share, or "none": the masked words '
            "are fixed-point numbers of 32 bits already"
        )
    return None


def _weighted_noise(*, private: bool, grouped: bool, weighted: bool) -> str | None:
    if weighted and private:
        return (
            "the noise covers an unweighted sum, in which each client counts once: give secure_most_samples or "
            "differential_privacy, not both"
        )
    if weighted and grouped:
        return "weights are of one secure mean; a robust rule over groups takes each group's mean as it is: give one of the two"
    return None


def _notes(
    *, robust: bool, kind: type[Mechanism] | None, compression: Compression, secure: bool, grouped: bool, weighted: bool
) -> list[str]:
    notes = list[str]()
    if kind is not None and kind.local:
        notes.append(
            "Each update is private when it leaves its client, which may take part in every round: the server need not be "
            "trusted. The noise is on every update, so a mean of n has sqrt(n) times what one noise on the sum would leave."
        )
    if kind is not None and kind.local and robust:
        notes.append(
            "Privacy holds whatever the rule does (post-processing). The rule's coefficient holds for the noisy updates: "
            "their honest variance is larger by d s^2 C^2, and so is the error that f clients can cause."
        )
    elif kind is not None and robust:
        notes.append(
            "Each group's sum carries the whole noise; a client is in one group, so privacy holds by parallel composition "
            "and post-processing. The rule's coefficient holds for the noisy group means."
        )
    if kind is not None and secure:
        notes.append(
            "The server sees who takes part: all clients do, and the budget is accounted without amplification by sampling. "
            "The noise is that of the fewest honest clients that may remain, after those that may side with the server, a "
            "tenth, took off their shares of it."
        )
    if secure:
        notes += _of_sums(private=kind is not None, grouped=grouped, weighted=weighted)
    if kind is not None and compression.codec.name != "none":
        notes.append("Updates are clipped after decoding, as compression may lengthen them.")
    return notes


def _of_sums(*, private: bool, grouped: bool, weighted: bool) -> list[str]:
    """What holds of a secure sum, or of those of groups."""
    notes = list[str]()
    if weighted:
        notes.append(
            "Clients weigh by their number of samples, which is masked too: the server learns the sum of the weights. A client "
            "that lies of its number counts for secure_most_samples at the greatest."
        )
    else:
        notes.append(
            "A secure mean is unweighted: each client counts once, whatever the number of its samples, which the server "
            "does not see."
        )
    if not private and not grouped:
        notes.append(
            "The grid of a secure sum follows the updates: by another secure sum the server learns how many clients have a "
            "greatest entry within which power of two."
        )
    if grouped:
        notes.append(
            "The server learns the sum of each group. In a group of two it reads one member's update if the other tells it "
            "its own, and fresh groups in every round narrow down everybody's typical update within few rounds: make groups "
            "as large as the rule allows."
        )
    notes.append(
        "What a client puts into a secure sum cannot be checked. Here attackers clip as honest clients do; a real one "
        "need not, and can move the sum it is in anywhere."
    )
    return notes
