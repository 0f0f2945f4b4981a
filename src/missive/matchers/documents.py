"""Documents that are compiled into matchers: their places, for errors, and their JSON."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from missive.errors import RegistrationError
from missive.matchers.values import plain

DEEPEST = 100
"""How many levels a document may have."""


class _Members(dict[str, Any]):
    """An object of a JSON text, which knows whether it had a key twice."""

    twice: str | None = None


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a document that is being compiled."""

    document: str
    steps: tuple[str | int, ...] = ()

    def at(self, step: str | int) -> Spot:
        """Return the place one step further in."""
        return Spot(self.document, (*self.steps, step))

    def wrong(self, what: str) -> RegistrationError:
        """Return the error that names this place."""
        path = "".join(map(_shown_step, self.steps)).removeprefix(".")
        where = f" at {path if len(path) <= 160 else '…' + path[-160:]}" if path else ""  # noqa: PLR2004 - a line
        return RegistrationError(f"the {self.document} is invalid{where}: {what}")

    def members(self, value: Mapping[Any, Any]) -> list[tuple[str, Any, Spot]]:
        """Return the keys and values of an object, each with its place."""
        if len(self.steps) > DEEPEST:
            raise self.wrong(f"it is nested more than {DEEPEST} levels deep")
        twice = value.twice if isinstance(value, _Members) else None
        if twice is not None:
            raise self.at(twice).wrong("the key is there twice: one of the two would be lost")
        for key in value:
            if not isinstance(key, str):
                raise self.wrong(f"its keys are strings, and not a {type(key).__name__}")
        return [(plain(key), inner, self.at(plain(key))) for key, inner in value.items()]

    def only_member(self, value: Mapping[Any, Any], kind: str, known: Collection[str]) -> tuple[str, Any, Spot]:
        """Return the one key of an object that says what kind of thing it is, its value and its place."""
        members = self.members(value)
        if not members:
            raise self.wrong(f"an empty object: it takes one {kind} of {', '.join(known)}")
        if len(members) > 1:
            names = " and ".join(shown(key) for key, _, _ in members[:3])
            raise self.wrong(f"more than one {kind} in an object ({names}): write an object for each")
        ((name, inner, at),) = members
        if name not in known:
            close = difflib.get_close_matches(name[:40], known, n=1, cutoff=0.6)
            way_out = f"did you mean {shown(close[0])}?" if close else f"there are {', '.join(known)}"
            raise self.wrong(f"there is no {kind} {shown(name)}: {way_out}")
        return name, inner, at


def parse(text: str, spot: Spot) -> Any:
    """Return a JSON text as Python objects, which remember the keys that they had twice."""
    try:
        return json.loads(text, object_pairs_hook=_members)
    except json.JSONDecodeError as error:
        raise spot.wrong(f"it is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise spot.wrong(f"it is nested more than {DEEPEST} levels deep") from None
    except ValueError:  # an integer of thousands of digits
        raise spot.wrong("it has a number that is too long") from None


def shown(value: object) -> str:
    """Return a part of the document on one short line."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None or isinstance(value, (bool, str)):
        text = value if not isinstance(value, str) or len(value) <= 40 else value[:40] + "…"  # noqa: PLR2004 - short
        return json.dumps(text, ensure_ascii=False)
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**40):
        return repr(plain(value))
    return f"a {type(value).__name__}"


def _members(pairs: list[tuple[str, Any]]) -> _Members:
    members = _Members()
    for key, value in pairs:
        if key in members:
            members.twice = key
        members[key] = value
    return members


def _shown_step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if re.fullmatch(r"[\w.$@/:-]{1,80}", step) else f"[{shown(step)}]"
