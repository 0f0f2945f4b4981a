"""The doctor: checks of a deployment before it runs. They consume no message and change nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from missive.adapters.base import Adapter, Finding
from missive.app.processor import Processor
from missive.dlq import open_dlq
from missive.dlq.contract import DLQ, Sink
from missive.engine.order import order_hazards
from missive.engine.ownership import find_refusal
from missive.errors import Fatal, MissiveError, StoreError, Transient
from missive.transport import Credit, Delivery, Session, Watermark

_CONNECT_SECONDS = 30.0
_CLOSE_SECONDS = 10.0


class Diagnosis(NamedTuple):
    """The findings about one part of a deployment."""

    where: str
    """The name of the application, or the URL of a source."""
    findings: list[Finding]


def diagnose(adapters: Sequence[Adapter], dlq: DLQ) -> list[Diagnosis]:
    """Check an application, its dead letter store and each of its sources. Open one session for each source."""
    processor = adapters[0].processor
    application = Diagnosis(processor.name, diagnose_processor(processor) + diagnose_store(dlq, adapters))
    sources = len(adapters)
    checked = [Diagnosis(adapter.url, asyncio.run(diagnose_source(adapter, sources))) for adapter in adapters]
    return [application, *checked]


def diagnose_processor(processor: Processor[Any]) -> list[Finding]:
    """Check that an application has handlers."""
    count = len(processor.routes())
    if not count:
        return [Finding("error", "handlers", f"{processor.name} has no handlers and does not start")]
    return [Finding("ok", "handlers", f"{processor.name} has {count}")]


def diagnose_store(dlq: DLQ, adapters: Sequence[Adapter]) -> list[Finding]:
    """Check that there is a dead letter store, and that it can be written."""
    if dlq is None:
        if all(adapter.default_store for adapter in adapters):
            return [Finding("ok", "dead letters", "they go to missive-dlq.db in the working directory")]
        return [
            Finding(
                "error",
                "dead letters",
                "there is no store, so missive run will refuse to start: name one with --dlq, MISSIVE_DLQ or"
                " Processor(dlq=…)",
            )
        ]
    try:
        sink = open_dlq(dlq)
    except MissiveError as error:
        return [Finding("error", "dead letters", str(error))]
    return _diagnose_sink(sink, adapters[0].processor) if sink is not None else []


def _diagnose_sink(sink: Sink, processor: Processor[Any]) -> list[Finding]:
    try:
        if not sink.durable:
            return [Finding("warning", "dead letters", "they are held in memory only, and lost with the process")]
        sink.put([])
        writable = Finding("ok", "dead letters", f"{getattr(sink, 'url', type(sink).__name__)} can be written")
        refusal = find_refusal(processor, sink)
        name = [] if refusal is None else [Finding("error", "name", refusal)]
        return [writable, *name, *(Finding("warning", "dead letters", risk) for risk in sink.diagnose())]
    except StoreError as error:
        return [Finding("error", "dead letters", str(error))]
    finally:
        sink.close()


async def diagnose_source(adapter: Adapter, sources: int = 1) -> list[Finding]:
    """Check one of several sources: its connection, its fit with the handlers, and the checks of its own adapter."""
    opening = asyncio.ensure_future(adapter.connect(DiagnosticHost(adapter.processor.name)))
    try:
        session = await asyncio.wait_for(opening, _CONNECT_SECONDS)
    except TimeoutError:
        return [Finding("error", "connection", f"{adapter.url} does not answer within {_CONNECT_SECONDS:g} seconds")]
    except (Transient, Fatal, StoreError) as error:
        return [Finding("error", "connection", str(error))]
    try:
        findings = [Finding("ok", "connection", f"{adapter.url} can be reached")]
        findings += _diagnose_needs(adapter, session, sources)
        try:
            findings += await adapter.diagnose(session)
        except (Transient, Fatal, StoreError) as error:
            findings.append(Finding("error", "source", str(error)))
        return findings
    finally:
        await asyncio.wait([asyncio.ensure_future(session.close())], timeout=_CLOSE_SECONDS)


def _diagnose_needs(adapter: Adapter, session: Session, sources: int) -> list[Finding]:
    """Compare the capabilities of a session with the needs of the handlers."""
    capabilities, findings = session.capabilities, []
    lease = capabilities.lease
    routes = [route for route in adapter.processor.freeze() if route.discards is None]
    if lease is not None and not capabilities.renewable:
        late = [route for route in routes if route.terms.timeout > lease]
        for route in late:
            says = (
                f"the lease is {lease:g} s and cannot be renewed, but {route.name} may take"
                f" {route.terms.timeout:g} s: lower its timeout="
            )
            findings.append(Finding("error", "timeouts", says))
        if not late:
            findings.append(Finding("ok", "timeouts", f"all are within the lease of {lease:g} s"))
    for hazard, names in order_hazards(routes, adapter, sources, session).items():
        says = f"{names[0]} has ordered_by=, which holds within one process only: {hazard}. Run one process, without"
        findings.append(Finding("warning", "order", f"{says} --workers"))
    if not capabilities.durable:
        findings.append(Finding("warning", "durability", "messages do not survive a restart of the transport"))
    return findings


class DiagnosticHost:
    """The host of a session that is opened for diagnosis: it holds no lanes and stores no checkpoints."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.credit = Credit(1, 1)

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        await asyncio.sleep(seconds)

    def time(self) -> float:
        """Return the wall clock time, in seconds since 1970."""
        return time.time()

    async def load_checkpoint(self, source: str) -> str | None:  # noqa: ARG002 - the host has no store
        """Return None: the host has no checkpoints."""
        return None

    async def save_checkpoint(self, source: str, value: str) -> bool:  # noqa: ARG002 - the host has no store
        """Return False: the host stores no checkpoint."""
        return False

    def report(self, line: str) -> None:
        """Drop the log line: the findings report everything."""

    async def lanes_gained(self, watermarks: Mapping[str, Watermark | None]) -> None:
        """Ignore gained lanes."""

    async def lanes_lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:
        """Ignore lost lanes."""

    async def lanes_deleted(self, lanes: Collection[str], unfetched: Sequence[Delivery]) -> None:
        """Ignore deleted lanes."""
