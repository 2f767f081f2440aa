"""Print the tables of README.md, made from what is registered; --write puts them there."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fl_impl import aggregators, attacks

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
N, F = 20, 4
"""Where the table compares the constants of the rules."""


def rules() -> str:
    """Every rule: the clients it needs, its constant, its source."""
    body = []
    for name, rule in sorted(aggregators.ALL.items()):
        kappa = rule.kappa(N, F)
        shown = "none" if math.isinf(kappa) else f"{'=' if rule.attained(N, F) else '&le;'} {kappa:.3g}"
        body.append([f"`{name}`", needs(rule.min_clients(1), rule.min_clients(2)), shown, rule.source])
    least = f"{F / (N - 2 * F):.3g}"
    return table(["rule", "clients", f"kappa, n={N}, f={F} (least possible: {least})", "source"], body)


def needs(one: int, two: int) -> str:
    """`n >= a f + b`, from the least n at f = 1 and f = 2."""
    slope, rest = two - one, 2 * one - two
    return f"n &ge; {'' if slope == 1 else slope}f{f' + {rest}' if rest else ''}" if slope else f"n &ge; {one}"


def mixers() -> str:
    """Every pre-aggregator: what it hands on, its source."""
    known = sorted(aggregators.PRE.items())
    body = [[f"`{name}`", ", ".join(sorted(found.preserves)), found.source] for name, found in known]
    return table(["pre-aggregator", "keeps these of the rule's claims", "source"], body)


def attacks_() -> str:
    """Every attack: what it acts on, what it must know, its formula and source."""
    known = sorted(attacks.ALL.items())
    body = [[f"`{name}`", found.kind, found.knowledge, found.summary, found.source] for name, found in known]
    return table(["attack", "acts on", "knows", "what it sends", "source"], body)


def table(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def output() -> str:
    """What the first example of the README prints: how it breaks exactness, and the table without its times."""
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None, "README.md begins with the example"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_mine.py").write_text(example[1], encoding="utf-8")
        plugins = ["-p", "pytest_fl.plugin", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", "-q", "--fl-profile=quick", *plugins]
        environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  # our own command
    shown = done.stdout
    broken = re.search(r"^E +pytest_fl.CheckFailed: my_rule fails exactness.*?(?=\n\n)", shown, re.DOTALL | re.MULTILINE)
    summary = re.search(r"^aggregator .*?not claimed$", shown, re.DOTALL | re.MULTILINE)
    assert broken is not None, shown
    assert summary is not None, shown
    timeless = re.sub(r"  +(seconds|\d+\.\d)$", "", summary[0], flags=re.MULTILINE)
    lines = [line.rstrip() for line in (*broken[0].splitlines(), "...", *timeless.splitlines())]
    return "\n".join(["```text", *lines, "```"])


BLOCKS = {"output": output, "rules": rules, "mixers": mixers, "attacks": attacks_}


def written(text: str) -> str:
    """The text with every generated block made anew."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)
        made = make()
        text, found = pattern.subn(lambda match, made=made: f"{match[1]}{made}\n{match[2]}", text)
        assert found == 1, f"README.md has {found} blocks for {name}"
    return text


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(make() for make in BLOCKS.values()))
