"""What was found in the published rules, each checked by hand: read from gallery_findings.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

KINDS: Final = {
    "defect": "the rule does something that its documentation or its paper excludes, at values that a training run meets",
    "range": "it is right until numbers leave the range of its arithmetic (1e-30 or 1e30 in float32), or it has a tolerance "
    "that does not scale; harmless in most runs",
    "by design": "its documentation says so, or it never claimed robustness in this sense: a difference of contract",
}
"""Kind -> what it means; the gravest first."""
ROBUSTNESS: Final = (
    "exactness", "nobody_attacks", "many_clients", "many_coordinates", "every_scale", "boundedness", "huge_outliers",
    "far_from_origin", "coefficient", "non_finite",
)  # fmt: skip
"""Every check that a rule without a defence fails: "robustness" in the file."""


@dataclass(frozen=True)
class Finding:
    """One cause, and the failures that it explains."""

    key: str
    kind: str
    title: str
    text: str
    rules: Mapping[str, frozenset[str]]
    """Entry -> the checks that it fails for this cause."""
    fix: str = ""
    snippet: str = ""
    """Shows it with the library alone."""
    prints: str = ""

    def explains(self, entry: str, check: str) -> bool:
        """Whether this is why the entry fails the check."""
        return check in self.rules.get(entry, ())


def _finding(fields: dict[str, Any]) -> Finding:
    rules: dict[str, frozenset[str]] = {}
    for group in fields.pop("rules"):
        checks = frozenset(group["checks"])
        checks |= frozenset(ROBUSTNESS) if "robustness" in checks else frozenset()
        for rule in group["rules"]:
            name = f"{group['library']}: {rule}"
            rules[name] = rules.get(name, frozenset()) | checks
    return Finding(rules=rules, **{name: text.strip() for name, text in fields.items()})


def _read() -> tuple[Finding, ...]:
    with (Path(__file__).parent / "gallery_findings.toml").open("rb") as file:
        found = [_finding(fields) for fields in tomllib.load(file)["finding"]]
    return tuple(sorted(found, key=lambda finding: list(KINDS).index(finding.kind)))


FINDINGS: Final = _read()
