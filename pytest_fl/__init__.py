"""Does your robust aggregator hold? `conformance`, `verify`, `replay` and the rest of the public names.

Nothing is imported until it is used: a name below is fetched from its module on first access (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pytest_fl.adapters import adapter, as_subject, command
    from pytest_fl.checks import Bound, Check, check
    from pytest_fl.checks.canaries import CanaryAudit, canary_audit
    from pytest_fl.checks.federation import accuracy_kept, descent
    from pytest_fl.engine.cases import Case, audit, conformance
    from pytest_fl.engine.identities import Identity, identify
    from pytest_fl.engine.runner import audit_report, replay, verify
    from pytest_fl.engine.survival import NotSurvived, Survival, survives
    from pytest_fl.inputs.adversary import WorstCase, worst_case
    from pytest_fl.inputs.plans import fault_plans
    from pytest_fl.inputs.strategies import byzantine_updates, honest_updates, rounds
    from pytest_fl.reporting.failures import CheckFailed
    from pytest_fl.reporting.report import Report
    from pytest_fl.reporting.results import Row
    from pytest_fl.subjects.parts import Accountant, Compressor, Mechanism, SecureAggregation
    from pytest_fl.subjects.round import Round
    from pytest_fl.subjects.subject import Subject

__all__ = [
    "Accountant",
    "Bound",
    "CanaryAudit",
    "Case",
    "Check",
    "CheckFailed",
    "Compressor",
    "Identity",
    "Mechanism",
    "NotSurvived",
    "Report",
    "Round",
    "Row",
    "SecureAggregation",
    "Subject",
    "Survival",
    "WorstCase",
    "accuracy_kept",
    "adapter",
    "as_subject",
    "audit",
    "audit_report",
    "byzantine_updates",
    "canary_audit",
    "check",
    "command",
    "conformance",
    "descent",
    "fault_plans",
    "honest_updates",
    "identify",
    "replay",
    "rounds",
    "survives",
    "verify",
    "worst_case",
]
HOMES: Final = {
    "adapters": ("adapter", "as_subject", "command"),
    "inputs.adversary": ("WorstCase", "worst_case"),
    "engine.cases": ("Case", "audit", "conformance"),
    "checks": ("Bound", "Check", "check"),
    "checks.canaries": ("CanaryAudit", "canary_audit"),
    "checks.federation": ("accuracy_kept", "descent"),
    "reporting.failures": ("CheckFailed",),
    "subjects.parts": ("Accountant", "Compressor", "Mechanism", "SecureAggregation"),
    "reporting.report": ("Report",),
    "reporting.results": ("Row",),
    "subjects.round": ("Round",),
    "engine.identities": ("Identity", "identify"),
    "engine.runner": ("audit_report", "replay", "verify"),
    "engine.survival": ("NotSurvived", "Survival", "survives"),
    "inputs.plans": ("fault_plans",),
    "inputs.strategies": ("byzantine_updates", "honest_updates", "rounds"),
    "subjects.subject": ("Subject",),
}
"""Module -> the public names that it defines. No name is a module's: importing that module would replace it."""


def __getattr__(name: str) -> Any:
    for module, names in HOMES.items():
        if name in names:
            found = getattr(import_module(f"pytest_fl.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'pytest_fl' has no attribute {name!r} (public: {', '.join(__all__)})")


def __dir__() -> list[str]:
    return __all__
