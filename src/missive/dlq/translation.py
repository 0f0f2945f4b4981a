"""Translate exceptions of a store's client library into Missive's errors, without any value of a message."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from missive.errors import StoreError


class _Store(Protocol):
    url: str


S = TypeVar("S", bound=_Store)
P = ParamSpec("P")
T = TypeVar("T")


class Translation:
    """Makes decorators under which a store's methods raise `StoreError` in place of `errors`.

    `describe` receives the error only. It returns the class of the new error and a reason that quotes nothing of a
    message.
    """

    def __init__(
        self, errors: tuple[type[Exception], ...], describe: Callable[[Exception], tuple[type[StoreError], str]]
    ) -> None:
        self._errors = errors
        self._describe = describe

    def __call__(self, what: str) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
        """Return a decorator; `what` completes "the store cannot be …", for example with "read"."""

        def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
            @functools.wraps(method)
            def call(store: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
                try:
                    return method(store, *args, **kwargs)
                except self._errors as caught:
                    kind, why = self._describe(caught)
                # Outside the except block: a chained exception would carry the parameters of the statement.
                raise kind(f"the dead letter store {store.url} cannot be {what}: {why}")

            return call

        return decorate
