"""Secure sums on Flower beside Flower's own SecAgg+: bytes on the wire, CPU time, and what each does where somebody lies.

Run: python scripts/secagg_peers.py [--clients 10 30] [--words 10000 1000000]

Both run on the same grid, in one process, on messages in Flower's wire format; the model is one float32 array, and the
clients only add a constant to it, so what is timed is the protocol. SecAgg+ is given the number of shares and the threshold
that `Terms.agreed` finds, as it has no rule for them, and its defaults else. Lies are tried, not quoted: a cell of the second
table is what came out.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import Code, FitIns, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import factor_extract, parameters_mod
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.compat.common import recorddict_compat as compat
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from fl_impl.flower import SecureStrategy, make_federation, secure_mod
from fl_impl.flower.inline import InlineGrid, inline
from fl_impl.flower.secure_mod import MEMORY, SecureMod
from fl_impl.privacy.secure_aggregation import Least, Terms

STEP = 0.25
"""What client i adds to each parameter: (i + 1) times it, over the number of clients."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--words", type=int, nargs="+", default=[10_000, 1_000_000])
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    print("| clients | parameters | leave | protocol | up, KiB a client | down, KiB a client | a client, CPU s | "
          "server, CPU s | error of the mean |\n|--:|--:|--:|---|--:|--:|--:|--:|--:|")  # fmt: skip
    for n in options.clients:
        for d in options.words:
            for gone in (0, n // 10):
                for name, session in SESSIONS.items():
                    print(f"| {n} | {d} | {gone} | {name} | {measured(session, n, d, gone)} |", flush=True)
    print("\n| what is tried, with 10 clients | " + " | ".join(SESSIONS) + " |\n|---|---|---|")
    for lie, outcomes in LIES.items():
        print(f"| {lie} | " + " | ".join(outcome() for outcome in outcomes) + " |", flush=True)


@dataclass
class Meter:
    """What went over the grid, and how long clients worked."""

    bytes_up: int = 0
    bytes_down: int = 0
    replies: list[Message] = field(default_factory=list)
    client: float = 0.0

    def heard(self, message: Message, reply: Message) -> None:
        """Count a message and its reply."""
        self.bytes_down += size(message)
        self.bytes_up += size(reply)
        self.replies.append(reply)

    def timed(self, call: Callable[[Message, Context], Message]) -> Callable[[Message, Context], Message]:
        """The ClientApp, with its CPU time counted."""

        def app(message: Message, context: Context) -> Message:
            start = time.process_time()
            try:
                return call(message, context)
            finally:
                self.client += time.process_time() - start

        return app


def size(message: Message) -> int:
    """Bytes of a message on the wire."""
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


def measured(session: Callable[..., Any], n: int, d: int, gone: int) -> str:
    """The cells of one line."""
    meter = Meter()
    start = time.process_time()
    mean = session(n, d, gone, meter)
    whole = time.process_time() - start
    expected = np.mean([(i + 1) * STEP / n for i in range(gone, n)])
    error = float(np.abs(mean - expected).max())
    sizes = f"{meter.bytes_up / n / 1024:,.0f} | {meter.bytes_down / n / 1024:,.0f}"
    return f"{sizes} | {meter.client / n:.3f} | {whole - meter.client:.2f} | {error:.0e}"


# ------------------------------------------------------------------------------------------------------------ ours


def update_of(context: Context, n: int) -> np.float32:
    """What a client adds."""
    return np.float32((int(context.node_config["partition-id"]) + 1) * STEP / n)


def our_app(folder: str, n: int, gone: int = 0, mod: Callable[[str], Any] = secure_mod) -> ClientApp:
    """A client that adds a constant; the first `gone` of them leave when they are to mask."""
    app = ClientApp(mods=[mod(f"{folder}/client-{{partition-id}}")])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if int(context.node_config["partition-id"]) < gone:
            raise RuntimeError("gone")
        model = message.content["arrays"].to_numpy_ndarrays()[0]
        said = MetricRecord({"num-examples": 10, "loss": 0.5})
        return Message(RecordDict({"arrays": ArrayRecord([model + update_of(context, n)]), "metrics": said}), reply_to=message)

    del train  # the app keeps it
    return app


def ours(
    n: int, d: int, gone: int, meter: Meter, *, strategy: type[SecureStrategy] = SecureStrategy, mod: Any = secure_mod,
    least: Least | None = None, made: list[SecureStrategy] | None = None,
) -> np.ndarray:  # fmt: skip
    """The mean update of one round of `SecureStrategy`."""
    with tempfile.TemporaryDirectory() as folder:
        make_federation(folder, n, least)
        bound = STEP * np.sqrt(d)
        server = strategy(Path(folder) / "server", clip_bound=bound, fraction_evaluate=0.0)
        if made is not None:
            made.append(server)
        with inline(meter.timed(our_app(folder, n, gone, mod)), n, heard=meter.heard) as grid:
            result = server.start(grid, ArrayRecord([np.zeros(d, np.float32)]), num_rounds=1)
        return result.arrays.to_numpy_ndarrays()[0] if result.arrays else np.full(d, np.nan)


# --------------------------------------------------------------------------------------------------------- SecAgg+


@dataclass
class Proxy:
    """What the workflow asks of a client proxy."""

    node_id: int


class Mean:
    """What the workflow asks of a strategy and of a client manager."""

    def __init__(self, grid: InlineGrid, d: int) -> None:
        self.grid, self.d = grid, d

    def configure_fit(self, number: int, parameters: Any, manager: Any) -> list[tuple[Any, FitIns]]:
        """Everybody."""
        del number, parameters, manager
        sent = ndarrays_to_parameters([np.zeros(self.d, np.float32)])
        return [(Proxy(node), FitIns(sent, {})) for node in self.grid.get_node_ids()]

    def aggregate_fit(self, number: int, results: list[Any], failures: Any) -> tuple[Any, dict[str, Any]]:
        """The workflow gives all results the same mean."""
        del number, failures
        return (results[0][1].parameters if results else None), {}

    def num_available(self) -> int:
        """All."""
        return len(self.grid.get_node_ids())


def flower_app(n: int, gone: int = 0, spoil: Callable[..., Message] | None = None) -> ClientApp:
    """The same client for SecAgg+."""
    app = ClientApp(mods=[secaggplus_mod] if spoil is None else [spoil, secaggplus_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if int(context.node_config["partition-id"]) < gone:
            raise RuntimeError("gone")
        model = parameters_to_ndarrays(compat.recorddict_to_fitins(message.content, keep_input=True).parameters)[0]
        trained = ndarrays_to_parameters([model + update_of(context, n)])
        said = FitRes(Status(Code.OK, ""), trained, 1000, {"loss": 0.5})
        return Message(compat.fitres_to_recorddict(said, keep_input=False), reply_to=message)

    del train  # the app keeps it
    return app


def secaggplus(
    n: int, d: int, gone: int, meter: Meter, *, workflow: type[SecAggPlusWorkflow] = SecAggPlusWorkflow, spoil: Any = None
) -> np.ndarray:
    """The mean of one round of SecAgg+."""
    terms = Terms.agreed(clients=n, length=d, bound=1.0)
    made = workflow(n, terms.threshold)
    with inline(meter.timed(flower_app(n, gone, spoil)), n, heard=meter.heard) as grid:
        state = RecordDict({"config": ConfigRecord({"current_round": 1}), "parameters": ArrayRecord([np.zeros(d, np.float32)])})
        helper: Any = Mean(grid, d)
        context = LegacyContext(Context(1, 1, {}, state, {}), strategy=helper, client_manager=helper)
        made(grid, context)
        found = compat.arrayrecord_to_parameters(context.state.array_records["parameters"], keep_input=True)
        return parameters_to_ndarrays(found)[0] if found.tensors else np.full(d, np.nan)


SESSIONS: dict[str, Callable[..., Any]] = {"SecureStrategy": ours, "SecAgg+": secaggplus}

# ------------------------------------------------------------------------------------------------------------- lies

N, D = 10, 50
MEAN = float(np.mean([(i + 1) * STEP / N for i in range(N)]))


def both_lists_ours() -> str:
    """The server says of client 0 that it stayed and that it left: with both of its secrets its update is read."""
    made: list[SecureStrategy] = []

    class Lying(SecureStrategy):
        def _exchanged(self, session: Any, stage: str, messages: Any) -> Any:
            if stage == "agree":
                server = session.server
                from fl_impl.privacy.secure_aggregation.frames import pack, pack_numbers  # noqa: PLC0415

                both = pack(pack_numbers(range(N)), pack_numbers([0]))
                messages = {i: server._sealed("survivors", i, both) for i in messages}  # noqa: SLF001  # the server's own
            return super()._exchanged(session, stage, messages)

    ours(N, D, 0, Meter(), strategy=Lying, made=made)
    said = next(iter(made[0].rejected[1].values()))
    return f"{len(made[0].rejected[1])} of {N} clients refuse: {said.partition(': ')[2]}" if not made[0].sums else "read"


class BothLists(SecAggPlusWorkflow):
    """Asks for both secrets of one client."""

    read = float("nan")

    def collect_masked_vectors_stage(self, grid: Any, context: Any, state: Any) -> bool:
        """As it is, keeping the masked vector of the victim."""
        seen: list[Message] = []
        send = grid.send_and_receive
        grid.send_and_receive = lambda messages, timeout=None: seen.extend(send(messages, timeout=timeout)) or seen
        went = super().collect_masked_vectors_stage(grid, context, state)
        grid.send_and_receive = send
        self.victim = seen[0].metadata.src_node_id
        sent = seen[0].content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
        self.vector = [bytes_to_ndarray(part) for part in sent]
        return went

    def unmask_stage(self, grid: Any, context: Any, state: Any) -> bool:
        """Ask all for the shares of the victim's two secrets, and take its masks off."""
        del context
        shares: dict[str, list[bytes]] = defaultdict(list)
        for node in state.active_node_ids:
            asked = {
                Key.STAGE: Stage.UNMASK, Key.ACTIVE_NODE_ID_LIST: list(state.nid_to_neighbours[node]),
                Key.DEAD_NODE_ID_LIST: [self.victim],
            }  # fmt: skip
            message = Message(RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(asked)}), node, "train")
            (reply,) = grid.send_and_receive([message])
            found = reply.content.config_records[RECORD_KEY_CONFIGS]
            places = [k for k, each in enumerate(found[Key.NODE_ID_LIST]) if each == self.victim]
            for kind, place in zip(("seed", "key"), places, strict=True):
                shares[kind].append(found[Key.SHARE_LIST][place])
        vector, shapes = self.vector, [part.shape for part in self.vector]
        masks = [(-1, combine_shares(shares["seed"]))]
        secret = bytes_to_private_key(combine_shares(shares["key"]))
        for other in state.nid_to_neighbours[self.victim] - {self.victim}:
            public = bytes_to_public_key(state.nid_to_publickeys[other][0])
            masks.append((-1 if self.victim > other else 1, generate_shared_key(secret, public)))
        for sign, seed in masks:
            mask = pseudo_rand_gen(seed, state.mod_range, shapes)
            vector = [part + sign * each for part, each in zip(vector, mask, strict=True)]
        _, plain = factor_extract(parameters_mod(vector, state.mod_range))
        type(self).read = float(dequantize(plain, state.clipping_range, state.quantization_range)[0].mean())
        return True


def both_lists_flower() -> str:
    """As `both_lists_ours`."""
    secaggplus(N, D, 0, Meter(), workflow=BothLists)
    updates = [(i + 1) * STEP / N for i in range(N)]
    near = min(abs(BothLists.read - each) for each in updates)
    return f"one client's update is read, to {max(near, 1e-6):.0e}" if near < 1e-4 else "not read"


def two_models_ours() -> str:
    """One client is sent another model: where the others' updates are known, the sum is that one's."""
    made: list[SecureStrategy] = []

    class Two(SecureStrategy):
        def configure_train(self, *arguments: Any) -> Any:
            messages = list(super().configure_train(*arguments))
            messages[0].content["arrays"] = ArrayRecord([np.ones(D, np.float32)])
            return messages

    mean = ours(N, D, 0, Meter(), strategy=Two, made=made)
    off = float(np.abs(mean - MEAN).max())
    return f"random words: {off:.0e} from the mean" if off > 1 else "the sum is read"


class TwoModels(SecAggPlusWorkflow):
    """Sends one client another model."""

    def share_keys_stage(self, grid: Any, context: Any, state: Any) -> bool:
        """As it is, after one model was changed."""
        node = next(iter(state.nid_to_fitins))
        changed = FitIns(ndarrays_to_parameters([np.ones(D, np.float32)]), {})
        state.nid_to_fitins[node] = compat.fitins_to_recorddict(changed, keep_input=True)
        return super().share_keys_stage(grid, context, state)


def two_models_flower() -> str:
    """As `two_models_ours`: the mean of models is 1 / N more than if all had trained the same."""
    mean = secaggplus(N, D, 0, Meter(), workflow=TwoModels)
    return "the sum is read" if np.abs(mean - MEAN - 1 / N).max() < 1e-2 else "not read"


def garbage_ours() -> str:
    """Client 0 deals shares that nobody can read."""
    made: list[SecureStrategy] = []

    class Garbage(SecureMod):
        def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
            stage = message.content["secure-sum"]["stage"]
            reply = super().__call__(message, context, call_next)
            if stage == "share" and int(context.node_config["partition-id"]) == 0 and MEMORY in context.state:
                sent = reply.content["secure-message"]["bytes"].numpy().copy()
                sent[len(sent) // 2 :] ^= 1
                reply.content["secure-message"] = ArrayRecord({"bytes": next(iter(ArrayRecord([sent]).values()))})
            return reply

    ours(N, D, 0, Meter(), mod=lambda folder: Garbage(folder, frozenset(), "num-examples"), made=made)
    server = made[0]
    return f"named, and the sum of {len(server.sums[1].survivors)} goes on" if server.sums else f"no sum: {server.failed[1]}"


def garbage_flower() -> str:
    """As `garbage_ours`."""

    def spoil(message: Message, context: Context, call_next: Any) -> Message:
        stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        reply = call_next(message, context)
        if stage == Stage.SHARE_KEYS and int(context.node_config["partition-id"]) == 0:
            record = reply.content.config_records[RECORD_KEY_CONFIGS]
            record[Key.CIPHERTEXT_LIST] = [bytes(len(each)) for each in record[Key.CIPHERTEXT_LIST]]
        return reply

    mean = secaggplus(N, D, 0, Meter(), spoil=spoil)
    return "no sum: all who hold its shares raise" if np.isnan(mean).any() or not mean.any() else "the sum goes on"


def terms_ours() -> str:
    """The server offers a bound of 8 to clients that insist on 1."""
    made: list[SecureStrategy] = []
    ours(N, D, 0, Meter(), least=Least(bound=1.0), made=made)
    return next(iter(made[0].rejected[1].values())).partition(": ")[2] if not made[0].sums else "taken"


class OneShare(SecAggPlusWorkflow):
    """Lets one share open a secret."""

    def setup_stage(self, grid: Any, context: Any, state: Any) -> bool:
        """As it is, with a threshold of one."""
        self.reconstruction_threshold = 1
        return super().setup_stage(grid, context, state)


def terms_flower() -> str:
    """The server offers a threshold of 1, under which any one partner opens all masks."""
    mean = secaggplus(N, D, 0, Meter(), workflow=OneShare)
    return "a threshold of 1 is taken: no terms of the client's own" if np.abs(mean - MEAN).max() < 1e-2 else "refused"


def plain_in(session: Callable[..., Any]) -> str:
    """What clients say beside the protocol's messages."""
    meter = Meter()
    session(N, D, 0, meter)
    said = {
        f"{record} {name}" if name not in record else record
        for reply in meter.replies
        for record, values in [*reply.content.metric_records.items(), *reply.content.config_records.items()]
        for name in values
        if record not in (RECORD_KEY_CONFIGS, "secure-sum") and not record.endswith("status")
    }
    return ", ".join(sorted(said)) or "nothing"


LIES: dict[str, tuple[Callable[[], str], Callable[[], str]]] = {
    "the server says of a client that it stayed and that it left": (both_lists_ours, both_lists_flower),
    "the server sends one client another model": (two_models_ours, two_models_flower),
    "a client deals shares that nobody can read": (garbage_ours, garbage_flower),
    "the server offers worse terms": (terms_ours, terms_flower),
    "what leaves a client in plain": (lambda: plain_in(ours), lambda: plain_in(secaggplus)),
}


if __name__ == "__main__":
    main()
