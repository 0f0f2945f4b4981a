"""The tables of the dead letter store."""

from __future__ import annotations

import sqlalchemy as sa

from missive.dlq.sql.dialects import JSON, Bytes, Text, table_options
from missive.dlq.sql_once import define_leases

SCHEMA_VERSION = 2
SOURCE_LENGTH = 500
"""How much of a source's name fits into a key on MySQL, with the service."""

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
    sa.Column("lane", sa.String(64)),
    sa.Column("claim_token", sa.String(80)),
    sa.Column("claim_until", sa.Double),
    sa.Column("closed_at", sa.Double),
    sa.Column("closed_by", Text),
    sa.Index("missive_dead_letters_identity", "service", "identity"),
    sa.Index("missive_dead_letters_status", "status", "last_at"),
    sa.Index("missive_dead_letters_replay", "replay"),
    sa.Index("missive_dead_letters_group", "fingerprint", "status"),
    sa.Index("missive_dead_letters_due", "service", "status", "due"),
    sa.Index("missive_dead_letters_lane", "lane", "id"),
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
    sa.Column("here", sa.Boolean, nullable=False),
    sa.Column("canary", sa.Integer),
    sa.Column("rate", sa.String(40)),
    sa.Column("until_failures", sa.Integer),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    sa.Column("total", sa.Integer, nullable=False),
    **table_options,
)

replayed = sa.Table(
    "missive_replayed",
    metadata,
    sa.Column("replay", sa.String(40), primary_key=True),
    sa.Column("record", sa.String(40), primary_key=True),
    # How often it had failed when it was chosen: what has failed more often since is not left, but failed again.
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Index("missive_replayed_record", "record"),
    **table_options,
)

leases = define_leases(metadata)
