"""The watermark: the position up to which a lane is done, and the positions that are done beyond it."""

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
"""Done positions as pairs of first and last, in ascending order."""

_RUNS, _BITS = b"m1r", b"m1b"
"""The two encodings of `acked_beyond`, by their prefix: run lengths, or one bit for each position."""


class WatermarkTracker:
    """Tracks the watermark of one lane.

    Deliveries start in the order of their lane and complete in any order. Positions that are done beyond the watermark
    are committed as `acked_beyond`, so that the next consumer of the lane does not handle them again.
    """

    __slots__ = ("_counted", "_done", "_last", "_order", "moved", "open", "position", "stuck")

    def __init__(self, watermark: Watermark | None = None) -> None:
        self.position = None if watermark is None else watermark.position
        self.moved = False
        """Whether there is progress to commit."""
        self.open = 0
        """Number of deliveries that are started, and neither completed nor abandoned."""
        self.stuck = False
        """Whether a delivery was abandoned: the watermark stays before it for the rest of the session."""
        self._order: deque[Job] = deque()
        self._done: Ranges = [] if watermark is None else decode(watermark) or []
        self._last = -1 if watermark is None else watermark.position
        self._counted: set[Job] = set()

    def start(self, jobs: Sequence[Job]) -> None:
        """Note new deliveries, in the order of the lane."""
        self._last = jobs[-1].delivery.position or 0
        self._order += jobs
        self.open += len(jobs)

    def replace(self, job: Job, by: Job) -> None:
        """Let another job stand for the delivery of a job that is not completed."""
        if job in self._order:
            self._order[self._order.index(job)] = by

    def skips(self, position: int) -> bool:
        """Return whether a position is already done and need not start. Positions come in the order of the lane."""
        done = self._done
        at = bisect_right(done, (position, _FOREVER)) - 1
        return at >= 0 and position <= done[at][1]

    def skip(self, position: int) -> None:
        """Pass a position that is already done, after all deliveries before it have started."""
        self._last = max(self._last, position)
        self._pass_done()

    def complete(self, jobs: Iterable[Job]) -> Sequence[Job]:
        """Complete deliveries. Return the jobs that the watermark passes now: everything before them is done."""
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

    def abandon(self) -> None:
        """Note that a delivery will not be done here: the next consumer of the lane gets it."""
        self.stuck = True
        self.open -= 1

    def take_completed(self) -> list[Job]:
        """Return completed jobs that the watermark has not passed. Each job is returned once, here or by `complete`."""
        done = [job for job in self._order if job.completed and job not in self._counted]
        self._counted.update(done)
        return done

    def incomplete(self) -> list[Job]:
        """Return the jobs that are not completed."""
        return [job for job in self._order if not job.completed]

    def _pass_done(self) -> None:
        """Move the watermark over positions that were done earlier, as far as everything before them is done."""
        done, order = self._done, self._order
        limit = (order[0].delivery.position or 0) if order else self._last + 1
        passed = 0
        while passed < len(done) and done[passed][0] < limit:
            last = done[passed][1]
            self.position = last if self.position is None else max(self.position, last)
            self.moved = True
            if last > self._last:
                done[passed] = (self._last + 1, last)  # the rest has not arrived yet
                break
            passed += 1
        del done[:passed]

    # The committed watermark

    def watermark(self, limit: int) -> Watermark | None:
        """Return the watermark with at most `limit` bytes of `acked_beyond`; None when it does not fit.

        A shortened watermark would make the next consumer repeat work, so a watermark is never shortened. The result is
        also None while nothing is done.
        """
        position = self.position
        if not limit:
            return None if position is None else Watermark(position)
        if position is None:
            if not self._order:
                return None
            position = (self._order[0].delivery.position or 0) - 1
        beyond = encode(position, self._beyond(position))
        return None if len(beyond) > limit else Watermark(position, beyond)

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

    def worst_size(self) -> int:
        """Return an upper bound of the size of `acked_beyond`, in bytes, over all orders of completion."""
        order = self._order
        if len(order) <= 1:
            return 0
        span = (order[-1].delivery.position or 0) - (order[0].delivery.position or 0) + 1
        ranges = len(order) // 2 + len(self._done) + 1
        runs = ranges * (_width(span // ranges + 1) + 1)
        return len(_RUNS) + 4 + min(runs, span // 8 + 1) * 4 // 3


_FOREVER = 1 << 62
_SEVEN = 0x7F


def encode(position: int, ranges: Ranges) -> bytes:
    """Return ranges beyond a position as printable ASCII; empty for no ranges."""
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


def decode(watermark: Watermark) -> Ranges | None:
    """Return the ranges of `acked_beyond`; None when Missive did not write the data."""
    beyond = watermark.acked_beyond
    if not beyond:
        return []
    kind, text = beyond[: len(_RUNS)], beyond[len(_RUNS) :]
    if kind not in (_RUNS, _BITS):
        return None
    try:
        data = base64.b64decode(text, validate=True)
        return _from_runs(watermark.position, data) if kind == _RUNS else _from_bits(watermark.position, data)
    except (binascii.Error, IndexError):
        return None


def _from_runs(position: int, data: bytes) -> Ranges:
    ranges: Ranges = []
    at, before = 0, position
    while at < len(data):
        skipped, at = _read(data, at)
        more, at = _read(data, at)
        first = before + 1 + skipped
        before = first + more
        ranges.append((first, before))
    return ranges


def _from_bits(position: int, data: bytes) -> Ranges:
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
    """Append a number as a varint: seven bits in each byte, the lowest first."""
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
