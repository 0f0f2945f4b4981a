"""Declaring idempotency: the key that identifies an effect, how long it is remembered, and in which form."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, Final, Generic, Literal, TypeAlias

from typing_extensions import TypeVar

from missive.durations import valid_seconds
from missive.errors import RegistrationError, UsageError
from missive.messages import Message

M_contra = TypeVar("M_contra", bound=Message, contravariant=True, default=Message)

Form: TypeAlias = Literal["lease", "transaction"]
"""Where a completed effect is recorded: in the dead letter store, or in the transaction of the handler."""

Expired: TypeAlias = Literal["rerun", "flag"]
"""The reaction to an expired claim: run the message again, or store it as a dead letter for an operator."""

NO_KEY: Final = "no once key"
"""The label of a dead letter whose message has no key."""
EXPIRED: Final = "claim expired"
"""The label of a dead letter whose effect may have happened."""

MAX_CHARACTERS: Final = 255
"""Length of the names of services and handlers in the tables."""


class Once(Generic[M_contra]):
    """Let the effect of a message happen once for each key: `handle_for(…, name="x", once=Once(key))`.

    - `key`: a callable that takes a message and returns the key of its effect: text, bytes, a number, a date, a UUID,
      or a tuple of these. Keys belong to one handler of one service. A message whose key is None becomes a dead letter
      with the reason `rejected` and the label `no once key`. A message whose key raises becomes one with `failed`.
    - `ttl`: how long a completed effect is remembered, in seconds or as a timedelta.
    - `form`: "lease" or "transaction".
    - `expired` and `lease`: the reaction to an expired claim, and its duration, in seconds or as a timedelta. For
      the form "lease" only.

    The form "lease" claims effects of any kind in the dead letter store. The engine renews the claim while the handler
    runs. A message whose effect has happened is acked without running, and a message whose effect is in progress
    elsewhere waits. A claim expires when its process dies or stops for longer than `lease`. The message then runs again
    (`expired="rerun"`), or becomes a dead letter with the reason `conflict` and the label `claim expired`
    (`expired="flag"`). The effect can happen twice when a process dies between the effect and the end of its claim.

    With the form "transaction", the handler calls `context.claim(connection)` in the transaction of its effect. The
    effect then happens exactly once in that database.

    In both forms, a message with a known key and another body becomes a dead letter with the reason `conflict`.

    Raise `RegistrationError` for an invalid argument.
    """

    __slots__ = ("expired", "form", "key", "lease", "ttl")

    def __init__(
        self,
        key: Callable[[M_contra], object],
        *,
        ttl: float | timedelta = timedelta(days=14),
        form: Form = "lease",
        expired: Expired = "rerun",
        lease: float | timedelta = 60,
    ) -> None:
        if form not in ("lease", "transaction"):
            raise RegistrationError('form= of Once must be "lease" or "transaction"')
        if expired not in ("rerun", "flag"):
            raise RegistrationError('expired= of Once must be "rerun" or "flag"')
        self.key = key
        self.ttl = _seconds(ttl, "ttl")
        self.form: Form = form
        self.expired: Expired = expired
        self.lease = _seconds(lease, "lease")
        if self.ttl < self.lease:
            raise RegistrationError("ttl= of Once must be at least its lease=")

    def digest_of(self, message: M_contra) -> str | None:
        """Return the digest of a message's key, or None for the key None.

        Raise the exception of the key callable, and `UsageError` for a key of another type.
        """
        key = self.key(message)
        return None if key is None else digest(key)

    def __repr__(self) -> str:
        return f"<Once: {self.form}, {self.ttl:g} s>"


def checked_name(name: str, what: str) -> str:
    """Return the name of a service or a handler. Raise `RegistrationError` when it is too long for the tables."""
    if len(name) > MAX_CHARACTERS:
        raise RegistrationError(
            f"{what} with once= must have a name of at most {MAX_CHARACTERS} characters, not {name!r}"
        )
    return name


def _seconds(value: float | timedelta, what: str) -> float:
    number = valid_seconds(value)
    if not number:
        raise RegistrationError(f"{what}= of Once must be a number of seconds above zero, or a timedelta")
    return number


def digest(key: object) -> str:
    """Return 64 characters that are the same for equal keys, in every process.

    Raise `UsageError` for a key of another type.
    """
    import hashlib  # noqa: PLC0415 - loads OpenSSL, which only handlers with once= need

    return hashlib.sha256(_encoded(key)).hexdigest()


def _encoded(key: object) -> bytes:
    """Return bytes that differ for different keys: each part starts with its type and length."""
    if isinstance(key, str):
        return _part(b"s", key.encode("utf-8", "surrogatepass"))
    if isinstance(key, (bytes, bytearray, memoryview)):
        return _part(b"y", bytes(key))
    if key is None or isinstance(key, bool):
        return _part(b"b", str(key).encode())
    if isinstance(key, (int, float)) or _is(key, "decimal", "Decimal"):
        return _part(b"n", _number(key))
    if _is(key, "uuid", "UUID"):
        return _part(b"u", str(key).encode())
    if isinstance(key, date):  # includes datetime
        return _part(b"d", key.isoformat().encode())
    if isinstance(key, (tuple, list)):
        return _part(b"t", b"".join(map(_encoded, key)))
    raise UsageError(
        f"the key of Once must be text, bytes, a number, a date, a UUID or a tuple of these, not a {type(key).__name__}"
    )


def _is(key: object, module: str, name: str) -> bool:
    """Return whether a key is an instance of a class, without importing the module of the class."""
    return module in sys.modules and isinstance(key, getattr(sys.modules[module], name))


def _part(kind: bytes, content: bytes) -> bytes:
    return b"%b%d:%b" % (kind, len(content), content)


def _number(key: Any) -> bytes:
    """Return the same bytes for 1, 1.0 and Decimal("1.00"), which are one number in JSON."""
    if isinstance(key, int):
        return b"%x" % key
    if key == key and abs(key) != float("inf") and key == int(key):  # noqa: PLR0124 - false for NaN
        return b"%x" % int(key)
    return repr(float(key)).encode() if isinstance(key, float) else str(key.normalize()).encode()
