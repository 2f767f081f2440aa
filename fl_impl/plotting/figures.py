"""Pictures of federations; matplotlib is imported when one is drawn, and no window is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fl_impl.common.extras import require

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure


def new_figure(width: float, height: float, **subplots: Any) -> tuple[Figure, Any]:
    """A figure and its axes, outside pyplot's global state."""
    figure = require("matplotlib.figure", extra="plots").Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def convergence(series: Callable[[str], list[Any]], title: str) -> Figure:
    """Accuracy, loss and deviation from the honest mean over the rounds; rounds under attack are shaded.

    `series(name)` is that field of every round, as `FLMetrics.series` gives it.
    """
    figure, axes = new_figure(10, 3.2, ncols=3)
    rounds = series("round")
    drawn = (
        ("accuracy", "accuracy on held-out data", False),
        ("global_loss", "loss on held-out data", False),
        ("deviation", "distance from the honest mean", True),
    )
    for axis, (name, label, logarithmic) in zip(axes, drawn, strict=True):
        values = series(name)
        axis.plot(rounds, values, marker=".", linewidth=1.2)
        axis.set_xlabel("round")
        axis.set_title(label, fontsize=10)
        if logarithmic and any(value > 0 for value in values):
            axis.set_yscale("log")
        for number, byzantine in zip(rounds, series("byzantine"), strict=True):
            if byzantine:
                axis.axvspan(number - 0.5, number + 0.5, color="tab:red", alpha=0.07, linewidth=0)
    success = [value if value is not None else float("nan") for value in series("attack_success")]
    if any(value == value for value in success):  # noqa: PLR0124  # NaN is what differs from itself
        axes[0].plot(rounds, success, color="tab:red", linestyle="--", linewidth=1, label="attack success")
        axes[0].legend()
    axes[0].set_ylim(0, 1)
    figure.suptitle(title, fontsize=9)
    return figure


def title_of(config: Mapping[str, Any]) -> str:
    """What ran, in a line."""
    attack = f"under {config.get('attack')}" if config.get("attack") else "without attack"
    data = f"{config.get('dataset')}, {config.get('partition')}, {config.get('num_clients')} clients"
    return f"{config.get('aggregation')} {attack}: {data}"


def heat_map(rows: list[str], columns: list[str], values: list[list[float]], title: str) -> Figure:
    """Accuracies of aggregators (rows) under attacks (columns), dark where they are low; the least of a row is framed."""
    figure, axis = new_figure(2.4 + 0.95 * len(columns), 1.6 + 0.42 * len(rows))
    axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right", fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    for y, line in enumerate(values):
        worst = min((value for value in line if value == value), default=None)  # noqa: PLR0124  # NaN differs from itself
        for x, value in enumerate(line):
            color = "black" if value > 0.6 else "white"
            weight = "bold" if value == worst else "normal"
            axis.text(x, y, f"{100 * value:.0f}", ha="center", va="center", color=color, fontsize=8, weight=weight)
    axis.set_title(title, fontsize=9)
    return figure


def with_bands(
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]], title: str, *, x_label: str, marker: str = ""
) -> Figure:
    """Accuracy, one line for each name with its interval as a band; points are (x, mean, low, high), bounds may be NaN."""
    figure, axis = new_figure(5.2, 3.4)
    for name, points in lines.items():
        x, mean, low, high = zip(*points, strict=True) if points else ((), (), (), ())
        (drawn,) = axis.plot(x, mean, marker=marker, markersize=4, label=name)
        axis.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    axis.set(xlabel=x_label, ylabel="accuracy", ylim=(0, 1))
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=7)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure as .png for screens and as .pdf for papers."""
    for ending in ("png", "pdf"):
        figure.savefig(path.with_suffix(f".{ending}"), dpi=150, bbox_inches="tight")
