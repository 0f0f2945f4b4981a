"""Tests on strings: a start, an end, a part, a pattern with stars, a regular expression."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from missive.errors import MissingExtra, RegistrationError
from missive.matchers.tests import Test
from missive.matchers.values import plain

_MOST_SHOWN = 80
"""Characters of a pattern that an error shows."""

_REGEX_MEMORY = 8 * 2**20
"""Bytes that one regular expression may take, compiled and while it matches."""


class _TextTest(Test):
    """Base of tests on strings; `ignore_case` compares case-folded."""

    __slots__ = ("_folded", "ignore_case", "text")
    text: str
    ignore_case: bool
    _folded: str

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        name = type(self).__name__
        if not isinstance(text, str):
            raise RegistrationError(f"{name} takes a str, and not a {type(text).__name__}")
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
    """Base of tests that the whole of a string matches a pattern."""

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
            raise RegistrationError(f"{name} takes a str, and not a {type(pattern).__name__}")
        if not pattern:
            raise RegistrationError(f"{name}('') is true of the empty string alone: use Equals('')")
        return plain(pattern)


class Wildcard(_Pattern):
    r"""The whole value is a string like a pattern with stars: `Field("host", Wildcard("web-*.example.org"))`.

    A star is any text, also none. `\*` is a star itself and `\\` a backslash; anything else, `?` and `[` included,
    is itself. A pattern without a star is true of one text alone, for which `Equals` is meant, but for
    `ignore_case`, which compares case-folded.
    """

    __slots__ = ("chunks",)
    chunks: tuple[str, ...]
    """The texts between the stars, without escapes, case-folded with `ignore_case`: one more than there are stars."""

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
            # The first place is always the best: it leaves the most for the chunks that follow.
            found = text.find(chunk, at, end)
            if found < 0:
                return False
            at = found + len(chunk)
        return True


def _chunks(pattern: str) -> tuple[str, ...]:
    if "\\" not in pattern:
        if "**" in pattern:
            raise _twice(pattern)
        return tuple(pattern.split("*"))
    chunks: list[str] = []
    pieces: list[str] = []
    before = ""
    for part in re.findall(r"\\.?|\*|[^\\*]+", pattern, re.DOTALL):
        if part == "*":
            if before == "*":
                raise _twice(pattern)
            chunks.append("".join(pieces))
            pieces = []
        elif part[0] != "\\":
            pieces.append(part)
        elif part in (r"\*", r"\\"):
            pieces.append(part[1])
        else:
            raise RegistrationError(
                f"Wildcard({_shown(pattern)}) has a backslash before something else than * or \\: "
                r"a backslash itself is written \\"
            )
        before = part
    return (*chunks, "".join(pieces))


def _twice(pattern: str) -> RegistrationError:
    return RegistrationError(
        rf"Wildcard({_shown(pattern)}) has ** in it, which is no more than *: write one, or \* for a star itself"
    )


class Regex(_Pattern):
    r"""The whole value matches a regular expression: `Field("sku", Regex(r"[A-Z]{2}-\d+"))`.

    The whole of it, as `re.fullmatch` does; to search, write `(?s).*` on either side. The syntax is RE2's
    (https://github.com/google/re2/wiki/Syntax). With `ignore_case` a letter is equal to its other cases, by Unicode's
    simple folding, in which `ß` is not `ss`.

    The time is linear in the length of the value, whatever the pattern and whoever wrote the value: there is no
    backtracking, and hence no look-around and no back-reference. The memory is bounded, by 8 MiB for each pattern; a
    pattern that needs more is refused. A value with a lone surrogate, which is not Unicode text, never matches.

    Raises `MissingExtra` without the extra `regex`, and `RegistrationError` for what is no pattern.
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
        import re2  # noqa: PLC0415 - an extra, loaded by who uses it
    except ImportError:
        raise MissingExtra("Regex", "regex") from None
    options = re2.Options()
    options.max_mem = _REGEX_MEMORY
    options.case_sensitive = not ignore_case
    options.never_capture = True  # only whether it matches is asked, which takes no search for groups
    options.log_errors = False
    try:
        # Bytes, for the text of a value is encoded once and never measured in characters.
        fullmatch: Callable[[bytes], object] = re2.compile(pattern.encode(), options).fullmatch
    except UnicodeEncodeError:
        raise RegistrationError(
            f"Regex({_shown(pattern)}) has a lone surrogate, which is not Unicode text: no value could ever match"
        ) from None
    except re2.error as error:
        reason = _cut(" ".join(_text(error.args[0]).split()))
        way_out = (
            f"it takes more than {_REGEX_MEMORY >> 20} MiB, so write a shorter one"
            if "too large" in reason
            else "the syntax is RE2's, without look-around and back-references"
        )
        raise RegistrationError(f"Regex({_shown(pattern)}) is refused by RE2 ({reason}): {way_out}") from None
    return fullmatch


def _text(reason: Any) -> str:
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"


def _shown(pattern: str) -> str:
    return repr(pattern) if len(pattern) <= _MOST_SHOWN else f"{pattern[:_MOST_SHOWN]!r}…"
