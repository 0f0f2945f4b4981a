"""Files with message content: their mode, and what remains of deleted records."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

import missive
from missive.adapters import SQLiteAdapter
from missive.dlq import Query, Status
from missive.dlq.sql import SQLStore
from missive.operations.doctor import DiagnosticHost, diagnose_store
from tests.support.stores import record

CANARY = b"canary-4711-"


def _raw(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


@pytest.mark.parametrize("size", [1, 1000])
def test_a_purge_leaves_no_content(tmp_path: Path, size: int):
    """After a purge, neither the file nor its log contains the body, while the store is still open."""
    store = SQLStore(f"sqlite:///{tmp_path}/store.db")
    store.put([dead := record(body=CANARY * size)])
    assert CANARY in _raw(tmp_path)
    assert store.purge(Query(ids=(dead.id,), statuses=(Status.dead,))) == 1
    assert CANARY not in _raw(tmp_path)
    store.close()


def _open_queue(path: Path, *, create: bool) -> None:
    async def main() -> None:
        adapter: Any = SQLiteAdapter(missive.Processor(), path, "orders", create=create)
        session = await adapter.connect(DiagnosticHost("service"))
        session.client_files = [stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()]
        assert create is False or set(session.client_files) == {0o600}
        findings = await adapter.diagnose(session)
        assert any(finding.check == "file" for finding in findings) is not create
        await session.close()

    asyncio.run(main())


def test_a_new_queue_is_private_and_an_open_one_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A new queue file and its logs have mode 0600. One that others can read is a warning, also in the doctor."""
    path = tmp_path / "queue.db"
    _open_queue(path, create=True)
    assert not caplog.records
    path.chmod(0o644)
    _open_queue(path, create=False)
    assert "has mode 0644, so other users can read" in caplog.text


def test_a_store_that_others_can_read_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A store file of mode 0644 is one warning at its opening, and a finding of the doctor."""
    path = tmp_path / "store.db"
    url = f"sqlite:///{path}"
    SQLStore(url).close()
    assert not caplog.records
    path.chmod(0o644)
    SQLStore(url).close()
    assert "has mode 0644, so other users can read" in caplog.text
    adapter = SQLiteAdapter(missive.Processor(name="billing"), tmp_path / "queue.db", "orders")
    assert any("mode 0644" in finding.message for finding in diagnose_store(url, [adapter]))
