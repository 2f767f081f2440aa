"""`local_noise_mod`: a Flower client mod that clips an update and adds noise to it before it leaves the client."""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict

from fl_impl.flower.records import form_of
from fl_impl.flower.replies import Model
from fl_impl.privacy.accounting import Budget, PrivacyBudgetError
from fl_impl.privacy.ledger import Ledger
from fl_impl.privacy.mechanisms import LocalGaussian

ClientCall = Callable[[Message, Context], Message]
REFUSED: Final = 6
"""Flower's ErrorCode.MOD_FAILED_PRECONDITION."""
LEDGER: Final = "local-noise.ledger"
"""The file in a node's folder in which its releases are entered."""


def local_noise_mod(
    epsilon: float, delta: float, *, rounds: int, clip_bound: float = 1.0, folder: str = "{secure-folder}",
    weighted_by: str = "num-examples",
) -> LocalNoiseMod:  # fmt: skip
    """A mod for `ClientApp(mods=[local_noise_mod(8.0, 1e-5, rounds=20)])`: (epsilon, delta) local differential privacy.

    A client sends clip(x - global, clip_bound) + N(0, (s clip_bound)^2 I), with the least s for `rounds` rounds, and keeps the
    ledger itself, in a file of `folder` (names in braces are those of the node's config): who asks it for more is refused
    before it trains, and so are two that ask at the same time for the last round. The server need not be trusted. Its
    strategy can be any, such as RobustStrategy. Arrays of integers go back as they came. Of the metrics only `weighted_by`
    leaves, as 1: all clients count alike. Raises ValueError for a budget or bound out of range.
    """
    budget = Budget(epsilon, delta)
    mechanism = LocalGaussian.calibrated(budget, rounds=rounds, clip_bound=clip_bound, clients=1)
    return LocalNoiseMod(budget, mechanism, rounds, folder, weighted_by)


@dataclass(frozen=True)
class LocalNoiseMod:
    """The mod: called by Flower with (message, context, the rest of the app)."""

    budget: Budget
    mechanism: LocalGaussian
    rounds: int
    folder: str
    weighted_by: str

    def __call__(self, message: Message, context: Context, call_next: ClientCall) -> Message:
        """The app's reply with noise; an error where the budget is spent."""
        if not message.metadata.message_type.startswith("train"):
            return call_next(message, context)
        try:
            self.enter(Path(self.folder.format_map(context.node_config)) / LEDGER)
        except PrivacyBudgetError as error:
            return Message(Error(REFUSED, str(error)), reply_to=message)
        (name, arrays), *others = message.content.array_records.items()
        if others:
            raise ValueError(f"expected one ArrayRecord, of the model; got {list(message.content.array_records)}")
        form = form_of(arrays)
        kept = [glob.escape(each) for each in form.names if each not in form.floating]
        model = Model(form, arrays, (), tuple(kept))
        reply = call_next(message, context)
        if reply.has_error():
            return Message(Error(REFUSED, "its app failed"), reply_to=message)
        update, _ = model.update(reply, name)
        noisy: ArrayRecord = model.moved(self.mechanism.privatize(update), [])
        return Message(RecordDict({name: noisy, "metrics": MetricRecord({self.weighted_by: 1})}), reply_to=message)

    def enter(self, path: Path) -> None:
        """Write a release down, before the app trains. Raises PrivacyBudgetError where it is one too many.

        It is written before it is counted, so that two processes at the same time count each other.
        """
        self._check(Ledger.open(path), more=True)
        ledger = Ledger.open(path)
        ledger.enter(self.mechanism.entry(len(ledger) + 1, self.budget))
        self._check(Ledger.open(path), more=False)

    def _check(self, ledger: Ledger, *, more: bool) -> None:
        entries = [self.mechanism.entry(len(ledger) + 1, self.budget)] if more else []
        spent = ledger.epsilon(self.budget.delta, entries)
        if spent > self.budget.epsilon * (1 + 1e-9):
            raise PrivacyBudgetError(
                f"this client's budget of epsilon {self.budget.epsilon:g} is spent: one round more would make it {spent:.4g}"
            )
