"""Admission: compare the matcher of a new handler with the known ones, and refuse it or warn of an overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from missive.app.caller import warn_caller
from missive.errors import DuplicateMatcher, OverlapWarning
from missive.matchers.algebra import Matcher
from missive.matchers.values import cut

if TYPE_CHECKING:
    from missive.routing.overlaps import Overlap, OverlapIndex

OnOverlap: TypeAlias = Literal["warn", "error", "ignore"]
"""What happens when a message can match two handlers."""

_MAX_WARNINGS = 10
"""Overlap warnings of one processor, after which it is silent."""


class Owner(Protocol):
    """The attributes of a processor that admission reads."""

    name: str
    message_cls: type[Any]
    on_overlap: OnOverlap


class MatcherAdmission:
    """The matchers that one processor knows, with their handlers' names.

    A registration may concern several processors, because processors include each other. Each of them holds a new
    matcher back until the registration commits or rolls back all of them.
    """

    __slots__ = ("_index", "_new", "_owner", "_warned", "known")

    def __init__(self, owner: Owner) -> None:
        self.known: dict[Matcher[Any], str] = {}
        """The handlers' names by their matchers."""
        self._new: dict[Matcher[Any], str] = {}
        self._index: OverlapIndex | None = None
        self._warned = 0
        self._owner = owner

    def admit(self, matcher: Matcher[Any], name: str, *, quietly: bool) -> bool:
        """Hold a matcher back until `commit`, and return whether this issued a warning. `quietly` suppresses warnings.

        Raise `DuplicateMatcher` for a known matcher, `RegistrationError` for a matcher that can never be chosen, and
        `OverlapWarning` with `on_overlap="error"`.
        """
        other = self.known.get(matcher) or self._new.get(matcher)
        if other is not None:
            raise DuplicateMatcher(
                f"{other} and {name} have the same matcher, {cut(matcher)}: neither would ever be chosen. Remove one"
                " of the handlers, or change its matcher"
            )
        index = self._index or self._new_index()
        candidates = index.check(matcher, name)
        overlap = None
        if self._reports_overlaps and not (quietly and self._owner.on_overlap == "warn"):
            overlap = index.overlap(matcher, name, candidates)
        if overlap is not None:
            self._report(overlap)
        self._new[matcher] = name  # before the index: a KeyboardInterrupt in the next line is rolled back with it
        index.add(matcher, name)
        return overlap is not None

    def commit(self) -> None:
        """Know the new matchers."""
        self.known.update(self._new)
        self._new = {}

    def rollback(self) -> None:
        """Forget the new matchers."""
        if not self._new:
            return
        self._new = {}
        index = self._new_index()
        for matcher, name in self.known.items():
            index.add(matcher, name)

    @property
    def is_last_too_wide(self) -> bool:
        """Whether the newest matcher has too many alternatives for the overlap index."""
        return self._index is not None and self._index.analysis(-1).too_wide

    def _new_index(self) -> OverlapIndex:
        from missive.routing.overlaps import OverlapIndex  # noqa: PLC0415 - `import missive` does not load routing

        self._index = OverlapIndex(self._owner.message_cls)
        return self._index

    @property
    def _reports_overlaps(self) -> bool:
        on_overlap = self._owner.on_overlap
        return on_overlap == "error" or (on_overlap == "warn" and self._warned < _MAX_WARNINGS)

    def _report(self, overlap: Overlap) -> None:
        """Warn of an overlap, or raise it."""
        from missive.routing.witness import expression_of  # noqa: PLC0415 - as above

        text = (
            f"{overlap.one} and {overlap.other} overlap: {expression_of(overlap.witness)} matches both, and would be "
            "dead-lettered as ambiguous. Narrow one of them with & ~(…)"
        )
        if self._owner.on_overlap == "error":
            raise OverlapWarning(text)
        if self._warned + 1 == _MAX_WARNINGS:
            text += f" (this is the last warning for {self._owner.name}: `missive check` lists all overlaps)"
        warn_caller(text, OverlapWarning)
        self._warned += 1  # not when the warnings filter turned the warning into an error


def admit(
    named: Iterable[tuple[Matcher[Any], str]],
    own: MatcherAdmission,
    places: Callable[[Matcher[Any]], Iterable[tuple[MatcherAdmission, Matcher[Any]]]],
) -> None:
    """Admit matchers in all processors that they concern, or in none.

    `own` belongs to the processor of the registration. `places` returns the processors that a matcher concerns, and
    the matcher as their conditions narrow it. Raise as `MatcherAdmission.admit` does.
    """
    touched: dict[MatcherAdmission, None] = {}
    warned = False
    try:
        for matcher, name in named:
            for place, narrowed in places(matcher):
                touched[place] = None
                warned = place.admit(narrowed, name, quietly=warned) or warned
            if own.is_last_too_wide:
                warn_caller(
                    f"the matcher of {name} has too many alternatives for a complete check of overlaps: see `missive"
                    " check`",
                    UserWarning,
                )
    except BaseException:  # includes KeyboardInterrupt, and a warning that the filter turned into an error
        for place in touched:
            place.rollback()
        raise
    for place in touched:
        place.commit()
