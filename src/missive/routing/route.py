"""A route: one handler with all that was declared about it, fixed once processing starts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeAlias

import msgspec

from missive.app.breaker import Breaker
from missive.app.context import HandlingHook
from missive.app.retry import Retry
from missive.matchers.algebra import Matcher
from missive.messages import Message
from missive.once.declaration import Once
from missive.rates import Rate

OnLaneRetry: TypeAlias = Literal["block", "park", "pass"]
"""What the rest of a lane does while one of its messages waits to be retried: wait here, in the store, or go on."""


class BatchTerms(msgspec.Struct, frozen=True):
    """How the batches of a handler are gathered."""

    size: int
    """The most messages of one."""
    wait: float
    """Seconds that the first waits for more to come."""


class Terms(msgspec.Struct, frozen=True):
    """What was declared of how a handler runs."""

    ordered_by: Callable[[Any], Hashable] | None = None
    """Messages with the same of this run one after the other; None where their transport says what is in order."""
    on_lane_retry: OnLaneRetry = "block"
    """What the others of its lane do while a message waits to be run again."""
    concurrency: int | None = None
    """How many messages (or batches) at once, within the processor's own concurrency."""
    timeout: float | None = None
    """Seconds that an attempt may take; None for the processor's."""
    rate_limit: Rate | None = None
    """How many messages in any stretch of time, in this process."""
    batch: BatchTerms | None = None
    """How batches are gathered; None for a handler of single messages."""
    once: Once[Any] | None = None
    """By what its effects are told apart, that shall happen once."""
    retry: Retry | Literal[False] | None = None
    """Which failures are tried again; None for the processor's policy, False for none."""
    breaker: Breaker | None = None
    """What it depends on, which may be down."""

    def key_of(self, message: Message) -> Hashable:
        """Return what orders a message, or None. Raises what `ordered_by` does, and TypeError for what has no hash."""
        key = None if self.ordered_by is None else self.ordered_by(message)
        hash(key)
        return key


class Route(msgspec.Struct, frozen=True, eq=False):
    """From a matcher to a handler."""

    name: str
    """`module:qualname`, or what the registration said."""
    matcher: Matcher[Any]
    handler: Callable[..., Any]
    is_async: bool
    """Whether the handler runs on the loop, and not on a worker thread."""
    terms: Terms = Terms()
    timeout: float = float("inf")
    """Seconds that an attempt may take: its own, or its processor's."""
    before: tuple[HandlingHook, ...] = ()
    after: tuple[HandlingHook, ...] = ()
    retry: Retry | None = None
    """Which failures are tried again: its own policy, or its processor's."""
    discards: str | None = None
    """The label with which messages are discarded, and no handler is called."""
    is_fallback: bool = False
    """Whether it is for what no other route matches, and its own matcher is not asked."""

    @property
    def kind(self) -> str:
        """What runs: `sync` or `async`, or `discard` for nothing."""
        return "discard" if self.discards is not None else "async" if self.is_async else "sync"

    @property
    def batched(self) -> bool:
        """Whether its handler takes batches."""
        return self.terms.batch is not None

    def to_dict(self) -> dict[str, object]:
        """Return the route for a listing."""
        matcher = "(unmatched)" if self.is_fallback else repr(self.matcher)
        kind = f"{self.kind} batch" if self.batched else self.kind
        return {"handler": self.name, "matcher": matcher, "kind": kind}


def is_async_callable(fn: Callable[..., object]) -> bool:
    """Tell whether calling `fn` gives a coroutine: an `async def`, a partial of one, an object with an async call."""
    return any(map(inspect.iscoroutinefunction, _called(fn)))


def is_generator_callable(fn: Callable[..., object]) -> bool:
    """Tell whether calling `fn` gives a generator, sync or async, of which nothing has run."""
    return any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in _called(fn))


def _called(fn: Callable[..., object]) -> tuple[object, object]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    # A class is called to make an instance, whatever its instances' own call is.
    call = None if inspect.isclass(fn) else getattr(fn, "__call__", None)  # noqa: B004 - the method is asked about
    return fn, call


def callable_name(fn: Callable[..., object]) -> str:
    """Return `module:qualname` of a function, or of what a partial or an object with a call stands for."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{named.__module__}:{named.__qualname__}"
