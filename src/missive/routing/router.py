"""The router: find the route of a message, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic

import msgspec

from missive.errors import MatcherFailed, RegistrationError
from missive.matchers.selectors import Field
from missive.matchers.tests import Equals
from missive.outcome import Reason
from missive.routing.index import Index
from missive.routing.route import Route, TermsT

if TYPE_CHECKING:
    from missive.messages import Message


class Misrouted(msgspec.Struct, frozen=True):
    """The reason why a message has no handler, or more than one."""

    reason: Reason
    candidates: tuple[str, ...] = ()
    """Names of the handlers that match (ambiguous), are unknown (unreadable) or failed (matcher_failed)."""
    exception: MatcherFailed | None = None


_UNMATCHED = Misrouted(Reason.unmatched)


class Router(Generic[TermsT]):
    """A router over a fixed sequence of routes.

    The router evaluates the matchers that the index finds for a message, or all of them with `indexed=False`. The
    result is the same, because the index never omits a matcher that matches.
    """

    def __init__(self, routes: Sequence[Route[TermsT]], *, indexed: bool = True) -> None:
        self.routes = tuple(route for route in routes if not route.is_fallback)
        self._unmatched = next((route for route in routes if route.is_fallback), _UNMATCHED)
        self._all = range(len(self.routes))
        self._index = Index([route.matcher for route in self.routes]) if indexed else None
        self._field, self._direct = self._direct_routes()

    def _direct_routes(self) -> tuple[str, dict[str, Route[TermsT]]]:
        """Return a field of the body, and the routes that a string in this field determines.

        Each of these routes requires one string in this field and nothing else, so that finding the string in the
        table replaces the evaluation of the matcher.
        """
        single_field = None if self._index is None else self._index.single_field
        if single_field is None:
            return "", {}
        direct = {}
        for literal, number in single_field[1].items():
            matcher = self.routes[number].matcher
            if type(matcher) is Field and type(matcher.test) is Equals and matcher.path == (single_field[0],):
                direct[literal] = self.routes[number]
        return single_field[0], direct

    def _candidates(self, message: Message) -> Sequence[int]:
        if self._index is None:
            return self._all
        try:
            return self._index.candidates(message)
        except (Exception, SystemExit):  # noqa: BLE001 - the content of a user's message class may raise anything
            # Evaluate all matchers: some need no body, and the others report the error.
            return self._all

    def _find_direct(self, message: Message) -> Route[TermsT] | None:
        try:
            content = message.content  # type: ignore[attr-defined]  # checked at registration
        except (Exception, SystemExit):  # noqa: BLE001 - the evaluation of the matchers reports the error
            return None
        if type(content) is dict and type(value := content.get(self._field)) is str:
            return self._direct.get(value)
        return None

    def find(self, message: Message) -> Route[TermsT] | Misrouted:
        """Return the only route whose matcher is true, or the route for unmatched messages, or the reason for neither.

        A matcher is unknown if it depends on a body that cannot be decoded. If one matcher is true, unknown matchers
        do not count. If no matcher is true and some are unknown, the message is unreadable.
        """
        if self._direct and (direct := self._find_direct(message)) is not None:
            return direct
        return self._ask(message)

    def _ask(self, message: Message) -> Route[TermsT] | Misrouted:
        found: list[Route[TermsT]] | None = None
        unknown: list[str] | None = None
        route: Route[TermsT] | None = None
        routes = self.routes
        try:
            candidates = self._candidates(message)
            if len(candidates) == 1:  # the usual case
                route = routes[candidates[0]]
                verdict = route.matcher.evaluate(message)
                if verdict:
                    return route
                return self._unmatched if verdict is not None else Misrouted(Reason.unreadable, (route.name,))
            for number in candidates:
                route = routes[number]
                verdict = route.matcher.evaluate(message)
                if verdict:
                    if found is None:
                        found = [route]
                    else:
                        found.append(route)
                elif verdict is None:
                    unknown = [*(unknown or ()), route.name]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's callable may raise anything
            return _matcher_failed(route, error)
        if found is None:
            return self._unmatched if unknown is None else Misrouted(Reason.unreadable, tuple(unknown))
        if len(found) == 1:
            return found[0]
        return Misrouted(Reason.ambiguous, tuple(route.name for route in found))

    def matching(self, message: Message) -> list[Route[TermsT]]:
        """Return all routes that match, in order of registration. Raise `MatcherFailed` when a matcher raises."""
        found = []
        for number in self._candidates(message):
            route = self.routes[number]
            try:
                verdict = route.matcher.evaluate(message)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
                failed = _matcher_failed(route, error).exception
            else:
                if verdict:
                    found.append(route)
                continue
            # Raise outside the except block: a chained exception of the matcher could carry message content.
            if failed is not None:
                raise failed
        return found


def _matcher_failed(route: Route | None, error: BaseException) -> Misrouted:
    name = route.name if route is not None else "?"
    matcher = repr(route.matcher) if route is not None else "?"
    hint = (
        "; in a lambda, `==` binds weaker than `&`: write (lambda m: …) & Field(…)"
        if isinstance(error, (TypeError, RegistrationError))
        else ""
    )
    failed = MatcherFailed(f"the matcher of {name}, {matcher}, raised {type(error).__name__}{hint}")
    return Misrouted(Reason.matcher_failed, (name,), failed)
