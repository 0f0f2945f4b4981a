"""The settings of one Redis Streams source."""

from __future__ import annotations

from dataclasses import dataclass, field

from missive.errors import UsageError

_MIN_CLAIM_IDLE, _MAX_CLAIM_IDLE = 0.1, 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Stream, group, lease and server of one source. The repr leaves out the password.

    Raise `UsageError` for a `claim_idle` out of range.
    """

    stream: str
    group: str
    body_field: str
    """The field of an entry that holds the body."""
    claim_idle: float
    """The lease of an entry, in seconds without renewal."""
    create: bool
    """Whether to create a missing stream and group."""
    start: str
    """The id after which a created group starts."""
    consumer: str | None
    """The name of the consumer; None for a new name in each session."""
    host: str
    port: int
    db: int
    username: str | None
    password: str | None = field(repr=False)
    tls: bool
    ca_file: str | None
    shown: str | None = None
    """The URL to show, where variables of the environment must not be shown with their values."""

    def __post_init__(self) -> None:
        if not _MIN_CLAIM_IDLE <= self.claim_idle <= _MAX_CLAIM_IDLE:
            raise UsageError(f"claim_idle= must be from {_MIN_CLAIM_IDLE:g} to {_MAX_CLAIM_IDLE:g} seconds")

    @property
    def url(self) -> str:
        """The URL as it may be shown."""
        return self.shown or self.identity

    @property
    def identity(self) -> str:
        """The server, stream and group, without credentials."""
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{self.host}:{self.port}/{self.db}?stream={self.stream}&group={self.group}"
