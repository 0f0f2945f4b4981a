"""Once: what can be declared, what is refused at registration, and which keys are the same."""

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
    """A claim is a lease of a minute, remembered for fourteen days, and run again when it ran out."""
    once = missive.Once(by_key)
    assert (once.form, once.ttl, once.lease, once.expired) == ("lease", 14 * 86400, 60, "rerun")


@pytest.mark.parametrize(
    ("given", "said"),
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
def test_what_cannot_be_declared(given: dict[str, Any], said: str):
    """A duration that is none, and a form that is none, are refused where they are written."""
    with pytest.raises(missive.RegistrationError, match=said):
        missive.Once(by_key, **given)


async def waits(message: missive.Message) -> str:
    return "key"


@pytest.mark.parametrize(
    ("once", "name", "said"),
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
        (missive.Once(waits), "billing", "it is async"),
        (missive.Once(by_field("id")), "billing", "reads a StructuredMessage"),
        (missive.Once(by_key), "x" * 256, "a name of at most 255 characters"),
    ],
)
def test_what_cannot_be_registered(once: Any, name: str | None, said: str):
    """A handler without a name of its own, and a key that cannot be asked, are refused with the handler's name."""
    proc = missive.Processor(name="t")
    with pytest.raises(missive.RegistrationError, match=said):
        proc.add_handler(Everything(), lambda message, context: None, name=name, once=once)


def test_equal_keys_have_one_digest():
    """A number is one however it is written; text, bytes, numbers and truth are different things, and so are parts."""
    assert digest(1) == digest(1.0) == digest(Decimal("1.00"))
    assert digest(0.5) == digest(Decimal("0.5"))
    assert digest(("a", 1)) == digest(["a", 1.0])
    different: list[object] = [
        1, "1", b"1", True, "True", None, 1.5, float("inf"), -1, "", b"", (), ("a", "b"), ("ab",), ("a", ("b",)),
        "a" * 300, UUID(int=1), str(UUID(int=1)), datetime(2026, 1, 1, tzinfo=UTC), 10**5000, "\ud800",
    ]  # fmt: skip
    assert len({digest(key) for key in different}) == len(different)


def test_digests_last():
    """What a store remembers today is what a later process asks for."""
    assert digest("order-7") == "86801cf727569b454c0ccff6a6c8726b30d0ef450d581a7ed671c86ff4b730ac"


def test_what_is_no_key():
    """An object that is equal to nothing in another process is no key, and is not shown."""
    with pytest.raises(missive.UsageError, match="not a dict") as raised:
        digest({"secret": 1})
    assert "secret" not in str(raised.value)


def test_a_claim_needs_once():
    """A handler without once= that claims is told so, by its name."""
    dead: dict[str, Any] = {}
    proc = missive.Processor(name="t", dlq=dead)
    proc.add_handler(Everything(), lambda message, context: context.claim(None), name="plain")
    with proc.test_client() as client:
        result = client.send(missive.RawMessage(b""))
    assert isinstance(result.exception, missive.UsageError)
    assert str(result.exception).startswith("plain has no once=")


def test_reprs_say_how_and_nothing_else():
    """What is declared shows its form and duration."""
    assert repr(missive.Once(by_header("x"), ttl=60)) == "<Once: lease, 60 s>"
