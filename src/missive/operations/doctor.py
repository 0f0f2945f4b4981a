"""The doctor: is a deployment sound, before messages are lost over it. It consumes nothing, and changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from missive.adapters.base import Adapter, Finding
from missive.app.processor import Processor
from missive.dlq import open_dlq
from missive.dlq.contract import DLQ, Sink
from missive.errors import Fatal, MissiveError, StoreError, Transient, UsageError
from missive.transport import Credit, Session, Watermark

_CONNECT = 30.0
_CLOSE = 10.0


class Visitor:
    """The host of a session that is opened to be looked at."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.credit = Credit(1, 1)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def time(self) -> float:
        """Return the wall clock."""
        return time.time()

    async def load_checkpoint(self, source: str) -> str | None:  # noqa: ARG002 - nothing is looked up
        """Return nothing."""
        return None

    async def save_checkpoint(self, source: str, value: str) -> bool:  # noqa: ARG002 - nothing is kept
        """Keep nothing."""
        return False

    def report(self, line: str) -> None:
        """Say nothing: what is found is told in findings."""

    async def lanes_gained(self, watermarks: Mapping[str, Watermark | None]) -> None:
        """Take up nothing."""

    async def lanes_lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:
        """Let go of nothing."""


async def examine(adapter: Adapter) -> list[Finding]:
    """Look at one source: can it be reached, does it suit the handlers, and what its own adapter knows."""
    opening = asyncio.ensure_future(adapter.connect(Visitor(adapter.processor.name)))
    try:
        session = await asyncio.wait_for(opening, _CONNECT)
    except TimeoutError:
        return [Finding("error", "connection", f"{adapter.url} does not answer within {_CONNECT:g} seconds")]
    except (Transient, Fatal, StoreError) as trouble:
        return [Finding("error", "connection", str(trouble))]
    try:
        findings = [Finding("ok", "connection", f"{adapter.url} can be reached")]
        findings += _suits(adapter, session)
        try:
            findings += await adapter.diagnose(session)
        except (Transient, Fatal, StoreError) as trouble:
            findings.append(Finding("error", "source", str(trouble)))
        return findings
    finally:
        await asyncio.wait([asyncio.ensure_future(session.close())], timeout=_CLOSE)


def _suits(adapter: Adapter, session: Session) -> list[Finding]:
    """Hold what a session can do against what the handlers ask."""
    can, findings = session.capabilities, []
    routes = [route for route in adapter.processor.freeze() if route.discards is None]
    if can.lease is not None and not can.renewable:
        late = [route for route in routes if route.terms.timeout > can.lease]
        for route in late:
            says = (
                f"{route.name} may take {route.terms.timeout:g} seconds, and a message is given to somebody else after"
                f" {can.lease:g}: give it a timeout= below that"
            )
            findings.append(Finding("error", "timeouts", says))
        if not late:
            findings.append(Finding("ok", "timeouts", f"all are within the {can.lease:g} seconds there are"))
    ordered = [route.name for route in routes if route.terms.ordered_by is not None]
    if ordered and adapter.shareable and not adapter.exclusive_lanes:
        says = (
            f"{ordered[0]} asks for order by key, which here holds within one process only: run one, without --workers"
        )
        findings.append(Finding("warning", "order", says))
    if not can.durable:
        findings.append(Finding("warning", "durability", "messages do not survive a restart of the transport"))
    return findings


def examine_processor(processor: Processor[Any]) -> list[Finding]:
    """Look at the application."""
    count = len(processor.routes())
    if not count:
        return [Finding("warning", "handlers", "there are none: every message would be a dead letter")]
    return [Finding("ok", "handlers", f"{count} of {processor.name}")]


def examine_store(place: DLQ, adapters: Sequence[Adapter]) -> list[Finding]:
    """Look at the dead letter store: is there one, and can it be written."""
    if place is None:
        if all(adapter.default_store for adapter in adapters):
            return [Finding("ok", "dead letters", "go to missive-dlq.db in the working directory")]
        says = (
            "there is no store: name one with --dlq, MISSIVE_DLQ or Processor(dlq=…), or missive run refuses to start"
        )
        return [Finding("error", "dead letters", says)]
    try:
        sink = open_dlq(place)
    except UsageError as wrong:
        return [Finding("error", "dead letters", str(wrong))]
    except MissiveError as trouble:
        return [Finding("error", "dead letters", str(trouble))]
    return _examine_sink(sink) if sink is not None else []


def _examine_sink(sink: Sink) -> list[Finding]:
    try:
        if not sink.durable:
            says = "are kept in this process only: they are lost with it"
            return [Finding("warning", "dead letters", says)]
        sink.put([])
        works = Finding("ok", "dead letters", f"{getattr(sink, 'url', type(sink).__name__)} can be written")
        return [works, *(Finding("warning", "dead letters", trouble) for trouble in sink.diagnose())]
    except StoreError as trouble:
        return [Finding("error", "dead letters", str(trouble))]
    finally:
        sink.close()
