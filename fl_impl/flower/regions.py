"""Two levels of robust aggregation: a rule inside each region, and a rule across what the regions say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fl_impl.aggregators import resolve

if TYPE_CHECKING:
    from fl_impl.aggregators import Aggregator


@dataclass(frozen=True)
class Regions:
    """F(x) = outer(inner(x_1), ..., inner(x_R)) over R regions of m = n/R clients, region r the rows r m to (r + 1) m - 1.

    Called as a rule, `Regions("nnm|trimmed_mean", "trimmed_mean", regions=10, inner_f=2, outer_f=2)(updates, f)`. Each
    region may hold inner_f Byzantine clients; regions with more are captured, and outer_f of them may be. So every
    placement of up to (inner_f + 1)(outer_f + 1) - 1 Byzantine clients is tolerated, and many larger ones.
    Raises ValueError where the regions are not of one size, and for an f that is not tolerated in every placement.
    """

    inner: Any
    outer: Any
    regions: int
    inner_f: int
    outer_f: int

    @cached_property
    def rules(self) -> tuple[Aggregator, Aggregator]:
        """The rule inside regions and the one over their results."""
        return resolve(self.inner), resolve(self.outer)

    @property
    def tolerated(self) -> int:
        """The Byzantine clients that may stand anywhere: (inner_f + 1)(outer_f + 1) - 1."""
        return (self.inner_f + 1) * (self.outer_f + 1) - 1

    def __call__(self, updates: Any, f: int = 0) -> npt.NDArray[Any]:
        """(n, d) updates to the (d,) aggregate of the regions' aggregates."""
        x = np.asarray(updates)
        n = len(x)
        if n % self.regions:
            raise ValueError(f"{self.regions} regions need a multiple of {self.regions} clients, got {n}: sample so many")
        if f > self.tolerated:
            raise ValueError(
                f"f={f} Byzantine clients can capture more than {self.outer_f} regions of {n // self.regions}; any "
                f"{self.tolerated} are tolerated: raise inner_f={self.inner_f} or outer_f={self.outer_f}"
            )
        inner, outer = self.rules
        said = np.stack([np.asarray(inner(region, f=self.inner_f)) for region in np.split(x, self.regions)])
        return np.asarray(outer(said, f=self.outer_f))

    def kappa(self, n: int) -> float:
        """The composed coefficient: see `composed`."""
        inner, outer = self.rules
        return composed(inner.kappa(n // self.regions, self.inner_f), outer.kappa(self.regions, self.outer_f))


def composed(inner: float, outer: float) -> float:
    """kappa = (1 + inner)(1 + outer) - 1, for any choice of m - inner_f honest clients in each of R - outer_f regions.

    ||F - mu||^2 <= kappa (1/h) sum ||x_i - mu||^2 over these h clients, mu their mean. Proof. Let y_r be what region r
    says, mu_r the mean and s_r the variance of its honest clients, V the variance of the mu_r, W the mean of the s_r,
    so that V + W is the variance of all. e_r = y_r - mu_r has mean ||e_r||^2 <= inner W. Split it into its mean, of
    length a, and the rest, of root mean square b: a^2 + b^2 <= inner W. The y_r lie around their mean with a root mean
    square of at most sqrt(V) + b, so ||F - mu|| <= a + sqrt(outer) (sqrt(V) + b) <= sqrt(outer V) +
    sqrt((1 + outer) inner W), and by Cauchy and Schwarz its square is at most (outer + (1 + outer) inner) (V + W).
    """
    return (1 + inner) * (1 + outer) - 1


def bound(x: npt.NDArray[Any], honest: npt.NDArray[np.intp], kappa: float) -> tuple[npt.NDArray[Any], float]:
    """(mu, sqrt(kappa (1/h) sum ||x_i - mu||^2)) of these honest rows."""
    rows = np.asarray(x[honest], np.float64)
    mu = rows.mean(axis=0)
    return mu, math.sqrt(kappa * float(((rows - mu) ** 2).sum()) / len(rows))
