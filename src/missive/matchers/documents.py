"""Documents that compilers read: JSON parsing, and locations for error messages."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from missive.errors import RegistrationError
from missive.matchers.values import MAX_DEPTH, plain

_MAX_PATH = 160
"""Characters of a path that an error shows."""
_MAX_TEXT = 40
"""Characters of a string, and digits of a number, that an error shows."""


class _Members(dict[str, Any]):
    """A JSON object that records a duplicate key."""

    duplicate: str | None = None


class _Rounded(float):
    """A number that has more digits in the document than a double-precision number keeps."""


@dataclass(frozen=True, slots=True)
class Location:
    """A location in a document."""

    document: str
    steps: tuple[str | int, ...] = ()

    def at(self, step: str | int) -> Location:
        """Return the location of a member or an element."""
        return Location(self.document, (*self.steps, step))

    def error(self, reason: str) -> RegistrationError:
        """Return an error that names this location."""
        path = "".join(map(_written_step, self.steps)).removeprefix(".")
        where = f" at {path if len(path) <= _MAX_PATH else '…' + path[-_MAX_PATH:]}" if path else ""
        return RegistrationError(f"the {self.document} is invalid{where}: {reason}")

    def members(self, value: Mapping[Any, Any]) -> list[tuple[str, Any, Location]]:
        """Return the keys and values of an object, each with its location.

        Raise `RegistrationError` if the object is nested too deeply, or has a duplicate key or a key that is not text.
        """
        if len(self.steps) > MAX_DEPTH:
            raise self.too_deep()
        duplicate = value.duplicate if isinstance(value, _Members) else None
        if duplicate is not None:
            raise self.at(duplicate).error("duplicate key: keep one of the two")
        for key in value:
            if not isinstance(key, str):
                raise self.error(f"the keys of an object are strings, not {type(key).__name__}")
        return [(plain(key), inner, self.at(plain(key))) for key, inner in value.items()]

    def only_member(self, value: Mapping[Any, Any], kind: str, known: Collection[str]) -> tuple[str, Any, Location]:
        """Return the key, the value and the location of the only member of an object.

        Raise `RegistrationError` if the object has no member or several, or if the key is not one of `known`. `kind`
        names the kind of key.
        """
        members = self.members(value)
        if not members:
            raise self.error(f"an empty object: add one {kind} ({', '.join(known)})")
        if len(members) > 1:
            names = " and ".join(describe(key) for key, _, _ in members[:3])
            raise self.error(f"more than one {kind} in an object ({names}): write one object for each")
        ((name, inner, at),) = members
        if name not in known:
            close = difflib.get_close_matches(name[:40], known, n=1, cutoff=0.6)
            one_of = "one of " if len(known) > 1 else ""
            way_out = f"did you mean {describe(close[0])}?" if close else f"use {one_of}{', '.join(known)}"
            raise self.error(f"unknown {kind} {describe(name)}: {way_out}")
        return name, inner, at

    def too_deep(self) -> RegistrationError:
        """Return the error for a document with too many levels."""
        return self.error(f"nested more than {MAX_DEPTH} levels deep: use fewer levels")


def parse(text: str, location: Location) -> Any:
    """Return a JSON text as Python objects, which record duplicate keys. Raise `RegistrationError` if it is invalid."""
    try:
        return json.loads(text, object_pairs_hook=_members, parse_float=_float)
    except json.JSONDecodeError as error:
        raise location.error(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise location.too_deep() from None
    except ValueError:  # an integer with thousands of digits
        raise location.error("it contains a number that is too long: shorten it") from None


def is_exact(number: float) -> bool:
    """Return whether a double-precision number has exactly the decimal value that the document has."""
    if not isinstance(number, int):
        return not isinstance(number, _Rounded)
    try:
        return Decimal(repr(float(number))) == number
    except OverflowError:
        return False


def describe(value: object) -> str:
    """Return a short description of a part of a document, on one line."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None or isinstance(value, (bool, str)):
        text = value if not isinstance(value, str) or len(value) <= _MAX_TEXT else value[:_MAX_TEXT] + "…"
        return json.dumps(text, ensure_ascii=False)
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**_MAX_TEXT):
        return repr(plain(value))
    return type(value).__name__


def _float(text: str) -> float:
    value = float(text)
    try:
        # Compare the shortest decimal form, as EventBridge does: 0.1 counts as exact.
        exact = math.isinf(value) or Decimal(repr(value)) == Decimal(text)
    except InvalidOperation:  # an exponent of a million digits
        exact = False
    return value if exact else _Rounded(value)


def _members(pairs: list[tuple[str, Any]]) -> _Members:
    members = _Members()
    for key, value in pairs:
        if key in members:
            members.duplicate = key
        members[key] = value
    return members


def _written_step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if re.fullmatch(r"[\w.$@/:-]{1,80}", step) else f"[{describe(step)}]"
