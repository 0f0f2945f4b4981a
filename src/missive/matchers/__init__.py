"""Matchers, which select the messages of a handler: values that are composed of selectors and tests.

A matcher takes a message and returns whether it matches. `algebra` defines matchers and their composition, and
`selectors` finds a value in the message. `tests`, `text`, `network` and `topics` judge the value. `values` is the base
of all. `keys` returns keys of messages. The compilers `eventbridge` and `cloudevents` turn `documents` into matchers;
`events` has the field of EventBridge.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from missive.matchers.algebra import And, Matcher, Not, Or, Predicate
from missive.matchers.events import EventField
from missive.matchers.keys import by_field, by_header, by_key
from missive.matchers.network import Cidr
from missive.matchers.selectors import Body, Everything, Field, Header, Key, Selector, Topic
from missive.matchers.tests import (
    Absent,
    AnythingBut,
    Equals,
    Every,
    IsInstance,
    NoneOf,
    OneOf,
    Present,
    Range,
    Some,
    Test,
)
from missive.matchers.text import Prefix, Regex, Substring, Suffix, Wildcard
from missive.matchers.topics import AmqpPattern, MqttFilter, NatsPattern, TopicPattern

if TYPE_CHECKING:
    from missive.matchers.cloudevents import from_cloudevents
    from missive.matchers.eventbridge import from_eventbridge

__all__ = [
    "Absent",
    "AmqpPattern",
    "And",
    "AnythingBut",
    "Body",
    "Cidr",
    "Equals",
    "EventField",
    "Every",
    "Everything",
    "Field",
    "Header",
    "IsInstance",
    "Key",
    "Matcher",
    "MqttFilter",
    "NatsPattern",
    "NoneOf",
    "Not",
    "OneOf",
    "Or",
    "Predicate",
    "Prefix",
    "Present",
    "Range",
    "Regex",
    "Selector",
    "Some",
    "Substring",
    "Suffix",
    "Test",
    "Topic",
    "TopicPattern",
    "Wildcard",
    "by_field",
    "by_header",
    "by_key",
    "from_cloudevents",
    "from_eventbridge",
]


def __getattr__(name: str) -> object:
    """Load the compilers on first use: few applications need them, and they take a tenth of the import time."""
    if name in ("from_cloudevents", "from_eventbridge"):
        return getattr(import_module(f"{__name__}.{name.removeprefix('from_')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
