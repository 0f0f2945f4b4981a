"""The catalogue of cases, and the registration of the functions that run them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from missive.testing.conformance.driver import Driver


class CaseOutcome(StrEnum):
    """How a case ended. A case for an undeclared capability proves the refusal; the suite never skips a case."""

    passed = "passed"
    refused = "refused"
    """The capability is not declared, and its use was refused or had no effect."""
    failed = "failed"
    pending = "pending"
    """The kit does not have this case yet."""
    missing = "missing"
    """The kit has this case, but the last run did not include it."""


Run = Callable[["Driver"], Awaitable[CaseOutcome]]


@dataclass(frozen=True, slots=True)
class Case:
    """One case: its number, its title and the function that runs it."""

    number: int
    title: str
    run: Run
    created: bool = True
    """Whether the suite creates the source before the case begins."""
    lanes: int = 1
    """Number of lanes of the source, where one consumer owns a lane."""

    def __repr__(self) -> str:
        return f"{self.number:02}-{self.title.replace(',', '').replace(' ', '-')}"


TITLES: Final[dict[int, str]] = {
    1: "bodies are byte-exact",
    2: "headers arrive unchanged",
    3: "native id, key and timestamp arrive",
    4: "the native handle is reachable",
    5: "the delivery count is as exact as declared",
    6: "an undecodable message never stops intake",
    7: "a confirmed ack survives SIGKILL",
    8: "unsettled messages are redelivered after SIGKILL",
    9: "a retried message is redelivered",
    10: "a retry waits for its delay",
    11: "a rejected message is never redelivered",
    12: "a double or conflicting settlement is harmless",
    13: "a batch reports each failed settlement",
    14: "a lost reply is unknown, and safe to repeat",
    15: "acks out of order never pass an incomplete message",
    16: "settling after the lease or lane is lost is fenced",
    17: "settling one message never settles another",
    18: "messages in flight never exceed the credit",
    19: "intake stops at the limit and resumes",
    20: "memory is flat on a backlog",
    21: "a slow lane does not starve the others",
    22: "an idle adapter has no busy loop",
    23: "the rate limit holds",
    24: "pause and resume",
    25: "unstarted messages are released on stop",
    26: "FIFO for each key",
    27: "handlers of one key never overlap",
    28: "order through a retry",
    29: "order through a rebalance",
    30: "handlers of different keys overlap",
    31: "gaps do not stall the watermark",
    32: "a handler of three leases runs once",
    33: "renewal continues during a drain",
    34: "a lost lease is fenced",
    35: "short leases work",
    36: "renewal runs in batches",
    37: "a queued message is renewed or released",
    38: "a drain finishes and settles",
    39: "the rest is redelivered after the drain deadline",
    40: "close is idempotent, a cancelled fetch loses nothing",
    41: "no task, socket or thread leaks",
    42: "the adapter starts before the source exists",
    43: "bad credentials fail fast and are not printed",
    44: "groups receive all messages, members share them",
    45: "broker restart under load",
    46: "broker SIGKILL under load",
    47: "half-open TCP connection",
    48: "latency, reset and truncation",
    49: "the connection dies between handler and ack",
    50: "a settlement is refused",
    51: "worker SIGKILL loop",
    52: "SIGSTOP past the session timeout",
    53: "rebalance storm",
    54: "a lane is revoked during a handler, then a late ack",
    55: "a lane is revoked and returned to the same member",
    56: "commits race completions",
    57: "offset reset and truncation are loud",
    58: "clock jump",
    59: "soak",
    60: "a dead letter is stored before its original is settled",
    61: "the original stays while the store is down",
    62: "a crash between store and settlement loses nothing",
    63: "a dead letter is complete",
    64: "browsing consumes nothing",
    65: "a replay is filtered, limited and resumable",
    66: "a replay loop is bounded",
    67: "events and counters",
    68: "lag and oldest age agree with the broker",
    69: "health turns bad on a stall",
    70: "secrets and payloads reach no log",
    71: "ciphertext survives",
    72: "test client and adapter agree",
    73: "odd headers and keys end no session",
    74: "messages that are deleted while held are handled",
    75: "a clock set back",
    76: "a message that is too large is a dead letter",
    77: "a slow lane at the transport's limit",
}

_cases: dict[int, Case] = {}


def case(number: int, *, created: bool = True, lanes: int = 1) -> Callable[[Run], Run]:
    """Register the decorated function as a case. Raise `ValueError` when the number is taken."""

    def register(run: Run) -> Run:
        if number in _cases:
            raise ValueError(f"case {number} has a function already. Take another number.")
        _cases[number] = Case(number, TITLES[number], run, created, lanes)
        return run

    return register


def all_cases() -> list[Case]:
    """Return the registered cases by number. The other titles of the catalogue are `pending`."""
    from missive.testing.conformance.cases import load  # noqa: PLC0415 - the modules import `case` from here

    load()
    return [_cases[number] for number in sorted(_cases)]
