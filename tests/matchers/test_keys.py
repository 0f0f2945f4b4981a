"""Key functions: the results of by_field, by_header and by_key, and their value semantics."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import json
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage, Message, RawMessage, StructuredMessage
from missive.errors import DecodingError, RegistrationError
from missive.matchers import by_field, by_header, by_key
from tests.support import strategies
from tests.support.matchers import Decoded, rebuilt

HUGE = 10**30
MOMENT = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
KEYS = [by_field("a"), by_field(("a", "b")), by_header("X-Tenant"), by_key]


class Name(enum.StrEnum):
    customer = "customer"


@pytest.mark.parametrize("value", ["", "a", 0, 1, 1.5, True, False, HUGE, "号", "a\0b"])
def test_by_field_returns_a_scalar_unchanged(value):
    """The key of a scalar is the scalar, with the same type."""
    key = by_field("a")(JSONMessage.of({"a": value}))
    assert (value, type(value)) == (key, type(key))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("a", {}),
        ("a", {"a": None}),
        ("a.b", {"a": {"b": 1}}),
        (("a", "b"), {"a": {}}),
        (("a", "b"), {"a": [{"b": 1}]}),
        (("a", "b"), {"a": "b"}),
        (("a", "b"), {"a": None}),
        ("a", ["a"]),
        ("a", "a"),
        ("a", None),
    ],
)
def test_missing_field_has_no_key(path, body):
    """A missing field, null, and a path through a list or a scalar have the key None."""
    assert by_field(path)(JSONMessage.of(body)) is None


def test_by_field_follows_a_path():
    """A path is one literal segment or a tuple of segments."""
    message = JSONMessage.of({"a.b": 1, "a": {"b": 2, "": {"c": 3}}, "": 4})
    assert [by_field(path)(message) for path in ["a.b", ("a", "b"), ("a", "", "c"), "", ("a.b",)]] == [1, 2, 3, 4, 1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], b"[]"),
        ({}, b"{}"),
        ([1, "a", None], b'[1,"a",null]'),
        ({"b": 1, "a": [{"d": 1, "c": 2}]}, b'{"a":[{"c":2,"d":1}],"b":1}'),
        ([HUGE], str([HUGE]).encode()),
        (["号"], '["号"]'.encode()),
    ],
)
def test_key_of_a_list_or_an_object_is_its_json(value, expected):
    """The key of a list or an object is its JSON text with sorted keys, as bytes, which equal no string."""
    key = by_field("a")(JSONMessage.of({"a": value}))
    assert expected == key
    assert hash(key)
    assert by_field("a")(JSONMessage.of({"a": expected.decode()})) != key


@given(strategies.bodies, st.randoms())
@strategies.examples(100)
def test_equal_values_have_equal_keys(value, random):
    """Every value has a hashable key that does not depend on the order and the spacing of its JSON text."""

    def shuffled(node):
        if isinstance(node, list):
            return [shuffled(part) for part in node]
        if isinstance(node, dict):
            return {name: shuffled(node[name]) for name in random.sample(list(node), len(node))}
        return node

    key = by_field("a")(JSONMessage.of({"a": value}))
    again = by_field("a")(JSONMessage(json.dumps({"a": shuffled(value)}, indent=1).encode()))
    assert key == again
    assert hash(key) == hash(again)
    assert (key is None) is (value is None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MOMENT, MOMENT),
        (b"a", b"a"),
        ((1, 2), (1, 2)),
        ([MOMENT], b'["2026-01-02T00:00:00Z"]'),
        ({1: "a"}, None),
        ([object()], None),
        (["\ud800"], None),
        (([],), b"[[]]"),
        (bytearray(b"a"), b'"YQ=="'),
        ({"a": {1, 2}}, b'{"a":[1,2]}'),
    ],
)
def test_values_of_a_custom_decoder(value, expected):
    """A hashable value is its own key. A value that can be neither hashed nor encoded has the key None."""
    assert expected == by_field("a")(Decoded({"a": value}))


def test_cyclic_value_has_no_key():
    """A list that contains itself has the key None."""
    loop = []
    loop.append(loop)
    assert by_field("a")(Decoded({"a": loop})) is None


def test_undecodable_body():
    """`by_field` raises the message's `DecodingError`. Header and key functions need no body."""
    broken = JSONMessage(b"{", headers={"x": "1"}, key="k")
    with pytest.raises(DecodingError):
        by_field("a")(broken)
    assert (by_header("x")(broken), by_key(broken)) == ("1", "k")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("Y", "1")], None),
        ([("x", "1")], "1"),
        ([("X", "")], ""),
        ([("X", b"\xff")], b"\xff"),
        ([("X", "1"), ("x", "2")], ("1", "2")),
    ],
)
def test_by_header(headers, expected):
    """A header is found in any ASCII case. A missing header is None, and a repeated one is a tuple."""
    assert expected == by_header("X")(RawMessage(b"", headers=headers))
    assert expected == by_header("x")(RawMessage(b"", headers=headers))


@pytest.mark.parametrize("key", [None, "", "a", b"a", b"\xff"])
def test_by_key(key):
    """`by_key` returns the transport's key unchanged, or None."""
    assert by_key(RawMessage(b"", key=key)) == key


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: by_field(()), "by_field's path is a string or a tuple"),
        (lambda: by_field(None), "by_field's path"),
        (lambda: by_field(1), "by_field's path"),
        (lambda: by_field(["a", "b"]), "by_field's path"),
        (lambda: by_field(("a", 1)), "by_field's path"),
        (lambda: by_field("a", "b"), r"by_field got too many arguments: .* such as \('a', 'b'\)$"),
        (lambda: by_field(("a", "b"), "c"), r"such as \('a', 'b', 'c'\)$"),
        (lambda: by_header(""), "by_header's name is a non-empty string"),
        (lambda: by_header(b"a"), "by_header's name"),
        (lambda: by_header(None), "by_header's name"),
    ],
)
def test_invalid_arguments_are_refused(make, text):
    """An invalid path or name, or segments outside a tuple, are refused with an error that names the remedy."""
    with pytest.raises(RegistrationError, match=text):
        make()


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (by_field("a"), "by_field('a')"),
        (by_field(("a",)), "by_field('a')"),
        (by_field(("a", "b'")), """by_field(('a', "b'"))"""),
        (by_field(Name.customer), "by_field('customer')"),
        (by_header("X-Tenant"), "by_header('X-Tenant')"),
        (by_header(Name.customer), "by_header('customer')"),
        (by_key, "by_key"),
    ],
)
def test_keys_are_values(key, shown):
    """Key functions can be copied, pickled and evaluated from their repr. They are frozen."""
    assert shown == repr(key)
    for again in (rebuilt(key), copy.deepcopy(key), pickle.loads(pickle.dumps(key))):
        assert key == again
        assert hash(key) == hash(again)
        assert shown == repr(again)
    with pytest.raises(AttributeError, match="frozen"):
        key.path = ("b",)


def test_equality():
    """Key functions are equal if they return the same part of a message. The case of header names is ignored."""
    assert len(set(KEYS)) == len(KEYS)
    assert by_field("a") == by_field(("a",)) != by_field("b")
    assert by_header("X-Tenant") == by_header("x-tenant") != by_header("tenant")
    assert by_field("a") != by_header("a")


def test_keys_are_equal_in_another_process():
    """Unpickled key functions, and the keys of objects, are equal in another process with other hashes."""
    body = {"b": 1, "a": 2}
    code = (
        "import pickle, sys; from missive import JSONMessage; from missive.matchers import *; "
        "there = pickle.loads(sys.stdin.buffer.read()); "
        f"print({{key: 1 for key in there}} == dict.fromkeys({KEYS!r}, 1), there[0](JSONMessage.of({{'a': {body!r}}})))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(KEYS), capture_output=True, check=True, env=environment
    )
    assert done.stdout == b"""True b'{"a":2,"b":1}'\n"""


def test_required_message_class():
    """`by_field` requires messages with fields. The other functions accept all messages."""
    assert [key.requires for key in KEYS] == [StructuredMessage, StructuredMessage, Message, Message]
