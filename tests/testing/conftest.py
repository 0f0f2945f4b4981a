"""Fixtures for tests of the test clients."""

from __future__ import annotations

import pytest

from tests.support.clients import Runner


@pytest.fixture(params=["sync-def", "sync-async", "async-def", "async-async"])
def runner(request):
    """Return a runner for each combination of client and handler."""
    return Runner(*request.param.split("-"))


@pytest.fixture(params=["sync", "async"])
def each_client(request):
    """Return a runner for each kind of client, with sync handlers."""
    return Runner(request.param, "def")
