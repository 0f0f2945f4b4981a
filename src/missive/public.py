"""Public values: the declarations of values that may be shown, and the one function that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from missive.errors import RegistrationError
from missive.fields import MISSING, member, members
from missive.messages import Message, StructuredMessage, fold_name
from missive.words import counted

if TYPE_CHECKING:
    from collections.abc import Collection

    from typing_extensions import Self

MAX_SHOWN = 64
"""Greatest length of a value that is shown, in characters."""


class Public:
    """A declaration for `Processor(public=)` that names a header: `Public.header("tenant")`.

    Texts and tuples in `public=` name fields of the body. ASCII case does not matter in the name of a header.
    """

    __slots__ = ("_folded", "name")
    name: str
    """The name of the header, as it was written."""
    _folded: str

    def __init__(self) -> None:
        raise RegistrationError(
            "Public() names nothing. Use Public.header('tenant') for a header, and a text or a tuple for a field of the"
            " body: public=['type', ('customer', 'country')]"
        )

    @classmethod
    def header(cls, name: str) -> Self:
        """Declare that the value of a header may be shown. Raise `RegistrationError` unless the name is a text."""
        if not isinstance(name, str) or not name:
            raise RegistrationError("Public.header takes the name of a header, such as Public.header('tenant')")
        declared = object.__new__(cls)
        declared.name = name
        declared._folded = fold_name(name)
        return declared

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Public) and self._folded == other._folded

    def __hash__(self) -> int:
        return hash(self._folded)

    def __repr__(self) -> str:
        return f"Public.header({self.name!r})"


PublicPlace: TypeAlias = tuple[str, ...] | Public
"""The path of a field of the body, or the declaration of a header."""


def checked_places(public: Sequence[object], message_cls: type[Message]) -> frozenset[PublicPlace]:
    """Return the places that `public=` declares. Raise `RegistrationError` for a place that names nothing."""
    if isinstance(public, (str, Public)):
        raise RegistrationError(f"public= must be a list of fields and headers: public=[{public!r}]")
    places: set[PublicPlace] = set()
    for one in public:
        if isinstance(one, Public):
            places.add(one)
            continue
        path = (one,) if isinstance(one, str) else tuple(one) if isinstance(one, (tuple, list)) else ()
        if not path or not all(isinstance(segment, str) for segment in path):
            raise RegistrationError(
                f"public= takes fields, such as 'type' or ('customer', 'country'), and missive.Public.header('tenant'),"
                f" not a {type(one).__name__}"
            )
        if not issubclass(message_cls, StructuredMessage):
            raise RegistrationError(
                f"public=[{one!r}] names a field of the body, and a {message_cls.__name__} has no fields. Make it"
                f" missive.Processor(missive.JSONMessage, …), or name a header: missive.Public.header({path[-1]!r})"
            )
        places.add(path)
    return frozenset(places)


def header_key(name: str) -> str:
    """Return the key of a header among the public values of a record."""
    return f"header:{fold_name(name)}"


def public_values(message: Message, public: Collection[PublicPlace]) -> dict[str, Any]:
    """Return the public values of a message as they may be shown, by path or by `header_key`."""
    values: dict[str, Any] = {}
    content: object = MISSING
    if isinstance(message, StructuredMessage) and any(not isinstance(place, Public) for place in public):
        try:
            content = message.content
        except Exception:  # noqa: BLE001 - an undecodable message has no public fields
            content = MISSING
    for place in public:
        if isinstance(place, Public):
            key, value = header_key(place.name), message.headers.get(place.name, MISSING)
        else:
            key, value = ".".join(place), content
            try:
                for segment in place:
                    value = member(value, segment)
            except Exception:  # noqa: BLE001 - a property of a user's class may raise anything
                value = MISSING
        if value is not MISSING:
            values[key] = shown(value)
    return values


def shown(value: object) -> str | int | float | bool | None:
    """Return a public value as it may be shown: a scalar of at most 64 characters itself, else its shape."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value if len(value) <= MAX_SHOWN else shape_of(value)
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_SHOWN * 3 else shape_of(value)  # a decimal digit has over 3 bits
    return value if isinstance(value, float) else shape_of(value)


def shape_of(value: object) -> str:
    """Describe a value by its type, and its size if it has one, without showing the value."""
    if value is None:
        return "<null>"
    if isinstance(value, str):
        return f"<str, {counted(len(value), 'character')}>"
    if isinstance(value, bytes):
        return f"<bytes, {counted(len(value), 'byte')}>"
    if isinstance(value, (list, tuple)):
        return f"<list, {counted(len(value), 'item')}>"
    if (inside := members(value)) is not None:
        return f"<object, {counted(len(inside), 'field')}>"
    return f"<{type(value).__name__}>"
