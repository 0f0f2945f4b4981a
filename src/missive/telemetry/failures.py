"""The failure log: one line for each new kind of failure, and a sum of its repetitions every ten seconds."""

from __future__ import annotations

import linecache
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from missive.dlq.failure import Failure
from missive.dlq.record import fingerprint
from missive.privacy.printing import printable
from missive.telemetry.observer import Attempted, Observer

SUM_SECONDS = 10.0
"""Time between two lines about one kind, in seconds."""
LINES_PER_MINUTE = 60
"""Maximum number of lines of one engine in a minute."""
MAX_KINDS = 1000
"""Number of kinds that are counted separately at one time."""
FORGET_SECONDS = 600.0
"""Time without a failure after which a kind is new again, in seconds."""
_MINUTE = 60.0
_LAST_LINES = 20
"""Number of kinds whose sum is logged at the end."""

logger = logging.getLogger("missive.failures")


class _Kind:
    """The failures of one fingerprint."""

    __slots__ = ("group", "level", "line", "more", "name", "revealed", "seen", "told", "values")

    def __init__(self, attempted: Attempted, group: str, level: int, *, reveal: bool) -> None:
        self.group = group
        self.level = level
        self.name, self.values = _describe(attempted)
        self.line = f", group {group}" if level > logging.INFO else ""
        if attempted.record is not None:
            self.line += f"; missive dlq show {attempted.record}"
        self.values["group"] = group
        self.revealed = reveal and attempted.failure is not None
        if reveal and attempted.failure is not None:
            self.line += "\n" + "\n".join(traceback_lines(attempted.failure))
        self.more = 0
        """Number of failures since the last line."""
        self.told: float | None = None
        """Time of the last line; None before the first one."""
        self.seen = 0.0


class FailureLog(Observer):
    """Logs the failures of one engine. The lines are bounded, whatever the messages do, and no failure is uncounted."""

    def __init__(self, *, reveal: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._reveal = reveal
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}
        self._groups: dict[object, str] = {}
        """Fingerprints by the parts of attempts that have no record: a digest of each would cost more."""
        self._others = 0
        """Number of failures of kinds beyond `MAX_KINDS`."""
        self._others_told = self._window = clock()
        self._lines = 0
        self._warned = False

    def retried(self, attempts: Sequence[Attempted]) -> None:
        """Count attempts after which the messages wait for another attempt."""
        self._count(attempts, logging.INFO)

    def dead_lettered(self, attempts: Sequence[Attempted]) -> None:
        """Count dead letters."""
        self._count(attempts, logging.WARNING)

    def tick(self) -> None:
        """Log the lines that are due, and forget kinds that have ended."""
        now = self._clock()
        if now - self._window >= _MINUTE:
            self._window, self._lines, self._warned = now, 0, False
        for kind in list(self._kinds.values()):
            if kind.more or kind.told is None:
                kind.seen = now
                self._tell(kind, now)
            elif now - kind.seen >= FORGET_SECONDS:
                del self._kinds[kind.group]
        if self._others and now - self._others_told >= SUM_SECONDS:
            self._tell_others(now)
        waiting = sum(kind.told is None for kind in self._kinds.values())
        if waiting and not self._warned:
            self._warned = True
            logger.warning(
                "%d more kinds of failures wait for their line, because there were %d lines in a minute;"
                " missive dlq groups lists them",
                waiting,
                LINES_PER_MINUTE,
            )

    def drained(self) -> None:
        """Log the last sums."""
        now, self._lines = self._clock(), 0
        left = [kind for kind in self._kinds.values() if kind.more or kind.told is None]
        for kind in left[:_LAST_LINES]:
            self._tell(kind, now, at_once=True)
        self._others += sum(kind.more for kind in left[_LAST_LINES:])
        if self._others:
            self._tell_others(now)

    def _count(self, attempts: Sequence[Attempted], level: int) -> None:
        kinds, groups = self._kinds, self._groups
        for one in attempts:
            group = one.fingerprint
            if group is None:
                failure = one.failure
                root = None if failure is None else failure.chain[-1]
                place = None if root is None or not root.frames else root.frames[-1]
                parts = (one.what, one.handler, one.label, None if root is None else root.type, place)
                group = groups.get(parts)
                if group is None:
                    group = self._group(one, parts)
            kind = kinds.get(group)
            if kind is None:
                self._first(one, group, level)
            else:
                kind.more += 1

    def _group(self, one: Attempted, parts: object) -> str:
        if len(self._groups) >= 2 * MAX_KINDS:
            self._groups.clear()
        group = self._groups[parts] = fingerprint(one.what, one.label, one.handler, one.failure)
        return group

    def _first(self, one: Attempted, group: str, level: int) -> None:
        if len(self._kinds) >= MAX_KINDS:
            self._others += 1
            return
        kind = self._kinds[group] = _Kind(one, group, level, reveal=self._reveal)
        kind.seen = self._clock()
        self._tell(kind, kind.seen)

    def _tell(self, kind: _Kind, now: float, *, at_once: bool = False) -> None:
        """Log the first line of a kind, or the sum of its repetitions, if it is due."""
        if self._lines >= LINES_PER_MINUTE:
            return
        if kind.told is None:
            extra: dict[str, Any] = {"fields": kind.values, "revealed": kind.revealed}
            logger.log(kind.level, "%s%s", kind.name, kind.line, extra=extra)
            kind.line = ""
        elif kind.more and (at_once or now - kind.told >= SUM_SECONDS):
            extra = {"fields": {**kind.values, "more": kind.more}}
            logger.log(kind.level, "%d more like %s (%s)", kind.more, kind.group, kind.name, extra=extra)
            kind.more = 0
        else:
            return
        kind.told = now
        self._lines += 1

    def _tell_others(self, now: float) -> None:
        logger.warning("%d more failures of other kinds; missive dlq groups lists them", self._others)
        self._others, self._others_told = 0, now


def _describe(one: Attempted) -> tuple[str, dict[str, Any]]:
    """Return a failure in words and as fields: types and places, and nothing of the message."""
    values: dict[str, Any] = {"handler": one.handler, "reason": one.what}
    text = f"{one.handler or 'no handler'}: {one.what}"
    if one.label:
        values["label"] = one.label
        text += f" ({one.label})"
    if one.failure is not None:
        values["error"] = one.failure.type
        text += f", {one.failure.type}"
        if (frame := one.failure.user_frame) is not None:
            values |= {"file": frame.file, "line": frame.line, "function": frame.function}
            text += f" at {frame.file}:{frame.line} in {frame.function}"
    if one.record is not None:
        values["record"] = one.record
    return text, values


def traceback_lines(failure: Failure) -> Iterator[str]:
    """Yield the stacks of an exception and of its causes, and its text, which may be content."""
    for place, link in reversed(list(enumerate(failure.chain))):
        for frame in link.frames:
            yield f'  File "{frame.file}", line {frame.line}, in {frame.function}'
            if source := linecache.getline(frame.file, frame.line).strip():
                yield f"    {printable(source)}"
        text = f": {failure.text}" if place == 0 and failure.text else ""
        yield from ("  " + printable(line) for line in f"{link.type}{text}".split("\n"))
