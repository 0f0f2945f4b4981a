"""Key functions, which return the value that `ordered_by=` or `Once(key=)` groups messages by."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, Final, Generic, Never, TypeVar

import msgspec

from missive.errors import RegistrationError
from missive.fields import MISSING, is_object, member, members
from missive.matchers.values import Frozen, checked_path, plain
from missive.messages import Message, StructuredMessage, fold_name

M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


class MessageKey(Frozen, Generic[M_contra]):
    """Base of key functions: frozen and equal by value. They return None for a message without a key."""

    __slots__ = ()

    requires: ClassVar[type[Message]] = Message
    """The message class that the function needs."""

    @abstractmethod
    def __call__(self, message: M_contra) -> Hashable:
        """Return the key of the message, or None."""


class by_field(MessageKey[StructuredMessage]):  # noqa: N801 - users write it in place of a function
    """A field of the decoded body: `by_field("customer")`, `by_field(("customer", "id"))`.

    `path` has the same form as in `Field`. The key is None if the field is missing or null. The key of a list or an
    object is its JSON text with sorted keys, as bytes, which equal no string; it is None if the value cannot be
    encoded. Raise `DecodingError` if the body cannot be decoded.
    """

    __slots__ = ("path",)
    path: tuple[str, ...]
    requires: ClassVar[type[Message]] = StructuredMessage

    def __init__(self, path: str | tuple[str, ...], *surplus: Never) -> None:
        literal = checked_path("by_field", path, "'customer' or ('customer', 'id')", surplus)
        self._freeze(literal, path=literal)

    def __call__(self, message: StructuredMessage) -> Hashable:
        """Follow the path into the decoded body."""
        value: Any = message.content
        for segment in self.path:
            value = value.get(segment) if isinstance(value, dict) else member(value, segment)
        return value if isinstance(value, (str, int, float)) else _hashable(value)

    def __repr__(self) -> str:
        return f"by_field({self.path[0] if len(self.path) == 1 else self.path!r})"


def _hashable(value: Any) -> Hashable:
    """Return a hashable value that is equal for equal lists and objects, in every process."""
    if value is MISSING:
        return None
    if not isinstance(value, list) and not is_object(value):
        try:
            hash(value)
        except TypeError:
            pass
        else:
            return value  # type: ignore[no-any-return]  # for example a date, from a custom decoder
    try:
        return msgspec.json.encode(value, enc_hook=_encodable, order="sorted")
    except Exception:  # noqa: BLE001 - a custom decoder may return objects of any type
        return None


def _encodable(value: Any) -> Any:
    """Return the members of an object that msgspec cannot encode. Raise `TypeError` if it has none."""
    if (inside := members(value)) is None:
        raise TypeError
    return inside


class by_header(MessageKey[Message]):  # noqa: N801 - users write it in place of a function
    """A header: `by_header("x-customer")`. The ASCII case of the name does not matter.

    The key is None if the header is missing, and a tuple if it is repeated.
    """

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise RegistrationError("by_header's name is a non-empty string, such as 'x-customer'")
        name = plain(name)
        self._freeze(fold_name(name), name=name)

    def __call__(self, message: Message) -> Hashable:
        """Return the value of the header."""
        return message.headers.get(self.name)

    def __repr__(self) -> str:
        return f"by_header({self.name!r})"


class _ByKey(MessageKey[Message]):
    __slots__ = ()

    def __init__(self) -> None:
        self._freeze()

    def __call__(self, message: Message) -> Hashable:
        """Return the key of the message."""
        return message.key

    def __repr__(self) -> str:
        return "by_key"


by_key: Final = _ByKey()
"""The partition key of the transport, or None if the message has none."""
