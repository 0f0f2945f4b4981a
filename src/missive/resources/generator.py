"""Resource generators: run one to its `yield`, and later to its end.

`contextlib.contextmanager` and exit stacks cannot do this. In an exit stack, a generator that suppresses the exception
of an attempt hides it from the outer resources, and the attempt would succeed. They also report a missing or second
`yield` as a RuntimeError, which only its text tells from one of the generator's own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from threading import get_ident
from typing import Any, TypeVar, cast

from missive.errors import ResourceError
from missive.resources.key import ResourceKey

T = TypeVar("T")


class SyncResource:
    """A sync generator at its `yield`, in the thread that opened it.

    `run` calls each step of the generator, such as `contextvars.Context.run`.
    """

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
        """Run to the yield and return the yielded value. Raise the exceptions of the generator."""
        try:
            return self._run(next, self._generator)
        except StopIteration:
            raise _no_yield(self._name) from None

    def close(self, error: BaseException | None) -> BaseException | None:
        """Run to the end, with the exception of the attempt raised at the yield, and return the resulting failure."""
        return cast("BaseException | None", self._run(_end, self._generator, error, self._name))

    async def aclose(self, error: BaseException | None) -> BaseException | None:
        """Close on a loop; else as `close`."""
        return self.close(error)


class AsyncResource:
    """An async generator at its `yield`."""

    __slots__ = ("_generator", "_name", "key")

    def __init__(self, key: ResourceKey[Any], source: ResourceKey[Any], context: object) -> None:
        self.key = key
        self._name = source.name
        self._generator = cast("AsyncGenerator[Any, None]", source.function(context))

    async def open(self) -> object:
        """Run to the yield and return the yielded value. Raise the exceptions of the generator."""
        try:
            return await anext(self._generator)
        except StopAsyncIteration:
            raise _no_yield(self._name) from None

    async def aclose(self, error: BaseException | None) -> BaseException | None:
        """Run to the end, with the exception of the attempt raised at the yield, and return the resulting failure."""
        return await _aend(self._generator, error, self._name)


def call(fn: Callable[..., T], *arguments: Any) -> T:
    """Call `fn` in the current context variables."""
    return fn(*arguments)


def _end(generator: Generator[Any, None, None], error: BaseException | None, name: str) -> BaseException | None:
    """Run a generator to its end, with an exception raised at its yield or without; return the resulting failure."""
    traceback = None if error is None else error.__traceback__
    try:
        if error is None:
            next(generator)
        else:
            generator.throw(error)
        generator.close()
    except StopIteration:
        return error  # suppressing the exception does not make the attempt succeed
    except BaseException as raised:  # noqa: BLE001 - any exception is the failure of the attempt
        return _failure(error, raised)
    finally:
        if error is not None:
            error.__traceback__ = traceback
    return _second_yield(name, error)


async def _aend(generator: AsyncGenerator[Any, None], error: BaseException | None, name: str) -> BaseException | None:
    """Run an async generator to its end; else as `_end`."""
    traceback = None if error is None else error.__traceback__
    try:
        if error is None:
            await anext(generator)
        else:
            await generator.athrow(error)
        await generator.aclose()
    except StopAsyncIteration:
        return error  # as above
    except BaseException as raised:  # noqa: BLE001 - as above
        return _failure(error, raised)
    finally:
        if error is not None:
            error.__traceback__ = traceback
    return _second_yield(name, error)


def _failure(error: BaseException | None, raised: BaseException) -> BaseException:
    # Python wraps a StopIteration or StopAsyncIteration that leaves a generator in a RuntimeError.
    is_end = isinstance(error, (StopIteration, StopAsyncIteration)) and isinstance(raised, RuntimeError)
    return error if error is not None and is_end and raised.__cause__ is error else raised


def _no_yield(name: str) -> ResourceError:
    return ResourceError(f"the resource {name} ended without a yield. It must yield once")


def _second_yield(name: str, error: BaseException | None) -> ResourceError:
    second = ResourceError(f"the resource {name} continued to a second yield. It must yield once")
    second.__context__ = error
    return second
