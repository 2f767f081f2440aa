"""Named tasks for comparisons: what is learnt, how, and the accuracy that is reached without attack."""

from __future__ import annotations

from fl_impl.tasks.base import BenchmarkTask, named, task

__all__ = ["BenchmarkTask", "named", "task"]
