"""scripts/benchmark.py writes its page from what it ran, and the same page again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


@pytest.mark.slow
def test_the_quick_variant_writes_the_same_page_twice(tmp_path):
    pages = []
    for name in ("a.md", "b.md"):
        command = [sys.executable, str(SCRIPT), "--quick", "--tasks", "tumours", "--workers", "1", "--page", name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        pages.append((tmp_path / name).read_text())
    assert pages[0] == pages[1]
    for needed in ("## tumours, iid, 20 clients", "| mean |", "breakdown fraction", "What the search adds at 20%"):
        assert needed in pages[0]
