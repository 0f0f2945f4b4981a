"""Previews: the route of a dead letter through today's code."""

from __future__ import annotations

import missive
from missive.dlq import Query
from missive.dlq.sql import SQLStore
from missive.matchers import Field
from missive.operations.preview import preview_routes
from tests.support.stores import record


def test_a_preview_runs_no_handler(store: SQLStore):
    """A preview names the handler, or the reason for none; neither the store nor a handler notices it."""
    proc = missive.Processor(missive.JSONMessage)
    ran = []

    @proc.handle_for(Field("type", "a"), name="of_a")
    def of_a(message, context):
        ran.append(message)

    bodies = [b'{"type": "a"}', b'{"type": "b"}', b"hunter2"]
    store.put([record(id=str(n), body=body, handler="old") for n, body in enumerate(bodies)])
    before = list(store.query(Query()))
    found = [one.to_dict() for one in preview_routes(store, ("0", "1", "2", "gone"), proc)]
    assert [(one["id"], one["handler"], one["reason"]) for one in found] == [
        ("0", "of_a", None),
        ("1", None, "unmatched"),
        ("2", None, "unreadable"),
    ]
    assert {(one["was"], one["handler_was"]) for one in found} == {("failed", "old")}
    assert (ran, list(store.query(Query()))) == ([], before)
