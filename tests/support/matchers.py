"""Helpers of the tests of matchers: matchers from their repr, messages with any content, and events."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from missive import JSONMessage
from missive import matchers as all_matchers
from missive.errors import RegistrationError
from missive.matchers import from_eventbridge


class Decoded(JSONMessage):
    """A message with given content, as from the decoder of another format."""

    __slots__ = ("given",)

    def __init__(self, given: object) -> None:
        super().__init__(b"")
        self.given = given

    def decode(self) -> object:
        return self.given


def rebuilt(value: Any) -> Any:
    """Evaluate the repr of a matcher, a test or a key."""
    return eval(repr(value), dict(vars(all_matchers)))


def verdict(matcher: Any, event: object) -> bool:
    """Return the verdict of a matcher on an event, which is never unknown."""
    result = matcher.evaluate(Decoded(event))
    assert result is not None
    return result


def matches(pattern: dict[str, Any], event: object) -> bool:
    """Return whether a pattern matches an event. The result is the same for JSON texts and for objects."""
    result = from_eventbridge(json.dumps(pattern)).evaluate(JSONMessage.of(event))
    assert result is from_eventbridge(pattern).evaluate(Decoded(event))
    return result


def check_refused(pattern: Any, location: str, text: str) -> None:
    """Check that an EventBridge pattern is refused, with a short error on one line that matches location and text."""
    match = f"^the EventBridge pattern is invalid{location}: .*{text}"
    with pytest.raises(RegistrationError, match=match) as caught:
        from_eventbridge(pattern)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def nested(times: int, value: Any, wrap: Callable[[Any], Any]) -> Any:
    """Wrap a value several times."""
    for _ in range(times):
        value = wrap(value)
    return value


def flattened(draw: st.DrawFn, value: Any) -> Any:
    """Return an equal event with members of some objects moved out, under keys that contain dots."""
    if isinstance(value, list):
        return [flattened(draw, element) for element in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for key, inner in value.items():
        inside = flattened(draw, inner)
        if isinstance(inside, dict) and inside:
            moved = [name for name in inside if draw(st.booleans())]
            result |= {f"{key}.{name}": inside.pop(name) for name in moved}
            if inside:
                result[key] = inside
        else:
            result[key] = inside
    return result


few_names = st.sampled_from(["a", "b"])
few_scalars = st.sampled_from([1, 2, True, None])


def _objects(levels: int) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for objects whose members are scalars, objects, and arrays of both."""
    inner = few_scalars if levels == 0 else st.one_of(few_scalars, _objects(levels - 1), _objects(levels - 1))
    return st.dictionaries(few_names, inner | st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=2)


events = _objects(3)
"""Events of two names and few values, so that paths lead to values, and one or several objects meet conditions."""
