"""Secure sums of groups, then a robust rule over the groups: robustness where no single update may be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness
from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError
from fl_impl.privacy.secure_aggregation.options import clipped
from fl_impl.privacy.secure_aggregation.session import Network, honest_network, secure_sum
from fl_impl.privacy.secure_aggregation.terms import Terms

Rule = Callable[..., Any]
"""rule(updates (g, d), f=f) -> (d,): an `Aggregator`, or any function of that form."""
GROUPS_FOR_EACH_BYZANTINE = 4


@dataclass(frozen=True, eq=False)
class GroupedAggregate:
    """The (d,) aggregate, and what became of each group."""

    value: npt.NDArray[np.float64]
    groups: tuple[tuple[int, ...], ...]
    """The clients of each group."""
    lost: tuple[int, ...]
    """Numbers of the groups whose session aborted."""
    bytes_up: int
    """Of all messages that clients sent."""


def grouped_secure_aggregate(
    updates: npt.NDArray[Any],
    *,
    f: int,
    rule: Rule,
    group_size: int,
    bound: float,
    rng: np.random.Generator,
    noise_std: float = 0.0,
    randomness: Randomness = OPERATING_SYSTEM,
    network: Network = honest_network,
    partners: int = 0,
) -> GroupedAggregate:
    """rule over the means of random groups of (n, d) updates with entries in [-bound, bound], each mean by a secure sum.

    A Byzantine client spoils its own group only, so at most f of the g rows are Byzantine, and the honest group means
    spread about the mean 1 / group_size times as far (in square): bucketing, with the bucket's sum hidden. SHARE,
    Velicheti, Xia & Koyejo 2021 (arXiv 2110.02940). A group below its minimum of clients is lost.
    With noise_std = z C each group's sum, not the whole, carries that noise: privacy holds by parallel composition, and
    each update is clipped so that it is within `bound` in length after it was rounded.
    `partners`: how many clients may side with a curious server; all of them may be in one group, whose sum must then be of two
    others or more. A group of two protects nobody from the other one. Raises ValueError where fewer than 4 f groups would
    be made, or remain, or groups are too small for the partners.
    """
    groups = deal(len(updates), f=f, group_size=group_size, rng=rng, partners=partners)
    means, lost, size = list[npt.NDArray[np.float64]](), list[int](), 0
    for number, members in enumerate(groups):
        corrupt = max(partners, len(members) // 10)
        length = updates.shape[1]
        terms = Terms.agreed(clients=len(members), length=length, bound=bound, noise_std=noise_std, corrupt=corrupt)
        try:
            summed = secure_sum(
                {i: clipped(updates[i], terms) if noise_std else updates[i] for i in members},
                terms,
                network=network,
                randomness=randomness,
            )
        except SecureAggregationError:
            lost.append(number)
            continue
        means.append(summed.total / len(summed.survivors))
        size += summed.bytes_up
    check_groups(len(means), f, f"{len(groups)} groups of which {len(lost)} were lost")
    return GroupedAggregate(np.asarray(rule(np.stack(means), f=f)), groups, tuple(lost), size)


def deal(n: int, *, f: int, group_size: int, rng: np.random.Generator, partners: int = 0) -> tuple[tuple[int, ...], ...]:
    """n clients at random in floor(n / group_size) groups whose sizes differ by at most one.

    Raises ValueError for groups of one, where a sum hides nothing, for groups that `partners` of a curious server leave with
    fewer than two others, and for fewer than 4 f groups.
    """
    if partners and group_size < 2 * partners + 1:
        raise ValueError(
            f"in a group of {group_size}, {partners} that side with a curious server read too much of the others: take "
            f"groups of {2 * partners + 1} or more, or trust all clients not to tell the server what they know"
        )
    if not 2 <= group_size <= n:
        raise ValueError(f"a group of one has no sum to hide in: take 2 to n={n} clients; got {group_size}")
    count = n // group_size
    check_groups(count, f, f"n={n} clients in groups of {group_size}")
    return tuple(tuple(sorted(group.tolist())) for group in np.array_split(rng.permutation(n), count))


def check_groups(count: int, f: int, how: str) -> None:
    """Raise ValueError unless there are at least 4 f groups, and one."""
    needed = max(1, GROUPS_FOR_EACH_BYZANTINE * f)
    if count < needed:
        raise ValueError(
            f"{how} make {count} groups, and f={f} Byzantine clients can spoil {f} of them: at least 4 f = {needed} are "
            "needed for a robust rule over groups. Make the groups smaller, add clients, or lower f"
        )


def group_sizes(n: int, f: int) -> Sequence[int]:
    """The group sizes that n clients and f Byzantine ones admit: from 2 to floor(n / 4 f)."""
    return range(2, n // max(1, GROUPS_FOR_EACH_BYZANTINE * f) + 1)
