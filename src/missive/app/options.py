"""Handler options: the keywords of a registration, and the terms that they declare."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict

import msgspec
from typing_extensions import TypeVar

from missive.app import checks
from missive.app.admission import OnOverlap
from missive.app.breaker import Breaker
from missive.app.retry import Retry
from missive.app.terms import BatchTerms, OnLaneRetry, Terms
from missive.errors import RegistrationError
from missive.matchers.algebra import Matcher
from missive.messages import Message
from missive.once.declaration import Once
from missive.public import Public
from missive.routing.route import callable_name

if TYPE_CHECKING:
    from missive.dlq.contract import DLQ

M = TypeVar("M", bound=Message)


class HandlerOptions(TypedDict, Generic[M], total=False):
    """The options that all kinds of handlers share. `Processor.handle_for` documents them."""

    name: str | None
    retry: Retry | Literal[False] | None
    timeout: float | timedelta | None
    ordered_by: Callable[[M], Hashable] | None
    on_lane_retry: OnLaneRetry
    rate_limit: str | None
    concurrency: int | None
    once: Once[M] | None
    breaker: Breaker | None
    aliases: Sequence[str]


class ProcessorOptions(TypedDict, total=False):
    """The options of a processor. `Processor` documents them."""

    name: str | None
    dlq: DLQ
    retry: Retry | Literal[False] | None
    timeout: float | timedelta | None
    concurrency: int
    on_overlap: OnOverlap
    public: Sequence[str | tuple[str, ...] | Public]
    orphan_after: float | timedelta
    max_unfiled: int


PLAIN = Terms()
"""The terms of a handler without options. Such handlers share one object, because an application may have 100,000."""


class Declaration(msgspec.Struct, frozen=True, eq=False):
    """A checked handler: its matcher, its name and its own terms, without the defaults of its processor."""

    name: str
    matcher: Matcher[Any]
    handler: Callable[..., Any]
    terms: Terms = PLAIN
    timeout: float | None = None
    """Maximum duration of an attempt, in seconds; None for the processor's."""
    retry: Retry | Literal[False] | None = None
    """The retry policy; None for the processor's, False for no retries."""
    discards: str | None = None
    """The label of a declared discard; None for a handler."""
    aliases: tuple[str, ...] = ()
    """Earlier names of the handler."""


def check_names(method: str, options: HandlerOptions[Any], *others: str) -> None:
    """Raise TypeError for a keyword that is no option, and name the nearest option.

    `others` are the options that only this method has.
    """
    unknown = next((name for name in options if name not in HandlerOptions.__annotations__), None)
    if unknown is None:
        return
    import difflib  # noqa: PLC0415 - only a mistake loads it

    known = [*HandlerOptions.__annotations__, *others]
    near = difflib.get_close_matches(unknown, known, n=1)
    remedy = f"Did you mean {near[0]}=?" if near else f"The options are {', '.join(sorted(known))}."
    raise TypeError(f"{method}() got an unexpected keyword argument {unknown!r}. {remedy}")


def declare(
    matcher: Callable[[Any], bool],
    handler: Callable[..., object],
    options: HandlerOptions[Any],
    message_cls: type[Message],
    batch: tuple[int, float | timedelta] | None = None,
) -> Declaration:
    """Check a handler, its matcher and its options. `batch` is the size and the wait of a batch handler.

    Raise `RegistrationError` for a handler, a matcher or an option that can never work.
    """
    name = options.get("name")
    called = callable_name(handler) if name is None else checks.checked_name(name, callable_name(handler))
    checks.check_handler(handler, called, batch=batch is not None)
    terms = _terms(options, called, message_cls, batch)
    timeout, retry = options.get("timeout"), options.get("retry")
    return Declaration(
        called,
        checks.checked_matcher(matcher, called, message_cls),
        handler,
        terms,
        None if timeout is None else checks.checked_timeout(timeout),
        retry if retry is None or retry is False else checks.checked_retry(retry, f" (for {called})"),
        aliases=checks.checked_aliases(options.get("aliases", ()), called),
    )


def _terms(
    options: HandlerOptions[Any],
    called: str,
    message_cls: type[Message],
    batch: tuple[int, float | timedelta] | None,
) -> Terms:
    """Return the terms that options declare."""
    ordered_by, on_lane_retry = options.get("ordered_by"), options.get("on_lane_retry", "block")
    if ordered_by is not None:
        checks.check_key(ordered_by, called, "ordered_by=", message_cls)
        if getattr(ordered_by, "__hash__", None) is None:
            raise RegistrationError(
                f"ordered_by= (for {called}) must have a hash, by which handlers share lanes;"
                f" a {type(ordered_by).__name__} has none"
            )
    if on_lane_retry not in ("block", "park", "pass"):
        raise RegistrationError('on_lane_retry= must be "block", "park" or "pass"')
    breaker, concurrency, rate_limit = options.get("breaker"), options.get("concurrency"), options.get("rate_limit")
    rate = None if rate_limit is None else checks.checked_rate(rate_limit)
    once = options.get("once")
    terms = Terms(
        ordered_by,
        on_lane_retry,
        None if concurrency is None else checks.checked_concurrency(concurrency),
        rate,
        None if batch is None else BatchTerms(checks.checked_size(batch[0], rate), checks.checked_wait(batch[1])),
        None if once is None else checks.checked_once(once, called, options.get("name"), message_cls),
        None if breaker is None else checks.checked_breaker(breaker, called),
    )
    if terms.batch is not None and terms.once is not None and terms.once.form == "lease":
        raise RegistrationError(
            f"{called} is a batch handler and cannot use once= by lease. Use Once(…, form='transaction'), and"
            " context.claim(connection) for each item"
        )
    return PLAIN if terms == PLAIN else terms
