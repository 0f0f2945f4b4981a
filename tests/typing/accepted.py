"""Realistic applications that must pass mypy strict and pyright. This file never runs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, TypedDict

from typing_extensions import assert_type

import missive
from missive.matchers import Everything, Field, Header, OneOf, Range, Topic, by_field

raw = missive.Processor()
js = missive.Processor(missive.JSONMessage)


@js.handle_for(Field("type", "order.placed") & Field("total", Range(gt=100)))
def big_order(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Handle large orders."""
    message.get_json()
    context.ack()


@raw.handle_for(lambda message: True)
def hello_world(message: missive.Message, context: missive.HandlingContext) -> None:
    """Handle every message."""
    context.ack()


@js.handle_for(Field("type", "a") & Header("x", "1"))
def field_and_header(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Compose a field with a header."""


@js.handle_for(Header("x", "1") & Field("type", "b"))
def header_and_field(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Compose a header with a field."""


@raw.handle_for(Header("x", "1") & (lambda message: len(message.raw_data) > 3))
def header_and_lambda(message: missive.RawMessage, context: missive.HandlingContext) -> None:
    """Compose a header with a callable."""


@js.handle_for(~Header("x", OneOf("1", "2")) | Field("type", "c") | Topic("t"))
async def asynchronous(message: missive.JSONMessage, context: missive.HandlingContext[missive.JSONMessage]) -> int:
    """Handle on the loop, with the full type of the context."""
    body: missive.JSONMessage = context.message
    return len(body.raw_data)


def audit(message: missive.Message, context: missive.HandlingContext) -> None:
    """Handle any message."""
    context.state.seen = True


js.handle_for(Field("type", "audit"))(audit)
raw.add_handler(Everything(), audit)


class Order(TypedDict):
    """The content of an order."""

    total: float


class OrderMessage(missive.StructuredMessage):
    """A message class with its own type of content."""

    def decode(self) -> Order:
        """Return the order."""
        order: Order = json.loads(self.raw_data)
        return order


orders = missive.Processor(OrderMessage, name="orders", public=["total"])


@orders.handle_for(Field("total", Range(lt=1)))
def small(message: OrderMessage, context: missive.HandlingContext) -> None:
    """Handle a custom message class."""
    if message.content is None:
        raise missive.RetryLater(5)


@orders.before_processing
def connect(context: missive.ProcessingContext) -> None:
    """Open a connection that all messages of a worker share."""
    context.state.connection = object()


@orders.after_handling
def count(processing: missive.ProcessingContext, handling: missive.HandlingContext) -> None:
    """Read the outcome."""
    outcome: missive.Outcome | None = handling.outcome
    if outcome is missive.Outcome.acked:
        processing.state.count = 1


@js.handle_for(Field("ordered", 1), ordered_by=by_field("customer"), on_lane_retry="pass", concurrency=2)
async def in_order(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Run in order for each customer."""


@raw.handle_for(Header("ordered", "1"), ordered_by=lambda message: message.topic)
def by_topic(message: missive.Message, context: missive.HandlingContext) -> None:
    """Run in order for each topic."""


@js.handle_for(Field("once", 1), name="once", once=missive.Once(by_field("id"), ttl=3600))
def by_lease(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Have an effect once."""


@raw.handle_for(Header("once", "1"), name="once", once=missive.Once(lambda message: message.topic, form="transaction"))
def in_a_transaction(message: missive.RawMessage, context: missive.HandlingContext) -> None:
    """Have an effect once in a database."""
    claimed: bool = context.claim(object())
    print(claimed)


@js.handle_batch_for(
    Field("batch", 1),
    size=10,
    wait=0.5,
    name="sum",
    timeout=30,
    retry=False,
    rate_limit="20/s",
    ordered_by=by_field("id"),
)
def in_batches(batch: missive.Batch[missive.JSONMessage]) -> None:
    """Handle several messages at once."""


js.add_handler(Field("late", 1), audit, timeout=5, breaker=missive.Breaker("audit"), once=None)
js.discard_for(Field("kind", "noise"), reason="noise")


@js.handle_unmatched
def unmatched(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Handle the other messages."""


class Connection:
    """A database connection."""

    def commit(self) -> None:
        """Commit the transaction."""


@js.resource(scope="worker")
def connection(context: missive.ProcessingContext) -> Iterator[Connection]:
    """Open a connection for the messages of a worker."""
    yield Connection()


@js.resource("worker")
async def pool(context: missive.ProcessingContext[missive.JSONMessage]) -> AsyncGenerator[Connection, None]:
    """Open a connection on a loop."""
    yield Connection()


@js.resource()
def transaction(context: missive.HandlingContext) -> Generator[Connection, None, None]:
    """Open a transaction for one message."""
    shared: Connection = context.get(connection)
    yield shared
    shared.commit()


@js.resource(scope="message")
async def session(context: missive.HandlingContext[missive.JSONMessage]) -> AsyncIterator[Connection]:
    """Open a session for one message on a loop."""
    yield await context.aget(pool)


@js.handle_for(Field("type", "sync resources"))
def with_resources(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Use sync resources."""
    key: missive.ResourceKey[Connection] = transaction
    context.get(key).commit()
    assert_type(transaction, missive.ResourceKey[Connection])
    assert_type(context.get(transaction), Connection)


@js.handle_for(Field("type", "async resources"))
async def with_async_resources(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Use async and sync resources on a loop."""
    assert_type(session, missive.ResourceKey[Connection])
    assert_type(await context.aget(session), Connection)
    (await context.processing_ctx.aget(pool)).commit()
    (await context.aget(connection)).commit()


def fake_connection(context: missive.ProcessingContext) -> Iterator[Connection]:
    """Replace the connection."""
    yield Connection()


with js.test_client(overrides={connection: fake_connection, pool: Connection()}) as overridden:
    overridden.send(missive.JSONMessage.of({}))

more = missive.Processor(missive.JSONMessage)
js.include(more)
js.include(more, when=Header("tenant", "a"))

with js.test_client() as client:
    result = client.send(missive.JSONMessage.of({"type": "a"}))
    reason: str | None = result.reason


@js.handle_for(Field("type", "typed"))
def typed(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Convert the body."""
    assert_type(message.as_type(Connection), Connection)
    assert_type(message.as_type(list[Connection]), list[Connection])
    either: Connection | None = message.as_type(Connection | None)
    print(either)


with raw.test_client() as any_client:
    any_client.send(missive.JSONMessage.of({}))
    any_client.send_batch([missive.RawMessage(b""), missive.JSONMessage.of({})])


async def in_a_loop() -> None:
    """Use the test client in a loop."""
    async with raw.test_client() as any_async_client:
        await any_async_client.send(missive.JSONMessage.of({}))
    async with js.test_client() as async_client:
        answer = await async_client.send(missive.JSONMessage.of({}))
        outcome: missive.Outcome = answer.outcome
        print(outcome)


box: dict[str, tuple[missive.Message, str]] = {}
js.set_dlq(box)
native: Any = None
missive.run(missive.adapters.StdinAdapter(js), missive.adapters.FileAdapter(raw, "events.jsonl"))
