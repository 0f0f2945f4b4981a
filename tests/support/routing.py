"""Helpers for the tests of routing: processors from a list of matchers, and the errors and warnings they cause."""

from __future__ import annotations

import contextlib
import warnings

import pytest

import missive
from missive import JSONMessage, Processor, RegistrationError, StructuredMessage
from missive import matchers as all_matchers
from missive.matchers import Field, Predicate, Range
from missive.routing.index import Index

NAMES = {**vars(all_matchers), **vars(missive)}
"""The names in the expressions that errors and reports show, for `eval`."""
PLACED, LARGE, SWEDISH = Field("type", "placed"), Field("total", Range(gt=100)), Field("country", "SE")
PAID, SENT = Field("type", "paid"), Field("type", "sent")
BIG = Field("n", Range(ge=0, le=10))


def nothing(message, context):
    """Handle a message by doing nothing."""


@Predicate
def opaque(message):
    """Match messages in a way that Missive cannot analyse."""
    return len(message.raw_data) > 3


def predicate(number):
    """Return a new callable for each number."""
    return lambda message: len(message.raw_data) == number


def processor(*matchers, on_overlap="error", message_cls=JSONMessage, name="orders"):
    """Return a processor with a handler for each matcher, named a, b, c and so on."""
    proc = Processor(message_cls, name=name, on_overlap=on_overlap)
    for handler, matcher in zip("abcdefgh", matchers, strict=False):
        proc.handle_for(matcher, name=handler)(nothing)
    return proc


def numbered(*matchers, message_cls=JSONMessage, **settings):
    """Return a processor with a handler for each matcher, named h0, h1 and so on."""
    proc = Processor(message_cls, **{"name": "app", "on_overlap": "ignore", **settings})
    for number, matcher in enumerate(matchers):
        proc.add_handler(matcher, nothing, name=f"h{number}")
    return proc


def part_of(*matchers, on_overlap="ignore"):
    """Return a processor for inclusion, with handlers named p0, p1 and so on."""
    part = Processor(JSONMessage, name="part", on_overlap=on_overlap)
    for number, matcher in enumerate(matchers):
        part.add_handler(matcher, nothing, name=f"p{number}")
    return part


def refusal(proc, matcher, name="new"):
    """Register a handler that is refused, and return the text of the error."""
    with pytest.raises(RegistrationError) as caught:
        proc.handle_for(matcher, name=name)(nothing)
    return str(caught.value)


@contextlib.contextmanager
def recorded_warnings():
    """Record all warnings of the block in a list."""
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        yield recorded


def witness_in(text):
    """Return the message that the text of an overlap shows."""
    return eval(text.partition(" overlap: ")[2].partition(" matches both")[0], dict(NAMES))


class Given(StructuredMessage):
    """A message that is made with decoded content."""

    def decode(self):
        """Refuse to decode: make the message with `holding`."""
        raise NotImplementedError


def routed(matchers, message):
    """Return the numbers of the matchers that match, on which the index and a linear scan agree."""
    by_index = [n for n in Index(matchers).candidates(message) if matchers[n](message)]
    assert by_index == [n for n, matcher in enumerate(matchers) if matcher(message)]
    return by_index
