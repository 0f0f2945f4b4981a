"""Resources as they are declared: a key for each, and what stands in for it in a test."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from missive.errors import RegistrationError, ResourceError, UsageError

T_co = TypeVar("T_co", covariant=True)

Scope: TypeAlias = Literal["message", "worker"]
"""How long a resource stays open: until the end of an attempt at a message, or until its worker ends."""


class ResourceKey(Generic[T_co]):
    """What `Processor.resource` makes of a generator function: the key by which `context.get` knows the resource.

    A key is a generator function with a scope, and belongs to no processor: any handler can use it.
    """

    __slots__ = ("function", "is_async", "name", "scope")

    def __init__(
        self, function: Callable[[Any], Iterator[T_co] | AsyncIterator[T_co]], scope: Scope, name: str
    ) -> None:
        self.function = function
        """The generator function, as it was written."""
        self.scope: Scope = scope
        self.name = name
        """`module:qualname` of the function."""
        self.is_async = inspect.isasyncgenfunction(function)
        """Whether it is opened with `await context.aget(key)` only."""

    def __repr__(self) -> str:
        return f"<ResourceKey {self.name}, {self.scope}>"


class Overrides(NamedTuple):
    """What stands in for resources in a test client: values as they are, and generator functions to run."""

    values: Mapping[ResourceKey[Any], object]
    sources: Mapping[ResourceKey[Any], ResourceKey[Any]]


NO_OVERRIDES = Overrides({}, {})


def is_generator_function(fn: object) -> bool:
    """Tell whether this is a function with a `yield`, sync or async, also as a method or a partial."""
    return inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)


def checked_scope(scope: object) -> None:
    """Raise `RegistrationError` for what is no scope."""
    if callable(scope):
        raise RegistrationError("a resource is declared with parentheses: @proc.resource()")
    if scope not in ("message", "worker"):
        raise RegistrationError('the scope of a resource is "message" or "worker"')


def checked_overrides(given: Mapping[ResourceKey[Any], object] | None) -> Overrides:
    """Sort what stands in for resources. Raises `UsageError` for a key that is none."""
    values: dict[ResourceKey[Any], object] = {}
    sources: dict[ResourceKey[Any], ResourceKey[Any]] = {}
    for key, fake in (given or {}).items():
        if not isinstance(key, ResourceKey):
            raise UsageError(
                f"overrides= is by resource, as Processor.resource returned it, and {type(key).__name__} is no such key"
            )
        # Another resource can stand in too: it is the generator function that it was declared as.
        function = fake.function if isinstance(fake, ResourceKey) else fake
        if is_generator_function(function):
            sources[key] = ResourceKey(function, key.scope, f"{key.name} (overridden)")  # type: ignore[arg-type]
        else:
            values[key] = fake
    return Overrides(values, sources)


def belongs_to_worker(key: ResourceKey[Any]) -> bool:
    """Tell whether a resource stays open for its worker's messages. Raises `ResourceError` for what is no key."""
    if not isinstance(key, ResourceKey):
        raise ResourceError(f"a resource is asked for by what Processor.resource returned, and not by a {_kind(key)}")
    return key.scope == "worker"


def _kind(thing: object) -> str:
    return type(thing).__name__
