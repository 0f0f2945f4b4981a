"""Lua scripts of the store: each runs on the server as one step, and changes a record together with its indexes."""

from __future__ import annotations

from missive.dlq.redis.scripts import changes, claims, leases, ownership, records, replays
from missive.dlq.redis.scripts.library import LIBRARY

_PARTS = (records, leases, changes, ownership, replays, claims)

SCRIPTS = {name: LIBRARY + body for part in _PARTS for name, body in part.SCRIPTS.items()}
