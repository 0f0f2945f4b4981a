"""Selectors: where in a message to look. Each is a matcher made of a place and a test."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, Never, TypeAlias, TypeVar

from missive.errors import DecodingError, RegistrationError
from missive.matchers.algebra import Matcher
from missive.matchers.tests import Test, as_test
from missive.matchers.values import MISSING, Scalar, plain
from missive.messages import Message, StructuredMessage, fold_name

M_contra = TypeVar("M_contra", bound=Message, contravariant=True)

Place: TypeAlias = tuple[str, ...]
"""Where a selector looks: the kind of place, then its path or name. Selectors of equal places see the same value."""


class Selector(Matcher[M_contra]):
    """Base of matchers that apply one test to one place of a message."""

    __slots__ = ("test",)
    test: Test
    opaque = False

    @property
    @abstractmethod
    def place(self) -> Place:
        """Where it looks."""

    @abstractmethod
    def look(self, message: M_contra) -> Any:
        """Return what is at the place, or `MISSING`; raises `DecodingError` where the body hides it."""

    def shown_by(self, public: Collection[tuple[str, ...]]) -> bool:  # noqa: ARG002 - most places have no name
        """Tell whether the value at this place may be shown, given a processor's `public` paths and names."""
        return False

    def evaluate(self, message: M_contra) -> bool | None:
        """Apply the test to what is at the place."""
        try:
            value = self.look(message)
        except DecodingError:
            return None
        return self.test.on_missing if value is MISSING else self.test(value)


class Field(Selector[StructuredMessage]):
    """A field of the decoded body: `Field("type", "order.placed")`, `Field(("customer", "id"), OneOf(1, 2))`.

    `path` is a string, one literal segment that is never split on dots, or a tuple of segments. A path through
    a list, a scalar or null finds nothing.
    """

    __slots__ = ("path",)
    path: tuple[str, ...]
    requires: ClassVar[type[Message]] = StructuredMessage

    def __init__(self, path: str | tuple[str, ...], test: Test | Scalar, *surplus: Never) -> None:
        segments = (path,) if isinstance(path, str) else path
        if surplus:
            names = ", ".join(map(repr, (*segments, *(x for x in (test, *surplus[:-1]) if isinstance(x, str)))))
            raise RegistrationError(
                f"Field takes a path and a test; a path of several segments is a tuple: Field(({names}), …)"
            )
        if not isinstance(segments, tuple) or not segments or not all(isinstance(s, str) for s in segments):
            raise RegistrationError(
                "Field's path is a string or a tuple of strings, such as 'type' or ('customer', 'id')"
            )
        checked = as_test(test)
        literal = tuple(plain(segment) for segment in segments)
        self._freeze(literal, checked, path=literal, test=checked)

    @property
    def place(self) -> Place:
        """The path."""
        return ("field", *self.path)

    def look(self, message: StructuredMessage) -> Any:
        """Follow the path into the decoded body."""
        value = message.content
        for segment in self.path:
            if not isinstance(value, dict):
                return MISSING
            value = value.get(segment, MISSING)
        return value

    def evaluate(self, message: StructuredMessage) -> bool | None:
        """Apply the test to the field; `look` without its call, for this is asked of nearly every message."""
        try:
            value: Any = message.content
        except DecodingError:
            return None
        for segment in self.path:
            if not isinstance(value, dict):
                return self.test.on_missing
            value = value.get(segment, MISSING)
        return self.test.on_missing if value is MISSING else self.test(value)

    def shown_by(self, public: Collection[tuple[str, ...]]) -> bool:
        """Tell whether this path is public."""
        return self.path in public

    def __repr__(self) -> str:
        path = self.path[0] if len(self.path) == 1 else self.path
        return f"Field({path!r}, {self.test!r})"


class Header(Selector[Message]):
    """A header: `Header("x-github-event", "push")`. Names match whatever their ASCII case."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str, test: Test | Scalar) -> None:
        if not isinstance(name, str) or not name:
            raise RegistrationError("Header's name is a non-empty string")
        checked, name = as_test(test), plain(name)
        # The name's case is kept for reading, and is no difference to what is matched.
        self._freeze(fold_name(name), checked, name=name, test=checked)

    @property
    def place(self) -> Place:
        """The name, in lower case."""
        return ("header", fold_name(self.name))

    def look(self, message: Message) -> Any:
        """Find the header."""
        return message.headers.get(self.name, MISSING)

    def shown_by(self, public: Collection[tuple[str, ...]]) -> bool:
        """Tell whether this name is public, in whatever case."""
        return any(len(path) == 1 and fold_name(path[0]) == fold_name(self.name) for path in public)

    def __repr__(self) -> str:
        return f"Header({self.name!r}, {self.test!r})"


class _Whole(Selector[Message]):
    """Base of selectors that look at one attribute of every message."""

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

    def look(self, message: Message) -> Any:
        """Read the topic."""
        return MISSING if message.topic is None else message.topic


class Key(_Whole):
    """What the transport partitions by: `Key("customer-7")`."""

    __slots__ = ()

    def look(self, message: Message) -> Any:
        """Read the key."""
        return MISSING if message.key is None else message.key


class Body(_Whole):
    """The raw bytes of the body: `Body(b"ping")`."""

    __slots__ = ()

    def look(self, message: Message) -> Any:
        """Read the body."""
        return message.raw_data


class Everything(Matcher[Message]):
    """Matches every message."""

    __slots__ = ()
    opaque = False

    def __init__(self) -> None:
        self._freeze()

    def evaluate(self, message: Message) -> bool:  # noqa: ARG002 - whatever it is
        """Answer yes."""
        return True

    def __repr__(self) -> str:
        return "Everything()"
