"""The language in which an operator selects dead letters: `reason:failed handler:billing age>1h`.

A query is a list of terms and words with spaces between them, and all of them must hold. A term is a field, one of `:`,
`<` and `>`, and a value. A value with a space or a quote in it needs double quotes. A word is searched in the safe
fields of a record. Prefix a term or a word with `-` to negate it: `-handler:billing`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from missive.dlq.contract import Query
from missive.dlq.record import Status
from missive.errors import UsageError
from missive.outcome import Reason

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_VALUED = rf"([A-Za-z_]+)([:<>])({_QUOTED}|[^\s\"]*)"
_TOKEN = re.compile(rf"(-?)(?:({_QUOTED})|{_VALUED}|([^\s\"]+))(?=\s|\Z)", re.DOTALL)
_TERM = re.compile(r"-?[A-Za-z_]+[:<>]")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|min|m|h|d|w)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}

_TEXTS = ("handler", "service", "group", "label", "error", "topic", "source", "replay")
_FIELDS = (*_TEXTS, "reason", "status", "id", "attempts", "age", "first", "last")
_OPERATORS = {"attempts": ":<>", "age": "<>", "first": "<>", "last": "<>"}


def is_term(word: str) -> bool:
    """Return whether a command line argument is a term of a query, and not an id or a group."""
    return _TERM.match(word) is not None


def parse(text: str, now: float) -> Query:
    """Parse a query. Ages are relative to `now`, in seconds since 1970.

    Raises `UsageError` that names the faulty term.
    """
    found: dict[str, Any] = {}
    words: list[str] = []
    without: list[Query] = []
    for token in _tokens(text):
        minus, quoted, name, operator, value, bare = token.groups()
        if name is None:
            word = _word(quoted, bare)
            if minus:
                without.append(Query(text=(word,)))
            else:
                words.append(word)
            continue
        term = token[0]
        if name == "not":
            raise UsageError(f"{_shown(term)}: to negate a term, prefix it with a minus, such as -reason:failed")
        _check(term, name, operator)
        value = _unquoted(value) if value.startswith('"') else value
        if not value:
            raise UsageError(f"{_shown(term)}: the value is missing")
        terms = _conditions(term, name, operator, value, now)
        if minus:
            without.append(Query(**terms))
            continue
        for key, condition in terms.items():
            if key in found:
                raise UsageError(f"{_shown(term)}: an earlier term already sets {name}; remove one of them")
            found[key] = condition
    return Query(text=tuple(words), without=tuple(without), **found)


def _tokens(text: str) -> Iterator[re.Match[str]]:
    """Yield the parts between spaces. A quoted value may contain spaces."""
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        token = _TOKEN.match(text, place)
        if token is None:
            raise UsageError(f"{_shown(text[place:])}: a quote is not closed, or has no space next to it")
        yield token
        place = token.end()


def _word(quoted: str | None, bare: str) -> str:
    """Return a word to search."""
    if quoted is None:
        if bare == "-":
            raise UsageError('- negates the term or word after it, without a space; to search a minus, quote it: "-"')
        return bare
    if not (word := _unquoted(quoted)).strip():
        raise UsageError('"" is empty and matches no record: remove it')
    return word


def _check(term: str, name: str, operator: str) -> None:
    if name not in _FIELDS:
        near = difflib.get_close_matches(name.lower(), _FIELDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_FIELDS)}"
        raise UsageError(f'{_shown(term)}: there is no field {name}: {hint} (to search a text, quote it: "…")')
    if operator not in (allowed := _OPERATORS.get(name, ":")):
        raise UsageError(f"{_shown(term)}: {name} takes {' or '.join(allowed)}")


def _conditions(term: str, name: str, operator: str, value: str, now: float) -> dict[str, Any]:
    """Return the fields of `Query` that a term sets."""
    if name in _TEXTS:
        return {name: value}
    if name == "id":
        return {"ids": tuple(value.split(","))}
    if name == "reason":
        return {"reason": _one_of(term, "reason", value, list(Reason))}
    if name == "status":
        statuses = [str(status) for status in Status]
        wanted = statuses if value == "any" else value.split(",")
        return {"statuses": tuple(Status(_one_of(term, "status", one, [*statuses, "any"])) for one in wanted)}
    if name == "attempts":
        if not (value.isascii() and value.isdigit() and len(value) <= len("999999999")):
            raise UsageError(f"{_shown(term)}: the number of attempts is an integer, such as attempts>3")
        number = int(value)
        least, most = {"min_attempts": number + 1}, {"max_attempts": number - 1}
        return {">": least, "<": most, ":": {"min_attempts": number, "max_attempts": number}}[operator]
    if name == "age":
        duration = _DURATION.fullmatch(value)
        if duration is None:
            raise UsageError(f"{_shown(term)}: an age is a number and a unit, such as age>90s, 5min, 1h, 2d, 3w")
        at = now - float(duration[1]) * _SECONDS[duration[2]]
        return {"last_before" if operator == ">" else "last_after": at}
    return {f"{name}_{'after' if operator == '>' else 'before'}": _time(term, value)}


def _one_of(term: str, what: str, value: str, known: list[str]) -> str:
    if value in known and value != "any":
        return value
    near = difflib.get_close_matches(value.lower(), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(known)}"
    raise UsageError(f"{_shown(term)}: there is no {what} {_shown(value)}: {hint}")


def _time(term: str, value: str) -> float:
    try:
        if value.startswith("@"):
            at = float(value[1:])
        else:
            moment = datetime.fromisoformat(value)
            at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        at = math.nan
    if not math.isfinite(at):
        raise UsageError(f"{_shown(term)}: a time is 2026-11-25 or 2026-11-25T19:00 in UTC; for a duration use age")
    return at


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)


def _shown(text: str) -> str:
    """Return the beginning of a text, for an error."""
    most = 60
    return text if len(text) <= most else f"{text[:most]}…"
