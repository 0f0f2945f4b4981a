"""What is declared of idempotency: by what key effects are told apart, for how long, and in which form."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, Final, Generic, Literal, TypeAlias

from typing_extensions import TypeVar

from missive.errors import RegistrationError, UsageError
from missive.messages import Message

M_contra = TypeVar("M_contra", bound=Message, contravariant=True, default=Message)

Form: TypeAlias = Literal["lease", "transaction"]
"""Where it is kept that an effect happened: in the dead letter store, or in the handler's own transaction."""

Expired: TypeAlias = Literal["rerun", "flag"]
"""What becomes of a message whose claim ran out: it is run again, or is a dead letter for somebody to look at."""

NO_KEY: Final = "no once key"
"""The label of a dead letter that has no key by which it could be told from others."""
EXPIRED: Final = "claim expired"
"""The label of a dead letter of which nobody knows whether its effect happened."""

_MOST_CHARACTERS: Final = 255


class Once(Generic[M_contra]):
    """Declares that a message's effect shall happen once by its key: `handle_for(…, name="x", once=Once(key))`.

    `key` takes a message and returns what tells it from others: text, bytes, a number, a date, a UUID, or a tuple of
    such. Keys are of one service and one handler. A message whose key is None is dead-lettered as `rejected` with the
    label `no once key`, and one whose key raises as `failed`. `ttl` is how long (seconds, or a timedelta) it is
    remembered that an effect happened.

    `form="lease"` keeps claims in the dead letter store, for any kind of effect. While a handler runs, its claim is
    held for `lease` seconds at a time. A message whose effect happened is acked without running, and one whose effect
    is in progress elsewhere waits. A claim that ran out, because its process died or was stopped for so long, is
    run again (`expired="rerun"`), or its message is a dead letter `conflict` with the label `claim expired`
    (`expired="flag"`).
    The effect can happen twice where a process dies between the effect and the claim's end.

    `form="transaction"` does nothing by itself: the handler calls `context.claim(connection)` in the transaction of its
    effect, which then happens once in that database.

    In both, a message with a known key and another body is a dead letter `conflict`.

    Raises `RegistrationError` for what could never work.
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
            raise RegistrationError('the form of Once is "lease" or "transaction"')
        if expired not in ("rerun", "flag"):
            raise RegistrationError('expired= of Once is "rerun" or "flag"')
        self.key = key
        self.ttl = _seconds(ttl, "ttl")
        self.form: Form = form
        self.expired: Expired = expired
        self.lease = _seconds(lease, "lease")
        if self.ttl < self.lease:
            raise RegistrationError("the ttl= of Once is at least its lease=")

    def digest_of(self, message: M_contra) -> str | None:
        """Return the digest of a message's key, or None. Raises what the key does, and `UsageError` for no such key."""
        key = self.key(message)
        return None if key is None else digest(key)

    def __repr__(self) -> str:
        return f"<Once: {self.form}, {self.ttl:g} s>"


def checked_name(name: str, what: str) -> str:
    """Return a name of which it is kept what happened. Raises `RegistrationError` where it is too long for that."""
    if len(name) > _MOST_CHARACTERS:
        raise RegistrationError(f"{what} with once= has a name of {_MOST_CHARACTERS} characters at the most: {name!r}")
    return name


def _seconds(value: float | timedelta, what: str) -> float:
    try:
        number = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf") or isinstance(value, bool):
        raise RegistrationError(f"the {what}= of Once is a number of seconds above zero, or a timedelta")
    return number


def digest(key: object) -> str:
    """Return 64 characters that equal keys share, in every process. Raises `UsageError` for what is no key."""
    return hashlib.sha256(_encoded(key)).hexdigest()


def _encoded(key: object) -> bytes:
    """Return bytes that are different for different keys: each part says its type and length."""
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
    if isinstance(key, date):  # a datetime is one
        return _part(b"d", key.isoformat().encode())
    if isinstance(key, (tuple, list)):
        return _part(b"t", b"".join(map(_encoded, key)))
    raise UsageError(f"the key of Once is text, bytes, a number, a date, a UUID or a tuple of such; not a {_kind(key)}")


def _is(key: object, module: str, name: str) -> bool:
    """Tell whether a key is of a class of a module that is not imported for this."""
    return module in sys.modules and isinstance(key, getattr(sys.modules[module], name))


def _part(kind: bytes, content: bytes) -> bytes:
    return b"%b%d:%b" % (kind, len(content), content)


def _number(key: Any) -> bytes:
    """Return the same for 1, 1.0 and Decimal("1.00"), which are one number on the wire."""
    if isinstance(key, int):
        return b"%x" % key
    if key == key and abs(key) != float("inf") and key == int(key):  # noqa: PLR0124 - not for what is not a number
        return b"%x" % int(key)
    return repr(float(key)).encode() if isinstance(key, float) else str(key.normalize()).encode()


def _kind(thing: object) -> str:
    return type(thing).__name__
