"""A resource's generator, suspended at its `yield`: run up to there, and later to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from threading import get_ident
from typing import Any, TypeVar, cast

from missive.errors import ResourceError
from missive.resources.key import ResourceKey

T = TypeVar("T")


class Suspended:
    """A sync generator at its `yield`, in the thread that opened it."""

    __slots__ = ("_generator", "_name", "_run", "key", "thread")

    def __init__(
        self, key: ResourceKey[Any], source: ResourceKey[Any], context: object, run: Callable[..., Any]
    ) -> None:
        self.key = key
        self.thread = get_ident()
        self._name = source.name
        self._run = run
        self._generator = cast("Generator[Any, None, None]", source.function(context))

    def open(self) -> object:
        """Run up to the yield; returns what it yields. Raises what the generator does."""
        try:
            return self._run(next, self._generator)
        except StopIteration:
            raise _never(self._name) from None

    def close(self, error: BaseException | None) -> BaseException | None:
        """Run to the end, with an exception thrown in or without; returns what the failure is then."""
        return cast("BaseException | None", self._run(_end, self._generator, error, self._name))

    async def aclose(self, error: BaseException | None) -> BaseException | None:
        """Run to the end, with an exception thrown in or without; returns what the failure is then."""
        return self.close(error)


class AsyncSuspended:
    """An async generator at its `yield`."""

    __slots__ = ("_generator", "_name", "key")

    def __init__(self, key: ResourceKey[Any], source: ResourceKey[Any], context: object) -> None:
        self.key = key
        self._name = source.name
        self._generator = cast("AsyncGenerator[Any, None]", source.function(context))

    async def open(self) -> object:
        """Run up to the yield; returns what it yields. Raises what the generator does."""
        try:
            return await anext(self._generator)
        except StopAsyncIteration:
            raise _never(self._name) from None

    async def aclose(self, error: BaseException | None) -> BaseException | None:
        """Run to the end, with an exception thrown in or without; returns what the failure is then."""
        return await _aend(self._generator, error, self._name)


def call(fn: Callable[..., T], *arguments: Any) -> T:
    """Call."""
    return fn(*arguments)


def _end(generator: Generator[Any, None, None], error: BaseException | None, name: str) -> BaseException | None:
    """Let a generator run to its end, with an exception thrown in or without; returns what the failure is then."""
    traceback = None if error is None else error.__traceback__
    try:
        if error is None:
            next(generator)
        else:
            generator.throw(error)
        generator.close()
    except StopIteration:
        return error  # also where it kept the exception to itself
    except BaseException as raised:  # noqa: BLE001 - whatever it is, the message fails
        return _failure(error, raised)
    finally:
        if error is not None:
            error.__traceback__ = traceback
    return _twice(name, error)


async def _aend(generator: AsyncGenerator[Any, None], error: BaseException | None, name: str) -> BaseException | None:
    """Do the same for an async generator."""
    traceback = None if error is None else error.__traceback__
    try:
        if error is None:
            await anext(generator)
        else:
            await generator.athrow(error)
        await generator.aclose()
    except StopAsyncIteration:
        return error  # also where it kept the exception to itself
    except BaseException as raised:  # noqa: BLE001 - whatever it is, the message fails
        return _failure(error, raised)
    finally:
        if error is not None:
            error.__traceback__ = traceback
    return _twice(name, error)


def _failure(error: BaseException | None, raised: BaseException) -> BaseException:
    # Python wraps the two that end a generator.
    is_end = isinstance(error, (StopIteration, StopAsyncIteration)) and isinstance(raised, RuntimeError)
    return error if error is not None and is_end and raised.__cause__ is error else raised


def _never(name: str) -> ResourceError:
    return ResourceError(f"the resource {name} ended without a yield: it yields once")


def _twice(name: str, error: BaseException | None) -> ResourceError:
    twice = ResourceError(f"the resource {name} went on to a second yield: it yields once")
    twice.__context__ = error
    return twice
