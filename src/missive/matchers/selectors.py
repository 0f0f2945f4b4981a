"""Selectors, the matchers that apply one test to one place in a message."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, Never, TypeAlias, TypeVar

from missive.errors import DecodingError, RegistrationError
from missive.fields import MISSING, member
from missive.matchers.algebra import Matcher
from missive.matchers.tests import Test, as_test
from missive.matchers.values import Scalar, checked_path, plain
from missive.messages import Message, StructuredMessage, fold_name
from missive.public import Public, PublicPlace

M_contra = TypeVar("M_contra", bound=Message, contravariant=True)

Place: TypeAlias = tuple[str, ...]
"""A place in a message: the kind of place, then its path or name. Selectors with equal places find the same value."""


class Selector(Matcher[M_contra]):
    """Base of selectors."""

    __slots__ = ("test",)
    test: Test
    opaque = False

    @property
    @abstractmethod
    def place(self) -> Place:
        """The place that the test applies to."""

    @abstractmethod
    def extract(self, message: M_contra) -> Any:
        """Return the value at the place, or `MISSING`. Raise `DecodingError` if this needs an undecodable body."""

    def is_public(self, public: Collection[PublicPlace]) -> bool:  # noqa: ARG002 - most places have no name
        """Return whether the value may be shown, given the `public` places of a processor."""
        return False

    def evaluate(self, message: M_contra) -> bool | None:
        """Apply the test to the value at the place."""
        try:
            value = self.extract(message)
        except DecodingError:
            return None
        return self.test.on_missing if value is MISSING else self.test(value)


class Field(Selector[StructuredMessage]):
    """A field of the decoded body: `Field("type", "order.placed")`, `Field(("customer", "id"), OneOf(1, 2))`.

    `path` is a string or a tuple of segments. A string is one literal segment and is never split on dots. A path leads
    through mappings by key, and through msgspec structs, dataclasses, attrs classes and pydantic models by field name.
    A path that leads through a list, a scalar or null finds nothing.
    """

    __slots__ = ("path",)
    path: tuple[str, ...]
    requires: ClassVar[type[Message]] = StructuredMessage

    def __init__(self, path: str | tuple[str, ...], test: Test | Scalar, *surplus: Never) -> None:
        literal = checked_path("Field", path, "'type' or ('customer', 'id')", (test, *surplus)[:-1])
        checked = as_test(test)
        self._freeze(literal, checked, path=literal, test=checked)

    @property
    def place(self) -> Place:
        """The path."""
        return ("field", *self.path)

    def extract(self, message: StructuredMessage) -> Any:
        """Follow the path into the decoded body."""
        value = message.content
        for segment in self.path:
            value = member(value, segment)
        return value

    def evaluate(self, message: StructuredMessage) -> bool | None:
        """Apply the test to the field. This repeats `extract` to save a call for almost every message."""
        try:
            value: Any = message.content
        except DecodingError:
            return None
        for segment in self.path:
            value = value.get(segment, MISSING) if isinstance(value, dict) else member(value, segment)
        return self.test.on_missing if value is MISSING else self.test(value)

    def is_public(self, public: Collection[PublicPlace]) -> bool:
        """Return whether `public` contains the path."""
        return self.path in public

    def __repr__(self) -> str:
        path = self.path[0] if len(self.path) == 1 else self.path
        return f"Field({path!r}, {self.test!r})"


class Header(Selector[Message]):
    """A header: `Header("x-github-event", "push")`. The ASCII case of the name does not matter."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str, test: Test | Scalar) -> None:
        if not isinstance(name, str) or not name:
            raise RegistrationError("Header's name is a non-empty string, such as 'x-github-event'")
        checked, name = as_test(test), plain(name)
        # The attribute preserves the case of the name for the repr; the comparison ignores it.
        self._freeze(fold_name(name), checked, name=name, test=checked)

    @property
    def place(self) -> Place:
        """The name, in lower case."""
        return ("header", fold_name(self.name))

    def extract(self, message: Message) -> Any:
        """Return the value of the header, a tuple if it is repeated."""
        return message.headers.get(self.name, MISSING)

    def is_public(self, public: Collection[PublicPlace]) -> bool:
        """Return whether `public` declares the header."""
        return Public.header(self.name) in public

    def __repr__(self) -> str:
        return f"Header({self.name!r}, {self.test!r})"


class _Whole(Selector[Message]):
    """Base of selectors of one attribute of a message."""

    __slots__ = ()

    def __init__(self, test: Test | Scalar) -> None:
        checked = as_test(test)
        self._freeze(checked, test=checked)

    @property
    def place(self) -> Place:
        """The attribute."""
        return (type(self).__name__.lower(),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.test!r})"


class Topic(_Whole):
    """The topic, subject, routing key or destination: `Topic(Prefix("orders."))`."""

    __slots__ = ()

    def extract(self, message: Message) -> Any:
        """Return the topic."""
        return MISSING if message.topic is None else message.topic


class Key(_Whole):
    """The partition key of the transport: `Key("customer-7")`."""

    __slots__ = ()

    def extract(self, message: Message) -> Any:
        """Return the key."""
        return MISSING if message.key is None else message.key


class Body(_Whole):
    """The raw bytes of the body: `Body(b"ping")`."""

    __slots__ = ()

    def extract(self, message: Message) -> Any:
        """Return the body."""
        return message.raw_data


class Everything(Matcher[Message]):
    """A matcher of every message."""

    __slots__ = ()
    opaque = False

    def __init__(self) -> None:
        self._freeze()

    def evaluate(self, message: Message) -> bool:  # noqa: ARG002 - the answer is constant
        """Return True."""
        return True

    def __repr__(self) -> str:
        return "Everything()"
