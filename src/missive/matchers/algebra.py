"""Matchers and their composition with `&`, `|` and `~`: canonical form and three-valued evaluation."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

from missive.errors import DecodingError, RegistrationError
from missive.matchers.values import MAX_DEPTH, Frozen
from missive.messages import Message

_MAX_SIZE = 100_000
"""Greatest number of matchers in one composition."""

M = TypeVar("M", bound=Message)
M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


class Matcher(Frozen, Generic[M_contra]):
    """Base of matchers, which select the messages of a handler. Call one with a message; compose with `&`, `|`, `~`.

    A subclass implements `evaluate`, and is frozen and equal by value, such as a frozen dataclass. For a single use,
    pass any callable that takes a message and returns a bool.
    """

    __slots__ = ()

    requires: ClassVar[type[Message]] = Message
    """The message class that this matcher needs, apart from its parts."""

    opaque: bool = True
    """Whether the matcher runs code that Missive cannot inspect. Opaque matchers are evaluated last."""
    depth: int = 1
    """Levels of composition."""
    size: int = 1
    """Number of matchers in the composition, including this one."""

    def walk(self) -> Iterator[Matcher[Any]]:
        """Yield this matcher, then all matchers that it is composed of."""
        yield self

    @abstractmethod
    def evaluate(self, message: M_contra) -> bool | None:
        """Return whether the message matches, or None if the answer depends on a body that cannot be decoded."""

    def __call__(self, message: M_contra) -> bool:
        """Return whether the message matches.

        Raise `DecodingError` if the answer depends on a body that cannot be decoded.
        """
        verdict = self.evaluate(message)
        if verdict is None:
            raise DecodingError(f"{self!r} needs the message's body, which cannot be decoded")
        return verdict

    def __and__(self: Matcher[M], other: Callable[[M], bool]) -> Matcher[M]:
        return And(self, other).simplified()

    def __rand__(self: Matcher[M], other: Callable[[M], bool]) -> Matcher[M]:
        return And(other, self).simplified()

    def __or__(self: Matcher[M], other: Callable[[M], bool]) -> Matcher[M]:
        return Or(self, other).simplified()

    def __ror__(self: Matcher[M], other: Callable[[M], bool]) -> Matcher[M]:
        return Or(other, self).simplified()

    def __invert__(self) -> Matcher[M_contra]:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError(f"a matcher has no truth value: write & | ~ in place of and, or, not (at {self!r})")


class Predicate(Matcher[M_contra]):
    """A callable as a matcher. Missive cannot inspect it. Predicates of the same callable object are equal."""

    __slots__ = ("fn",)
    fn: Callable[[M_contra], bool]

    def __init__(self, fn: Callable[[M_contra], bool]) -> None:
        _check_predicate(fn)
        self._freeze(_Identity(fn), fn=fn)

    def evaluate(self, message: M_contra) -> bool | None:
        """Call the callable. A `DecodingError` from it means unknown."""
        try:
            return bool(self.fn(message))
        except DecodingError:
            return None

    def __repr__(self) -> str:
        name = getattr(self.fn, "__qualname__", type(self.fn).__qualname__)
        module = getattr(self.fn, "__module__", None) or "?"
        code = getattr(self.fn, "__code__", None)
        return f"<{module}:{name}{f' line {code.co_firstlineno}' if code is not None else ''}>"


class _Identity:
    """A callable that is hashed and compared by identity. Its `__eq__` and `__hash__` are not called."""

    __slots__ = ("thing",)

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


class _Composition(Matcher[M_contra]):
    """Base of `And` and `Or`: flat, without duplicates and sorted, so that the order of operands does not matter."""

    __slots__ = ("depth", "opaque", "parts", "size")
    parts: tuple[Matcher[M_contra], ...]
    _sign: str

    def __init__(self, *parts: Callable[[M_contra], bool]) -> None:
        flat: dict[Matcher[M_contra], None] = {}
        for part in parts:
            matcher = as_matcher(part)
            inner = matcher.parts if isinstance(matcher, _Composition) and type(matcher) is type(self) else (matcher,)
            flat.update(dict.fromkeys(inner))
        if not flat:
            raise RegistrationError(f"{type(self).__name__}() needs at least one matcher")
        measures = _measures(*flat)
        ordered = tuple(sorted(flat, key=_sort_key))
        # Compare as a set: two different callables may have the same repr, and then no canonical order.
        self._freeze(frozenset(ordered), parts=ordered, **measures)

    def simplified(self) -> Matcher[M_contra]:
        """Return the part if there is only one, so that `A & A == A`."""
        return self.parts[0] if len(self.parts) == 1 else self

    def walk(self) -> Iterator[Matcher[Any]]:
        """Yield this matcher, then each part, followed by the parts of that part."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def __repr__(self) -> str:
        # With a single part, the infix form would be an expression for the part.
        if len(self.parts) == 1:
            return f"{type(self).__name__}({self.parts[0]!r})"
        shown = (f"({part!r})" if isinstance(part, _Composition) else repr(part) for part in self.parts)
        return f" {self._sign} ".join(shown)


class And(_Composition[M_contra]):
    """All parts match. False and unknown is false."""

    __slots__ = ()
    _sign = "&"

    def evaluate(self, message: M_contra) -> bool | None:
        """Evaluate the parts, up to the first false one."""
        verdict: bool | None = True
        for part in self.parts:
            answer = part.evaluate(message)
            if answer is None:
                verdict = None
            elif not answer:
                return False
        return verdict


class Or(_Composition[M_contra]):
    """At least one part matches. True or unknown is true."""

    __slots__ = ()
    _sign = "|"

    def evaluate(self, message: M_contra) -> bool | None:
        """Evaluate the parts, up to the first true one."""
        verdict: bool | None = False
        for part in self.parts:
            answer = part.evaluate(message)
            if answer:
                return True
            if answer is None:
                verdict = None
        return verdict


class Not(Matcher[M_contra]):
    """The complement. `~Field(p, X)` is also true if the field is missing. Not unknown is unknown."""

    __slots__ = ("depth", "opaque", "part", "size")
    part: Matcher[M_contra]

    def __init__(self, part: Callable[[M_contra], bool]) -> None:
        matcher = as_matcher(part)
        self._freeze(matcher, part=matcher, **_measures(matcher))

    def evaluate(self, message: M_contra) -> bool | None:
        """Negate the answer of the part."""
        answer = self.part.evaluate(message)
        return None if answer is None else not answer

    def walk(self) -> Iterator[Matcher[Any]]:
        """Yield this matcher, then the negated one and its parts."""
        yield self
        yield from self.part.walk()

    def __invert__(self) -> Matcher[M_contra]:
        return self.part

    def __repr__(self) -> str:
        if isinstance(self.part, Not):
            return f"Not({self.part!r})"  # `~~x` evaluates to x
        return f"~({self.part!r})" if isinstance(self.part, _Composition) else f"~{self.part!r}"


def as_matcher(matcher: Callable[[M], bool]) -> Matcher[M]:
    """Return `matcher` if it is a `Matcher`, and a `Predicate` of it otherwise."""
    return matcher if isinstance(matcher, Matcher) else Predicate(matcher)


def _check_predicate(fn: object) -> None:
    """Raise `RegistrationError` for an object that cannot answer whether a message matches."""
    if not callable(fn):
        raise RegistrationError(f"a matcher is a callable that takes a message, not {type(fn).__name__}")
    name = getattr(fn, "__qualname__", type(fn).__name__)
    if inspect.isclass(fn):
        raise RegistrationError(f"the matcher {name} is a class: use an instance of it, such as {fn.__name__}(…)")
    code = fn if inspect.isroutine(fn) else type(fn).__call__
    if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        raise RegistrationError(f"the matcher {name} is an async def, which is always true: use a plain function")
    if inspect.isgeneratorfunction(code):
        raise RegistrationError(f"the matcher {name} contains a yield, and is always true: use a plain function")
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some built-in callables have no signature
        return
    try:
        signature.bind(None)
    except TypeError:
        raise RegistrationError(
            f"the matcher {name} must take one message; it takes {signature}. If it is a handler, put its matcher in"
            " parentheses: @proc.handle_for(matcher)"
        ) from None


def _measures(*parts: Matcher[Any]) -> dict[str, Any]:
    """Return the depth, size and opacity of a composition. Raise `RegistrationError` if it is too deep or too large."""
    depth, size = 1 + max(part.depth for part in parts), 1 + sum(part.size for part in parts)
    if depth > MAX_DEPTH:
        raise RegistrationError(f"a matcher is nested at most {MAX_DEPTH} deep: use And(…) and Or(…) of many parts")
    if size > _MAX_SIZE:
        raise RegistrationError(f"a matcher has at most {_MAX_SIZE} parts: use OneOf(…) for many literals")
    return {"depth": depth, "size": size, "opaque": any(part.opaque for part in parts)}


def _sort_key(matcher: Matcher[Any]) -> tuple[bool, str]:
    # Opaque callables come last, in the order of writing: other matchers may decide without a call, and one callable
    # may guard the next.
    return (matcher.opaque, "" if isinstance(matcher, Predicate) else repr(matcher))
