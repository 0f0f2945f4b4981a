"""Helpers for tests of the test clients: every combination of client and handler, and every outcome."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from missive import DeadLetter, DecodingError, Discard, Outcome, Processor, RawMessage, RetryLater
from missive.matchers import Everything

CANARY = "canary-4711"
LISTS = ("acked", "nacked", "dead_lettered", "retried", "discarded")


class Runner:
    """Runs a processor in one kind of client (`sync` or `async`), with one kind of handler (`def` or `async`)."""

    def __init__(self, client, handlers):
        self.client_kind = client
        self.handler_kind = handlers

    def handler(self, fn):
        """Return a `def` function unchanged, or wrapped in an `async def`."""
        if self.handler_kind == "def":
            return fn

        async def handle(message, context):
            return fn(message, context)

        return handle

    def processor(self, fn, matcher=Everything(), **options):  # noqa: B008 - frozen
        """Return a processor with one handler."""
        proc = Processor(**options)
        proc.add_handler(matcher, self.handler(fn), name="handler")
        return proc

    def run(self, proc, *messages, advance=()):
        """Send messages, then advance the clock. Return the client and every result."""
        if self.client_kind == "sync":
            with proc.test_client() as client:
                results = [client.send(message) for message in messages]
                for after in advance:
                    results += client.advance(after)
            return client, results

        async def main():
            async with proc.test_client() as client:
                results = [await client.send(message) for message in messages]
                for after in advance:
                    results += await client.advance(after)
            return client, results

        return asyncio.run(main())

    def one(self, fn, message=None, **options):
        """Run one handler on one message, with a dict for dead letters. Return client, result and dict."""
        box = {}
        client, [result] = self.run(self.processor(fn, dlq=box, **options), message or RawMessage(b"", message_id="id"))
        return client, result, box


def listed_ids(client):
    """Return the message ids in each list of a client."""
    return {name: [message.message_id for message in getattr(client, name)] for name in LISTS}


def expected_ids(**lists):
    """Return ids as `listed_ids` does. Lists without an argument are empty."""
    return {name: [] for name in LISTS} | lists


def message(topic, **envelope):
    """Return a message with a topic."""
    return RawMessage(b"body", topic=topic, **envelope)


def raise_it(error):
    """Raise an error. A lambda cannot contain a raise statement."""
    raise error


OUTCOMES = [  # act, outcome, reason, delay in seconds, lists that contain the message
    (lambda c: c.ack(), Outcome.acked, None, None, {"acked"}),
    (lambda c: c.nack(), Outcome.nacked, None, 1.0, {"nacked"}),
    (lambda c: c.retry(7), Outcome.retried, None, 7.0, {"nacked", "retried"}),
    (lambda c: c.retry(timedelta(minutes=1)), Outcome.retried, None, 60.0, {"nacked", "retried"}),
    (lambda c: c.retry(), Outcome.retried, None, 5.0, {"nacked", "retried"}),
    (lambda c: c.dead_letter("bad"), Outcome.dead_lettered, "bad", None, {"acked", "dead_lettered"}),
    (lambda c: c.discard("spam"), Outcome.discarded, "spam", None, {"acked", "discarded"}),
    (lambda c: raise_it(RetryLater(7)), Outcome.retried, None, 7.0, {"nacked", "retried"}),
    (lambda c: raise_it(RetryLater()), Outcome.retried, None, 5.0, {"nacked", "retried"}),
    (lambda c: raise_it(DeadLetter("bad")), Outcome.dead_lettered, "bad", None, {"acked", "dead_lettered"}),
    (lambda c: raise_it(Discard("spam")), Outcome.discarded, "spam", None, {"acked", "discarded"}),
    (lambda c: raise_it(ValueError("x")), Outcome.dead_lettered, "failed", None, {"acked", "dead_lettered"}),
    (lambda c: raise_it(SystemExit(3)), Outcome.dead_lettered, "failed", None, {"acked", "dead_lettered"}),
    (lambda c: raise_it(DecodingError("x")), Outcome.dead_lettered, "unreadable", None, {"acked", "dead_lettered"}),
    (lambda c: raise_it(RetryLater(-1)), Outcome.dead_lettered, "failed", None, {"acked", "dead_lettered"}),
]


def hooked(runner, log, fn=None, **options):
    """Return a processor with all four hooks, which append to `log`."""
    proc = runner.processor(fn or (lambda m, c: log.append("handler")), **options)
    proc.before_processing(lambda worker: log.append("start"))
    proc.after_processing(lambda worker: log.append("end"))
    proc.before_handling(lambda worker, context: log.append(("before", context.outcome, context.exception)))
    proc.after_handling(lambda worker, context: log.append(("after", context.outcome, context.exception)))
    return proc
