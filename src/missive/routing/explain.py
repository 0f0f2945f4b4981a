"""Explanations: why a message has its handler, or none, without showing its content."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from missive.errors import DecodingError
from missive.matchers.algebra import And, Matcher, Not, Or
from missive.matchers.events import EventField
from missive.matchers.selectors import Selector
from missive.matchers.values import MISSING, show
from missive.public import PublicPlace, shape_of, shown
from missive.routing.route import Route
from missive.routing.router import Misrouted, Router

if TYPE_CHECKING:
    from missive.messages import Message

Places: TypeAlias = Collection[PublicPlace]
"""The places whose values may be shown."""

_MAX_SHOWN = 5
"""Number of values of an EventField in one line."""
_MAX_LINE = 500
"""Length of a line, in characters."""
_UNDECODABLE = "unknown: the body cannot be decoded"
_VERDICTS = {True: "matches", False: "does not match", None: _UNDECODABLE}


class Considered(msgspec.Struct, frozen=True):
    """The verdict of one handler's matcher."""

    handler: str
    verdict: str
    because: tuple[str, ...]
    """For each part that prevented a match: the expected value, and the kind of the value in the message."""


class Explanation(msgspec.Struct, frozen=True):
    """The handler of a message, or the reason for a dead letter, with the verdict of each matcher."""

    handler: str | None
    """Name of the handler that would run; None for a dead letter."""
    reason: str | None
    """Reason of the dead letter; None where a handler would run."""
    considered: tuple[Considered, ...]
    """The handlers that match, then the others, the nearest misses first."""

    def to_dict(self) -> dict[str, object]:
        """Return the explanation as plain data for JSON."""
        return {
            "handler": self.handler,
            "reason": self.reason,
            "considered": [
                {"handler": c.handler, "verdict": c.verdict, "because": list(c.because)} for c in self.considered
            ],
        }

    def __str__(self) -> str:
        head = f"handled by {self.handler}" if self.handler else f"no handler: {self.reason}"
        lines = [head]
        for one in self.considered:
            lines.append(f"  {one.handler}: {one.verdict}")
            lines.extend(f"    {line}" for line in one.because)
        return "\n".join(lines)


def explain(
    routes: Sequence[Route],
    message: Message,
    public: Places = (),
    routing: Route | Misrouted | None = None,
) -> Explanation:
    """Evaluate the matcher of every route for a message, and explain each verdict.

    `routing` is the result of a router for this message. With None, `explain` routes the message itself.
    """
    if routing is None:
        routing = Router(routes, indexed=False).find(message)
    explained = [(route, _consider(route, message, public)) for route in routes if not route.is_fallback]
    # Sort near misses first: the user probably meant the matcher with the smallest failed part.
    explained.sort(key=lambda pair: len(pair[1].because) / _size(pair[0].matcher))
    considered = [one for _, one in explained]
    if isinstance(routing, Misrouted):
        return Explanation(None, routing.reason, tuple(considered))
    return Explanation(routing.name, None, tuple(considered))


def _size(matcher: Matcher[Any]) -> int:
    return sum(not isinstance(part, (And, Or, Not)) for part in matcher.walk())


def _consider(route: Route, message: Message, public: Places) -> Considered:
    try:
        verdict = _VERDICTS[route.matcher.evaluate(message)]
        because = tuple(map(_line, _obstacles(route.matcher, message, public, wanted=True)))
    except Exception as error:  # noqa: BLE001 - a user's callable may raise anything
        return Considered(route.name, f"its matcher raised {type(error).__name__}", (_line(repr(route.matcher)),))
    return Considered(route.name, verdict, because)


def _line(text: str) -> str:
    return text if len(text) <= _MAX_LINE else f"{text[:_MAX_LINE]}…"


def _obstacles(matcher: Matcher[Any], message: Message, public: Places, *, wanted: bool) -> Iterator[str]:
    """Yield a line for each part of `matcher` that prevents the result `wanted`."""
    if matcher.evaluate(message) is wanted:
        return
    if isinstance(matcher, (And, Or)):
        for part in matcher.parts:
            yield from _obstacles(part, message, public, wanted=wanted)
    elif isinstance(matcher, Not):
        yield from _obstacles(matcher.part, message, public, wanted=not wanted)
    elif isinstance(matcher, Selector):
        expected = matcher.test.expectation if wanted else f"not {matcher.test.expectation}"
        yield f"{matcher!r}: expected {expected}, got {_found(matcher, message, public)}"
    elif isinstance(matcher, EventField) and matcher.test is not None:
        expected = matcher.test.expectation if wanted else f"not {matcher.test.expectation}"
        yield f"{matcher!r}: expected {expected}, got {_found_all(matcher, message, public)}"
    else:
        answer = matcher.evaluate(message)
        yield f"{matcher!r}: {_UNDECODABLE if answer is None else f'returned {answer}'}"


def _found(selector: Selector[Any], message: Message, public: Places) -> str:
    try:
        value = selector.extract(message)
    except DecodingError:
        return "a body that cannot be decoded"
    if value is MISSING:
        return "nothing"
    if selector.is_public(public):
        return _shown(value)
    return shape_of(value)


def _found_all(field: EventField, message: Any, public: Places) -> str:
    try:
        values = list(islice(field.extract_all(message), _MAX_SHOWN + 1))
    except DecodingError:
        return "a body that cannot be decoded"
    shown = [_shown(value) if field.is_public(public) else shape_of(value) for value in values[:_MAX_SHOWN]]
    return ", ".join(shown) + (", …" if len(values) > _MAX_SHOWN else "") or "nothing"


def _shown(value: object) -> str:
    """Return a public value as a literal, or its shape."""
    visible = shown(value)
    return show(visible) if visible is value else f"{visible}"
