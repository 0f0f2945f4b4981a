"""Machines: automata that accept the same texts as the tests they stand for."""

from __future__ import annotations

import random

import pytest

from missive.matchers import (
    AmqpPattern,
    Cidr,
    MqttFilter,
    NatsPattern,
    OneOf,
    Prefix,
    Regex,
    Substring,
    Suffix,
    Wildcard,
)
from missive.routing.automata import DEAD
from missive.routing.machines import machine_of

ADDRESSES = [
    "10.",
    "0.",
    "255",
    "5",
    "1",
    ".",
    "::",
    "::1",
    "fe80",
    ":",
    "0",
    "ff",
    "1.2.3.4",
    "2001:db8:",
    "00a",
    ":0",
]
LONG = ["ABCD", "1:2:3:4:5:6", ":7:8", "256", "01", "0000", ":ffff:", "10.0.0.1", "192.168.4.", "x", "g", ":febf"]
WORDS = ["a", "b", ".", "/", "$", "A", "ß", "s", "S", "ẞ", "ſ", "i", "İ", "i̇", "k", "K", "x", "a/", "a.", "\ue000"]
NETWORKS = ["10.0.0.0/8", "10.4.0.0/14", "0.0.0.0/0", "10.0.0.1/32", "192.168.4.0/22", "::/0", "::1/128", "fe80::/10"]


def accepts(test, text):
    """Return whether the machine of a test accepts a text."""
    machine = machine_of(test)
    state = machine.start
    for char in text:
        state = machine.step(state, char)
        if state is DEAD:
            return False
    return machine.accepts(state)


@pytest.mark.parametrize(
    "test",
    [
        *map(Cidr, [*NETWORKS, "2001:db8::/32", "::ffff:0:0/96", "1:2::/31"]),
        *map(AmqpPattern, ["#", "*", "a.#", "#.a.*", "*.", "a", "..", "#.#"]),
        *map(MqttFilter, ["#", "+", "+/a", "a/#", "/", "/#", "+/#", "$a/#", "+/+"]),
        *map(NatsPattern, ["*", ">", "a.*", "a.>", "*.b"]),
        Wildcard("a*ß*", ignore_case=True),
        Wildcard("*ab*b"),
        Substring("ss", ignore_case=True),
        Suffix("İ", ignore_case=True),
        Prefix("K", ignore_case=True),
        OneOf("a", "", 1),
        Regex("a[b-k]*|s+"),
        Regex("k.x{1,2}", ignore_case=True),
    ],
    ids=repr,
)
def test_machine_accepts_the_texts_of_its_test(test):
    """A machine and its test agree on random texts of the pieces that the test distinguishes."""
    rng = random.Random(repr(test))
    pieces = [*ADDRESSES, *LONG] if isinstance(test, Cidr) else WORDS
    for _ in range(2000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 5)))
        assert accepts(test, text) is test(text), text


@pytest.mark.parametrize("pattern", [r"\bword\b", "a{500}", "(?i:a)(?P<n>b)", r"\pN+", "^a$", "(a|b)*?c"])
def test_unusual_expression_is_no_error(pattern):
    """An expression that has no machine, or only an approximate one, causes no error."""
    machine = machine_of(Regex(pattern))
    assert machine is None or not machine.exact


def test_user_test_has_no_machine():
    """A subclass of a test of the library may have another meaning, so it has no machine."""

    class Mine(Prefix):
        __slots__ = ()

    assert machine_of(Mine("a")) is None
