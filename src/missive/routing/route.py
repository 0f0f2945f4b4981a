"""A route: one matcher, the handler it leads to, and the terms that apply there."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic

import msgspec
from typing_extensions import TypeVar

from missive.matchers.algebra import Matcher

TermsT = TypeVar("TermsT", default=Any)
"""The terms of a route, which routing never reads."""


class Route(msgspec.Struct, Generic[TermsT], frozen=True, eq=False):
    """The way from a matcher to a handler."""

    name: str
    """The registered name, `module:qualname` by default."""
    matcher: Matcher[Any]
    handler: Callable[..., Any]
    terms: TermsT
    kind: str = "sync"
    """`sync` or `async`, with ` batch` appended for a batch handler; `discard` for a declared discard."""
    discards: str | None = None
    """The label of a declared discard, whose handler is never called; None for every other route."""
    is_fallback: bool = False
    """Whether the route takes the messages that no other route matches. Its matcher is never evaluated."""

    def to_dict(self) -> dict[str, object]:
        """Return the route as a row of a listing."""
        matcher = "(unmatched)" if self.is_fallback else repr(self.matcher)
        return {"handler": self.name, "matcher": matcher, "kind": self.kind}


def is_async_callable(fn: Callable[..., object]) -> bool:
    """Return whether a call of `fn` returns a coroutine.

    This is true for an `async def`, a partial of one, and an object whose `__call__` is one.
    """
    return any(map(inspect.iscoroutinefunction, _called(fn)))


def is_generator_callable(fn: Callable[..., object]) -> bool:
    """Return whether a call of `fn` returns a sync or async generator, which has not run yet."""
    return any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in _called(fn))


def _called(fn: Callable[..., object]) -> tuple[object, object]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    # Calling a class constructs an instance; the `__call__` of its instances does not run.
    call = None if inspect.isclass(fn) else getattr(fn, "__call__", None)  # noqa: B004 - the method itself is inspected
    return fn, call


def callable_name(fn: Callable[..., object]) -> str:
    """Return `module:qualname` of a function, of the function behind a partial, or of a callable object's class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{named.__module__}:{named.__qualname__}"
