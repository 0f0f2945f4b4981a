"""Mistakes that mypy strict and pyright must refuse: each reports an error on every marked line, and on no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import missive
from missive.matchers import Field, Header, by_field

raw = missive.Processor()
js = missive.Processor(missive.JSONMessage)


def for_json(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Handle JSON."""


def without_parameters() -> None:
    """Take no message."""


def of_a_message(context: missive.HandlingContext) -> Iterator[int]:
    """Yield a resource of one message."""
    yield 1


async def of_a_worker(context: missive.ProcessingContext) -> AsyncIterator[int]:
    """Yield a resource of a worker."""
    yield 1


def without_a_yield(context: missive.HandlingContext) -> int:
    """Return a value without yielding."""
    return 1


def use(context: missive.HandlingContext, key: missive.ResourceKey[int]) -> None:
    """Request resources incorrectly."""
    text: str = context.get(key)  # refused: a resource of another type
    context.get(of_a_message)  # refused: a function in place of its key
    print(text)


raw.handle_for(Field("type", "a"))  # refused: a Field on a processor of raw messages
raw.handle_for(Header("x", "1") & Field("type", "a"))  # refused: the same inside a composition
Field("type")  # refused: a Field without a test
Field("a", "b", "c")  # refused: a Field with three arguments
raw.handle_for(Header("x", "1"))(for_json)  # refused: a handler for another message class
js.handle_for(Header("x", "1"))(without_parameters)  # refused: a handler without parameters
raw.handle_for(Header("x", "2"), ordered_by=by_field("k"))  # refused: a key in the body of a raw message
raw.handle_for(Header("x", "3"), name="x", once=missive.Once(by_field("k")))  # refused: the same for a once= key
js.handle_for(Header("x", "4"), tiemout=5)  # refused: an unknown option
js.handle_for(Header("x", "5"), concurrency="2")  # refused: an option of another type
js.add_handler(Header("x", "6"), for_json, size=10)  # refused: an option of batch handlers
js.handle_batch_for(Header("x", "7"), on_lane_retry="skip")  # refused: a value that the option does not have
js.include(raw)  # refused: an include of another message class
js.add_handler(Header("x", "1"), without_parameters)  # refused: the same, imperatively
raw.resource("worker")(of_a_message)  # refused: a worker resource that takes a handling context
raw.resource()(of_a_worker)  # refused: a message resource that takes a processing context
raw.resource()(without_a_yield)  # refused: a resource that is not a generator
raw.resource("process")(of_a_message)  # refused: an unknown scope
raw.test_client(overrides={"db": 1})  # refused: overrides by name
with js.test_client() as client:
    client.send(missive.RawMessage(b""))  # refused: a message of another class
