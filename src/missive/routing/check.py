"""The check: a report on the cost of routing and on handlers that overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from missive.messages import Message
from missive.routing.conflicts import analyse
from missive.routing.index import Index
from missive.routing.overlaps import Overlap, OverlapIndex
from missive.routing.route import Route
from missive.routing.texts import Effort
from missive.routing.witness import expression_of

_MAX_COMPARISONS = 200_000
"""Pairs of alternatives that one check compares."""
_MAX_STEPS = 10_000_000
"""Steps of the search for texts in one check."""
_MAX_LISTED = 100
"""Entries in each list of a report."""


class Check(msgspec.Struct, frozen=True):
    """A report on the handlers of a processor."""

    handlers: int
    shapes: dict[str, int]
    """The places that the index looks up, such as `Field('type')`, each with its number of keys."""
    largest_bucket: int
    """Largest number of handlers that one look-up finds. Each of their matchers is evaluated."""
    residual: tuple[str, ...]
    """Handlers whose matchers are evaluated for every message, because the index cannot look them up."""
    too_wide: tuple[str, ...]
    """Handlers whose matchers have too many alternatives. Simplify these matchers."""
    overlaps: tuple[tuple[str, str, str], ...]
    """Pairs of handlers, each with a message that matches both; at most 100."""
    unknown: tuple[tuple[str, str], ...]
    """Pairs of handlers that may overlap, usually because of a callable; at most 100."""
    overlap_count: int
    """Number of overlaps, listed or not."""
    unknown_count: int
    """Number of unknown pairs, listed or not."""
    complete: bool
    """Whether all pairs of handlers were compared or are known to require different literals."""

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain data for JSON."""
        return {
            **msgspec.structs.asdict(self),
            "overlaps": [{"handlers": [one, other], "message": message} for one, other, message in self.overlaps],
            "unknown": [list(pair) for pair in self.unknown],
            "residual": list(self.residual),
            "too_wide": list(self.too_wide),
        }

    def __str__(self) -> str:
        handlers = _counted(self.handlers, "handler")
        lines = [f"{handlers}, largest bucket {self.largest_bucket}, {len(self.residual)} residual"]
        lines += [f"  looked up by {shape}: {_counted(keys, 'key')}" for shape, keys in self.shapes.items()]
        lines += [f"  evaluated for every message: {name}" for name in self.residual]
        lines += [f"  too many alternatives: {name}" for name in self.too_wide]
        more = "" if self.complete else " or more"
        overlaps = _counted(self.overlap_count, "overlap", more=more)
        lines.append(f"{overlaps}, {_counted(self.unknown_count, 'unknown pair', more=more)}")
        lines += [f"  {one} and {other} overlap: {message}" for one, other, message in self.overlaps]
        lines += [f"  {one} and {other}: unknown" for one, other in self.unknown]
        return "\n".join(lines)


def check(routes: Sequence[Route], message_cls: type[Message]) -> Check:
    """Build the index of some routes, compare the routes with each other, and return the report."""
    routes = [route for route in routes if not route.is_fallback]
    index = Index([route.matcher for route in routes])
    compared = _PairwiseComparison(routes, message_cls)
    return Check(
        handlers=len(routes),
        shapes={_place(shape): keys for shape, keys in sorted(index.shapes, key=lambda one: -one[1])[:_MAX_LISTED]},
        largest_bucket=index.largest_bucket,
        residual=tuple(routes[number].name for number in index.residual),
        too_wide=tuple(compared.too_wide),
        overlaps=tuple(compared.overlaps),
        unknown=tuple(compared.unknown),
        overlap_count=compared.overlap_count,
        unknown_count=compared.unknown_count,
        complete=compared.complete,
    )


class _PairwiseComparison:
    """The comparison of all handlers with each other, in order of registration."""

    def __init__(self, routes: Sequence[Route], message_cls: type[Message]) -> None:
        self._overlaps: list[tuple[str, str, str]] = []
        self._in_arrays: list[tuple[str, str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.too_wide: list[str] = []
        self.overlap_count = self.unknown_count = self._pairs = 0
        self._start = Effort.steps
        self._index = OverlapIndex(message_cls)
        all_pairs, complete = _are_few(routes), True
        for number, route in enumerate(routes):
            others: Iterable[int] = range(number)
            if self._pairs >= _MAX_COMPARISONS:
                others = ()
            elif not all_pairs:
                others, are_all = self._index.possible_overlaps(route.matcher)
                complete = complete and are_all
            self._compare(route, others)
            self._index.add(route.matcher, route.name)
            if self._index.analysis(number).too_wide:
                self.too_wide.append(route.name)
        complete = complete and self._pairs < _MAX_COMPARISONS
        self.complete = (all_pairs or complete) and Effort.steps - self._start <= _MAX_STEPS

    @property
    def overlaps(self) -> list[tuple[str, str, str]]:
        """The overlaps. The ones that need an array are last."""
        return [*self._overlaps, *self._in_arrays][:_MAX_LISTED]

    def _compare(self, route: Route, others: Iterable[int]) -> None:
        for number in others:
            if self._pairs >= _MAX_COMPARISONS or Effort.steps - self._start > _MAX_STEPS:
                return
            found, pairs = self._index.compare(number, route.matcher, route.name)
            self._pairs += pairs
            if isinstance(found, Overlap):
                self.overlap_count += 1
                listed = self._in_arrays if found.in_array else self._overlaps
                if len(listed) < _MAX_LISTED:
                    listed.append((found.one, found.other, expression_of(found.witness)))
            elif found is not None:
                self.unknown_count += 1
                if len(self.unknown) < _MAX_LISTED:
                    self.unknown.append((found.one, found.other))


def _are_few(routes: Sequence[Route]) -> bool:
    """Return whether the limit allows a comparison of all pairs of alternatives."""
    if len(routes) ** 2 > 2 * _MAX_COMPARISONS:
        return False
    return sum(len(analyse(route.matcher).alternatives) for route in routes) ** 2 <= 2 * _MAX_COMPARISONS


def _counted(number: int, what: str, *, more: str = "") -> str:
    return f"{number}{more} {what if number == 1 and not more else what + 's'}"


def _place(shape: tuple[tuple[str, ...], ...]) -> str:
    return " & ".join(_selector(place) for place in shape)


def _selector(place: tuple[str, ...]) -> str:
    kind, *path = place
    name = {"event": "EventField"}.get(kind, kind.capitalize())
    return f"{name}({path[0]!r})" if len(path) == 1 else f"{name}({tuple(path)!r})" if path else name
