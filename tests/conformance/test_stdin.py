"""StdinAdapter passes the conformance suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from missive import Processor
from missive.adapters.stdin import StdinAdapter
from missive.testing.conformance import Conformance, Harness, Sent


class StdinHarness(Harness):
    name = "stdin"
    line_based = True
    duplicates = 0
    reads_once = True
    creatable = False
    largest_body = 30_000  # bytes; fits into the buffer of a pipe without a reader

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def adapter(self, processor: Processor[Any], **options: Any) -> StdinAdapter:
        return StdinAdapter(processor, **options)

    def create(self) -> None:
        """Do nothing: the pipe exists already."""

    def publish(self, messages: Sequence[Sent]) -> None:
        for message in messages:
            os.write(self.pipe, message.body + b"\n")


class TestStdin(Conformance):
    """All cases, on a pipe."""

    @pytest.fixture
    def harness(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[StdinHarness]:
        reader, writer = os.pipe()
        with os.fdopen(reader) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            yield StdinHarness(writer)
            os.close(writer)
