"""The pytest plugin: the fixture `missive_client`, in processes of pytest that find the plugin by its entry point."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_docs import ROOT, blocks

Run = Callable[..., str]

APP = """
import missive
from missive.matchers import Everything

happened = []
proc = missive.Processor(name="app")

@proc.resource("worker")
def database(context):
    happened.append("opened")
    yield "real"
    happened.append("closed")

@proc.resource("worker")
async def pool(context):
    happened.append("pool opened")
    yield "pool"
    happened.append("pool closed")

@proc.after_processing
def after(context):
    happened.append("after")

@proc.handle_for(missive.matchers.Header("sync", "1"))
def handle(message, context):
    happened.append(context.get(database))

@proc.handle_for(~missive.matchers.Header("sync", "1"))
async def handle_async(message, context):
    happened.append(await context.aget(pool))

SYNC = missive.RawMessage(b"", headers={"sync": "1"})
ASYNC = missive.RawMessage(b"")
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs pytest over a test module and returns the output. Its metadata name the plugin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = tmp_path / "site" / "missive-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: missive\nVersion: 0\n")
    points = [f"{name} = {value}" for name, value in project["entry-points"]["pytest11"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[pytest11]", *points]))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "app.py").write_text(APP)
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": path}

    def run(text: str, *arguments: str, code: int = 0) -> str:
        (tmp_path / "test_it.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_the_client_closes_at_the_end_of_the_test(run):
    """The client is open during the test. Its hooks and resources end after it, also when the test fails."""
    out = run(
        """
from app import SYNC, happened, proc

def test_first(missive_client):
    assert missive_client(proc).send(SYNC).handler == "app:handle"
    assert happened == ["opened", "real"]
    raise ValueError

def test_second():
    assert happened == ["opened", "real", "after", "closed", "after"]
""",
        code=1,
    )
    assert "1 failed, 1 passed" in out


def test_resources_can_be_replaced(run):
    """`overrides` replaces resources, as in `test_client`, and each client has its own."""
    run("""
from app import SYNC, database, happened, proc

def test_it(missive_client):
    missive_client(proc, overrides={database: "fake"}).send(SYNC)
    missive_client(proc).send(SYNC)
    assert happened == ["fake", "opened", "real"]
""")


ASYNC_TEST = """
import pytest
from app import ASYNC, SYNC, happened, proc

pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

async def test_first(missive_client):
    client = await missive_client.open(proc)
    await client.send(ASYNC)
    await client.send(SYNC)
    assert happened == ["pool opened", "pool", "opened", "real"]

def test_second():
    assert sorted(happened[4:]) == ["after", "after", "closed", "pool closed"]

async def test_a_sync_client(missive_client):
    with pytest.raises(Exception, match="await missive_client.open"):
        missive_client(proc)
"""


def test_an_async_client_closes_in_the_loop_of_its_test(run):
    """The resources of async handlers close in the loop that opened them, before it ends."""
    assert "3 passed" in run(ASYNC_TEST)


def test_a_client_whose_loop_has_ended_is_reported(run):
    """A test that ends a loop with an open client on it fails, with the remedy."""
    text = """
import asyncio
from app import ASYNC, proc

def test_it(missive_client):
    async def main():
        await (await missive_client.open(proc)).send(ASYNC)
    asyncio.run(main())

def test_own_loop(missive_client):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(missive_client.open(proc))
"""
    out = run(text, code=1)
    assert "UsageError: a loop ended while a client of missive_client was open" in out
    assert "2 passed, 1 error" in out


def test_an_error_at_the_close_fails_the_test(run):
    """A hook that fails at the close is an error of the test."""
    out = run(
        """
import missive
proc = missive.Processor(name="app")

@proc.after_processing
def fails(context):
    raise ValueError

def test_it(missive_client):
    missive_client(proc)
""",
        code=1,
    )
    assert "1 passed, 1 error" in out


def test_another_object_is_refused(run):
    """The name of a target is no processor."""
    out = run("def test_it(missive_client):\n    missive_client('app:proc')\n", code=1)
    assert "UsageError: missive_client takes a missive.Processor, not a str" in out


def test_the_plugin_loads_nothing(run, tmp_path):
    """Start, collection and tests without the fixture do not import `missive`."""
    (tmp_path / "conftest.py").write_text(
        "import sys\n"
        "def pytest_unconfigure(config):\n"
        "    assert config.pluginmanager.has_plugin('missive')\n"
        "    print('loaded', [name for name in sys.modules if name.split('.')[0] in ('missive', 'msgspec')])\n"
    )
    test = "def test_it():\n    pass\n"
    assert "loaded []" in run(test)
    assert "loaded []" in run(test, "--collect-only")
    assert "loaded []" in run(test, "--help")
    assert "missive_client" in run("", "--fixtures")


def test_the_plugin_can_be_turned_off(run):
    """`-p no:missive` removes the fixture."""
    out = run("def test_it(missive_client):\n    pass\n", "-p", "no:missive", code=1)
    assert "fixture 'missive_client' not found" in out


def test_the_example_of_the_documentation_passes(run, tmp_path):
    """The tests of docs/testing.md pass, with AnyIO's plugin for the async one."""
    example = {block.file: block.text for block in blocks(ROOT / "docs" / "testing.md") if block.file}
    (tmp_path / "billing.py").write_text(example["billing.py"])
    backend = (
        "import pytest\n\npytestmark = pytest.mark.anyio\n\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n"
    )
    assert "2 passed" in run(backend + example["test_billing.py"])
