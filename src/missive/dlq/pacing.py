"""How a replay goes on in running workers: its canaries first, then so many in a time, until so many have failed."""

from __future__ import annotations

import math
from typing import NamedTuple

from missive.dlq.contract import Replay
from missive.rates import Rate

_BURST = 1.0
"""In seconds: workers look about once a second, and what a longer pause left out is not made up for."""


_SKEW = 60.0
"""In seconds: that far ahead of now, a rate is used up by the clock of another machine, or by one that was set back."""


class PacingStep(NamedTuple):
    """What is done with a replay now."""

    status: str
    """What it is from now on."""
    queue: int | None
    """How many more are queued; None for all that are left."""
    paced_until: float
    """Up to when, in seconds since 1970, its rate is used up."""


def pace(replay: Replay, now: float) -> PacingStep:
    """Return the next step of a running replay, whose counts are those of now.

    One that reached its limit of failures is `stopped`, and so is one with a canary that failed. No more are under way
    at once than may still fail.
    """
    paced_until = replay.paced_until if replay.paced_until <= now + _SKEW else now
    stopped, done = PacingStep("stopped", 0, paced_until), PacingStep("done", 0, paced_until)
    if replay.until_failures is not None and replay.failed >= replay.until_failures:
        return stopped
    if not replay.left and not replay.queued:
        return done
    room = math.inf if replay.until_failures is None else replay.until_failures - replay.failed - replay.queued
    over = replay.resolved + replay.discarded
    if replay.canary is not None and over < replay.canary:
        if replay.failed:
            return stopped
        room = min(room, replay.canary - over - replay.queued)
    if replay.rate is not None:
        rate = Rate.parse(replay.rate)
        interval = rate.seconds / rate.messages
        since = max(paced_until, now - _BURST - interval)
        room = min(room, math.floor((now - since) / interval + 1e-9))
        paced_until = since + max(0, min(room, replay.left)) * interval
    return PacingStep("running", None if room == math.inf else max(0, int(room)), paced_until)
