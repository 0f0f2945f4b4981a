"""Keys: what of a message orders it among others (`ordered_by=`), or tells it from others (`Once(key=)`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, Final, Generic, Never, TypeVar

import msgspec

from missive.errors import RegistrationError
from missive.matchers.values import Frozen, plain
from missive.messages import Message, StructuredMessage, fold_name

M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


class MessageKey(Frozen, Generic[M_contra]):
    """Base of the callables from a message to its key; None is none. Frozen, and equal by value."""

    __slots__ = ()

    requires: ClassVar[type[Message]] = Message
    """The message class that it can be asked about."""

    @abstractmethod
    def __call__(self, message: M_contra) -> Hashable:
        """Return the message's key, or None."""


class by_field(MessageKey[StructuredMessage]):  # noqa: N801 - it is written where a function could be
    """A field of the decoded body: `by_field("customer")`, `by_field(("customer", "id"))`.

    `path` is as in `Field`. A missing field and null are None. A list or an object is its JSON text with sorted keys,
    as bytes, which no string is equal to; None where it has none. Raises `DecodingError` for a body
    that cannot be decoded.
    """

    __slots__ = ("path",)
    path: tuple[str, ...]
    requires: ClassVar[type[Message]] = StructuredMessage

    def __init__(self, path: str | tuple[str, ...], *surplus: Never) -> None:
        segments = path if isinstance(path, tuple) else (path,)
        if surplus:
            names = ", ".join(map(repr, (*segments, *surplus)))
            raise RegistrationError(
                f"by_field takes one path; a path of several segments is a tuple: by_field(({names}))"
            )
        if not segments or not all(isinstance(s, str) for s in segments):
            raise RegistrationError(
                "by_field's path is a string or a tuple of strings, such as 'customer' or ('customer', 'id')"
            )
        literal = tuple(plain(segment) for segment in segments)
        self._freeze(literal, path=literal)

    def __call__(self, message: StructuredMessage) -> Hashable:
        """Follow the path into the decoded body."""
        value: Any = message.content
        for segment in self.path:
            if not isinstance(value, dict):
                return None
            value = value.get(segment)
        return value if isinstance(value, (str, int, float)) else _hashable(value)

    def __repr__(self) -> str:
        return f"by_field({self.path[0] if len(self.path) == 1 else self.path!r})"


def _hashable(value: Any) -> Hashable:
    """Return a value that is equal for equal lists and objects, in every process."""
    if not isinstance(value, (list, dict)):
        try:
            hash(value)
        except TypeError:
            pass
        else:
            return value  # type: ignore[no-any-return]  # a date, say, by a decoder of one's own
    try:
        return msgspec.json.encode(value, order="sorted")
    except Exception:  # noqa: BLE001 - what a decoder of one's own returns may be anything
        return None


class by_header(MessageKey[Message]):  # noqa: N801 - it is written where a function could be
    """A header, in whatever ASCII case: `by_header("x-customer")`. A missing one is None, a repeated one a tuple."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise RegistrationError("by_header's name is a non-empty string")
        name = plain(name)
        self._freeze(fold_name(name), name=name)

    def __call__(self, message: Message) -> Hashable:
        """Find the header."""
        return message.headers.get(self.name)

    def __repr__(self) -> str:
        return f"by_header({self.name!r})"


class _ByKey(MessageKey[Message]):
    __slots__ = ()

    def __init__(self) -> None:
        self._freeze()

    def __call__(self, message: Message) -> Hashable:
        """Read the key."""
        return message.key

    def __repr__(self) -> str:
        return "by_key"


by_key: Final = _ByKey()
"""What the transport partitions by; None where it gave nothing."""
