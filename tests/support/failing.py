"""A handler that fails, and a test client for it."""

from __future__ import annotations

from missive import Processor, RawMessage, Retry, exponential
from missive.matchers import Everything


class Failing:
    """A handler that raises a number of times, and records its attempts."""

    def __init__(self, error, times=10**9):
        self.error, self.left, self.attempts = error, times, []

    def __call__(self, message, context):
        """Fail."""
        self.attempts.append(context.attempt)
        if self.left:
            self.left -= 1
            raise self.error


def client_of(handler, *, dlq=None, processor_retry=None, **options):
    """Return a test client of a processor with one handler."""
    proc = Processor(name="app", dlq={} if dlq is None else dlq, retry=processor_retry)
    proc.add_handler(Everything(), handler, name="h", **options)
    return proc.test_client()


MESSAGE = b"x"
EXACT = Retry(attempts=4, delays=exponential(5, jitter="none"))


def send(client, body=MESSAGE):
    """Send a raw message."""
    return client.send(RawMessage(body))
