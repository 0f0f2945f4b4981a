"""Assigned handlers: records that an operator rerouted run without a look at matchers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from missive.app.terms import HandlerRoute
from missive.engine.job import Job
from missive.messages import Message
from missive.outcome import Reason
from missive.routing.router import Misrouted

Find = Callable[[Message], HandlerRoute | Misrouted]


class AssignedRoutes:
    """The routes of an engine by the names and the aliases of their handlers."""

    def __init__(self, routes: Sequence[HandlerRoute]) -> None:
        self._routes = routes
        self._by_name: dict[str, list[HandlerRoute]] | None = None

    def finder(self, jobs: Sequence[Job], find: Find) -> Find:
        """Return `find` for the messages of stored records, replaced for messages with an assigned handler."""
        assigned = {id(job.message): name for job in jobs if (name := job.delivery.record.assigned) is not None}
        if not assigned:
            return find

        def found(message: Message) -> HandlerRoute | Misrouted:
            name = assigned.get(id(message))
            return find(message) if name is None else self.route(name)

        return found

    def route(self, name: str) -> HandlerRoute | Misrouted:
        """Return the route of a name or an alias. Two handlers may have one default name: it then leads nowhere."""
        if self._by_name is None:
            self._by_name = {}
            for route in self._routes:
                if route.discards is None:
                    for one in (route.name, *route.terms.aliases):
                        self._by_name.setdefault(one, []).append(route)
        routes = self._by_name.get(name, [])
        if len({route.handler for route in routes}) > 1:
            return Misrouted(Reason.ambiguous, tuple(route.name for route in routes))
        return routes[0] if routes else Misrouted(Reason.unmatched)
