"""Fuzzes what a server reads of Flower replies: whatever a reply holds, the one answer is to use it or to refuse it.

    python scripts/fuzz_flower.py --seconds 600      # all targets in turn, until the time is over
    python scripts/fuzz_flower.py --target wire      # one of them

Exit status 1: something else than a refusal came out; Hypothesis prints the smallest reply that does it.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import hypothesis
import numpy as np
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fl_impl.flower.quiet import prepare  # found from the root of the repository

prepare()

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict  # noqa: E402  # told to be quiet
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects  # noqa: E402
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents  # noqa: E402

from fl_impl.clients import ClientUpdate  # noqa: E402
from fl_impl.flower.decoder import header_of, packed, unpacked  # noqa: E402
from fl_impl.flower.fleet import read  # noqa: E402
from fl_impl.flower.inline import inline  # noqa: E402
from fl_impl.flower.pulling import pull  # noqa: E402
from fl_impl.flower.replies import REASON  # noqa: E402
from fl_impl.flower.strategy import RobustStrategy  # noqa: E402

logging.getLogger("flwr").setLevel(logging.CRITICAL)
MODEL: Final = {"weight": np.ones((2, 3), np.float32), "steps": np.array(7), "running_var": np.ones(2, np.float32)}
D: Final = 6
VALUES: Final = (
    "()", "[]", "'<f4'", "'<f8'", "'|O'", "'<V2'", "'<c8'", "'<U4'", "('<f4', (2,))", "[('a', '<f4')]", "{", "(", "[", "'",
    '"""', "'<f999999'", "'f4'", "None", "-1", "1e999", "True", "False", "(2, 3)", "(6,)", "(-1,)", "(0,)", "(2,)",
    "(0, 99999999999999999999)", "(4294967296, 4294967296)", "(" * 300, "'\\x00'", "lambda: 0", "b''",
    "\n  1", "\\", "'<m8[ns]'", "(1,) * 10**9",
)  # fmt: skip
PUNCTUATION: Final = bytes(range(256)) + b"()[]{}'\",:<>|=\\\n 0123456789fiubOV" * 20
"""Bytes to insert, those of headers more often."""
KEYS: Final = ("'descr'", "'fortran_order'", "'shape'", "'extra'", "descr", "0")
GOOD: Final = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


def header_texts() -> st.SearchStrategy[bytes]:
    """Headers: dictionaries of strange values, good ones with characters changed, and text."""
    value = st.one_of(
        st.sampled_from(VALUES), st.text(max_size=12), st.lists(st.integers(), max_size=4).map(lambda x: str(tuple(x)))
    )
    entries = st.lists(st.tuples(st.sampled_from(KEYS), value), max_size=4)
    whole = st.tuples(st.sampled_from(VALUES), st.sampled_from(VALUES), st.sampled_from(VALUES)).map(
        lambda v: f"{{'descr': {v[0]}, 'fortran_order': {v[1]}, 'shape': {v[2]}, }}"
    )
    dictionaries = entries.map(lambda pairs: "{" + ", ".join(f"{key}: {said}" for key, said in pairs) + "}")
    changed = st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.characters(max_codepoint=255)), min_size=1, max_size=3).map(
        with_changes
    )
    return st.one_of(whole, dictionaries, changed, st.text(max_size=30)).map(lambda text: text.encode("utf-8", "replace"))


def with_changes(changes: list[tuple[int, str]]) -> str:
    """The good header with some characters replaced."""
    characters = list(GOOD)
    for place, character in changes:
        characters[place] = character
    return "".join(characters)


@st.composite
def npy(draw: st.DrawFn) -> bytes:
    """Bytes that begin as an npy file does, more or less."""
    version = draw(st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"]))
    text = draw(header_texts())
    said = draw(st.one_of(st.just(len(text)), st.integers(0, 2**16 - 1)))
    length = said.to_bytes(2 if version == b"\x01\x00" else 4, "little")
    data = draw(st.one_of(st.just(b"\x00" * 24), st.just(b"\xff" * 24), st.binary(max_size=40)))
    return b"\x93NUMPY" + version + length + text + data


def arrays() -> st.SearchStrategy[Array]:
    """Arrays with true or untrue descriptions of any bytes."""
    dtype = st.sampled_from(["float32", "bfloat16", "object", "", "x" * 1000])
    shape = st.one_of(st.just((2, 3)), st.lists(st.integers(-1, 2**40), max_size=3).map(tuple))
    stype = st.sampled_from(["numpy.ndarray"] * 8 + ["pickle", "x" * 1000])
    return st.builds(Array, dtype, shape, stype, st.one_of(npy(), npy(), st.binary(max_size=60), sound_bytes()))


def sound_bytes() -> st.SearchStrategy[bytes]:
    """Bytes of real arrays, cut or prolonged at times."""
    numbers = st.sampled_from(
        [*MODEL.values(), np.zeros(D, np.float32), np.asfortranarray(np.ones((2, 3))), np.float16([[1, 2, 3]] * 2)]
    )
    cut = st.one_of(st.just(None), st.integers(0, 200))
    more = st.one_of(st.just(b""), st.binary(max_size=4))
    return st.tuples(numbers, cut, more).map(lambda made: packed(made[0]).data[: made[1]] + made[2])


NAMES: Final = st.sampled_from([*MODEL, "delta", "num_samples", "loss", "note", "momentum", "num-examples", "x" * 5000])
SCALARS: Final = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.lists(st.integers(-5, 5), max_size=3), st.lists(st.floats(), max_size=3)
)


def records() -> st.SearchStrategy[Any]:
    """Records of each kind."""
    settings = st.dictionaries(
        NAMES, st.one_of(SCALARS, st.text(max_size=300), st.binary(max_size=9), st.booleans()), max_size=3
    )
    return st.one_of(array_records(), st.dictionaries(NAMES, SCALARS, max_size=4).map(MetricRecord), settings.map(ConfigRecord))


def array_records() -> st.SearchStrategy[ArrayRecord]:
    """The model's arrays with some of them replaced, or other names."""
    replaced = st.dictionaries(st.sampled_from(list(MODEL)), arrays(), min_size=1).map(
        lambda some: ArrayRecord({**{name: packed(value) for name, value in MODEL.items()}, **some})
    )
    delta = arrays().map(lambda one: ArrayRecord({"delta": one}))
    return st.one_of(replaced, delta, st.dictionaries(NAMES, arrays(), max_size=4).map(ArrayRecord))


def contents() -> st.SearchStrategy[RecordDict]:
    """What a reply to a strategy may hold: its arrays with some replaced, other records, or records of another kind."""
    metrics = st.one_of(st.just(MetricRecord({"num-examples": 1})), records())
    expected = st.fixed_dictionaries({"arrays": array_records()}, optional={"metrics": metrics, "note": records()})
    return st.one_of(expected, loose()).map(RecordDict)


def updates() -> st.SearchStrategy[RecordDict]:
    """What a reply to the fleet may hold: one of its parts replaced, or any records."""
    good = st.fixed_dictionaries(
        {"arrays": st.just(delta()), "metrics": st.just(MetricRecord({"loss": 0.5})), "state": st.just(ArrayRecord())}
    )
    one = st.dictionaries(st.sampled_from(["arrays", "metrics", "state", "note"]), records(), min_size=1, max_size=1)
    return st.one_of(st.tuples(good, one).map(lambda parts: {**parts[0], **parts[1]}), loose()).map(RecordDict)


def delta() -> ArrayRecord:
    """A sound update."""
    return ArrayRecord({"delta": packed(np.ones(D, np.float32))})


def loose() -> st.SearchStrategy[dict[str, Any]]:
    """Any records under the names that are looked for."""
    return st.dictionaries(st.sampled_from(["arrays", "metrics", "state", "note", "config", "y" * 5000]), records(), max_size=4)


TALLY: Final[Counter[str]] = Counter()
"""Target and outcome -> how often."""


def decode(array: Array) -> None:
    """The decoder raises nothing but ValueError, and what it returns has the shape and length that it says."""
    try:
        numbers = unpacked(array)
        assert numbers.shape == header_of(array).shape
        TALLY["decoder: read"] += 1
    except ValueError:
        TALLY["decoder: refused"] += 1


def raw(rng: random.Random, inputs: int) -> None:
    """`decode` of real arrays with bytes changed, inserted or cut, without Hypothesis: many more, and none is shrunk."""
    good = [packed(value, dtype) for value in MODEL.values() for dtype in (None, "bfloat16", "<f2")]
    for _ in range(inputs):
        array = rng.choice(good)
        data = bytearray(array.data)
        for _ in range(rng.randint(0, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 2)] = bytes(rng.choices(PUNCTUATION, k=rng.randint(0, 2)))
        decode(Array(array.dtype, array.shape, array.stype, bytes(data)))


def aggregate(content: RecordDict | None) -> None:
    """A strategy uses the reply or refuses it by its node; the model stays finite, of its form, near the honest replies."""
    strategy = RobustStrategy("trimmed_mean", byzantine_fraction=0.25)
    asked = [message_to(node) for node in (11, 12, 13, 14)]
    strategy._messages = asked  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # as configure_train leaves it
    strategy._model = RobustStrategyModel()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # likewise
    honest = RecordDict({"arrays": ArrayRecord({name: packed(value) for name, value in MODEL.items()})})
    hostile = Message(Error(2, "e" * 10**4), reply_to=asked[3]) if content is None else Message(content, reply_to=asked[3])
    replies = [*(Message(honest, reply_to=message) for message in asked[:3]), hostile]
    model, metrics = strategy.aggregate_train(1, replies)
    assert model is not None
    for name, value in MODEL.items():
        np.testing.assert_array_equal(unpacked(model[name], value.shape), value)
        assert model[name].dtype == str(value.dtype)
    assert not metrics
    assert all(node == 14 and len(reason) <= REASON for node, reason in strategy.rejected[1].items())
    strategy.aggregate_evaluate(1, replies)
    TALLY["strategy: refused" if strategy.rejected[1] else "strategy: used"] += 1


def RobustStrategyModel() -> Any:  # noqa: N802  # it makes one
    """What `configure_train` remembers of the model."""
    from fl_impl.flower.records import form_of  # noqa: PLC0415  # needs flwr, as all of this
    from fl_impl.flower.replies import STATISTICS, Model  # noqa: PLC0415  # likewise

    record = ArrayRecord({name: packed(value) for name, value in MODEL.items()})
    return Model(form_of(record), record, STATISTICS, ())


def message_to(node: int) -> Message:
    """A train message with an id."""
    message = Message(RecordDict(), dst_node_id=node, message_type="train")
    message.metadata.__dict__["_message_id"] = f"to {node}"
    return message


class Keeper:
    """A client that keeps something."""

    state_names = ("momentum",)

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}


def fleet(content: RecordDict) -> None:
    """The fleet's reader raises nothing but ValueError, and keeps nothing but the declared state."""
    keeper, rejected = Keeper(), dict[int, str]()
    try:
        update = read(0, keeper, Message(content, reply_to=message_to(11)), D, rejected)
        assert isinstance(update, ClientUpdate)
        TALLY["fleet: read"] += 1
    except ValueError:
        TALLY["fleet: refused"] += 1
    assert set(keeper.state) <= {"momentum"}


class Bytes:
    """A grid whose only reply is inflated from these objects."""

    def __init__(self, name: str, objects: dict[str, bytes]) -> None:
        self.name, self.objects = name, objects

    def pull_messages(self, message_ids: list[str]) -> list[Any]:
        """As HttpGrid does it, without the network."""
        del message_ids
        return [inflate_object_from_contents(self.name, dict(self.objects))]


def wire(place: int, changes: list[tuple[int, int]], cut: int | None) -> None:
    """Objects of a sound reply with bytes changed: read, or an error in place of the reply."""
    sound = {"arrays": delta(), "metrics": MetricRecord({"loss": 0.5})}
    reply = Message(RecordDict(sound), reply_to=message_to(11))
    objects = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
    name = sorted(objects)[place % len(objects)]
    changed = bytearray(objects[name])
    for where, value in changes:
        changed[where % len(changed)] = value
    (got,) = pull(Bytes(reply.object_id, {**objects, name: bytes(changed[:cut])}), ["asked"])  # pyright: ignore[reportArgumentType]  # all that is used
    if isinstance(got, Message) and got.has_content():
        aggregate(got.content)
    TALLY["wire: unreadable" if isinstance(got, Message) and got.has_error() else "wire: read"] += 1


BYTE: Final = st.tuples(st.integers(0, 2000), st.integers(0, 255))
TARGETS: Final[dict[str, tuple[Callable[..., None], tuple[st.SearchStrategy[Any], ...]]]] = {
    "decoder": (decode, (arrays(),)),
    "strategy": (aggregate, (st.one_of(contents(), st.none()),)),
    "fleet": (fleet, (updates(),)),
    "wire": (wire, (st.integers(0, 9), st.lists(BYTE, max_size=4), st.one_of(st.none(), st.integers(0, 200)))),
}


def fuzz(target: str, examples: int, seed: int) -> None:
    """Try so many inputs on one target."""
    function, given = TARGETS[target]
    chosen = hypothesis.settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    with inline(lambda message, _: message, 1):  # messages are signed by a running app
        hypothesis.seed(seed)(chosen(hypothesis.given(*given)(function)))()


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, number = time.monotonic(), options.seed
    while time.monotonic() - started < options.seconds:
        for target in [options.target] if options.target else TARGETS:
            fuzz(target, 500, number)
        raw(random.Random(number), 20_000)  # noqa: S311  # bytes to try, no secret
        number += 1
    seconds = time.monotonic() - started
    print(f"{sum(TALLY.values()):,} inputs in {seconds:.0f} s, nothing but refusals: ", end="")
    print(", ".join(f"{name} {count:,}" for name, count in sorted(TALLY.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
