"""The processor: an application made of message handlers, which the engine runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, cast, overload

from typing_extensions import TypeVar, Unpack

from missive.app import checks
from missive.app.admission import OnOverlap
from missive.app.batch import Batch
from missive.app.context import HandlingContext, HandlingHook, ProcessingContext, ProcessingHook
from missive.app.identity import Identity, ServiceName
from missive.app.options import Declaration, HandlerOptions, M, ProcessorOptions, check_names, declare
from missive.app.registration import Registry, own_dlq
from missive.app.retry import Retry
from missive.app.terms import HandlerRoute, Terms
from missive.app.test_client import open_client
from missive.errors import RegistrationError
from missive.matchers.selectors import Everything
from missive.messages import RawMessage
from missive.public import Public, checked_places
from missive.resources.key import ResourceKey, Scope, check_resource, check_scope, checked_overrides
from missive.routing.route import Route, callable_name
from missive.words import counted

if TYPE_CHECKING:
    from missive.app.test_client import ClientSession
    from missive.dlq.contract import DLQ
    from missive.routing.check import Check
    from missive.routing.explain import Explanation
    from missive.routing.router import Router

R = TypeVar("R")
T = TypeVar("T")
HandlingHookT = TypeVar("HandlingHookT", bound=HandlingHook)
ProcessingHookT = TypeVar("ProcessingHookT", bound=ProcessingHook)

Handler: TypeAlias = Callable[[M, HandlingContext[M]], R]
"""A handler, `def` or `async def`. It takes a message and its context."""

BatchHandler: TypeAlias = Callable[[Batch[M]], R]
"""A batch handler, `def` or `async def`."""


class Processor(Generic[M]):
    """The handlers of an application, for one class of messages.

    - `message_cls`: the class of the messages that handlers receive.
    - `name`: the name of the service, to which its records in a store belong. The default is the name of the calling
      module; a store that several applications use needs an explicit name.
    - `dlq`: the dead letter queue: a store, its URL, or a dict, which receives `{id: (message, reason)}`.
    - `retry`: the retry policy of handlers without their own. False retries nothing. None takes the policy of the
      processor that includes this one, and retries nothing without any.
    - `timeout`: the maximum duration of an attempt, in seconds, for handlers without their own. None takes the timeout
      of the processor that includes this one, and 600 seconds without any.
    - `concurrency`: the maximum number of messages that are handled at once in this process.
    - `max_unfiled`: during an outage of the dead letter store, the number of messages that wait for the store at which
      intake pauses.
    - `on_overlap`: the reaction to two handlers that can match the same message: "warn" issues one `OverlapWarning`
      for each registration, "error" raises it, and "ignore" does nothing.
    - `public`: the fields of the body (a string, or a tuple of segments) and the headers (`missive.Public.header`)
      whose values may appear in logs, explanations and lists: scalars of at most 64 characters, and of other values the
      shape. All else stays confidential.
    - `orphan_after`: how long a parked or queued record waits for a handler that is not registered, in seconds, before
      it becomes dead. During a rolling deployment, another process may have the handler.

    Raise `RegistrationError` for an invalid argument.
    """

    name = ServiceName()
    """The name of the service. A name that is set is explicit."""

    @overload
    def __init__(self: Processor[RawMessage], **options: Unpack[ProcessorOptions]) -> None: ...

    @overload
    def __init__(self, message_cls: type[M], **options: Unpack[ProcessorOptions]) -> None: ...

    def __init__(
        self,
        message_cls: type[Any] = RawMessage,
        *,
        name: str | None = None,
        dlq: DLQ = None,
        retry: Retry | Literal[False] | None = None,
        timeout: float | timedelta | None = None,
        concurrency: int = 1,
        on_overlap: OnOverlap = "warn",
        public: Sequence[str | tuple[str, ...] | Public] = (),
        orphan_after: float | timedelta = 3600,
        max_unfiled: int = 1000,
    ) -> None:
        checks.check_processor(message_cls, on_overlap)
        self.message_cls: type[M] = cast("type[M]", message_cls)
        self.identity = Identity(name)
        """For the engine: whether the name is explicit, and the application that a default name belongs to."""
        self.retry = retry if retry is None or retry is False else checks.checked_retry(retry)
        self.timeout = None if timeout is None else checks.checked_timeout(timeout)
        self.concurrency = checks.checked_concurrency(concurrency)
        self.max_unfiled = checks.checked_max_unfiled(max_unfiled)
        self.public = checked_places(public, self.message_cls)
        self.on_overlap: OnOverlap = on_overlap
        self.orphan_after = checks.checked_timeout(orphan_after, "orphan_after=")
        self.dlq: DLQ = None
        self.registry = Registry(self)
        """For the engine: the handlers and hooks that are registered here."""
        self.set_dlq(dlq)

    # Handlers

    def handle_for(
        self, matcher: Callable[[M], bool], **options: Unpack[HandlerOptions[M]]
    ) -> Callable[[Handler[M, R]], Handler[M, R]]:
        """Register the decorated function for the messages that match, and return the function unchanged.

        `matcher` is a matcher of `missive.matchers`, or any callable that takes a message and returns a bool.

        Options, all of them keywords:

        - `name`: the name of the handler in lists, dead letters and metrics. The default is `module:qualname`.
        - `retry`: which failures are retried: a `Retry`, or False for none. The default is the processor's policy.
        - `timeout`: the maximum duration of an attempt, in seconds or as a timedelta. The default is the processor's.
          At the timeout, an async handler is cancelled. A sync handler cannot be interrupted: its message stays
          unsettled and its worker busy until the handler ends. In both cases the message becomes a dead letter with
          the reason `timeout`, whatever the handler recorded.
        - `ordered_by`: a callable that takes a message and returns its key, such as `by_field("customer")`. Messages
          with equal keys form a lane: they run one after another, in the order of arrival. Messages whose key is None
          have no order. Handlers with an equal `ordered_by` share their lanes. Without `ordered_by`, the lanes of the
          transport (such as partitions) stay in order.
        - `on_lane_retry`: how a lane behaves while one of its messages waits for a retry. "block", the default, holds
          the rest of the lane in memory, "park" moves the whole lane to the dead letter store, and "pass" lets the
          other messages run.
        - `rate_limit`: the maximum number of messages that start in any period of the given length, in this process,
          such as "20/s".
        - `concurrency`: the maximum number of messages that the handler receives at once, within the processor's
          concurrency.
        - `once`: the key by which repeated effects are recognised: a `Once`. The handler then needs a `name`, under
          which its effects are recorded.
        - `breaker`: the dependency of the handler, and when to stop calling it: a `Breaker`.
        - `aliases`: earlier names of the handler, under which stored records still find it.

        Raise TypeError for an unknown option, and otherwise as `add_handler` does.
        """
        check_names("handle_for", options)
        used = self.registry.expect_function("handle_for", matcher)

        def register(handler: Handler[M, R]) -> Handler[M, R]:
            used()
            self.add_handler(matcher, handler, **options)
            return handler

        return register

    def add_handler(
        self, matcher: Callable[[M], bool], handler: Handler[M, object], **options: Unpack[HandlerOptions[M]]
    ) -> None:
        """Register a handler without a decorator, with the options of `handle_for`.

        Raise `DuplicateMatcher` when another handler has the same matcher, `RegistrationClosed` once processing has
        started, `OverlapWarning` with `on_overlap="error"`, and `RegistrationError` for a handler, matcher or option
        that can never work. Raise TypeError for an unknown option.
        """
        check_names("add_handler", options)
        self._register(matcher, handler, options)

    def handle_batch_for(
        self,
        matcher: Callable[[M], bool],
        *,
        size: int = 100,
        wait: float | timedelta = 0.2,
        **options: Unpack[HandlerOptions[M]],
    ) -> Callable[[BatchHandler[M, R]], BatchHandler[M, R]]:
        """Register the decorated function for batches of the messages that match, and return it unchanged.

        The function takes a `Batch`, a sequence of contexts. A batch has at most `size` messages, and its first
        message waits at most `wait` seconds for more. The options of `handle_for` apply, with `concurrency` in batches
        and `rate_limit` in messages. `once` needs the form "transaction": each item claims its own effect.

        The handler can settle each item individually. When it returns, the remaining items are acked. When it raises,
        or exceeds its timeout, the remaining items run again in halves until the failing message is alone. These calls
        spend no attempts. The messages of one key are in one batch at a time, in order.

        Raise TypeError for an unknown option, and otherwise as `add_batch_handler` does.
        """
        check_names("handle_batch_for", options, "size", "wait")
        used = self.registry.expect_function("handle_batch_for", matcher)

        def register(handler: BatchHandler[M, R]) -> BatchHandler[M, R]:
            used()
            self.add_batch_handler(matcher, handler, size=size, wait=wait, **options)
            return handler

        return register

    def add_batch_handler(
        self,
        matcher: Callable[[M], bool],
        handler: BatchHandler[M, object],
        *,
        size: int = 100,
        wait: float | timedelta = 0.2,
        **options: Unpack[HandlerOptions[M]],
    ) -> None:
        """Register a batch handler without a decorator, with the options of `handle_batch_for`.

        Raise as `add_handler` does, and `RegistrationError` for a size below one, a size above the messages that
        `rate_limit` allows at once, and a `once` by lease.
        """
        check_names("add_batch_handler", options, "size", "wait")
        self._register(matcher, handler, options, (size, wait))

    def _register(
        self,
        matcher: Callable[[M], bool],
        handler: Callable[..., object],
        options: HandlerOptions[M],
        batch: tuple[int, float | timedelta] | None = None,
    ) -> None:
        self.registry.refuse_when_frozen("a handler")
        self.registry.add(declare(matcher, handler, options, self.message_cls, batch))

    def discard_for(self, matcher: Callable[[M], bool], *, reason: str) -> None:
        """Declare that the messages that match need no work. They are discarded, and no hook runs.

        `reason` is a short constant label, which operators see and metrics count. Raise as `add_handler` does.
        """
        self.registry.refuse_when_frozen("a discard")
        if not isinstance(reason, str) or not reason:
            raise RegistrationError("reason= of discard_for must be a short text, such as 'not ours'")

        def discard(_message: M, context: HandlingContext[M]) -> None:
            context.discard(reason)

        called = f"discard:{reason}"
        checked = checks.checked_matcher(matcher, called, self.message_cls)
        self.registry.add(Declaration(called, checked, discard, discards=reason))

    def handle_unmatched(self, handler: Handler[M, R]) -> Handler[M, R]:
        """Register the decorated function for the messages that no handler and no discard matches.

        When a matcher needs a body that cannot be decoded, the message is not unmatched: it becomes a dead letter
        with the reason `unreadable`. Raise `RegistrationError` for a second such function, and when this processor is
        included in another, because only the processor that runs can have one.
        """
        self.registry.refuse_when_frozen("a handler")
        called = callable_name(handler)
        checks.check_handler(handler, called)
        self.registry.add_fallback(Declaration(called, Everything(), handler))
        return handler

    def include(self, other: Processor[M], *, when: Callable[[M], bool] | None = None) -> None:
        """Include the handlers of another processor, also its later ones, until processing starts.

        `when` narrows the matchers of all included handlers. The included processor takes `retry` and `timeout` from
        this one where it leaves them None, but never `public`. The handling hooks of this processor also run around
        the included handlers, before the included processor's own hooks. The processing hooks of the included
        processor run with the ones of this processor.

        Raise `RegistrationError` for another message class, for a processor with its own dead letter queue, for a
        circle, and for a processor that would take different values of `retry` or `timeout` from two processors.
        """
        self.registry.refuse_when_frozen("an include")
        if other.message_cls is not self.message_cls:
            raise RegistrationError(
                f"{self.name} has {self.message_cls.__name__}s and {other.name} has {other.message_cls.__name__}s:"
                " a processor can only include processors of its own message class"
            )
        if other.dlq is not None:
            raise RegistrationError(own_dlq(other.name, self.name))
        called = f"the include of {other.name}"
        condition = None if when is None else checks.checked_matcher(when, called, self.message_cls)
        self.registry.include(other.registry, condition)

    # Resources and hooks

    @overload
    def resource(
        self, scope: Literal["message"] = "message"
    ) -> Callable[[Callable[[HandlingContext[M]], Iterator[T] | AsyncIterator[T]]], ResourceKey[T]]: ...

    @overload
    def resource(
        self, scope: Literal["worker"]
    ) -> Callable[[Callable[[ProcessingContext[M]], Iterator[T] | AsyncIterator[T]]], ResourceKey[T]]: ...

    def resource(self, scope: Scope = "message") -> Callable[[Callable[[Any], Any]], ResourceKey[Any]]:
        """Declare the decorated generator function, `def` or `async def`, as a resource, and return its key.

        The function takes a context and yields once. `context.get(key)` and `await context.aget(key)` return the
        value that it yields. The function runs up to its yield at the first use, and to its end when the resource is
        closed. Handlers of any processor can use the key.

        A "message" resource takes the HandlingContext and belongs to one attempt. It is closed when the handler is
        done, before the `after_handling` hooks and before the message is settled, in reverse order of opening. When
        the attempt fails with an exception, that exception is raised at the yield, so that the function can clean up.
        Suppressing the exception does not make the attempt succeed. Raising another exception replaces it. An
        exception after a successful attempt makes the message fail. A resource that an `after_handling` hook opens is
        closed after these hooks, and only exceptions of these hooks are raised in it.

        A "worker" resource takes the ProcessingContext. Each worker thread opens and closes its own, in that thread.
        Async handlers share one, which lives in a separate task. It is closed when the worker ends, after the
        `after_processing` hooks. An exception then fails the processor.

        Raise `RegistrationError` for another scope, and for a function that has no yield or does not take one
        argument.
        """
        check_scope(scope)

        def register(fn: Callable[[Any], Any]) -> ResourceKey[Any]:
            self.registry.refuse_when_frozen("a resource")
            called = callable_name(fn)
            check_resource(fn, called)
            takes = "a HandlingContext" if scope == "message" else "a ProcessingContext"
            checks.check_signature(fn, 1, f"the resource {called} must take {takes}")
            return ResourceKey(fn, scope, called)

        return register

    def before_processing(self, hook: ProcessingHookT) -> ProcessingHookT:
        """Run the decorated function once for each worker, before its first message, with the ProcessingContext."""
        return self._add_hook("before_processing", hook)

    def after_processing(self, hook: ProcessingHookT) -> ProcessingHookT:
        """Run the decorated function once for each worker, after its last message, also when an exception ends it."""
        return self._add_hook("after_processing", hook)

    def before_handling(self, hook: HandlingHookT) -> HandlingHookT:
        """Run the decorated function before the handler of each message, with both contexts."""
        return self._add_hook("before_handling", hook)

    def after_handling(self, hook: HandlingHookT) -> HandlingHookT:
        """Run the decorated function after the handler of each message, also when it raised, with both contexts."""
        return self._add_hook("after_handling", hook)

    def _add_hook(self, kind: str, hook: T) -> T:
        self.registry.refuse_when_frozen("a hook")
        self.registry.add_hook(kind, checks.checked_hook(hook, kind))
        return hook

    def set_dlq(self, dlq: DLQ) -> None:
        """Set the dead letter queue: a store, its URL, a dict, or None.

        Raise `RegistrationError` for another value, and when another processor includes this one.
        """
        checks.check_dlq(dlq)
        if dlq is not None and (outer := self.registry.including) is not None:
            raise RegistrationError(own_dlq(self.name, outer))
        self.dlq = dlq

    # Questions without side effects

    def route(self, message: M) -> list[Callable[[M, HandlingContext[M]], Any]]:
        """Return the handlers that match, in the order of registration. Raise `MatcherFailed` when a matcher raises."""
        return [route.handler for route in self.router().matching(message)]

    def routes(self) -> tuple[HandlerRoute, ...]:
        """Return all routes, also of included processors, in the order of registration."""
        return self.registry.routes()

    def explain(self, message: M) -> Explanation:
        """Return which handler would run for a message, or why none would. Shows public message content only."""
        from missive.routing.explain import explain  # noqa: PLC0415 - `import missive` does not load routing

        found = self.router().find(message)
        public = found.terms.public if isinstance(found, Route) else self.public
        return explain(self.routes(), message, public, found)

    def check(self) -> Check:
        """Return what routing costs, and which handlers overlap or could. Takes longer with more handlers."""
        from missive.routing.check import check  # noqa: PLC0415 - as above

        return check(self.routes(), self.message_cls)

    def test_client(self, *, overrides: Mapping[ResourceKey[Any], object] | None = None) -> ClientSession[M]:
        """Return a test client: `with proc.test_client() as client: client.send(message)`, or `async with`.

        `overrides` replaces resources by their keys. A generator function runs in place of the resource's function;
        any other value is the resource. Raise `UsageError` for a key that is not a resource.
        """
        return open_client(self, checked_overrides(overrides))

    # For the engine

    def router(self) -> Router[Terms]:
        """Return the router of the current routes."""
        return self.registry.router()

    def freeze(self) -> tuple[HandlerRoute, ...]:
        """End registration, here and in the included processors, and return the routes."""
        return self.registry.freeze()

    def __repr__(self) -> str:
        return f"<Processor {self.name}: {self.message_cls.__name__}, {counted(len(self.registry), 'handler')}>"
