"""The watermark: how far one lane is done, and what is done beyond that."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import merge
from typing import TYPE_CHECKING, TypeAlias

from missive.transport import Watermark

if TYPE_CHECKING:
    from missive.engine.job import Job

Ranges: TypeAlias = list[tuple[int, int]]
"""Positions that are done, as first and last ones, in ascending order."""

_RUNS, _BITS = b"m1r", b"m1b"
"""How gaps are written: as lengths of runs, or as a bit for each position; whichever is shorter."""


class WatermarkTracker:
    """How far one lane is done: the last position before which nothing is incomplete.

    Deliveries start in the order of their lane, and are completed in any. What is complete beyond the mark is told as
    gaps, so that whoever has the lane next does not handle it again.
    """

    __slots__ = ("_counted", "_done", "_last", "_order", "moved", "open", "position", "stuck")

    def __init__(self, mark: Watermark | None = None) -> None:
        self.position = None if mark is None else mark.position
        self.moved = False
        """Whether there is something to commit."""
        self.open = 0
        """How many deliveries are started, and neither complete nor let go of."""
        self.stuck = False
        """Whether something was let go of that is not done: the mark stays before it for good."""
        self._order: deque[Job] = deque()
        self._done: Ranges = [] if mark is None else decoded(mark) or []
        self._last = -1 if mark is None else mark.position
        self._counted: set[Job] = set()

    def start(self, jobs: Sequence[Job]) -> None:
        """Note deliveries, in the order of the lane."""
        self._last = jobs[-1].delivery.position or 0
        self._order += jobs
        self.open += len(jobs)

    def skips(self, position: int) -> bool:
        """Tell whether a position, which comes in the order of the lane, is done already, and need not start."""
        done = self._done
        at = bisect_right(done, (position, _FOREVER)) - 1
        return at >= 0 and position <= done[at][1]

    def skip(self, position: int) -> None:
        """Pass a position that is done already, once all that came before it has started."""
        self._last = max(self._last, position)
        self._pass_done()

    def complete(self, jobs: Iterable[Job]) -> Sequence[Job]:
        """Note that deliveries are done; the mark passes each once all before it are. Returns what it passed now."""
        done = 0
        for job in jobs:
            if not job.completed:
                job.completed = True
                done += 1
        if not done:
            return ()
        self.moved = True
        self.open -= done
        order = self._order
        if not order[0].completed:
            return ()
        passed: list[Job] = []
        while order and order[0].completed:
            passed.append(order.popleft())
        self.position = passed[-1].delivery.position or 0
        if self._done:
            self._pass_done()
        if self._counted:
            return [one for one in passed if one not in self._counted]
        return passed

    def let_go(self) -> None:
        """Note that a delivery is not done and will not be: it comes again, to whoever has the lane then."""
        self.stuck = True
        self.open -= 1

    def count_complete(self) -> list[Job]:
        """Return what is complete behind the mark; each is returned once, and then not as passed any more."""
        done = [job for job in self._order if job.completed and job not in self._counted]
        self._counted.update(done)
        return done

    def incomplete(self) -> list[Job]:
        """Return what is not complete."""
        return [job for job in self._order if not job.completed]

    def _pass_done(self) -> None:
        """Move the mark over what was done before, as far as all that is before it has come and is complete."""
        done, order = self._done, self._order
        limit = (order[0].delivery.position or 0) if order else self._last + 1
        passed = 0
        while passed < len(done) and done[passed][0] < limit:
            last = done[passed][1]
            self.position = last if self.position is None else max(self.position, last)
            self.moved = True
            if last > self._last:
                done[passed] = (self._last + 1, last)  # which has not come yet, and will
                break
            passed += 1
        del done[:passed]

    # What is committed

    def mark(self, most: int) -> Watermark | None:
        """Return the mark with its gaps, in at most so many bytes; None where there is none that fits, or nothing done.

        A mark that says less than was committed before would have it handled again, and so there is none then.
        """
        position = self.position
        if not most:
            return None if position is None else Watermark(position)
        if position is None:
            if not self._order:
                return None
            position = (self._order[0].delivery.position or 0) - 1
        gaps = encoded(position, self._beyond(position))
        return None if len(gaps) > most else Watermark(position, gaps)

    def _beyond(self, position: int) -> Ranges:
        runs: Ranges = []
        first = last = -1
        for job in self._order:
            at = job.delivery.position or 0
            if job.completed:
                first, last = at if first < 0 else first, at
            elif first >= 0:
                runs.append((first, last))
                first = -1
        if first >= 0:
            runs.append((first, last))
        joined: Ranges = []
        for first, last in merge(runs, self._done):
            if last <= position:
                continue
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
            else:
                joined.append((first, last))
        return joined

    def worst(self) -> int:
        """Return how many bytes the gaps may come to, whichever of what is here is done first; about, and no less."""
        order = self._order
        if len(order) <= 1:
            return 0
        span = (order[-1].delivery.position or 0) - (order[0].delivery.position or 0) + 1
        ranges = len(order) // 2 + len(self._done) + 1
        runs = ranges * (_width(span // ranges + 1) + 1)
        return len(_RUNS) + 4 + min(runs, span // 8 + 1) * 4 // 3


_FOREVER = 1 << 62
_SEVEN = 0x7F


def encoded(position: int, ranges: Ranges) -> bytes:
    """Write ranges beyond a position as printable ASCII; nothing for none."""
    if not ranges:
        return b""
    runs = bytearray()
    before = position
    for first, last in ranges:
        _write(runs, first - before - 1)
        _write(runs, last - first)
        before = last
    span = ranges[-1][1] - position
    if span // 8 < len(runs):
        bits = 0
        for first, last in ranges:
            bits |= ((1 << (last - first + 1)) - 1) << (first - position - 1)
        return _BITS + base64.b64encode(bits.to_bytes((span + 7) // 8, "little"))
    return _RUNS + base64.b64encode(bytes(runs))


def decoded(mark: Watermark) -> Ranges | None:
    """Return the ranges of a mark's gaps; None where somebody else wrote what is there."""
    gaps = mark.acked_beyond
    if not gaps:
        return []
    kind, text = gaps[: len(_RUNS)], gaps[len(_RUNS) :]
    if kind not in (_RUNS, _BITS):
        return None
    try:
        data = base64.b64decode(text, validate=True)
        return _of_runs(mark.position, data) if kind == _RUNS else _of_bits(mark.position, data)
    except (binascii.Error, IndexError):
        return None


def _of_runs(position: int, data: bytes) -> Ranges:
    ranges: Ranges = []
    at, before = 0, position
    while at < len(data):
        skipped, at = _read(data, at)
        more, at = _read(data, at)
        first = before + 1 + skipped
        before = first + more
        ranges.append((first, before))
    return ranges


def _of_bits(position: int, data: bytes) -> Ranges:
    ranges: Ranges = []
    bits, at = int.from_bytes(data, "little"), position + 1
    while bits:
        skipped = (bits & -bits).bit_length() - 1
        bits >>= skipped
        length = (~bits & (bits + 1)).bit_length() - 1
        bits >>= length
        first = at + skipped
        at = first + length
        ranges.append((first, at - 1))
    return ranges


def _write(data: bytearray, number: int) -> None:
    """Write a number as a varint: seven bits a byte, the lowest first."""
    while number > _SEVEN:
        data.append(number & _SEVEN | 0x80)
        number >>= 7
    data.append(number)


def _read(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & _SEVEN) << shift
        if byte <= _SEVEN:
            return number, at
        shift += 7


def _width(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)
