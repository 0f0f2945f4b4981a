"""Fixtures for the tests of the adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.kafka_members import APPLICATION, QUICK, Topic
from tests.support.process import Running


@pytest.fixture
def start_worker(missive: Callable[..., Running], tmp_path: Path) -> Callable[..., Running]:
    """Return a function that starts a worker process on a topic of Kafka."""
    (tmp_path / "app.py").write_text(APPLICATION)

    def start(topic: Topic, parameters: dict[str, Any] | None = None, login: str | None = None, **env: str) -> Running:
        url = topic.url(**QUICK, **(parameters or {}))
        if login is not None:
            url = url.replace(topic.broker.servers, f"{login}@{topic.broker.sasl_servers}")
        return missive("run", "app:proc", "--from", url, "--dlq", "sqlite:///dlq.db", env=env)

    return start
