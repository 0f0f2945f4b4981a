"""Order by key across worker processes on RabbitMQ: a queue with a single active consumer keeps it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.rabbitmq

APPLICATION = """
import os
import missive
from missive.matchers import Everything, by_field

proc = missive.Processor(missive.JSONMessage, name="app")

@proc.handle_for(Everything(), ordered_by=by_field("customer"))
def handle(message, context):
    os.write(1, message.raw_data + b"\\n")
"""


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("single", [False, True], ids=["several consumers", "one active consumer"])
def test_several_workers_need_a_single_active_consumer(
    missive: Callable[..., Running], rabbitmq: RabbitMQ, tmp_path: Path, kind: str, single: bool
):
    """Without a single active consumer, workers end with exit code 2 and one line, and handle nothing."""
    (tmp_path / "app.py").write_text(APPLICATION)
    name = f"q-{uuid.uuid4().hex[:8]}"
    arguments = {"x-queue-type": kind} | ({"x-single-active-consumer": True} if single else {})
    with rabbitmq.channel() as channel:
        channel.queue_declare(name, durable=True, arguments=arguments)
        channel.basic_publish("", name, b'{"customer": 1}')
    source = ("--from", rabbitmq.url(name), "--dlq", "sqlite:///dlq.db")
    process = missive("run", "app:proc", *source, "--workers", "2")
    if single:
        assert process.line().strip() == '{"customer": 1}'
        _, err = process.terminate()
        assert process.code == 0
        assert "within this process only" not in err
        return
    out, err = process.finish()
    assert (process.code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("missive: ")]
    assert line.startswith("missive: --workers above 1: app:handle has ordered_by")
    assert "x-single-active-consumer" in line
