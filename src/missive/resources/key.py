"""Resource keys: how a resource is declared, and how a test replaces it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from missive.errors import RegistrationError, ResourceError, UsageError

T_co = TypeVar("T_co", covariant=True)

Scope: TypeAlias = Literal["message", "worker"]
"""How long a resource stays open: until the end of an attempt at a message, or until the end of its worker."""


class ResourceKey(Generic[T_co]):
    """The key of a resource, for `context.get`. `Processor.resource` makes it from a generator function.

    A key belongs to no processor: handlers of any processor can use it.
    """

    __slots__ = ("function", "is_async", "name", "scope")

    def __init__(
        self, function: Callable[[Any], Iterator[T_co] | AsyncIterator[T_co]], scope: Scope, name: str
    ) -> None:
        self.function = function
        """The generator function, unchanged."""
        self.scope: Scope = scope
        self.name = name
        """`module:qualname` of the function."""
        self.is_async = inspect.isasyncgenfunction(function)
        """Whether only `await context.aget(key)` can open the resource."""

    def __repr__(self) -> str:
        return f"<ResourceKey {self.name}, {self.scope}>"


class Overrides(NamedTuple):
    """What replaces resources in a test client."""

    values: Mapping[ResourceKey[Any], object]
    """The values to return in place of opening a resource."""
    sources: Mapping[ResourceKey[Any], ResourceKey[Any]]
    """The resources to open in place of others."""


NO_OVERRIDES = Overrides({}, {})


def check_scope(scope: object) -> None:
    """Raise `RegistrationError` for an invalid scope, and for the decorator without parentheses."""
    if callable(scope):
        raise RegistrationError("a resource is declared with parentheses: @proc.resource()")
    if scope not in ("message", "worker"):
        raise RegistrationError('the scope of a resource must be "message" or "worker"')


def check_resource(fn: object, called: str) -> None:
    """Raise `RegistrationError` unless this is a generator function, sync or async, a method or a partial of one."""
    if not _is_generator_function(fn):
        raise RegistrationError(
            f"the resource {called} must be a generator function, which yields once; it contains no yield, or"
            " @contextmanager hides it"
        )


def checked_overrides(given: Mapping[ResourceKey[Any], object] | None) -> Overrides:
    """Sort overrides into values and generator functions. Raise `UsageError` for a key that is not a resource."""
    values: dict[ResourceKey[Any], object] = {}
    sources: dict[ResourceKey[Any], ResourceKey[Any]] = {}
    for key, fake in (given or {}).items():
        if not isinstance(key, ResourceKey):
            raise UsageError(
                "the keys of overrides= must be resources, as Processor.resource returns them, not a"
                f" {type(key).__name__}"
            )
        # Another resource may replace this one: it counts as its generator function.
        function = fake.function if isinstance(fake, ResourceKey) else fake
        if _is_generator_function(function):
            sources[key] = ResourceKey(function, key.scope, f"{key.name} (overridden)")  # type: ignore[arg-type]
        else:
            values[key] = fake
    return Overrides(values, sources)


def belongs_to_worker(key: ResourceKey[Any]) -> bool:
    """Return whether a resource has the scope "worker". Raise `ResourceError` for a value that is no key."""
    if not isinstance(key, ResourceKey):
        raise ResourceError(f"get and aget take the key that Processor.resource returned, not a {type(key).__name__}")
    return key.scope == "worker"


def _is_generator_function(fn: object) -> bool:
    return inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)
