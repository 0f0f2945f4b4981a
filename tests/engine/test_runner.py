"""The runner: its changes to the process while an engine runs."""

from __future__ import annotations

import gc

import pytest

from missive import Processor
from missive.engine.runner import execute
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing import MemoryAdapter


@pytest.mark.parametrize(("before", "during"), [(700, 10_000), (5000, 5000)])
def test_the_default_threshold_of_the_garbage_collector_is_raised(before, during):
    """While an engine runs, the garbage collector has a threshold of 10,000 objects, unless the application set one."""
    proc, seen, earlier = Processor(RawMessage, name="t", dlq={}), [], gc.get_threshold()
    proc.add_handler(Everything(), lambda message, context: seen.append(gc.get_threshold()[0]))
    gc.set_threshold(before)
    try:
        execute([MemoryAdapter(proc, [b""])])
        assert (seen, gc.get_threshold()[0]) == ([during], before)
    finally:
        gc.set_threshold(*earlier)
