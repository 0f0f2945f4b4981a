"""The check: what routing by some handlers costs, and which of them overlap, or could."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from missive.messages import Message
from missive.routing.index import Index
from missive.routing.ledger import Ledger, Overlap
from missive.routing.normal import too_wide
from missive.routing.route import Route
from missive.routing.witness import shown

_MOST_LOOKS = 200_000
_MOST_LISTED = 100


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
    """Handlers whose matchers have too many alternatives to be kept apart: simplify them."""
    overlaps: tuple[tuple[str, str, str], ...]
    """Two handlers and a message that matches both; a hundred at most."""
    unknown: tuple[tuple[str, str], ...]
    """Two handlers that could overlap, most often because of a callable; a hundred at most."""
    overlap_count: int
    unknown_count: int
    complete: bool
    """Whether every two handlers were compared; of more than six hundred, only those that are likely to meet are."""

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
        lines = [f"{self.handlers} handlers, largest bucket {self.largest_bucket}, {len(self.residual)} residual"]
        lines += [f"  looked up by {shape}: {keys} keys" for shape, keys in self.shapes.items()]
        lines += [f"  asked about every message: {name}" for name in self.residual]
        lines += [f"  too many alternatives to be kept apart: {name}" for name in self.too_wide]
        more = "" if self.complete else " or more"
        lines.append(f"{self.overlap_count}{more} overlaps, {self.unknown_count}{more} unknown pairs")
        lines += [f"  {one} and {other} overlap: {message}" for one, other, message in self.overlaps]
        lines += [f"  {one} and {other}: not known" for one, other in self.unknown]
        return "\n".join(lines)


def check(routes: Sequence[Route], message_cls: type[Message]) -> Check:
    """Build the index of some routes and compare them with each other."""
    index = Index([route.matcher for route in routes])
    ledger = Ledger(message_cls)
    for route in routes:
        ledger.add(route.matcher, route.name)
    overlaps: list[tuple[str, str, str]] = []
    unknown: list[tuple[str, str]] = []
    counts = {True: 0, False: 0}
    conflicts = ledger.conflicts(_MOST_LOOKS)
    for found in conflicts:
        is_overlap = isinstance(found, Overlap)
        counts[is_overlap] += 1
        if isinstance(found, Overlap) and len(overlaps) < _MOST_LISTED:
            overlaps.append((found.one, found.other, shown(found.witness)))
        elif not is_overlap and len(unknown) < _MOST_LISTED:
            unknown.append((found.one, found.other))
    return Check(
        handlers=len(routes),
        shapes={_place(shape): keys for shape, keys in sorted(index.shapes, key=lambda one: -one[1])[:_MOST_LISTED]},
        largest_bucket=index.largest_bucket,
        residual=tuple(routes[number].name for number in index.residual),
        too_wide=tuple(route.name for route in routes if too_wide(route.matcher)),
        overlaps=tuple(overlaps),
        unknown=tuple(unknown),
        overlap_count=counts[True],
        unknown_count=counts[False],
        complete=ledger.complete,
    )


def _place(shape: tuple[tuple[str, ...], ...]) -> str:
    return " & ".join(_selector(place) for place in shape)


def _selector(place: tuple[str, ...]) -> str:
    kind, *path = place
    name = {"event": "EventField"}.get(kind, kind.capitalize())
    return f"{name}({path[0]!r})" if len(path) == 1 else f"{name}({tuple(path)!r})" if path else name
