"""Line charts as SVG text, for pages that must carry everything themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

COLOURS: Final = ("#1b6ca8", "#d1495b", "#2e8b57", "#8d5fb3", "#c77d0a", "#3b3b3b", "#00868b", "#a0522d")
DASHES: Final = ("", "6 3", "2 2")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 220, 40, 28, 20

Points = Sequence[tuple[float, float]]


def line_chart(
    title: str, lines: Mapping[str, Points], *, x_label: str, y_label: str, top: float | None = None, keyed: bool = True
) -> str:
    """One chart, with its legend if keyed; points that are NaN are left out. `top` fixes the upper end of the y axis."""
    points = [point for line in lines.values() for point in line if not any(map(math.isnan, point))]
    if not points:
        return f'<figure class="chart"><figcaption>{escape(title)}</figcaption><p>No figures to draw.</p></figure>'
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    greatest = top if top is not None else max(*(y for _, y in points), 1e-12)

    def place(x: float, y: float) -> str:
        across = LEFT + (x - low) / max(high - low, 1e-12) * (WIDTH - LEFT - 8)
        return f"{across:.1f},{HEIGHT - BOTTOM - min(y / greatest, 1.0) * (HEIGHT - BOTTOM - TOP):.1f}"

    parts = [axes(low, high, greatest, x_label, y_label)]
    for number, line in enumerate(lines.values()):
        path = " ".join(place(x, y) for x, y in line if not math.isnan(y))
        parts.append(f'<polyline points="{path}" fill="none" {stroke(number)}/>')
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f"{legend(list(lines)) if keyed else ''}</figure>"
    )


def stroke(number: int) -> str:
    """The colour and dashes of a line, so that no two of 24 are alike."""
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    return f'stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")


def legend(names: Sequence[str]) -> str:
    """The names of the lines beside their colours, as HTML."""
    items = (
        f'<li><svg width="26" height="8"><line x1="1" y1="4" x2="25" y2="4" {stroke(number)}/></svg>{escape(name)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def axes(low: float, high: float, greatest: float, x_label: str, y_label: str) -> str:
    """The frame, the labels and five lines across."""
    parts: list[str] = []
    for step in range(5):
        y = HEIGHT - BOTTOM - step / 4 * (HEIGHT - BOTTOM - TOP)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - 8}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{step / 4 * greatest:.3g}</text>')
    for x, value, anchor in ((LEFT, low, "start"), (WIDTH - 8, high, "end")):
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 12}" text-anchor="{anchor}">{value:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="4" y="10">{escape(y_label)}</text>')
    return "".join(parts)
