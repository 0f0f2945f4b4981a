"""The processor: an application made of handlers. It registers and routes; the engine runs it."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, cast, overload

import msgspec
from typing_extensions import TypeVar

from missive.app.batch import Batch
from missive.app.breaker import Breaker
from missive.app.context import HandlingContext, HandlingHook, ProcessingContext, ProcessingHook
from missive.app.retry import Retry
from missive.app.terms import BatchTerms, HandlerRoute, OnLaneRetry, Terms
from missive.app.test_client import open_client
from missive.durations import seconds
from missive.errors import DuplicateMatcher, OverlapWarning, RegistrationClosed, RegistrationError, UsageError
from missive.matchers.algebra import And, Matcher, as_matcher
from missive.matchers.selectors import Everything
from missive.matchers.values import cut
from missive.messages import Message, RawMessage
from missive.once.declaration import Once, checked_name
from missive.rates import Rate
from missive.resources.key import ResourceKey, Scope, checked_overrides, checked_scope, is_generator_function
from missive.routing.route import Route, callable_name, is_async_callable, is_generator_callable

if TYPE_CHECKING:
    from missive.app.test_client import ClientSession
    from missive.dlq.contract import DLQ
    from missive.routing.check import Check
    from missive.routing.explain import Explanation
    from missive.routing.overlaps import Overlap, OverlapIndex
    from missive.routing.router import Router

M = TypeVar("M", bound=Message)
R = TypeVar("R")
T = TypeVar("T")
HandlingHookT = TypeVar("HandlingHookT", bound=HandlingHook)
ProcessingHookT = TypeVar("ProcessingHookT", bound=ProcessingHook)

OnOverlap: TypeAlias = Literal["warn", "error", "ignore"]
"""What to do about two handlers that some message would match both of."""

Handler: TypeAlias = Callable[[M, HandlingContext[M]], R]
"""A handler: takes the message and its context; `def` or `async def`."""

BatchHandler: TypeAlias = Callable[[Batch[M]], R]
"""A handler of batches; `def` or `async def`."""


_MOST_WARNINGS = 10
_PLAIN = Terms()


class _Registered(msgspec.Struct, frozen=True, eq=False):
    name: str
    matcher: Matcher[Any]
    handler: Callable[..., Any]
    terms: Terms = _PLAIN
    timeout: float | None = None
    """Maximum duration of an attempt, in seconds; None for the processor's."""
    retry: Retry | Literal[False] | None = None
    """The retry policy; None for the processor's, False for no retries."""
    discards: str | None = None


class _Included(msgspec.Struct, frozen=True, eq=False):
    processor: Processor[Any]
    when: Matcher[Any] | None


class Processor(Generic[M]):
    """Handlers for one class of messages, and what they have in common.

    `message_cls` is what arriving bodies become. `name` is the service's, by which its dead letters are known
    in a shared store (the module's by default). `dlq` is a store, its URL, or a plain dict. `retry` says which failures
    are tried again (none when None). `timeout` is how many
    seconds an attempt may take, unless its handler says otherwise. `concurrency` is how many messages are handled at
    once in this process. `on_overlap` says what to do about two handlers that some
    message would match both of: "warn" (`OverlapWarning`, once for each handler that is registered), "error" (raise
    it) or "ignore". `public` lists the field paths (a string, or a tuple of
    segments) and header names whose values may be shown in logs, explanations and lists; nothing else is.
    """

    @overload
    def __init__(
        self: Processor[RawMessage],
        *,
        name: str | None = None,
        dlq: DLQ = None,
        retry: Retry | None = None,
        timeout: float | timedelta = 600,
        concurrency: int = 1,
        on_overlap: OnOverlap = "warn",
        public: Sequence[str | tuple[str, ...]] = (),
    ) -> None: ...

    @overload
    def __init__(
        self,
        message_cls: type[M],
        *,
        name: str | None = None,
        dlq: DLQ = None,
        retry: Retry | None = None,
        timeout: float | timedelta = 600,
        concurrency: int = 1,
        on_overlap: OnOverlap = "warn",
        public: Sequence[str | tuple[str, ...]] = (),
    ) -> None: ...

    def __init__(
        self,
        message_cls: type[Any] = RawMessage,
        *,
        name: str | None = None,
        dlq: DLQ = None,
        retry: Retry | None = None,
        timeout: float | timedelta = 600,
        concurrency: int = 1,
        on_overlap: OnOverlap = "warn",
        public: Sequence[str | tuple[str, ...]] = (),
    ) -> None:
        if not (inspect.isclass(message_cls) and issubclass(message_cls, Message)):
            raise RegistrationError("Processor takes a message class, such as missive.JSONMessage")
        if isinstance(public, str):
            raise RegistrationError(f"public= is a list of fields and headers: public=[{public!r}]")
        self.message_cls: type[M] = cast("type[M]", message_cls)
        self.name = name or _calling_module()
        self.retry = None if retry is None else _checked_retry(retry, "")
        self.timeout = _checked_timeout(timeout)
        self.concurrency = checked_concurrency(concurrency)
        self.public = frozenset((path,) if isinstance(path, str) else tuple(path) for path in public)
        if on_overlap not in ("warn", "error", "ignore"):
            raise RegistrationError('on_overlap= is "warn", "error" or "ignore"')
        self.on_overlap: OnOverlap = on_overlap
        self.dlq: DLQ = None
        self.set_dlq(dlq)
        self._entries: list[_Registered | _Included] = []
        self._known: dict[Matcher[Any], str] = {}
        self._admitted: dict[Matcher[Any], str] = {}
        self._ledger: OverlapIndex | None = None
        self._warned = 0
        self._unmatched: _Registered | None = None
        self._included_in: list[tuple[Processor[Any], Matcher[Any] | None]] = []
        self._hooks = Hooks()
        self._router: Router[Terms] | None = None
        self._frozen: tuple[HandlerRoute, ...] | None = None

    # Registration

    def handle_for(
        self,
        matcher: Callable[[M], bool],
        *,
        name: str | None = None,
        retry: Retry | Literal[False] | None = None,
        timeout: float | timedelta | None = None,
        ordered_by: Callable[[M], Hashable] | None = None,
        on_lane_retry: OnLaneRetry = "block",
        rate_limit: str | None = None,
        concurrency: int | None = None,
        once: Once[M] | None = None,
        breaker: Breaker | None = None,
    ) -> Callable[[Handler[M, R]], Handler[M, R]]:
        """Register the decorated function for the messages that match, and return it unchanged.

        `matcher` is one of `missive.matchers`, or any callable that takes a message and returns a bool.
        `name` is what lists, dead letters and metrics call the handler (`module:qualname` when None).

        `ordered_by` takes a message and returns its key, such as `by_field("customer")`: messages with the same key
        run one after the other, in the order they came; those whose key is None run as they come. Handlers with an
        equal `ordered_by` share their lanes. Without it, the transport's own lanes (partitions, say) are kept in
        order. `on_lane_retry` is "block" (the rest of the lane waits while one is to be retried), "park" (all of it
        waits in the store, and nothing piles up here) or "pass" (others go on).

        `retry` says which failures are tried again: a `Retry`, False for none, None for the processor's. `breaker` is
        what the handler depends on, and when to leave that alone: see `Breaker`.

        `timeout` is how many seconds an attempt may take (the processor's when None). An async handler is cancelled
        then. A thread cannot be interrupted: a sync handler goes on, its message stays unsettled and its worker busy
        until it ends, and then, whatever it said, the message is dead-lettered as `timeout`. `rate_limit` is how many
        messages it gets in any stretch of time, such as "20/s", in this process. `concurrency` is how many it gets at
        once, within the processor's own. `once` says by what key the handler's effects are told apart that shall happen
        once: see `Once`; the handler needs a `name=` of its own then, under which that is remembered.

        Raises `RegistrationError` for what could never work: see `add_handler`.
        """

        def register(handler: Handler[M, R]) -> Handler[M, R]:
            self.add_handler(
                matcher,
                handler,
                name=name,
                retry=retry,
                timeout=timeout,
                ordered_by=ordered_by,
                on_lane_retry=on_lane_retry,
                rate_limit=rate_limit,
                concurrency=concurrency,
                once=once,
                breaker=breaker,
            )
            return handler

        return register

    def add_handler(
        self,
        matcher: Callable[[M], bool],
        handler: Handler[M, object],
        *,
        name: str | None = None,
        retry: Retry | Literal[False] | None = None,
        timeout: float | timedelta | None = None,
        ordered_by: Callable[[M], Hashable] | None = None,
        on_lane_retry: OnLaneRetry = "block",
        rate_limit: str | None = None,
        concurrency: int | None = None,
        once: Once[M] | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        """Register a handler; `handle_for` is this as a decorator.

        Raises `DuplicateMatcher` when the same matcher has a handler, `RegistrationClosed` once processing
        started, and `RegistrationError` for a handler that does not take a message and a context, a matcher
        or a key on fields of messages that have none, or `once` without a `name`.
        """
        self._refuse_when_frozen("a handler")
        called = name or callable_name(handler)
        _check_takes(handler, 2, f"the handler {called} must take a message and a context")
        terms = self._terms(called, ordered_by, on_lane_retry, rate_limit, concurrency, breaker)
        if once is not None:
            terms = msgspec.structs.replace(terms, once=self._checked_once(once, called, name))
        self._register(matcher, called, handler, terms, timeout, retry)

    def handle_batch_for(
        self,
        matcher: Callable[[M], bool],
        *,
        size: int = 100,
        wait: float | timedelta = 0.2,
        name: str | None = None,
        retry: Retry | Literal[False] | None = None,
        timeout: float | timedelta | None = None,
        ordered_by: Callable[[M], Hashable] | None = None,
        on_lane_retry: OnLaneRetry = "block",
        rate_limit: str | None = None,
        concurrency: int | None = None,
        breaker: Breaker | None = None,
        once: Once[M] | None = None,
    ) -> Callable[[BatchHandler[M, R]], BatchHandler[M, R]]:
        """Register the decorated function for batches of the messages that match, and return it unchanged.

        It takes a `Batch`: a sequence of contexts, of `size` at the most, which waits `wait` seconds for more after
        its first. Each item may be settled by itself; what is left is acked when the function returns. When it
        raises, or takes longer than its timeout, what was not settled is run again in halves, without spending
        attempts, until the culprit is alone. The messages of one key are in one batch at a time, in their order.
        The other options are those of `handle_for`, with `concurrency` in batches and `rate_limit` in messages; `once`
        is of the form "transaction", and each item claims its own effect.

        Raises `RegistrationError` for what could never work: see `add_batch_handler`.
        """

        def register(handler: BatchHandler[M, R]) -> BatchHandler[M, R]:
            self.add_batch_handler(
                matcher,
                handler,
                size=size,
                wait=wait,
                name=name,
                retry=retry,
                timeout=timeout,
                ordered_by=ordered_by,
                on_lane_retry=on_lane_retry,
                rate_limit=rate_limit,
                concurrency=concurrency,
                breaker=breaker,
                once=once,
            )
            return handler

        return register

    def add_batch_handler(
        self,
        matcher: Callable[[M], bool],
        handler: BatchHandler[M, object],
        *,
        size: int = 100,
        wait: float | timedelta = 0.2,
        name: str | None = None,
        retry: Retry | Literal[False] | None = None,
        timeout: float | timedelta | None = None,
        ordered_by: Callable[[M], Hashable] | None = None,
        on_lane_retry: OnLaneRetry = "block",
        rate_limit: str | None = None,
        concurrency: int | None = None,
        breaker: Breaker | None = None,
        once: Once[M] | None = None,
    ) -> None:
        """Register a handler of batches; `handle_batch_for` is this as a decorator.

        Raises as `add_handler` does, and `RegistrationError` for a size below one or above what `rate_limit` lets
        pass at once, and for a `once` that is a lease.
        """
        self._refuse_when_frozen("a handler")
        called = name or callable_name(handler)
        _check_takes(handler, 1, f"the batch handler {called} must take a batch")
        terms = self._terms(called, ordered_by, on_lane_retry, rate_limit, concurrency, breaker)
        gathered = BatchTerms(_checked_size(size, terms.rate_limit), _checked_wait(wait))
        terms = msgspec.structs.replace(terms, batch=gathered)
        if once is not None:
            terms = msgspec.structs.replace(terms, once=self._checked_once(once, called, name))
            if once.form == "lease":
                raise RegistrationError(
                    f"the batches of {called} cannot be held by leases: Once(…, form='transaction'), and"
                    " context.claim(connection) for each item"
                )
        self._register(matcher, called, handler, terms, timeout, retry)

    def _terms(
        self,
        called: str,
        ordered_by: Callable[[M], Hashable] | None,
        on_lane_retry: OnLaneRetry,
        rate_limit: str | None,
        concurrency: int | None,
        breaker: Breaker | None,
    ) -> Terms:
        if ordered_by is not None:
            self._check_key(ordered_by, called, "ordered_by=")
        if on_lane_retry not in ("block", "park", "pass"):
            raise RegistrationError('on_lane_retry= is "block", "park" or "pass"')
        if breaker is not None and not isinstance(breaker, Breaker):
            raise RegistrationError(f"breaker= (for {called}) is a missive.Breaker, such as Breaker('billing')")
        terms = Terms(
            ordered_by,
            on_lane_retry,
            None if concurrency is None else checked_concurrency(concurrency),
            None if rate_limit is None else _checked_rate(rate_limit),
            breaker=breaker,
        )
        # Nearly all handlers have no terms of their own, and there may be a hundred thousand of them.
        return _PLAIN if terms == _PLAIN else terms

    def _checked_once(self, once: Once[M], called: str, name: str | None) -> Once[M]:
        if not isinstance(once, Once):
            raise RegistrationError(f"once= (for {called}) is a missive.Once, such as Once(by_field('id'))")
        if name is None:
            raise RegistrationError(
                f"{called} has once=, and needs a name= of its own: what happened is remembered under it, also when"
                " the function is renamed"
            )
        self._check_key(once.key, called, "the key of once=")
        checked_name(name, "a handler")
        return once

    def _check_key(self, key: Callable[[M], object], called: str, what: str) -> None:
        complaint = f"{what} (for {called}) must take a message and return its key at once"
        if isinstance(key, str):
            raise RegistrationError(f"{complaint}: for a field of that name, by_field({key!r})")
        if inspect.isclass(key):
            raise RegistrationError(f"{complaint}; {key.__name__} is a class: call it, as in by_field('customer')")
        _check_takes(key, 1, complaint)
        if is_async_callable(key):
            raise RegistrationError(f"{complaint}; it is async")
        if what == "ordered_by=" and getattr(key, "__hash__", None) is None:
            raise RegistrationError(f"{complaint}; a {type(key).__name__} has no hash, and so cannot be shared")
        requires = getattr(key, "requires", Message)
        if not issubclass(self.message_cls, requires):
            raise RegistrationError(
                f"{key!r} (for {called}) looks into a {requires.__name__}, and this processor has "
                f"{self.message_cls.__name__}s: make it missive.Processor(missive.JSONMessage)"
            )

    def discard_for(self, matcher: Callable[[M], bool], *, reason: str) -> None:
        """Declare that nothing needs to be done about the messages that match: they are discarded, and no hook runs.

        `reason` is a short constant label, shown and counted. Raises as `add_handler` does.
        """
        self._refuse_when_frozen("a discard")
        if not isinstance(reason, str) or not reason:
            raise RegistrationError("discard_for's reason= is a short text, such as 'not ours'")

        def discard(_message: M, context: HandlingContext[M]) -> None:
            context.discard(reason)

        self._register(matcher, f"discard:{reason}", discard, discards=reason)

    def _register(
        self,
        matcher: Callable[[M], bool],
        called: str,
        handler: Callable[..., object],
        terms: Terms = _PLAIN,
        timeout: float | timedelta | None = None,
        retry: Retry | Literal[False] | None = None,
        discards: str | None = None,
    ) -> None:
        if retry is not None and retry is not False:
            _checked_retry(retry, f" (for {called})")
        seconds = None if timeout is None else _checked_timeout(timeout)
        checked = self._checked_matcher(matcher, called)
        _claim([(checked, called)], self)
        self._registered()
        self._entries.append(_Registered(called, checked, handler, terms, seconds, retry, discards))

    def handle_unmatched(self, handler: Handler[M, R]) -> Handler[M, R]:
        """Register the decorated function for the messages that no handler and no discard matches; one at the most.

        A message whose body would have to be decoded to know, and cannot be, is dead-lettered as unreadable all the
        same. Raises `RegistrationError` for a second one, and where this processor is included in another: what is
        unmatched is the whole application's to say.
        """
        self._refuse_when_frozen("a handler")
        called = callable_name(handler)
        _check_takes(handler, 2, f"the handler {called} must take a message and a context")
        if self._unmatched is not None:
            raise RegistrationError(f"{self._unmatched.name} handles what is unmatched already, and so cannot {called}")
        if self._included_in:
            raise RegistrationError(_unmatched_belongs(self._included_in[0][0], called))
        self._registered()
        self._unmatched = _Registered(called, Everything(), handler)
        return handler

    def _checked_matcher(self, matcher: Callable[[M], bool], called: str) -> Matcher[M]:
        checked = as_matcher(matcher)
        for part in checked.walk():
            if not issubclass(self.message_cls, part.requires):
                raise RegistrationError(
                    f"{part!r} (for {called}) looks into a {part.requires.__name__}, and this processor has "
                    f"{self.message_cls.__name__}s: make it missive.Processor(missive.JSONMessage)"
                )
        return checked

    def include(self, other: Processor[M], *, when: Callable[[M], bool] | None = None) -> None:
        """Take in the handlers of another processor, also those it registers later, until processing starts.

        `when` narrows every one of them. The included one's handling hooks stay with its handlers; its processing
        hooks join this one's. Raises `RegistrationError` for another message class, a dead letter queue of its
        own, or a circle.
        """
        self._refuse_when_frozen("an include")
        if other.message_cls is not self.message_cls:
            raise RegistrationError(
                f"{self.name} has {self.message_cls.__name__}s and {other.name} has {other.message_cls.__name__}s:"
                " a processor includes others of its own message class"
            )
        if other.dlq is not None:
            raise RegistrationError(f"{other.name} has a dead letter queue of its own: set it on {self.name} only")
        if other._unmatched is not None:
            raise RegistrationError(_unmatched_belongs(self, other._unmatched.name))
        if any(part is self for part in other._tree()):
            raise RegistrationError(f"{self.name} and {other.name} would include each other")
        condition = None if when is None else self._checked_matcher(when, f"the include of {other.name}")
        _claim([(_narrowed(matcher, condition), name) for matcher, name in other._known.items()], self)
        self._registered()
        self._entries.append(_Included(other, condition))
        other._included_in.append((self, condition))

    @overload
    def resource(
        self, scope: Literal["message"] = "message"
    ) -> Callable[[Callable[[HandlingContext[M]], Iterator[T] | AsyncIterator[T]]], ResourceKey[T]]: ...

    @overload
    def resource(
        self, scope: Literal["worker"]
    ) -> Callable[[Callable[[ProcessingContext[M]], Iterator[T] | AsyncIterator[T]]], ResourceKey[T]]: ...

    def resource(self, scope: Scope = "message") -> Callable[[Callable[[Any], Any]], ResourceKey[Any]]:
        """Declare the decorated generator function, `def` or `async def`, as a resource; returns its key.

        It takes a context and yields once: what it yields is what `context.get(key)`, or `await context.aget(key)`,
        returns. It runs at the first use, up to its yield, and is closed by running to its end. A key can be used by
        the handlers of any processor.

        A "message" resource takes the HandlingContext, and is one attempt's. What an attempt opened is closed in
        reverse order when its handler is done, before the `after_handling` hooks and before anything is settled. The
        exception with which the attempt fails, if there is one, is raised at the yield. That is for cleaning up: a
        function that keeps it to itself makes no success of the failure, and one that raises another in its place
        has changed what the failure is. One that raises when nothing else did makes the message fail. What an
        `after_handling` hook opens is closed after those hooks, and only what they raise is raised in it.

        A "worker" resource takes the ProcessingContext. Each worker thread has its own, in that thread; async
        handlers share one, which lives in a task of its own. It is closed when the worker ends, after the
        `after_processing` hooks; one that raises then fails the processor.

        Raises `RegistrationError` for another scope, and for a function that has no yield or does not take one
        argument.
        """
        checked_scope(scope)

        def register(fn: Callable[[Any], Any]) -> ResourceKey[Any]:
            self._refuse_when_frozen("a resource")
            complaint = f"the resource {callable_name(fn)} must be a generator function, which yields once"
            if not is_generator_function(fn):
                raise RegistrationError(f"{complaint}; it has no yield of its own, or @contextmanager hides it")
            takes = "HandlingContext" if scope == "message" else "ProcessingContext"
            _check_signature(fn, 1, f"the resource {callable_name(fn)} must take a {takes}")
            return ResourceKey(fn, scope, callable_name(fn))

        return register

    def before_processing(self, hook: ProcessingHookT) -> ProcessingHookT:
        """Run the decorated function once a worker, before its first message, with its ProcessingContext."""
        self._hooks.before_processing.append(self._checked_hook(hook, 1, "before_processing"))
        return hook

    def after_processing(self, hook: ProcessingHookT) -> ProcessingHookT:
        """Run the decorated function once a worker, after its last message, also when something raised."""
        self._hooks.after_processing.append(self._checked_hook(hook, 1, "after_processing"))
        return hook

    def before_handling(self, hook: HandlingHookT) -> HandlingHookT:
        """Run the decorated function before each message's handler, with both contexts."""
        self._hooks.before_handling.append(self._checked_hook(hook, 2, "before_handling"))
        return hook

    def after_handling(self, hook: HandlingHookT) -> HandlingHookT:
        """Run the decorated function after each message's handler, also when it raised, with both contexts."""
        self._hooks.after_handling.append(self._checked_hook(hook, 2, "after_handling"))
        return hook

    def set_dlq(self, dlq: DLQ) -> None:
        """Set where dead letters go: a store, its URL, or a dict, which then holds `{id: (message, reason)}`."""
        if dlq is not None and not isinstance(dlq, (str, MutableMapping)) and not hasattr(dlq, "put"):
            raise RegistrationError(
                f"a dead letter queue is a store, a URL ('sqlite:///dlq.db') or a dict, and not a {type(dlq).__name__}"
            )
        self.dlq = dlq

    # Questions, without side effect

    def route(self, message: M) -> list[Callable[[M, HandlingContext[M]], Any]]:
        """Return the handlers that match, in order of registration. Raises `MatcherFailed` when a matcher does."""
        return [route.handler for route in self.router().matching(message)]

    def routes(self) -> tuple[HandlerRoute, ...]:
        """Return every route, those of included processors too, in order of registration."""
        return self._compiled()

    def explain(self, message: M) -> Explanation:
        """Say which handler would run, or why none would, without message content that is not public."""
        from missive.routing.explain import explain  # noqa: PLC0415 - importing missive does not load what routes

        return explain(self.routes(), message, self.public, self.router().find(message))

    def check(self) -> Check:
        """Say what routing costs, and which handlers overlap or could; the work grows with the handlers' number."""
        from missive.routing.check import check  # noqa: PLC0415 - as above

        return check(self.routes(), self.message_cls)

    def test_client(self, *, overrides: Mapping[ResourceKey[Any], object] | None = None) -> ClientSession[M]:
        """Return a test client: `with proc.test_client() as client: client.send(message)`, or `async with`.

        `overrides` is what stands in for resources, by their keys: a value is given as it is, and a generator
        function is run as a resource's own. Raises `UsageError` for a key that is none.
        """
        return open_client(self, checked_overrides(overrides))

    # For the engine

    def router(self) -> Router[Terms]:
        """Return the router of what is registered now."""
        if self._router is None:
            from missive.routing.router import Router  # noqa: PLC0415 - as above

            self._router = Router(self._compiled())
        return self._router

    def freeze(self) -> tuple[HandlerRoute, ...]:
        """End registration, here and in what is included, and return the routes."""
        routes = self._compiled()
        for part in self._tree():
            part._frozen = routes if part is self else part._compiled()  # noqa: SLF001 - one of this class
        return routes

    @property
    def hooks(self) -> Hooks:
        """This processor's hooks, with the processing hooks of the included ones."""
        joined = Hooks(before_handling=self._hooks.before_handling, after_handling=self._hooks.after_handling)
        for part in self._tree():
            joined.before_processing += part._hooks.before_processing  # noqa: SLF001 - one of this class
            joined.after_processing += part._hooks.after_processing  # noqa: SLF001 - as above
        return joined

    def _compiled(self) -> tuple[HandlerRoute, ...]:
        if self._frozen is not None:
            return self._frozen
        routes = tuple(self._own_and_included())
        if self._unmatched is not None:
            routes += (msgspec.structs.replace(self._route(self._unmatched), is_fallback=True),)
        hooks = self.hooks
        async_hooks = [*hooks.before_processing, *hooks.after_processing]
        run = [route for route in routes if route.discards is None]
        _refuse_async_hooks(async_hooks, run)
        for route in run:
            _refuse_async_hooks([*route.terms.before, *route.terms.after], [route])
        return routes

    def _own_and_included(self) -> Iterator[HandlerRoute]:
        for entry in self._entries:
            if isinstance(entry, _Registered):
                yield self._route(entry)
                continue
            for route in entry.processor._own_and_included():  # noqa: SLF001 - another of this class
                yield msgspec.structs.replace(route, matcher=_narrowed(route.matcher, entry.when))

    def _route(self, one: _Registered) -> HandlerRoute:
        if one.discards is not None:
            return Route(one.name, one.matcher, one.handler, one.terms, "discard", one.discards)
        terms = msgspec.structs.replace(
            one.terms,
            is_async=is_async_callable(one.handler),
            timeout=self.timeout if one.timeout is None else one.timeout,
            retry=self.retry if one.retry is None else one.retry or None,
            before=tuple(self._hooks.before_handling),
            after=tuple(self._hooks.after_handling),
        )
        kind = "async" if terms.is_async else "sync"
        return Route(one.name, one.matcher, one.handler, terms, kind if terms.batch is None else f"{kind} batch")

    def _tree(self) -> Iterator[Processor[Any]]:
        yield self
        for entry in self._entries:
            if isinstance(entry, _Included):
                yield from entry.processor._tree()  # noqa: SLF001 - another of this class

    def _registered(self) -> None:
        """Forget what was compiled, here and wherever this processor is included."""
        self._router = None
        for parent, _ in self._included_in:
            parent._registered()  # noqa: SLF001 - another of this class

    def _admit(self, matcher: Matcher[Any], name: str, *, quietly: bool) -> bool:
        """Let a matcher in, until `_keep` or `_restore`; tells whether an overlap was warned of."""
        other = self._known.get(matcher) or self._admitted.get(matcher)
        if other is not None:
            raise DuplicateMatcher(
                f"{other} and {name} have the same matcher, {cut(matcher)}: neither would ever be chosen"
            )
        ledger = self._ledger or self._new_ledger()
        companions = ledger.check(matcher, name)
        overlap = None
        if self._looks_for_overlaps and not (quietly and self.on_overlap == "warn"):
            overlap = ledger.overlap(matcher, name, companions)
        if overlap is not None:
            self._overlaps(overlap)
        self._admitted[matcher] = name  # first: Ctrl-C in the middle of the other is undone with it
        ledger.add(matcher, name)
        return overlap is not None

    def _keep(self) -> None:
        self._known.update(self._admitted)
        self._admitted = {}

    def _restore(self) -> None:
        if not self._admitted:
            return
        self._admitted = {}
        ledger = self._new_ledger()
        for matcher, name in self._known.items():
            ledger.add(matcher, name)

    def _new_ledger(self) -> OverlapIndex:
        from missive.routing.overlaps import OverlapIndex  # noqa: PLC0415 - as above

        self._ledger = OverlapIndex(self.message_cls)
        return self._ledger

    def _overlaps(self, overlap: Overlap) -> None:
        """Raise, warn or do nothing about two handlers that overlap."""
        from missive.routing.witness import expression_of  # noqa: PLC0415 - as above

        text = (
            f"{overlap.one} and {overlap.other} overlap: {expression_of(overlap.witness)} matches both, and would be "
            "dead-lettered as ambiguous. Narrow one of them with & ~(…)"
        )
        if self.on_overlap == "error":
            raise OverlapWarning(text)
        if self._warned + 1 == _MOST_WARNINGS:
            text += f" (no more is said of {self.name} here: `missive check` lists the overlaps)"
        _warn(text)
        self._warned += 1  # not where the warning was an error

    @property
    def _looks_for_overlaps(self) -> bool:
        return self.on_overlap == "error" or (self.on_overlap == "warn" and self._warned < _MOST_WARNINGS)

    def _seats(self, matcher: Matcher[Any]) -> Iterator[tuple[Processor[Any], Matcher[Any]]]:
        """Yield each processor that a matcher of this one is in, with the matcher as it is there."""
        yield self, matcher
        for parent, when in self._included_in:
            yield from parent._seats(_narrowed(matcher, when))  # noqa: SLF001 - another of this class

    def _refuse_when_frozen(self, what: str) -> None:
        if self._frozen is not None:
            raise RegistrationClosed(f"{self.name} is processing: {what} cannot be registered any more")

    def _checked_hook(self, hook: Any, arguments: int, kind: str) -> Any:
        self._refuse_when_frozen("a hook")
        takes = "a ProcessingContext" if arguments == 1 else "a ProcessingContext and a HandlingContext"
        _check_takes(hook, arguments, f"the {kind} hook {callable_name(hook)} must take {takes}")
        return hook

    def __repr__(self) -> str:
        return f"<Processor {self.name}: {self.message_cls.__name__}, {len(self._known)} handlers>"


def _claim(matchers: Sequence[tuple[Matcher[Any], str]], processor: Processor[Any]) -> None:
    """Make matchers known where they will be asked, all or none.

    Raises `DuplicateMatcher`, `RegistrationError` for one that could never be chosen, and `OverlapWarning`.
    """
    touched: dict[Processor[Any], None] = {}
    said = False
    try:
        for matcher, name in matchers:
            for place, narrowed in processor._seats(matcher):  # noqa: SLF001 - this module's
                touched[place] = None
                said = place._admit(narrowed, name, quietly=said) or said  # noqa: SLF001 - as above
            ledger = processor._ledger  # noqa: SLF001 - as above
            if ledger is not None and ledger.analysis(-1).too_wide:
                _warn(f"the matcher of {name} has too many alternatives to keep apart: see missive check", UserWarning)
    except BaseException:  # also Ctrl-C, and a warning that is to be an error
        for place in touched:
            place._restore()  # noqa: SLF001 - as above
        raise
    for place in touched:
        place._keep()  # noqa: SLF001 - as above


def _warn(text: str, kind: type[Warning] = OverlapWarning) -> None:
    """Warn of the line of the application that registers, and not of one of ours."""
    level, frame = 1, sys._getframe(0)  # noqa: SLF001 - the documented way to see one's caller
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "missive":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, kind, stacklevel=level)


def _narrowed(matcher: Matcher[Any], when: Matcher[Any] | None) -> Matcher[Any]:
    return matcher if when is None else And(when, matcher).simplified()


def _unmatched_belongs(outer: Processor[Any], called: str) -> str:
    return (
        f"{called} handles what is unmatched, and its processor is included in {outer.name}: only the processor that"
        " runs can say what is unmatched"
    )


class Hooks:
    """The four lists of hooks of a processor."""

    __slots__ = ("after_handling", "after_processing", "before_handling", "before_processing")

    def __init__(
        self, *, before_handling: Sequence[HandlingHook] = (), after_handling: Sequence[HandlingHook] = ()
    ) -> None:
        self.before_processing: list[ProcessingHook] = []
        self.after_processing: list[ProcessingHook] = []
        self.before_handling: list[HandlingHook] = list(before_handling)
        self.after_handling: list[HandlingHook] = list(after_handling)


def checked_concurrency(value: int) -> int:
    """Return a concurrency; raises `RegistrationError` when it is not a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RegistrationError("concurrency= is a whole number from 1")
    return value


def _checked_retry(value: object, where: str) -> Retry:
    if not isinstance(value, Retry):
        raise RegistrationError(f"retry={where} is a missive.Retry, such as missive.Retry(attempts=5)")
    return value


def _checked_timeout(value: float | timedelta) -> float:
    """Return a timeout in seconds; raises `RegistrationError` when it is not a number above zero."""
    try:
        timeout = seconds(value)
    except (TypeError, ValueError):
        timeout = None
    if not timeout:
        raise RegistrationError("timeout= is a number of seconds above zero, or a timedelta")
    return timeout


def _checked_wait(value: float | timedelta) -> float:
    try:
        wait = seconds(value)
    except (TypeError, ValueError):
        wait = None
    if wait is None:
        raise RegistrationError("wait= is a number of seconds, zero or more, or a timedelta")
    return wait


def _checked_size(value: int, rate: Rate | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RegistrationError("size= is a whole number of messages from 1")
    if rate is not None and value > rate.messages:
        raise RegistrationError(f"size={value} is more than rate_limit={str(rate)!r} ever lets pass at once")
    return value


def _checked_rate(value: str) -> Rate:
    try:
        return Rate.parse(value)
    except UsageError as error:
        wrong = str(error)
    raise RegistrationError(wrong)


def _refuse_async_hooks(hooks: Sequence[Callable[..., object]], routes: Sequence[HandlerRoute]) -> None:
    sync_handler = next((route for route in routes if not route.terms.is_async), None)
    async_hook = next((hook for hook in hooks if is_async_callable(hook)), None)
    if sync_handler is not None and async_hook is not None:
        raise RegistrationError(
            f"the hook {callable_name(async_hook)} is async, and the handler {sync_handler.name} is not:"
            " make the hook a def, or the handler an async def"
        )


def _check_takes(fn: Callable[..., object], arguments: int, complaint: str) -> None:
    if not callable(fn):
        raise RegistrationError(f"{complaint}; it is a {type(fn).__name__}, which cannot be called")
    if is_generator_callable(fn):
        raise RegistrationError(f"{complaint}; it has a `yield`, and calling it would run nothing")
    _check_signature(fn, arguments, complaint)


def _check_signature(fn: Callable[..., object], arguments: int, complaint: str) -> None:
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some built-in callables do not tell
        return
    try:
        signature.bind(*(None,) * arguments)
    except TypeError:
        raise RegistrationError(f"{complaint}; it takes {signature}") from None


def _calling_module() -> str:
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to see one's caller
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    module = str(frame.f_globals.get("__name__", "missive"))
    if module != "__main__":
        return module
    if (spec := frame.f_globals.get("__spec__")) is not None:  # python -m package.module
        return str(spec.name)
    file = frame.f_globals.get("__file__")
    return os.path.splitext(os.path.basename(file))[0] if file else "__main__"  # noqa: PTH119, PTH122 - no pathlib
