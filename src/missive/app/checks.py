"""Checks of the callables and values that a user registers. Each raises `RegistrationError` with the remedy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, MutableMapping
from datetime import timedelta
from typing import Any

from missive.app.breaker import Breaker
from missive.app.retry import Retry
from missive.durations import valid_seconds
from missive.errors import RegistrationError, UsageError
from missive.matchers.algebra import Matcher, as_matcher
from missive.messages import Message
from missive.once.declaration import MAX_CHARACTERS as LONGEST_NAME
from missive.once.declaration import Once
from missive.rates import Rate
from missive.routing.route import callable_name, is_async_callable, is_generator_callable

# Callables


def check_takes(fn: Callable[..., object], arguments: int, rule: str) -> None:
    """Raise `RegistrationError` unless a call with this number of positional arguments runs `fn`.

    `rule` starts the text of the error. It names the function and the arguments that the function must take.
    """
    if not callable(fn):
        raise RegistrationError(f"{rule}; it is a {type(fn).__name__}, which cannot be called")
    if is_generator_callable(fn):
        raise RegistrationError(f"{rule}; it contains a `yield`, so that a call would run nothing")
    check_signature(fn, arguments, rule)


def check_signature(fn: Callable[..., object], arguments: int, rule: str) -> None:
    """Raise `RegistrationError` unless `fn` accepts this number of positional arguments."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some built-in callables have no signature
        return
    try:
        signature.bind(*(None,) * arguments)
    except TypeError:
        raise RegistrationError(f"{rule}; it takes {signature}") from None


def check_handler(handler: Callable[..., object], called: str, *, batch: bool = False) -> None:
    """Raise `RegistrationError` unless a handler takes a message and a context, or a batch."""
    if batch:
        check_takes(handler, 1, f"the batch handler {called} must take a batch")
    else:
        check_takes(handler, 2, f"the handler {called} must take a message and a context")


def checked_hook(hook: Any, kind: str) -> Any:
    """Return a hook. Raise `RegistrationError` unless it takes the contexts of its kind."""
    arguments, takes = 2, "a ProcessingContext and a HandlingContext"
    if kind.endswith("_processing"):
        arguments, takes = 1, "a ProcessingContext"
    check_takes(hook, arguments, f"the {kind} hook {callable_name(hook)} must take {takes}")
    return hook


# Matchers and keys


def checked_matcher(matcher: Callable[[Any], bool], called: str, message_cls: type[Message]) -> Matcher[Any]:
    """Return a matcher. Raise `RegistrationError` unless all its parts accept the class of messages."""
    checked = as_matcher(matcher)
    for part in checked.walk():
        _check_reads(part, part.requires, called, message_cls)
    return checked


def check_key(key: Callable[[Any], object], called: str, option: str, message_cls: type[Message]) -> None:
    """Raise `RegistrationError` unless `key` takes a message of the class and returns its key at once."""
    rule = f"{option} (for {called}) must take a message and return its key at once"
    if isinstance(key, str):
        raise RegistrationError(f"{rule}. For a field of that name, use by_field({key!r})")
    if inspect.isclass(key):
        raise RegistrationError(f"{rule}; {key.__name__} is a class. Call it, as in by_field('customer')")
    check_takes(key, 1, rule)
    if is_async_callable(key):
        raise RegistrationError(f"{rule}; it is async. Make it a def")
    _check_reads(key, getattr(key, "requires", Message), called, message_cls)


def _check_reads(part: object, requires: type[Message], called: str, message_cls: type[Message]) -> None:
    if not issubclass(message_cls, requires):
        raise RegistrationError(
            f"{part!r} (for {called}) reads a {requires.__name__}, but this processor has "
            f"{message_cls.__name__}s. Make it missive.Processor(missive.JSONMessage)"
        )


# Values of options


def check_processor(message_cls: object, on_overlap: object) -> None:
    """Raise `RegistrationError` for an argument of `Processor` that can never work."""
    if not (inspect.isclass(message_cls) and issubclass(message_cls, Message)):
        raise RegistrationError("Processor takes a message class, such as missive.JSONMessage")
    if on_overlap not in ("warn", "error", "ignore"):
        raise RegistrationError('on_overlap= must be "warn", "error" or "ignore"')


def checked_name(value: object, what: str) -> str:
    """Return the name of `what`, a service or a handler. Raise `RegistrationError` for another value."""
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_NAME:
        raise RegistrationError(f"the name of {what} must be a text of 1 to {LONGEST_NAME} characters")
    return value


def checked_aliases(value: object, called: str) -> tuple[str, ...]:
    """Return the earlier names of a handler. Raise `RegistrationError` unless they are a list of names."""
    if isinstance(value, str) or not isinstance(value, (list, tuple, set, frozenset)):
        raise RegistrationError(f"aliases= (for {called}) must be a list of earlier names, such as ['app:charge']")
    return tuple(checked_name(alias, f"an alias of {called}") for alias in value)


def checked_concurrency(value: int) -> int:
    """Return a concurrency. Raise `RegistrationError` unless it is a whole number from 1."""
    if not _is_count(value):
        raise RegistrationError("concurrency= must be a whole number from 1")
    return value


def checked_max_unfiled(value: int) -> int:
    """Return a limit of waiting messages. Raise `RegistrationError` unless it is a whole number from 1."""
    if not _is_count(value):
        raise RegistrationError("max_unfiled= must be a whole number from 1")
    return value


def checked_retry(value: object, where: str = "") -> Retry:
    """Return a retry policy. Raise `RegistrationError` for another value; `where` names the place in the error."""
    if not isinstance(value, Retry):
        raise RegistrationError(f"retry={where} must be a missive.Retry, such as missive.Retry(attempts=5)")
    return value


def checked_breaker(value: object, called: str) -> Breaker:
    """Return a breaker. Raise `RegistrationError` for another value."""
    if not isinstance(value, Breaker):
        raise RegistrationError(f"breaker= (for {called}) must be a missive.Breaker, such as Breaker('billing')")
    return value


def checked_rate(value: str) -> Rate:
    """Return the rate that a text describes. Raise `RegistrationError` for an invalid text."""
    try:
        return Rate.parse(value)
    except UsageError as error:
        text = str(error)
    raise RegistrationError(text)


def checked_timeout(value: float | timedelta, option: str = "timeout=") -> float:
    """Return a timeout in seconds. Raise `RegistrationError` unless it is above zero. `option` is its name."""
    timeout = valid_seconds(value)
    if not timeout:
        raise RegistrationError(f"{option} must be a number of seconds above zero, or a timedelta")
    return timeout


def checked_wait(value: float | timedelta) -> float:
    """Return the wait of a batch in seconds. Raise `RegistrationError` unless it is zero or more."""
    wait = valid_seconds(value)
    if wait is None:
        raise RegistrationError("wait= must be a number of seconds, zero or more, or a timedelta")
    return wait


def checked_size(value: int, rate: Rate | None) -> int:
    """Return the size of a batch. Raise `RegistrationError` for less than one, or more than the rate ever allows."""
    if not _is_count(value):
        raise RegistrationError("size= must be a whole number of messages from 1")
    if rate is not None and value > rate.messages:
        raise RegistrationError(
            f"size={value} is more messages than rate_limit={str(rate)!r} allows at once. Lower the size"
        )
    return value


def checked_once(once: object, called: str, name: str | None, message_cls: type[Message]) -> Once[Any]:
    """Return the declaration of `once=`. Raise `RegistrationError` when it is invalid, or the handler has no name."""
    if not isinstance(once, Once):
        raise RegistrationError(f"once= (for {called}) must be a missive.Once, such as Once(by_field('id'))")
    if name is None:
        raise RegistrationError(
            f"{called} has once= and needs name=: its effects are recorded under that name, which stays when the"
            " function is renamed"
        )
    check_key(once.key, called, "the key of once=", message_cls)
    return once


def check_dlq(dlq: object) -> None:
    """Raise `RegistrationError` unless this is a dead letter store, a URL, a dict, or None."""
    if dlq is not None and not isinstance(dlq, (str, MutableMapping)) and not hasattr(dlq, "put"):
        raise RegistrationError(
            f"dlq must be a store, a URL ('sqlite:///dlq.db') or a dict, not a {type(dlq).__name__}"
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
