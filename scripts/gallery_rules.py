"""The published rules that scripts/gallery.py judges, each as the spec that `pytest_fl.verify` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Entry:
    """One published rule."""

    library: str
    rule: str
    spec: str

    @property
    def name(self) -> str:
        """What the page and the command line call it."""
        return f"{self.library}: {self.rule}"

    @property
    def command(self) -> str:
        """One line that reproduces the entry, from the root of the repository."""
        return f"python -m pytest_fl verify '{self.spec}'"


def _qora(updates: Any, method: str, fraction: float = 0.0) -> Any:
    """One call of qora.ByzantineAggregator, which takes float32 matrices (1, d) and has f in the name of its method."""
    import qora  # noqa: PLC0415  # only where it is judged

    return qora.ByzantineAggregator(method, fraction).aggregate([row.astype("float32")[None] for row in updates])[0]


def qora_median(updates: Any) -> Any:
    """Qora-FL's coordinate-wise median."""
    return _qora(updates, "median")


def qora_trimmed_mean(updates: Any, f: int) -> Any:
    """Qora-FL's trimmed mean, told f / n as its trim fraction."""
    return _qora(updates, "trimmed_mean", f / len(updates))


def qora_krum(updates: Any, f: int) -> Any:
    """Qora-FL's Krum."""
    return _qora(updates, f"krum:{f}")


def qora_multi_krum(updates: Any, f: int) -> Any:
    """Qora-FL's Multi-Krum with the m that it documents as its default."""
    return _qora(updates, f"multi_krum:{f}:{min(3, len(updates) - 2 * f - 2)}")


def krum_multi_krum(updates: Any, f: int) -> Any:
    """krum's MultiKrum where its default m = n - 2f - 3 is at least 1."""
    from krum.primitives.aggregators.multikrum import MultiKrum  # noqa: PLC0415  # only where it is judged

    return MultiKrum.aggregate(updates, n=len(updates), f=f)


def byzpy_multi_krum(updates: Any, f: int) -> Any:
    """byzpy's MultiKrum with the most that it allows, q = n - f."""
    from byzpy.aggregators.geometric_wise import MultiKrum  # noqa: PLC0415  # only where it is judged

    return MultiKrum(f=f, q=len(updates) - f).aggregate(updates)


def byzfl_bucketed_median(updates: Any, f: int) -> Any:
    """ByzFL's Bucketing(s=2) before its Median: each Byzantine client may spoil a bucket, so 2f < n/2."""
    import byzfl  # noqa: PLC0415  # only where it is judged

    if len(updates) <= 4 * f:
        raise ValueError(f"buckets of two need n > 4f; got n={len(updates)}, f={f}")
    return byzfl.Median()(byzfl.Bucketing(s=2)(updates.clone()))  # a tensor, as its framework gives it


def byzpy_bucketed_median(updates: Any, f: int) -> Any:
    """byzpy's Bucketing(2) before its CoordinateWiseMedian: as above."""
    from byzpy.aggregators.coordinate_wise import CoordinateWiseMedian  # noqa: PLC0415  # only where it is judged
    from byzpy.pre_aggregators import Bucketing  # noqa: PLC0415  # as above

    if len(updates) <= 4 * f:
        raise ValueError(f"buckets of two need n > 4f; got n={len(updates)}, f={f}")
    return CoordinateWiseMedian().aggregate(Bucketing(2).pre_aggregate(updates))


BYZFL: Final = "byzfl:"
BYZPY: Final = "byzpy.aggregators."
BYZPY_PRE: Final = "byzpy.pre_aggregators:"
KRUM: Final = "krum.primitives.aggregators."
LEGACY: Final = "flwr.server.strategy:"
SERVERAPP: Final = "flwr.serverapp.strategy:"
HERE: Final = "scripts.gallery_rules:"

_BYZFL: Final = ("Average", "Median", "TrMean", "GeometricMedian", "Krum", "MultiKrum", "CenteredClipping", "MDA", "MoNNA")
_BYZPY: Final = {
    "coordinate_wise": ("CoordinateWiseMedian", "CoordinateWiseTrimmedMean", "MeanOfMedians"),
    "geometric_wise": ("Krum", "GeometricMedian", "MinimumDiameterAveraging", "MoNNA", "SMEA"),
    "norm_wise": ("ComparativeGradientElimination", "CAF", "CenteredClipping(c_tau=1.0)"),
}
_KRUM: Final = {
    "average": "Average", "median": "Median", "trimmed_mean": "TrimmedMean", "krum": "Krum", "multikrum": "MultiKrum",
    "bulyan": "Bulyan", "brute": "Brute", "geometric_median": "GeometricMedian", "medoid": "Medoid", "aksel": "Aksel",
}  # fmt: skip
_TRIMMED: Final = f"{BYZPY}coordinate_wise:CoordinateWiseTrimmedMean"

ENTRIES: Final = (
    *(Entry("ByzFL", rule, BYZFL + rule) for rule in (*_BYZFL, "Meamed", "CAF", "SMEA")),
    *(Entry("ByzFL", f"{pre} | TrMean", f"{BYZFL}{pre}|{BYZFL}TrMean") for pre in ("NNM", "ARC", "Clipping")),
    Entry("ByzFL", "NNM | Krum", f"{BYZFL}NNM|{BYZFL}Krum"),
    Entry("ByzFL", "Bucketing(s=2) | Median", f"{HERE}byzfl_bucketed_median"),
    *(Entry("byzpy", rule, f"{BYZPY}{module}:{rule}") for module, rules in _BYZPY.items() for rule in rules),
    Entry("byzpy", "MultiKrum(q=n-f)", f"{HERE}byzpy_multi_krum"),
    Entry("byzpy", "NearestNeighborMixing | CoordinateWiseTrimmedMean", f"{BYZPY_PRE}NearestNeighborMixing|{_TRIMMED}"),
    Entry("byzpy", "ARC | CoordinateWiseTrimmedMean", f"{BYZPY_PRE}ARC|{_TRIMMED}"),
    Entry("byzpy", "Clipping | CoordinateWiseTrimmedMean", f"{BYZPY_PRE}Clipping|{_TRIMMED}"),
    Entry("byzpy", "Bucketing(2) | CoordinateWiseMedian", f"{HERE}byzpy_bucketed_median"),
    *(Entry("krum", rule, f"{KRUM}{module}:{rule}") for module, rule in _KRUM.items()),
    Entry("krum", "MultiKrum, n > 2f+3", f"{HERE}krum_multi_krum"),
    *(Entry("Flower legacy", rule, LEGACY + rule) for rule in ("FedAvg", "FedMedian", "FedTrimmedAvg", "Krum")),
    Entry("Flower legacy", "Krum(num_clients_to_keep=2)", f"{LEGACY}Krum(num_clients_to_keep=2)"),
    Entry("Flower legacy", "Bulyan", f"{LEGACY}Bulyan"),
    Entry("Flower legacy", "Bulyan(to_keep=0)", f"{LEGACY}Bulyan(to_keep=0)"),
    *(Entry("Flower ServerApp", rule, SERVERAPP + rule) for rule in ("FedAvg", "FedMedian", "FedTrimmedAvg", "Krum")),
    Entry("Flower ServerApp", "MultiKrum(num_nodes_to_select=2)", f"{SERVERAPP}MultiKrum(num_nodes_to_select=2)"),
    Entry("Flower ServerApp", "Bulyan", f"{SERVERAPP}Bulyan"),
    *(Entry("Qora-FL", rule, f"{HERE}qora_{rule}") for rule in ("median", "trimmed_mean", "krum", "multi_krum")),
)
