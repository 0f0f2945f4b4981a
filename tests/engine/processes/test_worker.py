"""The worker process: its connection to a supervisor."""

from __future__ import annotations

import os

import pytest

from missive import UsageError
from missive.engine.processes.worker import VARIABLE, Worker


def test_only_a_child_of_a_supervisor_is_a_worker():
    """Without the environment variable, a process is no worker. An invalid value of the variable is a UsageError."""
    assert Worker.inherited({}) is None
    environment = {VARIABLE: "1:x"}
    with pytest.raises(UsageError, match="must not be set"):
        Worker.inherited(environment)
    assert environment == {}, "a process that a handler starts is no worker"
    with pytest.raises(UsageError, match="must not be set"):
        Worker.inherited({VARIABLE: f"1:{os.sysconf('SC_OPEN_MAX') + 1}"})
