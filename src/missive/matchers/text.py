"""Tests for strings: prefix, suffix, substring, wildcard pattern and regular expression."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from missive.errors import MissingExtra, RegistrationError
from missive.matchers.tests import Test
from missive.matchers.values import excerpt, plain

_MAX_REASON = 80
"""Characters of RE2's reason that an error shows."""

_REGEX_MEMORY = 8 * 2**20
"""Memory limit of a regular expression, compiled and while it matches, in bytes."""


class _TextTest(Test):
    """Base of tests that compare a part of a string with a text. `ignore_case` compares case-folded strings."""

    __slots__ = ("_folded", "ignore_case", "text")
    text: str
    ignore_case: bool
    _folded: str

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        name = type(self).__name__
        if not isinstance(text, str):
            raise RegistrationError(f"{name} takes a str, not {type(text).__name__}")
        if not text:
            raise RegistrationError(f"{name}('') is true of every string: use IsInstance(str)")
        text = plain(text)
        folded = text.casefold() if ignore_case else text
        self._freeze(folded, ignore_case, text=text, ignore_case=ignore_case, _folded=folded)

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, str):
            return False
        return self._holds(value.casefold() if self.ignore_case else value, self._folded)

    @staticmethod
    @abstractmethod
    def _holds(value: str, text: str) -> bool: ...

    @property
    def expectation(self) -> str:
        """The kind of test and its text."""
        return f"a {type(self).__name__.lower()} {self.text!r}"

    def __repr__(self) -> str:
        case = ", ignore_case=True" if self.ignore_case else ""
        return f"{type(self).__name__}({self.text!r}{case})"


class Prefix(_TextTest):
    """The value is a string that starts with a text: `Field("sku", Prefix("EU-"))`."""

    __slots__ = ()

    @staticmethod
    def _holds(value: str, text: str) -> bool:
        return value.startswith(text)


class Suffix(_TextTest):
    """The value is a string that ends with a text: `Field("file", Suffix(".csv", ignore_case=True))`."""

    __slots__ = ()

    @staticmethod
    def _holds(value: str, text: str) -> bool:
        return value.endswith(text)


class Substring(_TextTest):
    """The value is a string that contains a text: `Field("title", Substring("urgent", ignore_case=True))`."""

    __slots__ = ()

    @staticmethod
    def _holds(value: str, text: str) -> bool:
        return text in value


class _Pattern(Test):
    """Base of tests that match a whole string against a pattern."""

    __slots__ = ("ignore_case", "pattern")
    pattern: str
    ignore_case: bool

    @property
    def expectation(self) -> str:
        """The pattern."""
        return f"text like {self.pattern!r}"

    def __repr__(self) -> str:
        case = ", ignore_case=True" if self.ignore_case else ""
        return f"{type(self).__name__}({self.pattern!r}{case})"

    @classmethod
    def _checked(cls, pattern: Any) -> str:
        name = cls.__name__
        if not isinstance(pattern, str):
            raise RegistrationError(f"{name} takes a str, not {type(pattern).__name__}")
        if not pattern:
            raise RegistrationError(f"{name}('') is true of the empty string only: use Equals('')")
        return plain(pattern)


class Wildcard(_Pattern):
    r"""The value is a string that matches a pattern with stars: `Field("host", Wildcard("web-*.example.org"))`.

    A star matches any text, including none. `\*` is a literal star and `\\` a literal backslash. All other characters
    are literal, including `?` and `[`. The pattern matches the whole string. `ignore_case` compares case-folded
    strings. Without a star and without `ignore_case`, prefer `Equals`.
    """

    __slots__ = ("chunks",)
    chunks: tuple[str, ...]
    """The texts between the stars, unescaped, and case-folded with `ignore_case`. N stars separate N + 1 chunks."""

    def __init__(self, pattern: str, *, ignore_case: bool = False) -> None:
        pattern = self._checked(pattern)
        chunks = _chunks(pattern)
        if ignore_case:
            chunks = tuple(chunk.casefold() for chunk in chunks)
        self._freeze(chunks, ignore_case, pattern=pattern, ignore_case=ignore_case, chunks=chunks)

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, str):
            return False
        text = value.casefold() if self.ignore_case else value
        chunks = self.chunks
        head, tail = chunks[0], chunks[-1]
        if len(chunks) == 1:
            return text == head
        at, end = len(head), len(text) - len(tail)
        if at > end or not text.startswith(head) or not text.endswith(tail):
            return False
        for chunk in chunks[1:-1]:
            # The first occurrence is always the best one: it leaves the most text for the following chunks.
            found = text.find(chunk, at, end)
            if found < 0:
                return False
            at = found + len(chunk)
        return True


def _chunks(pattern: str) -> tuple[str, ...]:
    if "\\" not in pattern:
        if "**" in pattern:
            raise _double_star(pattern)
        return tuple(pattern.split("*"))
    chunks: list[str] = []
    pieces: list[str] = []
    before = ""
    for part in re.findall(r"\\.?|\*|[^\\*]+", pattern, re.DOTALL):
        if part == "*":
            if before == "*":
                raise _double_star(pattern)
            chunks.append("".join(pieces))
            pieces = []
        elif part[0] != "\\":
            pieces.append(part)
        elif part in (r"\*", r"\\"):
            pieces.append(part[1])
        else:
            raise RegistrationError(
                f"Wildcard({excerpt(pattern)}) has a backslash without a following * or \\: "
                r"write \\ for a literal backslash"
            )
        before = part
    return (*chunks, "".join(pieces))


def _double_star(pattern: str) -> RegistrationError:
    return RegistrationError(
        rf"Wildcard({excerpt(pattern)}) contains **, which means the same as *: write one, or \* for a literal star"
    )


class Regex(_Pattern):
    r"""The value is a string that matches a regular expression: `Field("sku", Regex(r"[A-Z]{2}-\d+"))`.

    The expression matches the whole string, as `re.fullmatch` does. To search, write `(?s).*` on either side. The
    syntax is RE2's (https://github.com/google/re2/wiki/Syntax). `ignore_case` uses Unicode's simple case folding, in
    which `ß` does not equal `ss`.

    The time is linear in the length of the value, for every pattern and every value. RE2 does not backtrack, so it has
    no look-around and no back-references. The memory is bounded by 8 MiB per pattern; a pattern that needs more is
    refused. A value with a lone surrogate, which is not Unicode text, never matches.

    Raise `MissingExtra` if the extra `regex` is not installed, and `RegistrationError` if the pattern is invalid.
    """

    __slots__ = ("_fullmatch",)
    _fullmatch: Callable[[bytes], object]

    def __init__(self, pattern: str, *, ignore_case: bool = False) -> None:
        pattern = self._checked(pattern)
        fullmatch = _compiled(pattern, ignore_case=ignore_case)
        self._freeze(pattern, ignore_case, pattern=pattern, ignore_case=ignore_case, _fullmatch=fullmatch)

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, str):
            return False
        try:
            data = value.encode()
        except UnicodeEncodeError:
            return False
        return self._fullmatch(data) is not None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_fullmatch"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        object.__setattr__(self, "_fullmatch", _compiled(self.pattern, ignore_case=self.ignore_case))


def _compiled(pattern: str, *, ignore_case: bool) -> Callable[[bytes], object]:
    try:
        import re2  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise MissingExtra("Regex", "regex") from None
    options = re2.Options()
    options.max_mem = _REGEX_MEMORY
    options.case_sensitive = not ignore_case
    options.never_capture = True  # only the answer is used; searching for groups takes time
    options.log_errors = False
    try:
        # Bytes, because re2 encodes text for each call and measures it in characters.
        fullmatch: Callable[[bytes], object] = re2.compile(pattern.encode(), options).fullmatch
    except UnicodeEncodeError:
        raise RegistrationError(
            f"Regex({excerpt(pattern)}) contains a lone surrogate, which no Unicode text contains: remove it"
        ) from None
    except re2.error as error:
        reason = _reason(error.args[0])
        way_out = (
            f"it takes more than {_REGEX_MEMORY >> 20} MiB, so write a shorter one"
            if "too large" in reason
            else "use the syntax of RE2, which has no look-around and no back-references"
        )
        raise RegistrationError(f'RE2 refuses Regex({excerpt(pattern)}) with "{reason}": {way_out}') from None
    return fullmatch


def _reason(error: Any) -> str:
    """Return RE2's reason on one short line."""
    text = " ".join((error.decode("utf-8", "replace") if isinstance(error, bytes) else str(error)).split())
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"
