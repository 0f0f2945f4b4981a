"""Fixtures and hooks of all tests: private brokers, commands as processes, and the list of missing brokers."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.support import certificates
from tests.support.databases import MariaDB, PostgreSQL
from tests.support.kafka import Kafka
from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import RedisServer

REQUIRED = os.environ.get("MISSIVE_REQUIRE_BROKERS") == "1"
"""Whether a missing broker fails its tests, as in CI. Otherwise they are skipped, and listed at the end."""

DEEP_SECONDS = 3600.0
"""Timeout of a test with --deep, in seconds."""

CLEANUP_SECONDS = 60.0
"""Time to clean up after the timeout of a test, in seconds. Then the test is interrupted again."""

SERVERS: dict[str, tuple[str, Callable[[], bool]]] = {
    "kafka": ("Apache Kafka", Kafka.available),
    "rabbitmq": ("rabbitmq-server", RabbitMQ.available),
    "redis": ("redis-server", RedisServer.available),
    "postgres": ("postgresql", PostgreSQL.available),
    "mariadb": ("mariadb-server", MariaDB.available),
    "openssl": ("openssl", certificates.available),
}
"""For each marker, the required server and a function that returns whether it is installed."""

_started = pytest.StashKey[list[Running]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deep", action="store_true", help="run more examples of each property and longer loops")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--deep") and config.option.timeout is None:
        config.option.timeout = DEEP_SECONDS


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(settings: Any) -> Generator[None, object, object]:
    """Fail a test after its timeout under uvloop too, which passes on SystemExit only. SystemExit fails the test."""
    done = yield
    fail = signal.getsignal(signal.SIGALRM)
    if settings.method == "signal" and callable(fail):

        def late(number: int, frame: FrameType | None) -> None:
            try:
                fail(number, frame)
            except pytest.fail.Exception as failed:
                raise SystemExit(str(failed)) from None

        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, CLEANUP_SECONDS)
    return done


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report the output of the commands that a failed test started, and the stacks of running ones."""
    report = yield
    if report.failed:
        report.sections += [("A command of the test", process.last_words()) for process in item.stash.get(_started, [])]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, (server, is_installed) in SERVERS.items():
        if item.get_closest_marker(marker) is not None and not is_installed():
            if REQUIRED:
                pytest.fail(f"{server} is required and was not found: run scripts/install-brokers", pytrace=False)
            pytest.skip(f"{server} was not found")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")
    # Reports arrive from all processes of pytest-xdist.
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    missing = {server: sum(f"{server} was not found" in reason for reason in skipped) for server, _ in SERVERS.values()}
    if any(missing.values()):
        terminalreporter.section("missing brokers")
        for name, count in missing.items():
            if count:
                terminalreporter.write_line(f"{name}: {count} tests were skipped")
        terminalreporter.write_line("To install them, run scripts/install-brokers")


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A private RabbitMQ node, started once. A test that kills it starts it again."""
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A private PostgreSQL server, started once."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A private MariaDB server, started once."""
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A private Redis server, started once. A test that kills a server starts a separate one."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A private Kafka broker, started once. A test that kills it starts it again."""
    with Kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start commands in the directory of the test, and kill running ones at the end."""
    started = request.node.stash[_started] = []

    def start(*command: str | Path, env: dict[str, str] | None = None, **options: Any) -> Running:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MISSIVE_")}
        environment = {**inherited, "PYTHONFAULTHANDLER": "1", **(env or {})}
        started.append(Running(command, cwd=tmp_path, env=environment, **options))
        return started[-1]

    with contextlib.ExitStack() as ending:
        yield start
        for process in started:
            ending.callback(process.kill)


@pytest.fixture
def missive(start: Callable[..., Running]) -> Callable[..., Running]:
    """Start the `missive` command."""
    command = shutil.which("missive", path=str(Path(sys.executable).parent)) or "missive"
    return functools.partial(start, command)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Poll until a condition is true. Fail with the text `what` after a time, in seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)
