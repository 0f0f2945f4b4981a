"""Orphans: parked and queued records whose handler is not registered, aliases, and assigned handlers."""

from __future__ import annotations

import contextlib
import time

import pytest

from missive.adapters.replay import ReplayAdapter
from missive.dlq import Query, Status
from missive.dlq.redis import RedisStore
from missive.matchers import Everything, Field
from missive.operations.ownership import reroute_record, unstick_record
from tests.dlq.conftest import url
from tests.support.broker import Broker
from tests.support.engine import processor, run, until
from tests.support.redis_store import check
from tests.support.stores import on_each, opened_at, parked, queued, record, statuses

__all__ = ["url"]

BODY = b'{"n":1}'


@pytest.fixture
def store(url):
    """Yield a store with a real clock. Check the keys of a store in Redis at the end."""
    with contextlib.closing(opened_at(url)) as opened:
        yield opened
        if isinstance(opened, RedisStore):
            check(opened)


def waiting(name: str, handler: str | None = "app:gone", **changes: object):
    """Return a parked record of the service `app` that is due."""
    return parked(time.time(), id=name, service="app", body=BODY, handler=handler, **changes)


def application(store, *names: str, **settings):
    """Return a processor whose handlers record their runs, and the list of runs. The first one matches the messages."""
    proc, runs = processor(dlq=store, **settings), []
    for number, name in enumerate(names):
        proc.add_handler(Field("n", number + 1), lambda message, context, name=name: runs.append(name), name=name)
    return proc, runs


def work(proc, store, condition, what, seconds=20):
    """Run a worker without messages until a condition holds."""

    async def done(engine):
        await until(condition, what, seconds)
        engine.stop()

    broker = Broker(proc, [])
    broker.ends = False
    return run(broker, ReplayAdapter(proc, store), meanwhile=done)


@on_each
@pytest.mark.parametrize("status", ["parked", "queued"])
def test_an_orphan_waits_and_then_becomes_dead(store, status, caplog):
    """An orphan is reported in one line, runs in no other handler, becomes dead as `unmatched` and frees its lane."""
    store.put([waiting("a", lane="lane"), waiting("b", "other", lane="lane")])
    if status == "queued":
        store.unstick("a", "me")
        store.put([waiting("c", lane="lane2")])
        store.unstick("c", "me")
        queued(store, ["c"], "r")
    orphan = "a" if status == "parked" else "c"
    proc, runs = application(store, "other", orphan_after=0.5)
    started = time.time()
    work(proc, store, lambda: store.get(orphan).status is Status.dead, "the orphan to end")
    assert time.time() - started >= 0.5
    kept = store.get(orphan)
    assert (kept.reason, kept.label, kept.lane, kept.handler) == ("unmatched", "handler not registered", None, None)
    lines = [one.getMessage() for one in caplog.records if "not registered" in one.getMessage()]
    assert len(lines) == 1
    assert "1 waiting records of app have the handler 'app:gone'" in lines[0]
    assert f"(the first is {orphan})" in lines[0]
    work(proc, store, lambda: store.get("b").status is Status.resolved, "the rest of the lane")
    assert runs == ["other"]


@on_each
def test_an_orphan_waits_for_a_worker_with_its_handler(store):
    """During a rolling deployment, a worker that has the handler runs the record, and its lane stays in order."""
    store.put([waiting("a", lane="lane"), waiting("b", "other", lane="lane")])
    new, wrong = application(store, "other")
    work(new, store, lambda: store.get("a").orphaned_at is not None, "the orphan to be seen")
    assert statuses(store) == {"a": "parked", "b": "parked"}
    store.reroute("a", "app:gone", "me")  # due at once, instead of after the 30 seconds
    old, runs = application(store, "app:gone", "other")
    work(old, store, lambda: store.get("b").status is Status.resolved, "the lane to be handled")
    assert (wrong, runs) == ([], ["app:gone", "app:gone"])


@on_each
def test_the_time_of_an_orphan_continues_after_a_restart(store):
    """`orphan_after` counts from the first worker that missed the handler."""
    store.put([waiting("a")])
    proc, _ = application(store, "other", orphan_after=1.0)
    work(proc, store, lambda: store.get("a").orphaned_at is not None, "the orphan to be seen")
    seen = store.get("a").orphaned_at
    proc, _ = application(store, "other", orphan_after=1.0)
    work(proc, store, lambda: store.get("a").status is Status.dead, "the orphan to end")
    assert time.time() - seen < 10


@on_each
def test_an_alias_is_the_handler(store, caplog):
    """A record under an earlier name of a handler runs, also with a name that the store has truncated."""
    long = "app:" + "x" * 300
    store.put([waiting("a", "app:early"), waiting("b", "app:old"), waiting("c", long), waiting("d", None)])
    proc, runs = processor(dlq=store), []
    proc.add_handler(
        Everything(), lambda message, context: runs.append(1), name="new", aliases=["app:early", "app:old"]
    )
    proc.registry.names.add(long, ())
    work(proc, store, lambda: store.count(Query(statuses=(Status.resolved,))) == 4, "the records to be handled")
    assert len(runs) == 4
    assert "not registered" not in caplog.text


@on_each
@pytest.mark.parametrize("to", ["billing", "earlier"])
def test_a_rerouted_record_runs_in_its_handler(store, to):
    """The assigned handler runs, by its name or an alias, although its matcher does not match, also after a retry."""
    store.put([waiting("a")])
    reroute_record(store, "a", to, "me")
    proc, runs = application(store, "other")

    def charge(message, context):
        runs.append(context.attempt)
        if len(runs) == 1:
            context.retry(0)

    proc.add_handler(Field("never", 1), charge, name="billing", aliases=["earlier"])
    work(proc, store, lambda: store.get("a").status is Status.resolved, "the record to be handled")
    assert runs == [1, 2]


@on_each
def test_a_rerouted_dead_letter_runs_in_its_handler_when_replayed(store):
    """A replay uses the assigned handler, and so does the replay after a failure."""
    store.put([record(id="a", service="app", body=BODY, handler="app:gone")])
    reroute_record(store, "a", "billing", "me")
    proc, runs = application(store, "other", "billing")
    queued(store, ["a"], "r")
    work(proc, store, lambda: store.get("a").status is Status.resolved, "the record to be handled")
    assert runs == ["billing"]
    store.restore(["a"], "me")
    failing = processor(dlq=store)
    failing.add_handler(Field("never", 1), lambda message, context: 1 / 0, name="billing")
    queued(store, ["a"], "r2")
    work(failing, store, lambda: store.get("a").status is Status.dead, "the record to fail")
    assert (store.get("a").handler, store.get("a").assigned) == ("billing", "billing")


@on_each
def test_a_lane_continues_after_unstick(store):
    """The next record of the lane runs at once, and messages of the lane are parked no longer than that."""
    store.put([waiting("a", lane="lane"), waiting("b", "other", lane="lane")])
    proc, runs = application(store, "other")

    def continues():
        if store.get("a").orphaned_at is not None and store.get("a").status is Status.parked:
            unstick_record(store, "a", "me")
        return store.get("b").status is Status.resolved

    work(proc, store, continues, "the rest of the lane")
    assert runs == ["other"]
    assert statuses(store) == {"a": "dead", "b": "resolved"}
    assert store.lanes("app") == {}
