"""What a store's client raises, as one of Missive's errors, in words that hold no value."""

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
    """Makes a store's methods raise `StoreError`, or a kind of it, for what `errors` are raised in them.

    `words` says which kind, and why; it is told nothing but the error, and quotes nothing of a message.
    """

    def __init__(
        self, errors: tuple[type[Exception], ...], words: Callable[[Exception], tuple[type[StoreError], str]]
    ) -> None:
        self._errors = errors
        self._words = words

    def __call__(self, what: str) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
        """Decorate a method by what cannot be done when it raises: the store cannot be "read", say."""

        def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
            @functools.wraps(method)
            def call(store: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
                try:
                    return method(store, *args, **kwargs)
                except self._errors as caught:
                    kind, why = self._words(caught)
                # Outside the except block: chained, a statement's parameters would come with it.
                raise kind(f"the dead letter store {store.url} cannot be {what}: {why}")

            return call

        return decorate
