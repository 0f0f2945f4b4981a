"""Waiting messages that move to the store to make room: the end of the input waits for them."""

from __future__ import annotations

import pytest

from missive import JSONMessage, Processor, Retry, constant
from missive.adapters import FileAdapter
from missive.adapters.replay import ReplayAdapter
from missive.dlq import Query, Status
from missive.dlq.sql import SQLStore
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.matchers import Everything, by_field
from tests.support.engine import run

COUNT = 150
WAITS = {
    "order": {"ordered_by": by_field("k")},
    "rate": {"rate_limit": "40/s"},
    "cap": {"concurrency": 1},
    "retries": {"retry": Retry(attempts=2, immediate=0, delays=constant(2))},
    "a lane behind retries": {
        "ordered_by": by_field("k"),
        "retry": Retry(attempts=2, immediate=0, delays=constant(0.02)),
    },
}


@pytest.mark.parametrize("wait", WAITS)
def test_the_end_of_the_input_waits_for_messages_that_moved_to_the_store(tmp_path, monkeypatch, wait):
    """A worker on a file of waiting messages handles all of them before it exits, although most moved to the store."""
    monkeypatch.setattr(Runtime, "limits", Limits(items=20, total_items=40))
    (tmp_path / "in.jsonl").write_bytes(b"".join(b'{"n":%d,"k":"a"}\n' % n for n in range(COUNT)))
    store, terms, done, moved = SQLStore(f"sqlite:///{tmp_path}/dlq.db"), WAITS[wait], list[int](), list[str]()
    proc = Processor(JSONMessage, name="app", dlq=store, concurrency=4)

    async def handle(message, context):
        if "retry" in terms and context.attempt == 1:
            raise ConnectionError
        if len(done) % 10 == 0:
            await Runtime().sleep(0.2)
        done.append(message.get_json()["n"])

    proc.add_handler(Everything(), handle, name="h", **terms)
    put = store.put
    monkeypatch.setattr(store, "put", lambda records: (moved.extend(one.id for one in records), put(records))[1])
    try:
        run(FileAdapter(proc, tmp_path / "in.jsonl"), ReplayAdapter(proc, store), seconds=60)
        assert moved, "no message moved"
        assert sorted(done) == list(range(COUNT))
        assert "ordered_by" not in terms or done == list(range(COUNT))
        assert not store.count(Query(statuses=(Status.parked, Status.queued, Status.dead)))
    finally:
        store.close()
