"""The failure log: one line for each kind, sums of repetitions, and bounds."""

from __future__ import annotations

import logging
import time

import pytest

from missive.dlq.failure import Failure, capture
from missive.telemetry import Attempted, FailureLog


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Capture the lines of the failure log from INFO."""
    caplog.set_level(logging.INFO, "missive.failures")
    return caplog


def failure(text: str = "CANARY") -> Failure:
    """Return a failure of this file."""
    try:
        raise ValueError(text)
    except ValueError as error:
        return capture(error)


def dead(fingerprint: str | None = "aa", handler: str = "app:h") -> Attempted:
    """Return a dead letter with a record."""
    record = None if fingerprint is None else f"id-{fingerprint}"
    return Attempted("failed", handler, None, failure(), record, fingerprint)


def test_a_new_kind_has_a_line_at_once(lines: pytest.LogCaptureFixture):
    """The first failure of a kind names the reason, the handler, the type, the place, the group and the record."""
    FailureLog().dead_lettered([dead()])
    (record,) = lines.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("app:h: failed, ValueError at ")
    assert f"{__file__}:" in record.getMessage()
    assert record.getMessage().endswith(" in failure, group aa; missive dlq show id-aa")
    assert "CANARY" not in record.getMessage()


def test_repetitions_are_summed_up_once_in_ten_seconds(lines: pytest.LogCaptureFixture):
    """Further failures of a kind are counted, and the number is logged after ten seconds and at the end."""
    clock = Clock()
    log = FailureLog(clock=clock)
    log.dead_lettered([dead()] * 13)
    for clock.now in (1.0, 9.0, 10.0, 11.0):
        log.tick()
    log.dead_lettered([dead()] * 2)
    log.drained()
    log.drained()
    assert [one.getMessage().partition(" (")[0] for one in lines.records[1:]] == ["12 more like aa", "2 more like aa"]


def test_retries_are_logged_at_info(lines: pytest.LogCaptureFixture):
    """Retries of one place are one kind, at INFO, and other kinds than the dead letters of that place."""
    log = FailureLog()
    log.retried([Attempted("retried", "app:h", None, failure()) for _ in range(5)])
    log.dead_lettered([dead()])
    log.drained()
    assert [one.levelno for one in lines.records] == [logging.INFO, logging.WARNING, logging.INFO]
    assert "app:h: retried, ValueError at " in lines.records[0].getMessage()
    assert lines.records[2].getMessage().startswith("4 more like ")


def test_100_000_failures_of_one_kind_cost_little(lines: pytest.LogCaptureFixture):
    """A flood of one kind prints fewer than 20 lines in a minute, and costs less than 1 µs for each message."""
    clock = Clock()
    log = FailureLog(clock=clock)
    chunks = [[dead() for _ in range(500)], [Attempted("retried", "app:h", None, failure()) for _ in range(500)]]
    log.dead_lettered(chunks[0])
    log.retried(chunks[1])
    began = time.process_time()
    for number in range(200):
        log.dead_lettered(chunks[0])
        log.retried(chunks[1])
        clock.now = number * 60 / 200
        log.tick()
    spent = time.process_time() - began
    assert len(lines.records) < 20
    assert spent / 200_000 < 1e-6
    log.drained()
    assert (
        sum(int(one.getMessage().split()[0]) for one in lines.records if " more like " in one.getMessage()) == 200_998
    )


def test_the_lines_of_many_kinds_are_bounded(lines: pytest.LogCaptureFixture):
    """A minute has at most 60 lines of kinds. Later kinds have their line in a later minute, and none is uncounted."""
    clock = Clock()
    log = FailureLog(clock=clock)
    log.dead_lettered([dead(str(number)) for number in range(100)])
    log.tick()
    log.tick()
    texts = [one.getMessage() for one in lines.records]
    assert sum("missive dlq show" in text for text in texts) == 60
    assert [text for text in texts if "missive dlq show" not in text] == [
        "40 more kinds of failures wait for their line, because there were 60 lines in a minute;"
        " missive dlq groups lists them"
    ]
    clock.now = 60.0
    log.tick()
    assert sum("missive dlq show" in one.getMessage() for one in lines.records) == 100


def test_a_thousand_kinds_are_remembered(lines: pytest.LogCaptureFixture):
    """Kinds beyond a thousand are counted together, until earlier kinds are forgotten after ten quiet minutes."""
    clock = Clock()
    log = FailureLog(clock=clock)
    log.dead_lettered([dead(str(number)) for number in range(1005)])
    for clock.now in map(float, range(0, 1800, 10)):
        log.tick()
    assert [one.getMessage() for one in lines.records if "other kinds" in one.getMessage()] == [
        "5 more failures of other kinds; missive dlq groups lists them"
    ]
    lines.clear()
    log.dead_lettered([dead("5"), dead("2000")])
    assert len(lines.records) == 2


def test_revealed_lines_have_text_and_traceback(lines: pytest.LogCaptureFixture):
    """With `reveal`, a new kind shows the stack and the text of its exception, without control characters."""
    log = FailureLog(reveal=True)
    log.dead_lettered([Attempted("failed", "app:h", None, failure("CANARY\n\x1b[1m"), "id", "aa")])
    _, *more = lines.records[0].getMessage().splitlines()
    assert more[0].startswith(f'  File "{__file__}", line ')
    assert more[-2:] == ["  ValueError: CANARY", "  \\x1b[1m"]
