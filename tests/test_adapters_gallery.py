"""docs/gallery.md, its rules and its findings agree, whatever is installed."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from scripts.gallery_findings import FINDINGS, KINDS  # noqa: E402  # found from the root of the repository
from scripts.gallery_page import page, unexplained  # noqa: E402
from scripts.gallery_rules import ENTRIES  # noqa: E402

PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
NAMES = [entry.name for entry in ENTRIES]


def test_over_forty_rules_are_judged_and_each_once():
    assert len(set(NAMES)) == len(NAMES) >= 40
    assert all(f"`{entry.command}`".replace("|", "\\|") in PAGE for entry in ENTRIES)


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.key)
def test_a_finding_speaks_of_rules_that_are_judged(finding):
    assert finding.kind in KINDS
    assert finding.rules
    assert set(finding.rules) <= set(NAMES)
    assert bool(finding.snippet) == bool(finding.prints)
    assert finding.kind == "by design" or (finding.fix and finding.snippet)


def test_a_failure_that_nobody_has_explained_is_named():
    rows = [{"check": "exactness", "outcome": "failed", "reason": "far off", "counterexample": None}]
    entry = next(entry for entry in ENTRIES if entry.name == "krum: TrimmedMean")
    assert unexplained({entry: rows}) == ["krum: TrimmedMean: exactness"]
    assert unexplained({entry: [{**rows[0], "outcome": "passed"}]}) == []


def test_the_page_shows_a_small_counterexample(monkeypatch):
    monkeypatch.setattr("scripts.gallery_page.version", lambda _: "1.2.3")
    shown = {
        "n": 3, "f": 1, "d": 1, "dtype": "float64", "byzantine": [0], "origin": "", "updates": [[9.0], [1.0], [1.0]],
        "output": [9.0],
    }  # fmt: skip
    rows = [{"check": "exactness", "outcome": "failed", "reason": "", "counterexample": shown}]
    text = page({next(entry for entry in ENTRIES if entry.name == "byzpy: Krum"): rows})
    assert "exactness: n=3, f=1: [9]* [1] [1] gives [9] |" in text
    assert "(1.2.3)" in text
    assert "## Findings: defect" in text
