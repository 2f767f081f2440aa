"""Judges the published rules of scripts/gallery_rules.py and writes docs/gallery.md.

    scripts/peers_env.sh .venv-peers                        # once: an environment that has the libraries
    .venv-peers/bin/python scripts/gallery.py               # all rules, one process each; about 20 minutes
    .venv-peers/bin/python scripts/gallery.py byzpy Krum    # only rules whose name holds one of these words, to the terminal
    .venv-peers/bin/python scripts/gallery.py --evidence    # runs the snippets of the findings and compares what they print

Exit status 1: a failure is not explained by any finding of scripts/gallery_findings.py, so nobody has looked at it yet; or a
snippet prints something else than the page says.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SECONDS: Final = 1200
"""What one rule may take in all."""
sys.path.insert(0, str(ROOT))

from scripts.gallery_findings import FINDINGS  # noqa: E402  # found from the root of the repository
from scripts.gallery_page import page, unexplained  # noqa: E402
from scripts.gallery_rules import ENTRIES, Entry  # noqa: E402

Rows = list[dict[str, Any]]
FAULTS: Final = "<!-- made by scripts/fault_plans.py -->"
"""Where the section of another script begins; it stays."""


def judged(entry: Entry, profile: str) -> Rows:
    """The rows of one rule, from a process of its own: a library that hangs, crashes or leaks harms only its own entry."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", entry.name, "--profile", profile]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(  # noqa: S603  # this script, with the name of an entry
                command, cwd=folder, env=environment, timeout=SECONDS, capture_output=True, text=True, check=True
            )
        except subprocess.TimeoutExpired:
            return [_broken(entry, f"not done after {SECONDS} s")]
        except subprocess.CalledProcessError as error:
            return [_broken(entry, f"the process ended with {error.returncode}: {error.stderr.strip()[-300:]}")]
    return json.loads(done.stdout.splitlines()[-1])


def _broken(entry: Entry, reason: str) -> dict[str, Any]:
    return {"subject": entry.name, "check": "run", "outcome": "failed", "reason": reason, "counterexample": None}


def one(name: str, profile: str) -> None:
    """Print the rows of one rule as a line of JSON: what the process above runs."""
    import pytest_fl  # noqa: PLC0415  # only the child needs it

    entry = next(entry for entry in ENTRIES if entry.name == name)
    report = pytest_fl.verify(entry.spec, profile=profile)
    print(json.dumps([json.loads(row.to_json()) for row in report.rows]))


def evidence() -> int:
    """Run every finding's snippet; 1 where one does not print what the finding says."""
    wrong = 0
    for finding in FINDINGS:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(finding.snippet, {"__name__": "__main__"})  # noqa: S102  # our own snippets
        agrees = said.getvalue().strip() == finding.prints.strip()
        print(f"{'agrees' if agrees else 'DIFFERS'}  {finding.key}" + ("" if agrees else f"\n{said.getvalue()}"))
        wrong |= not agrees
    return wrong


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only rules whose name holds one of these")
    parser.add_argument("--profile", default="default")
    parser.add_argument("--results", type=Path, help="a folder that keeps the rows for a later run")
    parser.add_argument("--evidence", action="store_true", help="run the snippets of the findings instead")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.evidence:
        return evidence()
    if options.one:
        one(options.one, options.profile)
        return 0
    chosen = [entry for entry in ENTRIES if not options.words or any(word in entry.name for word in options.words)]
    results = {}
    for entry in chosen:
        results[entry] = _kept(entry, options)
        failed = [row["check"] for row in results[entry] if row["outcome"] == "failed"]
        print(f"{entry.name}: {', '.join(failed) or 'holds'}", flush=True)
    if not options.words:
        gallery = ROOT / "docs" / "gallery.md"
        _, mark, faults = gallery.read_text(encoding="utf-8").partition(FAULTS)
        gallery.write_text(page(results) + ("\n" + mark + faults if mark else ""), encoding="utf-8")
    for missing in unexplained(results):
        print("nobody has looked at it yet:", missing, file=sys.stderr)
    return int(bool(unexplained(results)))


def _kept(entry: Entry, options: argparse.Namespace) -> Rows:
    """The rows that an earlier run left in the results folder, else those of a new run."""
    if options.results is None:
        return judged(entry, options.profile)
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / (entry.name.replace(" ", "_").replace("|", "-").replace(":", "") + ".json")
    if not file.exists():
        file.write_text(json.dumps(judged(entry, options.profile)), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
