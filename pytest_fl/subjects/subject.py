"""The subject of a test: somebody's aggregator, called one way, with what is claimed for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pytest_fl.subjects.memory import Memory

Updates = npt.NDArray[np.floating]
"""(n, d), float32 or float64."""
Container = Literal["numpy", "torch", "list"]


def majority(f: int) -> int:
    """n > 2f: no rule can stand more."""
    return 2 * f + 1


@dataclass(frozen=True, eq=False)
class Subject:
    """An aggregator under test.

    `call(updates, f)` hands an (n, d) numpy array to the foreign rule in the container that it takes, and gives back
    whatever the rule returned, untouched: the contract check looks at it, all other checks go through `guard.Rule`.
    """

    name: str
    call: Callable[[Updates, int], Any]
    container: Container = "numpy"
    min_clients: Callable[[int], int] = majority
    kappa: Callable[[int, int], float] | None = None
    """(n, f) -> coefficient; None where nobody claims one."""
    exact: bool = False
    """Whether kappa is claimed to be attained."""
    symmetries: frozenset[str] | None = None
    """Claimed symmetries; None where nobody claims any (then only what every robust rule has is tested)."""
    rule: str | None = None
    """The name in `theory.RULES` of the rule that this claims to be, convention included: "krum", "cwmed_low", ..."""
    definition: Callable[[npt.NDArray[np.float64], int], npt.NDArray[np.float64]] | None = None
    """((n, d), f) -> (k, d): all answers of the convention of its rule that it was seen to follow."""
    fixed_f: int | None = None
    """f of a configured instance that cannot be told another."""
    admits: Callable[[int, int], bool] | None = None
    """(n, f) that the subject takes, where that is not simply n >= min_clients(f): e.g. a fraction that fixes f."""
    call_with_counts: Callable[[Updates, int, list[int]], Any] | None = None
    """As `call`, with one claimed sample count a client, for subjects that carry counts."""
    tensor_call: Callable[[Any, int], Any] | None = None
    """(torch tensor that requires a gradient, f) -> tensor, for subjects through which gradients flow."""
    strict_dtype: bool = False
    """Whether the result must have the dtype of the input exactly; otherwise it must only not be narrower."""
    called: str = ""
    """How it is called, as the first line of a report says: "called as krum([OrderedDict]), f as num_byzantine"."""
    layered_call: Callable[[Updates, int], Any] | None = None
    """As `call`, each client's row as several layers of unequal shapes, for subjects that take models."""
    layers: str = ""
    """How it treats the layers of a model: "layer by layer", "all layers as one vector", "one layer only", ..."""
    most_d: int | None = None
    """The coordinates that it is made for, where it takes no more."""
    float32_only: bool = False
    """Whether it takes no float64: it is called in float32."""
    other_ways: Mapping[str, Callable[[Updates, int], Any]] = field(default_factory=lambda: dict[str, Any]())
    """Name -> as `call`, with the updates in another container or dtype; it may raise where the rule takes none."""
    other_memory: Mapping[str, Callable[[Updates, int], Any]] = field(default_factory=lambda: dict[str, Any]())
    """Name -> as `call`, with the same array held otherwise in memory."""
    renew: Callable[[], Callable[[Updates, int], Any]] | None = None
    """-> as `call`, of an object made anew that knows of no call before; None where none can be made, as of a function."""
    memory: Memory | None = None
    """What is claimed of it over rounds, where it is a rule with memory: `stateful=True`."""
    first: tuple[Updates, int, npt.NDArray[np.float64]] | None = None
    """(updates, f, its answer) of the first time that it was tried at all."""
    conventions: str = ""
    """What the adapter knows of it in a line: which Krum, which median, how f was found."""
    details: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())
    """Package, version, import path: what the gallery prints."""

    def takes(self, n: int, f: int) -> bool:
        """Whether (n, f) is admissible for this subject."""
        if self.fixed_f is not None and f != self.fixed_f:
            return False
        return n >= self.min_clients(f) and (self.admits is None or self.admits(n, f))
