"""Adoption, assigned handlers and stuck lanes: the refusals, each with the way out."""

from __future__ import annotations

import pytest

from missive.dlq import Query, Status, Store
from missive.errors import StoreConflict, UsageError
from missive.operations.ownership import adopt_service, check_adoption, reroute_record, unstick_record
from tests.support.stores import closed, on_each, parked, record


@on_each
def test_adopt_returns_the_number_of_records(store: Store):
    """An application without records is adopted too; a service that the store does not know is an error."""
    store.put([record(), record(), record(service="billing")])
    assert (check_adoption(store, "shop", "store"), adopt_service(store, "shop", "store")) == (2, 2)
    store.register("idle", None)
    assert adopt_service(store, "idle", "store") == 0
    with pytest.raises(UsageError, match="the store has nothing of the service shop: it has billing, store"):
        adopt_service(store, "shop", "store")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("shop", "shop", "are the same service"),
        ("shop", "", "the name of a service must be a text of 1 to 255 characters"),
        ("shop", "x" * 256, "1 to 255"),
        ("nothing", "new", "the store has nothing of the service nothing: it has shop"),
    ],
)
def test_an_impossible_adoption_changes_nothing(store: Store, old, new, text):
    """The error says why, and the records stay."""
    store.put([record()])
    with pytest.raises(UsageError, match=text):
        adopt_service(store, old, new)
    assert store.services(Query()) == ["shop"]


@on_each
def test_refusals_name_the_way_out(store: Store, clock):
    """Records that do not wait, wait behind others or run now stay, and the error says what to do."""
    store.put(
        [closed("done"), record(id="dead"), parked(clock.now, "lane", id="head"), parked(None, "lane", id="rest")]
    )
    for fn in (lambda one: reroute_record(store, one, "h", "me"), lambda one: unstick_record(store, one, "me")):
        with pytest.raises(UsageError, match="there is no dead letter nothing"):
            fn("nothing")
        with pytest.raises(StoreConflict, match="dead letter done is resolved: only"):
            fn("done")
    with pytest.raises(StoreConflict, match="dead letter dead is dead: only parked and queued ones can be stuck"):
        unstick_record(store, "dead", "me")
    with pytest.raises(StoreConflict, match="rest waits behind head in its lane: missive dlq unstick head"):
        unstick_record(store, "rest", "me")
    store.lease_records("shop", "t", 1, 60.0)
    for fn in (lambda: reroute_record(store, "head", "h", "me"), lambda: unstick_record(store, "head", "me")):
        with pytest.raises(StoreConflict, match="a worker handles dead letter head now"):
            fn()
    clock.now += 61
    assert unstick_record(store, "head", "me").status is Status.dead
    with pytest.raises(UsageError, match="the name of a handler must be"):
        reroute_record(store, "rest", "", "me")
    assert reroute_record(store, "rest", "h", "me").assigned == "h"
