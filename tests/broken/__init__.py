"""Broken rules, each with a mistake that people make, and the checks that may be the first to see it: a module a heading.

`broken(*checks, **claims)`: the checks that must catch it (any other may as well), and what is claimed for the rule.
"""

from importlib import import_module

from broken.registry import BROKEN, SOLE, broken

__all__ = ["BROKEN", "SOLE", "broken"]

for _heading in (
    "averaging",
    "krum",
    "medians",
    "iterations",
    "magnitudes",
    "positions",
    "unanimous",
    "contract",
    "claims",
    "alone",
    "forms",
    "repeated",
):
    import_module(f"broken.{_heading}")  # importing registers
