"""The check: what routing by some handlers costs, and which of them overlap, or could."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from missive.messages import Message
from missive.routing.conflicts import analyse
from missive.routing.index import Index
from missive.routing.overlaps import Overlap, OverlapIndex
from missive.routing.route import Route
from missive.routing.witness import expression_of

_MAX_COMPARISONS = 200_000
"""Pairs of alternatives of two matchers that are compared."""
_MAX_LISTED = 100


class Check(msgspec.Struct, frozen=True):
    """A report on the handlers of a processor."""

    handlers: int
    shapes: dict[str, int]
    """What is looked up, such as `Field('type')`, and how many keys lead from there."""
    largest_bucket: int
    """The most handlers that one look-up leads to: each of them is asked."""
    residual: tuple[str, ...]
    """Handlers that are asked about every message, for there is nothing to look them up by."""
    too_wide: tuple[str, ...]
    """Handlers whose matchers have too many alternatives to keep apart: simplify them."""
    overlaps: tuple[tuple[str, str, str], ...]
    """Two handlers and a message that matches both; a hundred at most."""
    unknown: tuple[tuple[str, str], ...]
    """Two handlers that could overlap, most often because of a callable; a hundred at most."""
    overlap_count: int
    unknown_count: int
    complete: bool
    """Whether every two handlers were compared, or are known to ask for different literals."""

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON would have it."""
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
        lines += [f"  asked about every message: {name}" for name in self.residual]
        lines += [f"  too many alternatives to keep apart: {name}" for name in self.too_wide]
        more = "" if self.complete else " or more"
        overlaps = _counted(self.overlap_count, "overlap", more=more)
        lines.append(f"{overlaps}, {_counted(self.unknown_count, 'unknown pair', more=more)}")
        lines += [f"  {one} and {other} overlap: {message}" for one, other, message in self.overlaps]
        lines += [f"  {one} and {other}: not known" for one, other in self.unknown]
        return "\n".join(lines)


def check(routes: Sequence[Route], message_cls: type[Message]) -> Check:
    """Build the index of some routes and compare them with each other."""
    routes = [route for route in routes if not route.is_fallback]
    index = Index([route.matcher for route in routes])
    compared = _Comparisons(routes, message_cls)
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


class _Comparisons:
    """What comes of comparing handlers with each other, in the order they are registered."""

    def __init__(self, routes: Sequence[Route], message_cls: type[Message]) -> None:
        self.overlaps: list[tuple[str, str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.too_wide: list[str] = []
        self.overlap_count = self.unknown_count = self._comparisons = 0
        self._index = OverlapIndex(message_cls)
        all_pairs, complete = _are_few(routes), True
        for number, route in enumerate(routes):
            others: Iterable[int] = range(number)
            if self._comparisons >= _MAX_COMPARISONS:
                others = ()
            elif not all_pairs:
                others, are_all = self._index.possible_overlaps(route.matcher)
                complete = complete and are_all
            self._compare(route, others)
            self._index.add(route.matcher, route.name)
            if self._index.analysis(number).too_wide:
                self.too_wide.append(route.name)
        self.complete = all_pairs or (complete and self._comparisons < _MAX_COMPARISONS)

    def _compare(self, route: Route, others: Iterable[int]) -> None:
        for number in others:
            if self._comparisons >= _MAX_COMPARISONS:
                return
            found, comparisons = self._index.compare(number, route.matcher, route.name)
            self._comparisons += comparisons
            if isinstance(found, Overlap):
                self.overlap_count += 1
                if len(self.overlaps) < _MAX_LISTED:
                    self.overlaps.append((found.one, found.other, expression_of(found.witness)))
            elif found is not None:
                self.unknown_count += 1
                if len(self.unknown) < _MAX_LISTED:
                    self.unknown.append((found.one, found.other))


def _are_few(routes: Sequence[Route]) -> bool:
    """Tell whether every two alternatives can be compared."""
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
