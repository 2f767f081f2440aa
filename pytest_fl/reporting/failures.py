"""The failure text: which claim broke, by how much, on which round, and the line that runs it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_fl.reporting.results import Row
    from pytest_fl.subjects.round import Round

READABLE: Final = 64
"""Numbers that a reader looks through one by one; a larger matrix is summarised."""


class CheckFailed(AssertionError):  # noqa: N818  # a failed check is a failed assertion, not an error
    """An aggregator broke a claim. `row` has the figures; the message is `describe(row)`."""

    def __init__(self, row: Row, first: str = "") -> None:
        """`first`: the check that has failed before for the same cause, and stands in full."""
        super().__init__(folded(row, first) + _again(row) if first else describe(row))
        self.row, self.first = row, first

    def __reduce__(self) -> tuple[type[CheckFailed], tuple[Row, str]]:
        return CheckFailed, (self.row, self.first)


CheckFailed.__module__ = "pytest_fl"  # where users import it from: the short summary has little room for more


def facts(round_: Round, output: object = None) -> dict[str, Any]:
    """What a row keeps of the round that broke it: its shape, who is Byzantine, and the numbers or their magnitudes.

    output: what the rule returned, or a sentence that says why it returned no vector; None where neither is known.
    """
    kept: dict[str, Any] = {
        "n": round_.n,
        "f": round_.f,
        "d": round_.d,
        "dtype": str(round_.updates.dtype),
        "byzantine": list(round_.byzantine),
        "origin": round_.origin,
    }
    if round_.updates.size <= READABLE:
        kept["updates"] = round_.updates.tolist()
    else:
        kept["magnitudes"] = abs(round_.updates).max(axis=1).tolist()
    if output is not None:
        kept["output"] = _kept(output, round_.d)
    return kept


def _kept(output: Any, d: int) -> list[float] | str:
    if isinstance(output, str):
        return output
    if getattr(output, "shape", None) != (d,):
        return repr(output)
    return output.tolist() if d <= READABLE else f"a vector, {_span([float(abs(output).max())])}"


def _again(row: Row) -> str:
    lines = {key: (row.counterexample or {}).get(key) for key in ("replay", "rerun")}
    return "".join(f"\n\n  {label:<9}{text}" for label, text in lines.items() if text)


def describe(row: Row) -> str:
    """The text of a failure; its first line alone says which rule broke which claim."""
    found = _comparison(row)
    told = {
        "claim": row.claim,
        "found": found if row.reason else "",
        "kind": row.kind,
        "cause": row.cause,
        "behaves": f"as {row.behaves}" if row.behaves and row.behaves not in row.cause else "",
        **_round(row.counterexample or {}),
    }
    body = [f"  {label:<9}{text}" for label, text in told.items() if text]
    return "\n".join([f"{row.subject} fails {row.check}: {row.reason or found}", "", *body])


def folded(row: Row, first: str) -> str:
    """One line for a failure of the same cause as one that stands in full: `first` is that check."""
    found = row.counterexample or {}
    where = ", ".join(f"{key}={found[key]}" for key in ("n", "f", "d") if key in found)
    return f"{row.subject} fails {row.check}, as {first} does: {row.cause}{where and f' ({where})'}"


def causes(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Failures by subject and cause, in order; one whose cause no other shares stands for itself."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.subject, row.cause or f"{row.check} alone"), []).append(row)
    return groups


def explained(rows: Sequence[Row]) -> str:
    """Each cause once: how many checks fail for it, the first of them in full, the others in a line each."""
    parts = list[str]()
    for (subject, cause), group in causes(rows).items():
        first, *others = group
        total = sum(row.subject == subject for row in rows)
        if others:
            parts.append(f"{subject}: {total} checks fail; {len(group)} have this cause: {cause}")
        parts.append("\n".join([describe(first), *(folded(row, first.check) for row in others)]))
    return "\n\n".join(parts)


def _comparison(row: Row) -> str:
    if not row.limit and not row.value:
        return ""
    excess = f", {row.closeness:.3g} times the limit" if 1 < row.closeness < 1000 else ""
    return f"{row.value:.6g}, where at most {row.limit:.6g} is allowed{excess}"


def _round(found: Mapping[str, Any]) -> dict[str, str]:
    if not found:
        return {}
    return {
        "round": ", ".join(f"{key}={found[key]}" for key in ("n", "f", "d", "dtype") if key in found),
        "origin": str(found.get("origin", "")),
        "updates": _lines(_numbers(found) if "updates" in found else _magnitudes(found)),
        "saved": str(found.get("file", "")),
        "replay": str(found.get("replay", "")),
        "rerun": str(found.get("rerun", "")),
    }


def _lines(named: Mapping[str, str]) -> str:
    width = max(map(len, named))
    return ("\n" + " " * 11).join(f"{name:<{width}}  {text}" for name, text in named.items())


def _numbers(found: Mapping[str, Any]) -> dict[str, str]:
    """Every row of a small matrix, the Byzantine ones marked, and what the rule made of it."""
    byzantine, output = set(found["byzantine"]), found.get("output")
    lines = {f"client {i}": vector for i, vector in enumerate(found["updates"])}
    if isinstance(output, list):
        lines["returned"] = output
    cells = {name: [f"{entry:.6g}" for entry in vector] for name, vector in lines.items()}
    width = max(len(cell) for line in cells.values() for cell in line)
    shown = {name: "  ".join(cell.rjust(width) for cell in line) for name, line in cells.items()}
    marked = {f"client {i}": shown[f"client {i}"] + "  <- Byzantine" for i in byzantine}
    return {**shown, **marked, **({"returned": output} if isinstance(output, str) else {})}


def _magnitudes(found: Mapping[str, Any]) -> dict[str, str]:
    """Who is who in a matrix too large to print, and how large the entries of each side are."""
    sizes, byzantine = found["magnitudes"], found["byzantine"]
    honest = [i for i in range(len(sizes)) if i not in set(byzantine)]
    sides = {"honest": honest, "Byzantine": byzantine}
    shown = {side: f"{_rows(rows)}: {_span([sizes[i] for i in rows])}" for side, rows in sides.items() if rows}
    return {**shown, **({"returned": found["output"]} if "output" in found else {})}


def _rows(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    return f"{len(rows)} clients ({shown})" if len(rows) != 1 else f"client {rows[0]}"


def _span(sizes: Sequence[float]) -> str:
    low, high = min(sizes), max(sizes)
    return f"largest entry {low:.3g}" if low == high else f"largest entries from {low:.3g} to {high:.3g}"
