"""Case 70: message content and credentials reach no log, output, error or record."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

from missive.app.context import HandlingContext
from missive.app.processor import Processor
from missive.errors import MissiveError
from missive.matchers import Field
from missive.messages import JSONMessage
from missive.operations.views import details, summary
from missive.outcome import Reason
from missive.testing.conformance.catalogue import CaseOutcome, case
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import Driver
from missive.testing.conformance.harness import Sent

_BODY, _HEADER, _KEY, _ID = "canary-body-71c0", "canary-header-5e2b", "canary-key-90ff", "canary-id-3d4a"
_PASSWORD = "canary-password-c4e1"  # noqa: S105 - a canary that must never be printed
_CANARIES = (_BODY, _HEADER, _KEY, _ID, _PASSWORD)


class _Lines(logging.Handler):
    """Collects log records, formatted with their tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {logging.Formatter().format(record)} {record.args!r}")


class _Capture:
    """The captured text of a process: logs, output, warnings and errors of its event loop."""

    def __init__(self) -> None:
        self.text = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Capture during the block, at the lowest level of every logger."""
        root, logged, printed, loop_errors = logging.getLogger(), _Lines(), io.StringIO(), []
        loop, level = asyncio.get_running_loop(), root.level
        earlier = loop.get_exception_handler()
        with tempfile.TemporaryFile() as file, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            root.addHandler(logged)
            root.setLevel(logging.DEBUG)
            loop.set_exception_handler(lambda _, context: loop_errors.append(repr(context)))
            sys.stdout.flush()
            sys.stderr.flush()
            ends = [(number, os.dup(number)) for number in (1, 2)]
            try:
                for number, _ in ends:
                    os.dup2(file.fileno(), number)
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                    yield
            finally:
                for number, saved in ends:
                    os.dup2(saved, number)
                    os.close(saved)
                loop.set_exception_handler(earlier)
                root.setLevel(level)
                root.removeHandler(logged)
            file.seek(0)
            raw = file.read().decode("utf-8", "replace")
        self.text += "\n".join([*logged.lines, raw, printed.getvalue(), *map(str, warned), *loop_errors])

    def check(self) -> None:
        """Raise `ConformanceError` for the first canary in the text, with the start of its line."""
        for canary in _CANARIES:
            where = next((line[:60].split(canary)[0] for line in self.text.splitlines() if canary in line), None)
            check(where is None, f"the {canary.split('-')[1]} appears after: {where}…")


@case(70)
async def private(driver: Driver) -> CaseOutcome:
    """Failures of each kind print no body, header, key, id or password in logs, output, errors or records."""
    processor = Processor(JSONMessage, name="conformance", dlq=driver.dlq)

    @processor.handle_for(Field("type", "raises"))
    async def raises(message: JSONMessage, context: HandlingContext[JSONMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        cause = ValueError(message.get_json()["secret"])
        raise RuntimeError(message.raw_data, message.headers, message.message_id) from cause

    @processor.handle_for(Field("type", "shown"))
    def shown(message: JSONMessage, context: HandlingContext[JSONMessage]) -> None:
        driver.log.handled[message.raw_data] += 1
        logging.getLogger("application").info("%r %s %r %r", message, message, message.headers, context)
        context.dead_letter("not wanted", detail=message.get_json()["secret"])

    bodies = [f'{{"type":"{kind}","secret":"{_BODY}"}}' for kind in ("raises", "shown", "unmatched")]
    bodies.append(f"{{{_BODY}")
    harness, capture = driver.harness, _Capture()
    sent = [
        Sent(
            body.encode(),
            headers=[("trace", _HEADER)] if "text" in harness.headers else [],
            key=_KEY if "key" in harness.preserves else None,
            message_id=f"{_ID}-{number}" if "producer_id" in harness.preserves else None,
        )
        for number, body in enumerate(bodies)
    ]
    await driver.publish(*sent)
    with capture.running():
        with contextlib.ExitStack() as stack:
            proxy = None if harness.address is None else stack.enter_context(driver.proxy())
            adapter = driver.adapter(processor) if proxy is None else driver.adapter(processor, address=proxy.address)
            async with driver.serving(adapter):
                await driver.until(lambda: len(driver.dead_letters()) == len(bodies), "every dead letter to be stored")
                if proxy is not None:
                    proxy.reset()
                    driver.faults = 1
                    await driver.until(lambda: proxy.connections, "a new connection after the reset")
                await driver.until_empty()
        if harness.credentials:
            try:
                await driver.adapter(processor, password=_PASSWORD).serve()
            except MissiveError as error:
                capture.text += f"{error!r} {error} {error.__cause__!r} {error.__context__!r}"
    records = driver.dead_letters()
    capture.text += "\n".join([*map(repr, records), *(json.dumps([details(one), summary(one)]) for one in records)])
    reasons = sorted(one.reason for one in records)
    expected = sorted([Reason.failed, Reason.rejected, Reason.unmatched, Reason.unreadable])
    check(reasons == expected, f"the reasons are {[str(reason) for reason in reasons]}")
    check(bool(capture.text), "no text was captured")
    capture.check()
    for body in bodies:
        driver.log.handled[body.encode()] += 1
    return CaseOutcome.passed
