"""Claims of `once=` effects: the requests of each route to the store, and the decisions from its answers."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from missive.app.context import Recorded
from missive.app.terms import HandlerRoute
from missive.dlq.contract import Sink
from missive.dlq.once import ClaimAnswer, ClaimState, EffectKey, OnceStore
from missive.engine.job import Claim, Job
from missive.engine.workers.decision import DUPLICATE, Decision, decide
from missive.errors import UsageError
from missive.once.declaration import EXPIRED, NO_KEY, Once
from missive.outcome import Outcome, Reason

HAPPENED = frozenset({Outcome.acked, Outcome.discarded})
"""The outcomes after which an effect must not happen again."""


def leased_routes(routes: Iterable[HandlerRoute], sink: Sink | None) -> frozenset[HandlerRoute]:
    """Return the routes whose claims are in the store. Raises `UsageError` when the sink cannot store claims."""
    leased = frozenset(route for route in routes if route.terms.once is not None and route.terms.once.form == "lease")
    if leased and not isinstance(sink, OnceStore):
        name = min(route.name for route in leased)
        fault = "the processor has none" if sink is None else f"a {type(sink).__name__} cannot store claims"
        raise UsageError(
            f"{name}: once= stores its claims in the dead letter store, but {fault}. Set a store with"
            " missive.Processor(dlq='sqlite:///dlq.db'), or claim in the handler's own transaction with"
            " Once(form='transaction')."
        )
    return leased


class Ended(NamedTuple):
    """A claim whose effect has happened."""

    job: Job
    claim: Claim
    waits: bool
    """Whether the job is settled once the store has recorded the effect."""


class Calls(NamedTuple):
    """The requests of one route in one call on the store's thread."""

    once: Once[Any]
    begin: list[tuple[Job, Claim]]
    end: list[Ended]
    drop: list[Claim]


class HandlerClaims(msgspec.Struct, eq=False):
    """The claims of one route."""

    once: Once[Any]
    ahead: int
    """Maximum number of claims whose effects are not recorded yet."""
    out: int = 0
    """Number of claims whose effects are not recorded yet."""
    asking: deque[tuple[Job, Claim]] = msgspec.field(default_factory=deque)
    ended: list[Ended] = []
    dropped: list[Claim] = []
    calling: int = 0
    """Number of messages whose requests are in a call of the store."""

    @property
    def unfiled(self) -> int:
        """Number of messages that wait for the store."""
        return len(self.asking) + len(self.ended) + self.calling

    def next(self) -> Calls:
        """Take out the requests that the store can handle now."""
        ended, self.ended = self.ended, []
        dropped, self.dropped = self.dropped, []
        # Ended effects are recorded before new ones begin, so that a crash repeats at most `ahead` effects.
        self.out -= len(ended) + len(dropped)
        count = max(0, min(len(self.asking), self.ahead - self.out))
        begin = [self.asking.popleft() for _ in range(count)]
        self.out += count
        self.calling = len(begin) + len(ended)
        return Calls(self.once, begin, ended, dropped)

    def put_back(self, calls: Calls) -> None:
        """Put back requests that failed, for another attempt."""
        self.calling = 0
        self.asking.extendleft(reversed(calls.begin))
        self.out += len(calls.end) + len(calls.drop) - len(calls.begin)
        self.ended[:0] = calls.end
        self.dropped[:0] = calls.drop


def decide_claimed(answer: ClaimAnswer, once: Once[Any]) -> Decision | None:
    """Return the decision that the store's answer implies; None when the handler runs, or the job waits."""
    if answer.state is ClaimState.done:
        return DUPLICATE
    if answer.state is ClaimState.conflict:
        return Decision(Outcome.dead_lettered, Reason.conflict)
    if answer.fence > 1 and answer.state is ClaimState.ours and once.expired == "flag":
        return Decision(Outcome.dead_lettered, Reason.conflict, EXPIRED)
    return None


def decide_keyless() -> Decision:
    """Return the decision for a message without a key of its effect."""
    return decide(Recorded(Outcome.dead_lettered, NO_KEY), None)


def effect_key(claim: Claim) -> EffectKey:
    """Return the key of a claim's effect in the store."""
    return claim.handler, claim.digest


def body_hash(job: Job) -> str:
    """Return the SHA-256 digest of a job's body."""
    return hashlib.sha256(job.message.raw_data).hexdigest()
