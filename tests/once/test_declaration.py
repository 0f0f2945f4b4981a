"""`Once`: arguments, registration, and equal keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

import missive
from missive.matchers import Everything, by_field, by_header, by_key
from missive.once.declaration import digest


def test_defaults():
    """By default, a claim is a lease of one minute, runs again when it expires, and is remembered for fourteen days."""
    once = missive.Once(by_key)
    assert (once.form, once.ttl, once.lease, once.expired) == ("lease", 14 * 86400, 60, "rerun")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"ttl": 0}, "^ttl= of Once must be a number of seconds above zero"),
        ({"ttl": timedelta(days=-1)}, "^ttl= of Once"),
        ({"ttl": "14d"}, "^ttl= of Once"),
        ({"lease": float("nan")}, "^lease= of Once"),
        ({"ttl": 10, "lease": 20}, "^ttl= of Once must be at least its lease="),
        ({"form": "leased"}, 'form= of Once must be "lease" or "transaction"'),
        ({"expired": "drop"}, 'expired= of Once must be "rerun" or "flag"'),
    ],
)
def test_an_invalid_argument_is_an_error(given: dict[str, Any], text: str):
    """An invalid duration or form is an error of the constructor."""
    with pytest.raises(missive.RegistrationError, match=text):
        missive.Once(by_key, **given)


async def async_key(message: missive.Message) -> str:
    return "key"


@pytest.mark.parametrize(
    ("once", "name", "text"),
    [
        (missive.Once(by_key), None, "has once= and needs name="),
        (by_key, "billing", r"once= \(for billing\) must be a missive.Once"),
        (
            missive.Once("id"),
            "billing",
            r"the key of once= \(for billing\) .* For a field of that name, use by_field\('id'\)",
        ),
        (missive.Once(by_field), "billing", "by_field is a class"),
        (missive.Once(lambda: "key"), "billing", r"the key of once= \(for billing\) must take a message"),
        (missive.Once(async_key), "billing", "it is async"),
        (missive.Once(by_field("id")), "billing", "reads a StructuredMessage"),
        (missive.Once(by_key), "x" * 256, "must be a text of 1 to 255 characters"),
    ],
)
def test_an_invalid_registration_is_an_error(once: Any, name: str | None, text: str):
    """A handler without its own name, and an invalid key, raise an error that names the handler."""
    proc = missive.Processor(name="t")
    with pytest.raises(missive.RegistrationError, match=text):
        proc.add_handler(Everything(), lambda message, context: None, name=name, once=once)


def test_equal_keys_have_one_digest():
    """Equal numbers have one digest. Text, bytes, numbers, booleans and tuples differ from each other."""
    assert digest(1) == digest(1.0) == digest(Decimal("1.00"))
    assert digest(0.5) == digest(Decimal("0.5"))
    assert digest(("a", 1)) == digest(["a", 1.0])
    different: list[object] = [
        1, "1", b"1", True, "True", None, 1.5, float("inf"), -1, "", b"", (), ("a", "b"), ("ab",), ("a", ("b",)),
        "a" * 300, UUID(int=1), str(UUID(int=1)), datetime(2026, 1, 1, tzinfo=UTC), 10**5000, "\ud800",
    ]  # fmt: skip
    assert len({digest(key) for key in different}) == len(different)


def test_digests_are_stable():
    """A digest stays the same across processes and versions."""
    assert digest("order-7") == "86801cf727569b454c0ccff6a6c8726b30d0ef450d581a7ed671c86ff4b730ac"


def test_a_key_of_another_type_is_an_error():
    """An object without a stable identity is an error, which does not show the object."""
    with pytest.raises(missive.UsageError, match="not a dict") as raised:
        digest({"secret": 1})
    assert "secret" not in str(raised.value)


def test_a_claim_needs_once():
    """A claim in a handler without once= raises an error that names the handler."""
    dead: dict[str, Any] = {}
    proc = missive.Processor(name="t", dlq=dead)
    proc.add_handler(Everything(), lambda message, context: context.claim(None), name="plain")
    with proc.test_client() as client:
        result = client.send(missive.RawMessage(b""))
    assert isinstance(result.exception, missive.UsageError)
    assert str(result.exception).startswith("plain has no once=")


def test_the_repr_of_once():
    """The repr has the form and the duration."""
    assert repr(missive.Once(by_header("x"), ttl=60)) == "<Once: lease, 60 s>"
