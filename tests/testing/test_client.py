"""The test clients: opening, sending and the lists."""

from __future__ import annotations

import asyncio

import pytest

from missive import (
    JSONMessage,
    Message,
    Processor,
    RawMessage,
    UnmatchedError,
    UsageError,
)
from missive.testing import AsyncTestClient, TestClient
from tests.support.clients import (
    expected_ids,
    hooked,
    listed_ids,
    message,
    raise_it,
)


def test_each_way_of_entering_has_its_client():
    """`with` returns a TestClient, and `async with` an AsyncTestClient."""

    async def main():
        async with Processor().test_client() as client:
            return client

    with Processor().test_client() as client:
        assert isinstance(client, TestClient)
    assert isinstance(asyncio.run(main()), AsyncTestClient)


def test_a_sync_client_in_a_loop_names_the_remedy():
    """`with` inside a running loop raises an error that names `async with`."""

    async def main():
        with Processor().test_client():
            pass

    with pytest.raises(UsageError, match="async with"):
        asyncio.run(main())


@pytest.mark.parametrize("sent", [RawMessage(b"{}"), b"{}", None, {"a": 1}])
def test_a_message_of_another_class_is_refused(each_client, sent):
    """Sending an object of another class raises an error that names both classes."""
    with pytest.raises(UsageError, match=f"takes messages of class JSONMessage, not {type(sent).__name__}"):
        each_client.run(Processor(JSONMessage), sent)


@pytest.mark.parametrize("cls", [Message, RawMessage, JSONMessage])
def test_a_processor_without_a_message_class_takes_any_message(runner, cls):
    """The handler receives the sent message itself, whatever its class."""
    seen = []
    proc = runner.processor(lambda m, c: seen.append(m))
    sent = cls(b"{}")
    client, _ = runner.run(proc, sent)
    assert seen[0] is client.acked[0] is sent


def test_a_processor_without_a_message_class_refuses_other_objects(each_client):
    """Only messages can be sent."""
    with pytest.raises(UsageError, match="takes messages of class RawMessage, not bytes"):
        each_client.run(Processor(), b"{}")


def test_lists_have_the_order_of_settlement(runner):
    """The lists hold the sent message objects in the order of settlement."""
    acts = {"a": lambda c: c.ack(), "d": lambda c: c.discard("x"), "n": lambda c: c.nack(), "r": lambda c: c.retry()}
    proc = runner.processor(lambda m, c: acts[m.topic](c) if m.topic in acts else raise_it(ValueError()), dlq={})
    sent = [message(topic, message_id=f"{n}{topic}") for n, topic in enumerate("andrxa")]
    client, _ = runner.run(proc, *sent)
    assert listed_ids(client) == {
        "acked": ["0a", "2d", "4x", "5a"],
        "nacked": ["1n", "3r"],
        "dead_lettered": ["4x"],
        "retried": ["3r"],
        "discarded": ["2d"],
    }
    assert sent[0] is client.acked[0]


def test_a_send_that_raises_enters_no_list(each_client):
    """A message that raised for lack of a dead letter queue enters no list."""
    proc = Processor()
    with pytest.raises(UnmatchedError):
        each_client.run(proc, message("a"))
    with proc.test_client() as client:
        with pytest.raises(UnmatchedError):
            client.send(message("a"))
        assert expected_ids() == listed_ids(client)


def test_a_message_can_be_sent_again(runner):
    """Sending a message again starts another first attempt."""
    attempts = []
    sent = message("a", message_id="1")
    client, _ = runner.run(runner.processor(lambda m, c: attempts.append(c.attempt)), sent, sent)
    assert attempts == [1, 1]
    assert expected_ids(acked=["1", "1"]) == listed_ids(client)


def test_the_repr_of_a_result_has_no_content(runner):
    """The repr of a result shows outcome, handler, attempt, label and delay only."""
    _, result, _ = runner.one(lambda m, c: c.retry(2.5))
    assert repr(result) == "<Result: retried, handler=handler, attempt=1, delay=2.5>"
    _, result, _ = runner.one(lambda m, c: c.discard("spam"))
    assert repr(result) == "<Result: discarded, handler=handler, attempt=1, reason=spam>"


def test_a_processor_can_have_several_clients(runner):
    """Each client begins with empty lists and runs the processing hooks again."""
    log = []
    proc = hooked(runner, log)
    first, _ = runner.run(proc, message("a", message_id="1"))
    second, _ = runner.run(proc, message("a", message_id="2"))
    assert (listed_ids(first)["acked"], listed_ids(second)["acked"]) == (["1"], ["2"])
    assert (log.count("start"), log.count("end")) == (2, 2)
