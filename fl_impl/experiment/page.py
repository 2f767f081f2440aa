"""One self-contained HTML page: the table of a comparison or the course of a run, no network, no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

from fl_impl.experiment.comparison import Comparison
from fl_impl.experiment.grid import NONE
from fl_impl.experiment.tables import breakdown_cells, headline_cells
from fl_impl.plotting.svg import legend, line_chart

if TYPE_CHECKING:
    from fl_impl.metrics import FLMetrics

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d1d1f; --paper: #fff; --rule: #d9d9de; --soft: #6b6b73 }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --paper: #17171a; --rule: #3a3a42; --soft: #a0a0aa } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
body { max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 }
h2 { font-size: 1.1rem; margin-top: 2.2rem } p.soft, caption { color: var(--soft) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
caption { text-align: left; padding: .3rem 0 }
th, td { padding: .3rem .55rem; border: 1px solid var(--rule); text-align: right } th { font-weight: 600; font-size: .85rem }
th[scope=row], td.text { text-align: left; white-space: nowrap; font-weight: 500 }
td.least { outline: 2px solid var(--ink); outline-offset: -3px }
td small { display: block; font-size: .7rem; opacity: .8 }
.charts { display: flex; flex-wrap: wrap; gap: 1rem }
.chart { margin: 0; width: 360px } .chart figcaption { font-weight: 600; font-size: .85rem }
.chart text { font-size: 9px; fill: var(--soft) } .chart .grid { stroke: var(--rule); stroke-width: 1 }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 .9rem; padding: 0; margin: 0; font-size: .75rem }
.legend svg { margin-right: .3rem }
"""


def page(title: str, lead: str, body: Sequence[str]) -> str:
    """A whole HTML document around the sections, style included."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="soft">{escape(lead)}</p>{"".join(body)}</body></html>'
    )


def comparison_page(comparison: Comparison) -> str:
    """Tables of accuracy for each fraction, accuracy over the fractions, and the course of each attack."""
    trials = list(comparison.results)
    said = next(iter(comparison.results.values())).config
    lead = (
        f"{said['dataset']}, {said['partition']}, {said['num_clients']} clients, {said['num_rounds']} rounds, "
        f"{len({trial.seed for trial in trials})} seeds: {len(trials)} federations. Cells: accuracy after the last round "
        "in per cent, mean over seeds; small: points lost against the same aggregator's clean run; framed: the worst attack."
    )
    fractions = comparison.fractions
    body = [part for fraction in fractions for part in (strongest_table(comparison, fraction), table(comparison, fraction))]
    if len(fractions) > 1:
        lines = {rule: [(x, comparison.worst(rule, x)) for x in fractions] for rule in comparison.aggregators}
        body.append(f"<h2>Breakdown</h2>{plain_table(*breakdown_cells(comparison))}")
        body.append("<h2>Accuracy under the worst attack</h2>")
        body.append(line_chart("Worst attack", lines, x_label="Byzantine fraction", y_label="accuracy", top=1.0))
    body += ["<h2>Course of training</h2>", courses(comparison, fractions[-1]), failures(comparison)]
    return page("Aggregators under attack", lead, body)


def strongest_table(comparison: Comparison, fraction: float) -> str:
    """The headline: each rule under the strongest attack found for it, with 95 % intervals, ranks and ties."""
    return f"<h2>{fraction:.0%} attackers, the strongest attack found</h2>{plain_table(*headline_cells(comparison, fraction))}"


def plain_table(head: list[str], lines: list[list[str]]) -> str:
    """A table of text."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f'<td class="text">{escape(cell)}</td>' for cell in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def table(comparison: Comparison, fraction: float) -> str:
    """Aggregators by attacks at one fraction."""
    attacks = comparison.shared_attacks
    head = "".join(f'<th scope="col">{escape(attack).replace("_", "_<wbr>")}</th>' for attack in attacks)
    lines: list[str] = []
    for rule in comparison.aggregators:
        clean, least = comparison.accuracy(rule, NONE, fraction), comparison.worst(rule, fraction)
        cells = [cell(comparison.accuracy(rule, a, fraction), clean, a, least) for a in attacks]
        lines.append(f'<tr><th scope="row">{escape(rule)}</th>{"".join(cells)}</tr>')
    return (
        f'<h2>{fraction:.0%} Byzantine</h2><div class="wide"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def cell(value: float, clean: float, attack: str, least: float) -> str:
    """One accuracy, coloured, and what was lost."""
    if math.isnan(value):
        return "<td>failed</td>"
    lost = "" if attack == NONE or math.isnan(clean) else f"<small>{100 * (value - clean):+.0f}</small>"
    colour = f"background:hsl({round(8 + 122 * value)} 55% {round(62 + 14 * value)}%);color:#111"
    framed = ' class="least"' if value == least else ""
    return f'<td{framed} style="{colour}">{100 * value:.0f}{lost}</td>'


def courses(comparison: Comparison, fraction: float) -> str:
    """One chart for each attack: accuracy over the rounds, mean over seeds."""
    charts: list[str] = []
    for attack in comparison.shared_attacks:
        lines = {
            rule: [(x, found.mean) for x, found in comparison.course(rule, attack, fraction)] for rule in comparison.aggregators
        }
        title = f"{attack}, {fraction:.0%}"
        charts.append(line_chart(title, lines, x_label="round", y_label="accuracy", top=1.0, keyed=False))
    return f'{legend(comparison.aggregators)}<div class="charts">{"".join(charts)}</div>'


def failures(comparison: Comparison) -> str:
    """The federations that broke down, and why."""
    broken = [
        f"<li>{escape(f'{t.aggregator} under {t.attack}, {t.fraction:.0%}, seed {t.seed}: {m.error}')}</li>"
        for t, m in comparison.results.items()
        if m.error
    ]
    return f"<h2>Federations that ended early</h2><ul>{''.join(broken)}</ul>" if broken else ""


def run_page(metrics: FLMetrics) -> str:
    """The course of one run, its configuration, and who was rejected."""
    last, said = metrics.final, metrics.config
    lead = (
        f"{said.get('aggregation')} under {said.get('attack') or 'no attack'}: accuracy {last.accuracy:.1%}, loss "
        f"{last.global_loss:.4f} after {last.round} rounds."
    )
    drawn = (("accuracy", 1.0), ("global_loss", None), ("deviation", None), ("client_variance", None))
    charts = [
        line_chart(
            name,
            {name: [(float(r.round), float(getattr(r, name))) for r in metrics.rounds]},
            x_label="round",
            y_label="",
            top=top,
        )
        for name, top in drawn
    ]
    settings = "".join(
        f'<tr><td class="text">{escape(k)}</td><td class="text">{escape(str(v))}</td></tr>' for k, v in said.items()
    )
    rejected = [(r.round, client, why) for r in metrics.rounds for client, why in r.rejected.items()]
    lost = "".join(f'<tr><td>{n}</td><td>{client}</td><td class="text">{escape(why)}</td></tr>' for n, client, why in rejected)
    head = "<tr><th>round</th><th>client</th><th>reason</th></tr>"
    body: list[Any] = [f'<div class="charts">{"".join(charts)}</div>']
    body += [f"<h2>Rejected</h2><table>{head}{lost}</table>"] if lost else []
    body += [f"<h2>Configuration</h2><table>{settings}</table>"]
    return page("A federation", lead, body)
