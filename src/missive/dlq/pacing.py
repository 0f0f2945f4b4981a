"""The pace of a replay in running workers: canaries first, then a rate, up to a limit of failures."""

from __future__ import annotations

import math
from typing import NamedTuple

from missive.dlq.contract import Replay
from missive.dlq.times import SKEW
from missive.rates import Rate

_BURST = 1.0
"""Longest pause that a rate makes up for, in seconds. Workers ask about once a second."""


class PacingStep(NamedTuple):
    """The next step of a replay."""

    status: str
    """The new status."""
    queue: int | None
    """Number of records to queue, or None for all that are left."""
    paced_until: float
    """Time up to which the rate is used up, in seconds since 1970."""


def pace(replay: Replay, now: float) -> PacingStep:
    """Return the next step of a running replay with current counts.

    The replay stops at its limit of failures, and when a canary fails. The number of queued records never exceeds the
    number of failures that are still allowed.
    """
    paced_until = replay.paced_until if replay.paced_until <= now + SKEW else now
    stopped, done = PacingStep("stopped", 0, paced_until), PacingStep("done", 0, paced_until)
    if replay.until_failures is not None and replay.failed >= replay.until_failures:
        return stopped
    if not replay.left and not replay.queued:
        return done
    room = math.inf if replay.until_failures is None else replay.until_failures - replay.failed - replay.queued
    closed = replay.resolved + replay.discarded
    if replay.canary is not None and closed < replay.canary:
        if replay.failed:
            return stopped
        room = min(room, replay.canary - closed - replay.queued)
    if replay.rate is not None:
        rate = Rate.parse(replay.rate)
        interval = rate.seconds / rate.messages
        since = max(paced_until, now - _BURST - interval)
        room = min(room, math.floor((now - since) / interval + 1e-9))
        paced_until = since + max(0, min(room, replay.left)) * interval
    return PacingStep("running", None if room == math.inf else max(0, int(room)), paced_until)
