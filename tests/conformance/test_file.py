"""FileAdapter passes the conformance suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from missive import Processor
from missive.adapters.file import FileAdapter
from missive.testing.conformance import Conformance, Harness, Sent


class FileHarness(Harness):
    name = "file"
    line_based = True
    ends = True
    redelivery_seconds = 2.0

    def __init__(self, directory: Path) -> None:
        self.path = directory / "events.jsonl"

    def adapter(self, processor: Processor[Any], **options: Any) -> FileAdapter:
        return FileAdapter(processor, self.path, progress=False, wait=True, **options)

    def create(self) -> None:
        self.path.touch()

    def publish(self, messages: Sequence[Sent]) -> None:
        with self.path.open("ab") as file:
            file.writelines(message.body + b"\n" for message in messages)

    @property
    def url(self) -> str:
        return f"file:{self.path}"


class TestFile(Conformance):
    """All cases, on a file that grows between runs."""

    @pytest.fixture
    def harness(self, tmp_path: Path) -> FileHarness:
        return FileHarness(tmp_path)
