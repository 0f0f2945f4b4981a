"""Terms: how a handler runs, as its registration declares it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeAlias

import msgspec

from missive.app.breaker import Breaker
from missive.app.context import HandlingHook
from missive.app.retry import Retry
from missive.messages import Message
from missive.once.declaration import Once
from missive.public import PublicPlace
from missive.rates import Rate
from missive.routing.route import Route

OnLaneRetry: TypeAlias = Literal["block", "park", "pass"]
"""How a lane behaves while one of its messages waits for a retry: wait in memory, wait in the store, or continue."""


class BatchTerms(msgspec.Struct, frozen=True):
    """How the batches of a handler are collected."""

    size: int
    """Maximum number of messages in a batch."""
    wait: float
    """How long the first message of a batch waits for more, in seconds."""


class Terms(msgspec.Struct, frozen=True):
    """How a handler runs: its own options, with the defaults of its processor filled in."""

    ordered_by: Callable[[Any], Hashable] | None = None
    """Returns the key of a message; messages with equal keys run in order. None leaves the order to the transport."""
    on_lane_retry: OnLaneRetry = "block"
    concurrency: int | None = None
    """Maximum number of messages (or batches) that run at once; None for the concurrency of the processor."""
    rate_limit: Rate | None = None
    """Maximum rate at which messages start, in this process."""
    batch: BatchTerms | None = None
    """How batches are collected; None for a handler of single messages."""
    once: Once[Any] | None = None
    """How repeated effects are recognised; None for a handler without `once=`."""
    breaker: Breaker | None = None
    """The dependency of the handler, and when to stop calling it."""
    is_async: bool = False
    """Whether the handler runs on the handlers' loop instead of a worker thread."""
    timeout: float = float("inf")
    """Maximum duration of an attempt, in seconds."""
    retry: Retry | None = None
    """Which failures are retried, and when; None for no retries."""
    before: tuple[HandlingHook, ...] = ()
    """The hooks that run before the handler."""
    after: tuple[HandlingHook, ...] = ()
    """The hooks that run after the handler."""
    aliases: tuple[str, ...] = ()
    """Earlier names of the handler, under which stored records find it."""
    public: frozenset[PublicPlace] = frozenset()
    """The field paths and header names whose values may be shown."""

    def key_of(self, message: Message) -> Hashable:
        """Return the key that orders a message, or None.

        Raises the exception of `ordered_by`, and TypeError for a key without a hash.
        """
        key = None if self.ordered_by is None else self.ordered_by(message)
        hash(key)
        return key


HandlerRoute: TypeAlias = Route[Terms]
"""A route to a registered handler."""
