"""The cases by number: what each proves, and whether this kit has it already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from missive.testing.conformance.driver import Driver


class CaseOutcome(StrEnum):
    """How a case ended. What is not declared is proved refused or absent, and never skipped."""

    passed = "passed"
    refused = "refused"
    """The capability is not declared, and using it was refused, or had no effect, as it must."""
    failed = "failed"
    pending = "pending"
    """The kit has no test of it yet."""
    missing = "missing"
    """The kit has a test of it, which was not run."""


Run = Callable[["Driver"], Awaitable[CaseOutcome]]


@dataclass(frozen=True, slots=True)
class Case:
    """One case: its number and title in the catalogue, and what runs it."""

    number: int
    title: str
    run: Run
    created: bool = True
    """Whether the source is made before the case begins."""
    lanes: int = 1
    """How many lanes it has, where the transport has lanes that are one consumer's alone."""

    def __repr__(self) -> str:
        return f"{self.number:02}-{self.title.replace(',', '').replace(' ', '-')}"


TITLES: Final[dict[int, str]] = {
    1: "byte exact body",
    2: "headers",
    3: "native id, key and timestamp are kept",
    4: "native handle reachable",
    5: "delivery count as exact as declared",
    6: "an undecodable message never stops intake",
    7: "a confirmed ack survives SIGKILL",
    8: "unsettled comes back after SIGKILL",
    9: "retry comes back",
    10: "retry delay is kept",
    11: "rejected never comes back",
    12: "double or conflicting settle is harmless",
    13: "partial failure is reported per item",
    14: "a lost reply is unknown, and safe to repeat",
    15: "acks out of order never pass an incomplete one",
    16: "settling what is no longer ours is fenced",
    17: "settling one never settles another",
    18: "in flight never exceeds credit",
    19: "intake stops at the limit and resumes",
    20: "memory is flat on a backlog",
    21: "a slow lane does not starve the others",
    22: "no busy loop when idle",
    23: "rate limit",
    24: "pause and resume",
    25: "delivered but not started is given back on stop",
    26: "FIFO for each key",
    27: "handlers of one key never overlap",
    28: "order through retry",
    29: "order through rebalance",
    30: "different keys overlap",
    31: "gaps do not stall the watermark",
    32: "a handler of three leases runs once",
    33: "renewal goes on while draining",
    34: "a lost lease cancels or fences",
    35: "short leases",
    36: "renewal in batches",
    37: "queued but not started is renewed or released",
    38: "drain finishes and settles",
    39: "past the deadline the rest comes again",
    40: "close is idempotent, a cancelled fetch loses nothing",
    41: "no leaked task, socket or thread",
    42: "starts before the source exists",
    43: "bad credentials fail fast, unprinted",
    44: "two groups each get all, members share",
    45: "broker restart under load",
    46: "broker SIGKILL under load",
    47: "half-open TCP",
    48: "latency, reset, truncation",
    49: "connection dies between handler and ack",
    50: "settle refused",
    51: "worker SIGKILL loop",
    52: "SIGSTOP past the session timeout",
    53: "rebalance storm",
    54: "revoked mid-handler, then a late ack",
    55: "revoked and returned to the same member",
    56: "commit racing completions",
    57: "offset reset or truncation is loud",
    58: "clock jump",
    59: "soak",
    60: "dead letter confirmed before the original is settled",
    61: "store down, the original stays",
    62: "crash between store and settlement",
    63: "dead letters keep everything",
    64: "browsing consumes nothing",
    65: "replay",
    66: "a replay loop is bounded",
    67: "events and counters",
    68: "lag and oldest age agree with the broker",
    69: "health turns bad on a stall",
    70: "secrets and payloads reach no log",
    71: "ciphertext survives",
    72: "test client and adapter agree",
}

_cases: dict[int, Case] = {}


def case(number: int, *, created: bool = True, lanes: int = 1) -> Callable[[Run], Run]:
    """Register what runs a case."""

    def register(run: Run) -> Run:
        if number in _cases:
            raise ValueError(f"case {number} is there already")
        _cases[number] = Case(number, TITLES[number], run, created, lanes)
        return run

    return register


def all_cases() -> list[Case]:
    """Return the cases that can be run, by number; all others are `pending`."""
    from missive.testing.conformance.cases import load  # noqa: PLC0415 - they register themselves here

    load()
    return [_cases[number] for number in sorted(_cases)]
