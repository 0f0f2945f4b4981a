"""Public values: which places may be declared, and which values are shown."""

from __future__ import annotations

from typing import Any

import pytest

from missive import JSONMessage, Processor, Public, RawMessage, RegistrationError
from missive.public import checked_places, public_values, shown

CANARY = "canary-4711"


def test_a_text_names_a_field_and_never_a_header():
    """A field of the body is shown by its name, and a header only by its own declaration."""
    message = JSONMessage.of({"type": "a"}, headers={"type": CANARY, "Tenant": "t-1", "other": CANARY})
    places = checked_places(["type", "tenant", Public.header("tenant")], JSONMessage)
    assert public_values(message, places) == {"type": "a", "header:tenant": "t-1"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x" * 64, "x" * 64),
        ("x" * 65, "<str, 65 characters>"),
        (10**50, 10**50),
        (10**70, "<int>"),
        (0.75, 0.75),
        (True, True),
        (None, None),
        ({"card": CANARY}, "<object, 1 field>"),
        ([CANARY, CANARY], "<list, 2 items>"),
        ((CANARY, CANARY), "<list, 2 items>"),
        (b"\xff" + CANARY.encode(), "<bytes, 12 bytes>"),
    ],
)
def test_only_short_scalars_are_shown(value: Any, expected: Any):
    """Objects, lists and long values show their shape."""
    assert shown(value) == expected


def test_a_record_and_an_explanation_show_the_shape_of_an_object():
    """A public field that holds an object, a list or a long text reveals nothing of it."""
    proc = Processor(JSONMessage, public=["a", ("b", "c")], dlq={}, on_overlap="ignore")

    @proc.handle_for(lambda message: message.content["a"] == "x")
    def handle(message: JSONMessage, context: object) -> None: ...

    message = JSONMessage.of({"a": {"card": CANARY}, "b": {"c": CANARY * 10}})
    assert public_values(message, proc.public) == {"a": "<object, 1 field>", "b.c": "<str, 110 characters>"}
    assert CANARY not in str(proc.explain(message))


def test_an_undecodable_body_has_public_headers_only():
    """The headers of a message are shown, also when its body cannot be decoded."""
    message = JSONMessage(b"{", headers={"tenant": "t-1"})
    places = checked_places(["a", Public.header("tenant")], JSONMessage)
    assert public_values(message, places) == {"header:tenant": "t-1"}


@pytest.mark.parametrize(
    ("public", "error"),
    [
        ("type", r"public=\['type'\]"),
        (Public.header("a"), r"public=\[Public.header\('a'\)\]"),
        ([1], "not a int"),
        ([()], "not a tuple"),
        ([("a", 1)], "not a tuple"),
    ],
)
def test_a_place_that_names_nothing_is_refused(public: Any, error: str):
    """The error names the remedy."""
    with pytest.raises(RegistrationError, match=error):
        Processor(JSONMessage, public=public)


def test_a_field_of_raw_messages_is_refused():
    """Raw messages have headers only."""
    with pytest.raises(RegistrationError, match=r"missive\.Public\.header\('tenant'\)"):
        Processor(public=["tenant"])
    assert Processor(RawMessage, public=[Public.header("tenant")]).public == frozenset({Public.header("Tenant")})


def test_public_without_a_name_is_refused():
    """`Public()` and a name that is no text raise an error."""
    with pytest.raises(RegistrationError, match="names nothing"):
        Public()
    with pytest.raises(RegistrationError, match="takes the name of a header"):
        Public.header("")
