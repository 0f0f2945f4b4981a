"""The contract of stores, on each of them: applications, adoption, orphans, assigned handlers and stuck lanes."""

from __future__ import annotations

import threading

import pytest

from missive.dlq import Query, Replay, Status, Store
from missive.dlq.once import ClaimRequest, ClaimState
from missive.dlq.redis import RedisStore
from tests.support.stores import closed, on_each, opened_at, parked, queued, record, statuses


def leased_ids(store: Store, service: str = "shop", token: str = "t", replay: str | None = None) -> list[str]:
    """Return the ids of the records that a worker of the service leases."""
    return [lease.record.id for lease in store.lease_records(service, token, 10, 60.0, replay)]


# Applications


@on_each
def test_applications_with_explicit_names_share_a_store(store: Store, url: str):
    """Each application is noted once, and learns of the others."""
    assert store.on_server is not url.startswith("sqlite")
    assert store.register("orders", None) == {}
    assert store.register("billing", None) == {"orders": None}
    assert store.register("orders", None) == {"billing": None}
    assert store.applications() == {"orders": None, "billing": None}


@on_each
def test_an_application_without_an_explicit_name_is_alone(store: Store):
    """Only the same target is noted again. Another one learns whose store it is, and is not noted."""
    assert store.register("app", "/a/app.py:proc") == {}
    assert store.register("app", "/a/app.py:proc") == {}
    assert store.register("app", "/b/app.py:proc") == {"app": "/a/app.py:proc"}
    assert store.register("other", "/b/other.py:proc") == {"app": "/a/app.py:proc"}
    assert store.applications() == {"app": "/a/app.py:proc"}


@on_each
def test_an_explicit_name_takes_a_default_name_over(store: Store):
    """A service that gets an explicit name keeps its records, and its default name is refused from then on."""
    store.register("app", "/a/app.py:proc")
    assert store.register("app", None) == {}
    assert store.applications() == {"app": None}
    assert store.register("app", "/a/app.py:proc") == {"app": None}
    assert store.register("new", None) == {"app": None}
    assert store.register("app", None) == {"new": None}


@on_each
def test_of_several_applications_at_once_one_is_noted(store: Store, url: str):
    """Applications that start at the same time cannot share a store unless they have explicit names."""
    stores = [opened_at(url) for _ in range(4)]
    refused: list[bool] = []
    go = threading.Barrier(4)

    def register(number: int) -> None:
        go.wait()
        refused.append(bool(stores[number].register("app", f"/{number}/app.py:proc")))

    threads = [threading.Thread(target=register, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in stores:
        one.close()
    assert sorted(refused) == [False, True, True, True]
    assert len(store.applications()) == 1


# Adoption


@on_each
def test_adopt_moves_all_records_of_a_service(store: Store, clock):
    """Records of each status move with their groups, lanes and due times. Other services keep theirs."""
    one, two = (parked(clock.now, "lane", id=name) for name in "ab")
    later = parked(clock.now + 50)
    dead, done, other = record(), closed("done"), record(service="billing")
    store.put([one, two, later, dead, done, other])
    queued(store, [dead.id], "r")
    assert store.adopt("shop", "store") == 5
    assert store.services(Query()) == ["billing", "store"]
    assert store.count(Query(service="store")) == 5
    assert store.lanes("shop") == {}
    assert store.lanes("store") == {"lane": 2}
    assert leased_ids(store, "shop") == []
    assert leased_ids(store, "store") == [dead.id, one.id]
    assert sum(group.count for group in store.groups(Query(service="store"))) == 5
    assert store.stats("shop") == []
    assert store.replays("r")[0].queued == 1


@on_each
def test_adopt_joins_the_lanes_of_two_services(store: Store, clock):
    """Records of one lane run in the order of their ids, whichever service parked them."""
    first, second = (parked(clock.now, "lane", id=name, service=of) for name, of in (("a", "shop"), ("b", "store")))
    store.put([second])
    store.put([first])
    store.adopt("shop", "store")
    assert leased_ids(store, "store") == ["a"]


@on_each
def test_adopt_keeps_leases(store: Store, clock):
    """A worker that holds a lease while its record moves can settle the record."""
    store.put([parked(clock.now, "lane"), parked(clock.now, "lane")])
    (running,) = leased_ids(store)
    store.adopt("shop", "store")
    assert leased_ids(store, "store", "other") == []
    assert store.resolve([running], "t", Status.resolved, "me") == {running}
    assert len(leased_ids(store, "store", "other")) == 1


@on_each
def test_redeliveries_join_an_adopted_record(store: Store):
    """An arrival at the new service joins the record of the old one, unless the new service has its own."""
    known, fresh = record(identity="i", may_join=True), record(identity="j", may_join=True)
    own = record(identity="j", may_join=True, service="store")
    store.put([known, fresh, own])
    store.adopt("shop", "store")
    store.put([record(identity=one, may_join=True, service="store") for one in ("i", "j")])
    assert {one.id: one.attempts for one in store.query(Query())} == {known.id: 2, fresh.id: 1, own.id: 2}


@on_each
def test_adopt_moves_attempts_checkpoints_and_claims(store: Store):
    """Attempts, checkpoints and claims move. Where both services have one, the new service keeps its own."""
    store.count_attempts("shop", {"i": 3, "j": 1})
    store.count_attempts("store", {"j": 2})
    store.save_checkpoint("shop", "file:a", "10")
    store.save_checkpoint("shop", "file:b", "20")
    store.save_checkpoint("store", "file:b", "30")
    claims = [ClaimRequest("charge", digest, "body") for digest in ("1", "2")]
    store.once_begin("shop", claims, "o", 60, 600)
    store.once_done("shop", [claims[0].effect], "o", 600)
    store.register("shop", "/a/shop.py:proc")
    store.adopt("shop", "store")
    assert store.attempts("store", ["i", "j"]) == {"i": 3, "j": 2}
    assert store.attempts("shop", ["i", "j"]) == {}
    assert [store.load_checkpoint("store", f"file:{one}") for one in "ab"] == ["10", "30"]
    assert store.load_checkpoint("shop", "file:a") is None
    states = [answer.state for answer in store.once_begin("store", claims, "other", 60, 600)]
    assert states == [ClaimState.done, ClaimState.busy]
    assert store.applications() == {}
    assert store.adopt("shop", "store") == 0


# Orphans and assigned handlers


@on_each
def test_an_orphan_is_left_and_remembers_since_when(store: Store, clock):
    """The lease ends, the lane waits, and the first time stays until the record has run."""
    store.put([parked(clock.now, "lane", id="a"), parked(clock.now, "lane", id="b")])
    assert leased_ids(store) == ["a"]
    clock.now = 1010.0
    assert store.leave_orphans(["a"], "other", 1040.0) == set()
    assert store.leave_orphans(["a"], "t", 1040.0) == {"a"}
    assert leased_ids(store) == []
    assert store.next_due("shop") == 1040.0
    clock.now = 1040.0
    ((again, _token),) = store.lease_records("shop", "t", 10, 60.0)
    assert (again.id, again.orphaned_at) == ("a", 1010.0)
    store.leave_orphans(["a"], "t", 1070.0)
    assert store.get("a").orphaned_at == 1010.0
    clock.now = 1070.0
    ((again, token),) = store.lease_records("shop", "t", 10, 60.0)
    store.put([record(id="a", lease_token=token)])
    assert (store.get("a").orphaned_at, store.get("a").status) == (None, Status.dead)
    assert leased_ids(store) == ["b"]


@on_each
@pytest.mark.parametrize("status", ["dead", "parked", "queued", "orphan"])
def test_reroute_assigns_a_handler(store: Store, clock, status):
    """A dead or waiting record gets the handler and a note. An orphan is due at once, another record when it was."""
    due = clock.now if status == "orphan" else clock.now + 50
    one = record() if status in ("dead", "queued") else parked(due)
    store.put([one])
    if status == "queued":
        queued(store, [one.id], "r")
    if status == "orphan":
        assert leased_ids(store) == [one.id]
        store.leave_orphans([one.id], "t", clock.now + 30)
    assert store.reroute(one.id, "app:charge", "me")
    kept = store.get(one.id)
    assert (kept.assigned, kept.orphaned_at) == ("app:charge", None)
    assert [note.text for note in store.notes(one.id)] == ["rerouted to app:charge"]
    assert leased_ids(store) == ([one.id] if status in ("queued", "orphan") else [])


@on_each
def test_reroute_leaves_running_and_closed_records(store: Store, clock):
    """A leased or closed record, and an unknown id, get no handler."""
    running, done = parked(clock.now), closed("done")
    store.put([running, done])
    leased_ids(store)
    assert [store.reroute(one, "x", "me") for one in (running.id, done.id, "nothing")] == [False] * 3
    assert store.get(running.id).assigned is None


@on_each
def test_an_assigned_handler_survives_a_replay(store: Store, clock):
    """The assignment is there when workers lease the record."""
    one = record()
    store.put([one])
    store.reroute(one.id, "app:charge", "me")
    queued(store, [one.id], "r")
    assert [lease.record.assigned for lease in store.lease_records("shop", "t", 1, 60.0)] == ["app:charge"]


# Stuck lanes


@on_each
@pytest.mark.parametrize("due", [900.0, 5000.0, None])
def test_unstick_makes_the_head_of_a_lane_dead(store: Store, clock, due):
    """The head becomes dead with a note, and the next record of the lane can be leased."""
    store.put([parked(due, "lane", id="a"), parked(None, "lane", id="b")])
    assert (store.head_of_lane("b"), store.head_of_lane("a")) == ("a", "a")
    assert not store.unstick("b", "me")
    assert store.unstick("a", "me")
    assert statuses(store) == {"a": "dead", "b": "parked"}
    kept = store.get("a")
    assert (kept.lane, kept.due, store.head_of_lane("a")) == (None, None, None)
    assert [note.text for note in store.notes("a")] == ["unstuck: it was parked"]
    assert store.lanes("shop") == {"lane": 1}
    assert leased_ids(store) == ["b"]


@on_each
def test_unstick_takes_a_record_out_of_its_replay(store: Store):
    """A queued record does not run again when its replay continues."""
    one = record()
    store.put([one])
    store.start_replay(Replay("r", "me", "chosen", by_command=True), [one.id])
    store.queue_remaining("r")
    assert store.unstick(one.id, "me")
    assert (store.get(one.id).status, store.get(one.id).replay) == (Status.dead, None)
    assert store.queue_remaining("r") == 0


@on_each
def test_unstick_leaves_running_dead_and_unknown_records(store: Store, clock):
    """A record that a worker runs stays, as does a record that does not wait."""
    running, dead = parked(clock.now, "lane"), record()
    store.put([running, dead])
    leased_ids(store)
    assert [store.unstick(one, "me") for one in (running.id, dead.id, "nothing")] == [False] * 3
    clock.now += 61
    assert store.unstick(running.id, "me")


def test_redis_is_on_a_server():
    """A store in Redis needs no connection to say that it is on a server."""
    assert RedisStore.on_server
