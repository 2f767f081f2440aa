"""Spec strings: what is read, what is refused, and with what words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_impl.common.specs import Spec, import_attribute, lookup, nearest, parse, split


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("krum", Spec("krum")),
        (" multi_krum( m = 5 ) ", Spec("multi_krum", (), {"m": 5})),
        ("dirichlet(0.5)", Spec("dirichlet", (0.5,))),
        ("a(-1, 'x|y', b=[1, 2], c=None, d=True)", Spec("a", (-1, "x|y"), {"b": [1, 2], "c": None, "d": True})),
        ("a()", Spec("a")),
    ],
)
def test_parse(text, spec):
    assert parse(text) == spec


@pytest.mark.parametrize(
    "text",
    ["", "1", "a.b", "a b", "a(", "a(b)", "a(**{})", "a(*[])", "a()()", "a(__import__('os'))", "a;b", "lambda: 0", "a(b=c)"],
)
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="expected a spec such as"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ["a"]),
        ("a|b|c", ["a", "b", "c"]),
        ("a(x='p|q')|b", ["a(x='p|q')", "b"]),
        ('a("(")|b', ['a("(")', "b"]),
        ("a([1|2])|b", ["a([1|2])", "b"]),
        ("|", ["", ""]),
        (r"a('\'|')|b", [r"a('\'|')", "b"]),
    ],
)
def test_split(text, parts):
    assert split(text, "|") == parts


@given(
    name=st.sampled_from(["a", "krum", "x1"]),
    options=st.dictionaries(
        st.sampled_from(["m", "tau", "mode"]),
        st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=4), st.none()),
        max_size=2,
    ),
)
def test_what_is_written_is_read(name, options):
    text = f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
    assert split(f"{text}|{text}", "|") == [text, text]
    assert parse(text) == Spec(name, (), options)


def test_lookup_names_the_nearest():
    assert lookup("pi", {"pi": math.pi}, "a number") == math.pi
    with pytest.raises(ValueError, match=r"expected a number, got 'pii'; did you mean 'pi'\? \(known: e, pi\)"):
        lookup("pii", {"pi": 3, "e": 2}, "a number")
    with pytest.raises(ValueError, match=r"got 'zzz' \(known: e, pi\)"):
        lookup("zzz", {"pi": 3, "e": 2}, "a number")
    assert nearest("a", []) == ""


def test_import_attribute():
    assert import_attribute("math:pi") == math.pi
    assert import_attribute("fl_impl.common.specs:Spec.__init__") is Spec.__init__
    with pytest.raises(ValueError, match="cannot import module 'no_such_module'"):
        import_attribute("no_such_module:x")
    with pytest.raises(ValueError, match="module 'math' has no attribute 'tau2'"):
        import_attribute("math:tau2")
    with pytest.raises(ValueError, match="expected package.module:attribute"):
        import_attribute("math:")
    with pytest.raises(ValueError, match="expected package.module:attribute"):
        import_attribute(":x")
