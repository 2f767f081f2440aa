"""Measured coefficients between their bounds, as an inline SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CSS: Final = """
svg { max-width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg .axis { stroke: var(--line); }
svg .axis-label { fill: var(--faint); font-size: 11px; text-anchor: middle; }
svg .name { text-anchor: end; }
svg .range { stroke: var(--faint); stroke-width: 2; }
svg .bound { stroke: var(--ink); stroke-width: 3; }
svg .floor { stroke: var(--faint); stroke-width: 3; }
svg .held { fill: #1f6feb; }
svg .broken, svg .beyond { fill: var(--bad); }
"""
LEFT, WIDTH, ROW, TOP = 190, 620, 26, 30


@dataclass(frozen=True)
class Mark:
    """One subject's line of the plot."""

    subject: str
    measured: float
    kappa: float | None = None
    lower_bound: float | None = None

    @property
    def numbers(self) -> list[float]:
        """What can stand on a logarithmic axis."""
        known = (self.measured, self.kappa, self.lower_bound)
        return [value for value in known if value is not None and 0 < value < math.inf]


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from one power of ten to another."""

    low: int
    high: int

    def x(self, value: float) -> float:
        """Where a value stands; what is too small or too large stands at the end."""
        exponent = math.log10(value) if 0 < value < math.inf else self.high if value > 0 else self.low
        return LEFT + WIDTH * (min(max(exponent, self.low), self.high) - self.low) / (self.high - self.low)


def worst_cases(marks: Sequence[Mark]) -> str:
    """An SVG with a line for each mark: a bar at kappa, a grey one at f/(n-2f), a dot at what was measured."""
    values = [value for mark in marks for value in mark.numbers] or [1.0]
    low = math.floor(math.log10(min(values)))
    axis = Axis(low, max(min(math.ceil(math.log10(max(values))), low + 12), low + 1))
    height = TOP + ROW * len(marks) + 6
    parts = [*_ticks(axis, height)]
    for i, mark in enumerate(marks):
        parts += _line(mark, axis, TOP + ROW * i + ROW // 2)
    size = f'viewBox="0 0 {LEFT + WIDTH + 110} {height}" width="{LEFT + WIDTH + 110}" height="{height}"'
    return f'<svg {size} role="img" aria-label="measured coefficients and their bounds">{"".join(parts)}</svg>'


def _ticks(axis: Axis, height: int) -> Iterator[str]:
    step = max(1, (axis.high - axis.low) // 6)
    for exponent in range(axis.low, axis.high + 1, step):
        x = axis.x(10.0**exponent)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{height}"/>'
        yield f'<text class="axis-label" x="{x:.1f}" y="{TOP - 14}">{10.0**exponent:g}</text>'


def _line(mark: Mark, axis: Axis, y: int) -> Iterator[str]:
    broken = mark.kappa is not None and mark.measured > 1.001 * mark.kappa  # by more than three digits show
    bounds = [value for value in (mark.lower_bound, mark.kappa) if value is not None and 0 < value < math.inf]
    yield f'<text class="name" x="{LEFT - 14}" y="{y + 4}">{escape(mark.subject)}</text>'
    if bounds:
        ends = [axis.x(value) for value in (*bounds, mark.measured)]
        yield f'<line class="range" x1="{min(ends):.1f}" x2="{max(ends):.1f}" y1="{y}" y2="{y}"/>'
    for value, kind in ((mark.lower_bound, "floor"), (mark.kappa, "bound")):
        if value is not None and 0 < value < math.inf:
            yield f'<line class="{kind}" x1="{axis.x(value):.1f}" x2="{axis.x(value):.1f}" y1="{y - 7}" y2="{y + 7}"/>'
    yield f'<circle class="{"broken" if broken else "held"}" cx="{axis.x(mark.measured):.1f}" cy="{y}" r="5"/>'
    told = f"{mark.measured:.3g}" + ("" if mark.kappa is None else f" of {mark.kappa:.3g}")
    yield f'<text class="{"beyond" if broken else "within"}" x="{LEFT + WIDTH + 14}" y="{y + 4}">{told}</text>'
