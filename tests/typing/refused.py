"""Mistakes that mypy strict and pyright must both refuse: each marked line is an error to both, and no other is."""

from __future__ import annotations

import missive
from missive.matchers import Field, Header, by_field

raw = missive.Processor()
js = missive.Processor(missive.JSONMessage)


def for_json(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
    """Handle JSON."""


def without_parameters() -> None:
    """Handle nothing."""


raw.handle_for(Field("type", "a"))  # refused: a Field on a processor of raw messages
raw.handle_for(Header("x", "1") & Field("type", "a"))  # refused: the same inside a composition
Field("type")  # refused: a Field without a test
Field("a", "b", "c")  # refused: a Field with three arguments
raw.handle_for(Header("x", "1"))(for_json)  # refused: a handler for another message class
js.handle_for(Header("x", "1"))(without_parameters)  # refused: a handler without parameters
raw.handle_for(Header("x", "2"), ordered_by=by_field("k"))  # refused: a key in bodies that are none
js.include(raw)  # refused: an include of another message class
js.add_handler(Header("x", "1"), without_parameters)  # refused: the same, imperatively
