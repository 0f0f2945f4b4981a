"""Globs: one form for all tests on text, literal chunks with any text between them."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import msgspec

from missive.matchers.network import Cidr
from missive.matchers.tests import Test
from missive.matchers.text import Prefix, Regex, Substring, Suffix, Wildcard
from missive.matchers.topics import AmqpPattern, NatsPattern, TopicPattern
from missive.routing.normal import DIALECTS

_MAX_PROOF = 1_000_000
"""Characters of the inner glob times chunks of the outer glob, up to which containment is proved."""
_FRESH = "\ue000"
"""A character that patterns rarely contain, from a private use area of Unicode."""


class Glob(msgspec.Struct, frozen=True):
    """Literal chunks with any text between them."""

    chunks: tuple[str, ...]
    folded: bool = False
    """Whether the chunks are case-folded."""
    exact: bool = True
    """Whether the test accepts every text that fits the glob. If not, the test accepts some of these texts only."""


@lru_cache(maxsize=16_384)
def glob_of(test: Test) -> Glob | None:
    """Return a test on text as a glob, or None for a test that has no such form."""
    if type(test) is Wildcard:
        return Glob(test.chunks, test.ignore_case)
    if isinstance(test, DIALECTS):
        if type(test) not in DIALECTS:
            return None
        # Only AMQP's # accepts any text.
        return Glob(_around_wildcards(test), exact=type(test) is AmqpPattern and set(test.tokens) == {"#"})
    if type(test) not in (Prefix, Suffix, Substring):
        return None
    text = test.text.casefold() if test.ignore_case else test.text  # type: ignore[attr-defined]  # they all have it
    chunks = {Prefix: (text, ""), Suffix: ("", text), Substring: ("", text, "")}[type(test)]  # type: ignore[index]
    return Glob(chunks, test.ignore_case)  # type: ignore[attr-defined]


Gist: TypeAlias = tuple[str, str]
"""A text that each text of another test must contain to be accepted here, and the literal text of this test."""


def gist_of(test: Test) -> Gist | None:
    """Return the gist of a test on text. A test contains another one only if the other's gist contains its text."""
    if type(test) in (Cidr, Regex):
        # Networks contain networks only, and an expression only itself.
        mark = "\0cidr" if type(test) is Cidr else f"\0{test.pattern}"  # type: ignore[attr-defined]  # it has one
        return mark, mark
    if isinstance(test, DIALECTS) and type(test) in DIALECTS:
        words = [word for word in test.tokens if word not in (test.single, test.multi)]
        return max(words, key=len, default="").casefold(), test.pattern.casefold()
    glob = glob_of(test)
    if glob is None:
        return None
    chunks = [chunk.casefold() for chunk in glob.chunks]
    return max(chunks, key=len), _FRESH.join(chunks)


def _around_wildcards(pattern: TopicPattern) -> tuple[str, ...]:
    """Return the literal head and tail that all topics of a pattern share: its words around the outer wildcards."""
    words = pattern.tokens
    wild = [number for number, word in enumerate(words) if word in (pattern.single, pattern.multi)]
    if not wild:
        return (pattern.pattern,)
    # A wildcard that may stand for zero words may remove its separator too.
    head, tail = list(words[: wild[0]]), list(words[wild[-1] + 1 :])
    if head and _takes_a_word(pattern, wild[0]):
        head.append("")
    if tail and _takes_a_word(pattern, wild[-1]):
        tail.insert(0, "")
    return pattern.separator.join(head), pattern.separator.join(tail)


def _takes_a_word(pattern: TopicPattern, at: int) -> bool:
    return pattern.tokens[at] == pattern.single or type(pattern) is NatsPattern


def globs_disjoint(one: Glob, other: Glob) -> bool:
    """Return whether it is proved that no text fits both globs."""
    first, second = _same_case(one, other)
    if len(first) == 1 or len(second) == 1:
        literal, pattern = (first[0], second) if len(first) == 1 else (second[0], first)
        return not fits(pattern, literal)
    # Each glob allows any text between its head and its tail, so only the heads and the tails can exclude each other.
    return not (_one_starts(first[0], second[0]) and _one_starts(first[-1][::-1], second[-1][::-1]))


def glob_within(inner: Glob, outer: Glob) -> bool:
    """Return whether it is proved that the test of `outer` accepts every text that fits `inner`."""
    if not outer.exact or (inner.folded and not outer.folded):
        return False
    inside, around = _same_case(inner, outer)
    if sum(map(len, inside)) * len(around) > _MAX_PROOF:
        return False
    # Join the inner chunks with a character that the outer glob does not contain. This character can only fall where
    # the outer glob allows any text, so any text can stand in its place.
    used = "".join(around)
    fresh = _FRESH if _FRESH not in used else next(one for one in map(chr, range(0xE000, 0xF8FF)) if one not in used)
    return fits(around, fresh.join(inside))


def fits_any_text(glob: Glob) -> bool:
    """Return whether the test of a glob accepts every text."""
    return glob.exact and len(glob.chunks) > 1 and not any(glob.chunks)


def _same_case(one: Glob, other: Glob) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if one.folded == other.folded:
        return one.chunks, other.chunks
    return tuple(map(str.casefold, one.chunks)), tuple(map(str.casefold, other.chunks))


def fits(chunks: tuple[str, ...], value: str) -> bool:
    """Return whether a value consists of these chunks, in order, with any text between them."""
    if len(chunks) == 1:
        return value == chunks[0]
    head, *middle, tail = chunks
    if len(value) < len(head) + len(tail) or not (value.startswith(head) and value.endswith(tail)):
        return False
    position, end = len(head), len(value) - len(tail)
    for chunk in middle:
        position = value.find(chunk, position, end)
        if position < 0:
            return False
        position += len(chunk)
    return True


def _one_starts(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
