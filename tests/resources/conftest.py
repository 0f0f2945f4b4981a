"""Fixtures for tests of resources."""

from __future__ import annotations

import pytest

from tests.support.resources import KINDS, RUNNERS, World


@pytest.fixture(params=[f"{runner}: {kind}" for runner in RUNNERS for kind in KINDS])
def world(request):
    """Return each kind of handler and resource under each runner."""
    runner, kind = request.param.split(": ")
    return World(runner, *KINDS[kind])


@pytest.fixture(params=["client-def", "client-async", "engine-def", "engine-async"])
def main_world(request):
    """Return the most important kinds of handlers and resources."""
    runner, kind = request.param.split("-")
    return World(runner, *KINDS[kind])
