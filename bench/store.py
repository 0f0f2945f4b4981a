"""Measure a store with a million records: writes against a bare INSERT, lists, groups, leases and export.

MISSIVE_BENCH_RECORDS sets the number of records (1,000,000). MISSIVE_BENCH_STORES lists the stores
(sqlite,postgresql); mariadb is also possible.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator

from missive.dlq import Attempt, Origin, Query, Record, Replay, Status
from missive.dlq.rows import to_row
from missive.dlq.sql import SQLStore
from missive.dlq.sql.schema import records as records_table
from missive.ids import new_id
from missive.operations.export import export_records
from missive.operations.selection import CLOSED
from missive.outcome import Reason
from tests.support.databases import MariaDB, PostgreSQL

RECORDS = int(os.environ.get("MISSIVE_BENCH_RECORDS", "1000000"))
STORES = os.environ.get("MISSIVE_BENCH_STORES", "sqlite,postgresql").split(",")
BATCH = 500
GROUPS, LANES = 500, 1000
PAIRS, BATCHES = 7, 6
PAGE_BAR, GROUPS_BAR, LEASE_BAR, WRITE_BAR = 0.1, 0.3, 0.02, 0.5
BODY = b'{"type":"order.placed","customer":"c-000001","total":129.95,"currency":"EUR"}' + b" " * 120
SHA256 = hashlib.sha256(BODY).hexdigest()
STATUSES = [Status.dead] * 6 + [Status.parked] * 2 + [Status.resolved, Status.discarded]


def record(n: int, now: float) -> Record:
    """Return a record of a realistic mix: all statuses, many groups, and parked records with and without lanes."""
    group, status = n * 7919 % GROUPS, STATUSES[n % len(STATUSES)]
    parked, at = status is Status.parked, now - 86400 * 20 * ((n * 31 % RECORDS) / RECORDS)
    closed = status in CLOSED
    handler = f"shop:handler_{group % 40}"
    return Record(
        id=new_id(),
        service=f"service-{group % 3}",
        reason=Reason.failed if group % 5 else Reason.rejected,
        identity=hashlib.sha256(str(n).encode()).hexdigest(),
        body=BODY,
        headers=(("correlation-id", f"{n}"), ("content-type", "application/json")),
        origin=Origin("kafka", "orders", "kafka://broker/?topic=orders", "orders-3", n),
        first_at=at,
        last_at=at,
        fingerprint=f"{group:016x}",
        status=status,
        label=None if group % 5 else "refused",
        handler=handler,
        message_id=str(n),
        topic="orders",
        sha256=SHA256,
        error_type="ValueError",
        error_chain=({"type": "ValueError", "frames": [{"file": "shop.py", "line": 10, "function": "placed"}]},),
        error_text="not a number",
        due=(at if n % 3 else now + 1e6) if parked else None,
        lane=f"{n % LANES:064x}" if parked and n % 4 == 3 else None,
        closed_at=at if closed else None,
        closed_by="replay" if closed else None,
        history=(Attempt(at, "failed", 1, handler, "ValueError", None, "host", 1),),
        runtime={"host": "host", "python": "3.11", "missive": "0", "pid": 1},
        may_join=True,
    )


def fill(store: SQLStore) -> None:
    """Put all records in batches, as a worker does."""
    now = time.time()
    for start in range(0, RECORDS, BATCH):
        store.put([record(n, now) for n in range(start, min(start + BATCH, RECORDS))])


def median(work: Callable[[], object], times: int = 7) -> float:
    """Return the median duration of a call, in seconds."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def say(what: str, seconds: float, bar: float | None = None) -> None:
    """Print a duration, and its bar."""
    print(f"  {what}: {seconds * 1000:.1f} ms" + ("" if bar is None else f" (bar {bar * 1000:.0f})"), flush=True)


def writing(store: SQLStore) -> None:
    """Print the rate of `put`, and its ratio to a bare INSERT of the same rows in the same batches."""
    ratios, ours = [], []
    bare_sql, numbers = records_table.insert(), itertools.count(RECORDS)
    for _ in range(PAIRS):
        now = time.time()
        took = []
        for bare in (False, True):
            batches = [[record(n, now) for n in itertools.islice(numbers, BATCH)] for _ in range(BATCHES)]
            rows = [[{**to_row(one), "arrival": None} for one in batch] for batch in batches]
            began = time.perf_counter()
            for batch, of_batch in zip(batches, rows, strict=True):
                if bare:
                    with store._write() as connection:  # noqa: SLF001 - the same connection, settings and durability
                        connection.execute(bare_sql, of_batch)
                else:
                    store.put(batch)
            took.append((time.perf_counter() - began) / (len(batches) * BATCH))
        ratios.append(took[1] / took[0])
        ours.append(took[0])
    rate = 1 / statistics.median(ours)
    print(
        f"  put: {rate:,.0f} records/s, {statistics.median(ratios):.2f} × a bare INSERT (bar {WRITE_BAR})", flush=True
    )


def reading(store: SQLStore) -> None:
    """Print the durations of pages and counts."""
    dead, old = (Status.dead,), time.time() - 9e5

    def page(query: Query, offset: int = 0) -> Callable[[], object]:
        return lambda: list(store.query(query, limit=100, offset=offset))

    for what, query, offset in (
        ("page of list, dead", Query(statuses=dead), 0),
        ("page of list, any status", Query(), 0),
        ("page of list, offset 100,000", Query(statuses=dead), 100_000),
        ("page of list, one group", Query(statuses=dead, group=f"{7:016x}"), 0),
        ("page of list, one handler", Query(statuses=dead, handler="shop:handler_7"), 0),
        ("page of list, a reason and an age", Query(statuses=dead, reason="rejected", last_before=old), 0),
        ("page of list, a handler without records", Query(statuses=dead, handler="none"), 0),
        ("page of list, a service without a group", Query(service="service-1", without=(Query(group="0" * 16),)), 0),
    ):
        say(what, median(page(query, offset)), PAGE_BAR)
    say("groups, a page of 100", median(lambda: store.groups(Query(), limit=100)), GROUPS_BAR)
    say("groups of a reason", median(lambda: store.groups(Query(statuses=dead, reason="rejected"))), GROUPS_BAR)
    say("stats", median(store.stats), GROUPS_BAR)
    say("count of dead records", median(lambda: store.count(Query(statuses=dead))))


def leasing(store: SQLStore) -> None:
    """Print the durations of leasing and settling a hundred due records."""
    for service in ("service-0", "service-1"):
        say("time of the next due record", median(lambda service=service: store.next_due(service)), LEASE_BAR)
        say("lease of 100 due", median(lambda service=service: store.lease_records(service, "t", 100, 600)), LEASE_BAR)
    replay = Replay("r" * 10, "me", "bench")
    ids = store.ids(Query(statuses=(Status.dead,), service="service-2"))
    began = time.perf_counter()
    store.start_replay(replay, ids)
    store.queue_remaining(replay.id)
    print(f"  queue {len(ids):,} for a replay: {time.perf_counter() - began:.1f} s", flush=True)
    say("lease of 100 of a replay", median(lambda: store.lease_records("service-2", "t", 100, 600)), LEASE_BAR)
    say("settle 100", median(lambda: settle(store)))


def settle(store: SQLStore) -> None:
    """Lease and resolve a hundred records."""
    leases = store.lease_records("service-2", "t", 100, 600)
    store.resolve([lease.record.id for lease in leases], "t", Status.resolved, "replay")


def exporting(store: SQLStore) -> None:
    """Print the rate and the peak memory of an export."""
    lines = export_records(store, Query(), content=True)
    for _ in range(5000):
        next(lines)
    tracemalloc.start()
    began, count, most = time.perf_counter(), 0, min(RECORDS - 5000, 200_000)
    for count, _ in enumerate(lines, 1):
        if count == most:
            break
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rate = count / (time.perf_counter() - began)
    print(f"  export: {rate:,.0f} records/s while traced, at most {peak / 2**20:.1f} MiB for {count:,}", flush=True)


@contextlib.contextmanager
def opened(kind: str) -> Iterator[SQLStore]:
    """Open a new store of a kind."""
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir="."))
            url = f"sqlite:///{directory}/dlq.db"
        else:
            server = stack.enter_context({"postgresql": PostgreSQL, "mariadb": MariaDB}[kind]())
            url = server.url(server.database())
        yield stack.enter_context(contextlib.closing(SQLStore(url)))


def main() -> None:
    for kind in STORES:
        with opened(kind) as store:
            began = time.perf_counter()
            fill(store)
            print(f"{kind}: {RECORDS:,} records put in {time.perf_counter() - began:.0f} s", flush=True)
            for measure in (writing, reading, leasing, exporting):
                measure(store)


if __name__ == "__main__":
    main()
