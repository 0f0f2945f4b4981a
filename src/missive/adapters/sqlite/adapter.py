"""The SQLite adapter: check the options of a queue and open its sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from missive._sqlite import network_filesystem, readable_by_others
from missive.adapters.base import DEFAULT_MAX_BODY, Adapter, Finding, open_session
from missive.adapters.parameters import constructor_arguments
from missive.adapters.sqlite.session import SQLiteSession
from missive.app.processor import Processor
from missive.errors import UsageError
from missive.privacy import redact_url
from missive.transport import Host, Session
from missive.urls import ParsedURL
from missive.words import counted

if TYPE_CHECKING:
    from typing_extensions import Self


class SQLiteAdapter(Adapter):
    """Consumes a queue in an SQLite file: `sqlite:///queue.db?queue=orders`.

    A fetched message is leased for `lease` seconds. The engine renews the lease until the message is settled; other
    workers get the messages of a dead worker when the leases expire. `create=True` creates the file and the table;
    without it, the adapter waits until they exist. Producers write with one INSERT into the table of
    `missive.adapters.sqlite.SCHEMA`. `context.native` is the id of the row. The client is the `sqlite3.Connection`,
    which belongs to its own thread.
    """

    transport = "sqlite"

    def __init__(
        self,
        processor: Processor[Any],
        path: str | Path,
        queue: str,
        *,
        lease: float = 30.0,
        create: bool = False,
        drain: float = 25,
        rate_limit: str | None = None,
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit, max_body=max_body)
        if not lease > 0:
            raise UsageError("lease= must be a number of seconds above zero")
        self.path = Path(path)
        self.queue = queue
        self.lease = lease
        self.create = create

    @classmethod
    def from_parsed_url(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
        """Return the adapter for `sqlite:///path/to/file.db?queue=NAME`. An absolute path needs four slashes."""
        if url.authority or not url.path.strip("/"):
            raise UsageError(
                f"{redact_url(url.original)}: a queue needs a path and no host: write sqlite:///queue.db?queue=orders"
            )
        return cls(processor, url.path[1:], **constructor_arguments(cls, url, exclude=("path",)))

    @property
    def destination(self) -> str:
        """The name of the queue."""
        return self.queue

    @property
    def identity(self) -> str:
        """The URL of the file and the queue."""
        return f"sqlite:///{self.path}?queue={self.queue}"

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Report the number of messages in the queue, and whether the file is on a network file system."""
        count = "SELECT count(*) FROM missive_queue WHERE queue = ?"
        waiting = session.submit(lambda: session.client.execute(count, (self.queue,)).fetchone()[0])
        held = counted(await asyncio.wrap_future(waiting), "message")
        findings = [Finding("ok", "queue", f"{self.queue} has {held}")]
        if (filesystem := network_filesystem(self.path)) is not None:
            message = f"{self.path} is on {filesystem}, where SQLite's locks do not work: use a local disk"
            findings.append(Finding("error", "disk", message))
        if (risk := readable_by_others(self.path)) is not None:
            findings.append(Finding("warning", "file", risk))
        return findings

    async def connect(self, host: Host) -> SQLiteSession:
        """Open the file. Raise `Transient` if the file or table is missing, and `Fatal` if it is not a database."""
        session = SQLiteSession(self, host)
        return await open_session(session, session.thread.run(session.open))
