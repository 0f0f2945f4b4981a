"""The pytest plugin of Missive: the fixture `missive_client`.

pytest loads this module at each start. The module is outside the package `missive`, and imports the package at first
use. So other tests pay nothing, and a measurement of coverage sees the import.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from missive import Message, Processor, ResourceKey
    from missive.testing import AsyncTestClient, TestClient

    M = TypeVar("M", bound=Message)


class MissiveClients:
    """The fixture `missive_client`: opens test clients, and closes them at the end of the test, the last one first."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._open_async = AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop of the async clients that are open."""

    def __call__(
        self, processor: Processor[M], *, overrides: Mapping[ResourceKey[Any], object] | None = None
    ) -> TestClient[M]:
        """Return an open test client of a processor. `overrides` replaces resources.

        Raise `UsageError` inside a running loop.
        """
        import asyncio  # noqa: PLC0415 - see the docstring of the module

        from missive import UsageError  # noqa: PLC0415 - the same

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._open.enter_context(_checked(processor).test_client(overrides=overrides))
        raise UsageError("a loop is running in this thread. Use `client = await missive_client.open(proc)`.")

    async def open(
        self, processor: Processor[M], *, overrides: Mapping[ResourceKey[Any], object] | None = None
    ) -> AsyncTestClient[M]:
        """Return an open test client of a processor for the running loop. `overrides` replaces resources."""
        import asyncio  # noqa: PLC0415 - see the docstring of the module

        client = await self._open_async.enter_async_context(_checked(processor).test_client(overrides=overrides))
        self._loop = asyncio.get_running_loop()
        return client

    async def aclose(self) -> None:
        """Close the async clients."""
        self._loop = None
        await self._open_async.aclose()

    def close(self) -> None:
        """Close all clients. Raise `UsageError` for async clients whose loop has ended."""
        with self._open:
            loop = self._loop
            if loop is None:
                return
            if loop.is_closed():
                from missive import UsageError  # noqa: PLC0415 - see the docstring of the module

                raise UsageError(
                    "a loop ended while a client of missive_client was open on it. Open the client with"
                    " `async with proc.test_client()`, or make the test an `async def`."
                )
            loop.run_until_complete(self.aclose())


def _checked(processor: Processor[M]) -> Processor[M]:
    """Return the processor. Raise `UsageError` for another object."""
    from missive import Processor, UsageError  # noqa: PLC0415 - see the docstring of the module

    if not isinstance(processor, Processor):
        raise UsageError(f"missive_client takes a missive.Processor, not a {type(processor).__name__}")
    return processor


@pytest.fixture
def missive_client() -> Iterator[MissiveClients]:
    """Open test clients of a Missive processor: `missive_client(proc)`, or `await missive_client.open(proc)`."""
    clients = MissiveClients()
    yield clients
    clients.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Close the async clients of an `async def` test in its loop, which may end before the fixtures do."""
    clients = getattr(item, "funcargs", {}).get("missive_client")
    if not isinstance(item, pytest.Function) or clients is None or not inspect.iscoroutinefunction(item.obj):
        return (yield)
    test = item.obj

    @wraps(test)
    async def closing(*arguments: Any, **named: Any) -> object:
        try:
            return await test(*arguments, **named)
        finally:
            await clients.aclose()

    item.obj = closing
    try:
        return (yield)
    finally:
        item.obj = test
