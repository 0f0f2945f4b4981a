"""The tables of the dead letter store."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from missive.dlq.sql.dialects import JSON, Bytes, Text, table_options

SCHEMA_VERSION = 4
SOURCE_LENGTH = 500
"""Largest length of a source's name in a primary key on MySQL, next to the service."""

metadata = sa.MetaData()
schema = sa.Table("missive_schema", metadata, sa.Column("version", sa.Integer, primary_key=True), **table_options)

records = sa.Table(
    "missive_dead_letters",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("service", Text(255), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("label", Text(255)),
    sa.Column("handler", Text(255)),
    sa.Column("error_type", Text(255)),
    sa.Column("fingerprint", sa.String(32), nullable=False),
    sa.Column("identity", Text(255)),
    sa.Column("first_at", sa.Double, nullable=False),
    sa.Column("last_at", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("message_id", Text),
    sa.Column("topic", Text),
    sa.Column("key", JSON),
    sa.Column("content_type", Text),
    sa.Column("sent_at", sa.Double),
    sa.Column("body", Bytes, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("headers", JSON, nullable=False),
    sa.Column("origin", JSON, nullable=False),
    sa.Column("detail", Text),
    sa.Column("candidates", JSON, nullable=False),
    sa.Column("explanation", JSON),
    sa.Column("public", JSON, nullable=False),
    sa.Column("error_chain", JSON, nullable=False),
    sa.Column("error_text", Text),
    sa.Column("history", JSON, nullable=False),
    sa.Column("runtime", JSON, nullable=False),
    sa.Column("replay", sa.String(40)),
    sa.Column("due", sa.Double),
    # Time from which the record can be leased: it is due and its lease has ended. FAR while a command replays it.
    sa.Column("ready", sa.Double, nullable=False, server_default="0"),
    # Set for queued and parked records only.
    sa.Column("lane", sa.String(64)),
    sa.Column("lease_token", sa.String(80)),
    sa.Column("leased_until", sa.Double),
    sa.Column("closed_at", sa.Double),
    sa.Column("closed_by", Text),
    sa.Column("closed_why", Text),
    sa.Column("edited_from", sa.String(40)),
    sa.Column("correlation_id", Text),
    sa.Column("trace", Text),
    sa.Column("idempotency_key", Text),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("assigned", Text(255)),
    sa.Column("orphaned_at", sa.Double),
    # A digest of service and identity, on the newest such record. It is unique, so that two processes make one record.
    sa.Column("arrival", sa.String(64)),
    sa.Index("missive_dead_letters_arrival", "arrival", unique=True),
    sa.Index("missive_dead_letters_status", "status", "last_at", "id"),
    sa.Index("missive_dead_letters_last", "last_at", "id"),
    sa.Index("missive_dead_letters_replay", "replay", "status", "id"),
    sa.Index("missive_dead_letters_group", "fingerprint", "status", "last_at"),
    sa.Index("missive_dead_letters_oldest", "service", "status", "reason", "first_at"),
    sa.Index("missive_dead_letters_ready", "service", "status", "lane", "ready", "id"),
    sa.Index("missive_dead_letters_lane", "service", "lane", "id"),
    sa.Index("missive_dead_letters_closed", "status", "closed_at"),
    **table_options,
)

groups = sa.Table(
    "missive_groups",
    metadata,
    # A digest of the columns below, except the numbers.
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("fingerprint", sa.String(32), nullable=False),
    sa.Column("service", Text(255), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("label", Text(255)),
    sa.Column("handler", Text(255)),
    sa.Column("error_type", Text(255)),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("first_at", sa.Double, nullable=False),
    sa.Column("closed_at", sa.Double),
    sa.Index("missive_groups_fingerprint", "fingerprint"),
    **table_options,
)

days = sa.Table(
    "missive_days",
    metadata,
    sa.Column("fingerprint", sa.String(32), primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    **table_options,
)

attempts = sa.Table(
    "missive_attempts",
    metadata,
    sa.Column("service", Text(255), primary_key=True),
    sa.Column("identity", sa.String(64), primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    **table_options,
)

checkpoints = sa.Table(
    "missive_checkpoints",
    metadata,
    sa.Column("service", Text(255), primary_key=True),
    sa.Column("source", Text(SOURCE_LENGTH), primary_key=True),
    sa.Column("value", Text, nullable=False),
    **table_options,
)

applications = sa.Table(
    "missive_applications",
    metadata,
    sa.Column("service", Text(255), primary_key=True),
    # The file and the name of an application without an explicit name.
    sa.Column("target", Text),
    **table_options,
)

notes = sa.Table(
    "missive_notes",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("record", sa.String(40), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", Text(255), nullable=False),
    sa.Column("text", Text, nullable=False),
    sa.Index("missive_notes_record", "record"),
    **table_options,
)

replays = sa.Table(
    "missive_replays",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("by", Text(255), nullable=False),
    sa.Column("query", Text, nullable=False),
    sa.Column("by_command", sa.Boolean, nullable=False),
    sa.Column("canary", sa.Integer),
    sa.Column("rate", sa.String(40)),
    sa.Column("until_failures", sa.Integer),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("paced_until", sa.Double, nullable=False, server_default="0"),
    sa.Column("finished_at", sa.Double),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Index("missive_replays_status", "status"),
    **table_options,
)

paced = replays.c.canary.is_not(None) | replays.c.rate.is_not(None) | replays.c.until_failures.is_not(None)
"""The condition for replays that workers run in steps."""

replayed = sa.Table(
    "missive_replayed",
    metadata,
    sa.Column("replay", sa.String(40), primary_key=True),
    sa.Column("record", sa.String(40), primary_key=True),
    # Attempts of the record when it was selected. A record with more attempts has failed again in the replay.
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Index("missive_replayed_record", "record"),
    **table_options,
)

claims = sa.Table(
    "missive_once_claims",
    metadata,
    sa.Column("service", sa.String(255), primary_key=True),
    sa.Column("handler", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("body", sa.String(64), nullable=False),
    sa.Column("owner", sa.String(80), nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sa.Column("done", sa.Boolean, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Index("missive_once_claims_expires", "expires_at"),
    **table_options,
)


def arrival(service: str, identity: str) -> str:
    """Return the value of the column `arrival` for the arrivals of one message at one service."""
    return hashlib.sha256(f"{service}\0{identity}".encode("utf-8", "backslashreplace")).hexdigest()
