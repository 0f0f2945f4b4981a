"""The compiler from CloudEvents subscription filters to matchers.

Source: section 3.2.4 of the CloudEvents Subscriptions API, draft 0.1
(https://github.com/cloudevents/spec/blob/main/subscriptions/spec.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, overload

from missive.matchers.algebra import And, Matcher, Or
from missive.matchers.documents import Location, describe, parse
from missive.matchers.selectors import Everything, Field, Header
from missive.matchers.tests import Equals, OneOf, Test
from missive.matchers.text import Prefix, Suffix
from missive.matchers.values import Scalar
from missive.messages import Message, StructuredMessage

_Filters: TypeAlias = Sequence[Mapping[str, Any]] | Mapping[str, Any] | str

_Attribute: TypeAlias = Callable[[str, Test], Matcher[Any]]
"""A function that returns the matcher for an attribute and a test."""

_STRINGS = frozenset({"id", "source", "specversion", "type", "datacontenttype", "dataschema", "subject", "time"})
"""The attributes that the CloudEvents specification defines. All are strings in JSON."""


@overload
def from_cloudevents(filters: _Filters, *, binary: Literal[True]) -> Matcher[Message]: ...


@overload
def from_cloudevents(filters: _Filters, *, binary: bool = False) -> Matcher[StructuredMessage]: ...


def from_cloudevents(filters: _Filters, *, binary: bool = False) -> Matcher[Any]:
    """Return the matcher for the `filters` of a CloudEvents subscription, which are objects or JSON text.

    All filters in a list must hold. An empty list matches every event. Attributes are fields of the body, as in
    structured mode. With `binary=True` they are headers, as in the HTTP binding: `ce-type` and so on, and
    `content-type` for `datacontenttype`.

    Raise `RegistrationError` if the specification forbids the filters or if they use the optional dialect `sql`, which
    Missive does not support. The error names the location in the document.
    """
    location = Location("CloudEvents filter")
    document = parse(filters, location) if isinstance(filters, str) else filters
    attribute = _in_header if binary else _in_body
    if isinstance(document, Mapping):
        return _read(document, location, attribute)
    if not isinstance(document, (list, tuple)):
        raise location.error(f"use a list of objects, an object, or its JSON text, not {describe(document)}")
    return And(*_several(document, location, attribute)).simplified() if document else Everything()


def _in_body(name: str, test: Test) -> Matcher[Any]:
    if isinstance(test, Equals) and name not in _STRINGS:
        # In JSON, an extension attribute may be an integer or a boolean. Filters compare its canonical string.
        literal = _literal(str(test.value))
        return Field(name, test if literal is None else OneOf(test.value, literal))
    return Field(name, test)


def _in_header(name: str, test: Test) -> Matcher[Any]:
    return Header("content-type" if name == "datacontenttype" else f"ce-{name}", test)


def _literal(text: str) -> Scalar:
    """Return the integer or boolean that has this canonical string, or None."""
    if re.fullmatch(r"0|-?[1-9][0-9]{0,9}", text) and -(2**31) <= int(text) < 2**31:
        return int(text)
    return {"true": True, "false": False}.get(text)


def _read(value: Mapping[Any, Any], location: Location, attribute: _Attribute) -> Matcher[Any]:
    if len(value) == 1 and "sql" in value:
        raise location.at("sql").error("this optional dialect is not supported: use another dialect, or a function")
    name, operand, at = location.only_member(value, "dialect", tuple(_DIALECTS))
    return _DIALECTS[name](operand, at, attribute)


def _several(value: Any, location: Location, attribute: _Attribute) -> list[Matcher[Any]]:
    if not isinstance(value, (list, tuple)):
        raise location.error(f"use a list of filters, not {describe(value)}")
    if not value:
        raise location.error("an empty list: add at least one filter")
    return [_one(part, location.at(index), attribute) for index, part in enumerate(value)]


def _one(value: Any, location: Location, attribute: _Attribute) -> Matcher[Any]:
    if not isinstance(value, Mapping):
        raise location.error(f"a filter is an object, not {describe(value)}")
    return _read(value, location, attribute)


def _attributes(value: Any, location: Location, attribute: _Attribute, *, test: Callable[[str], Test]) -> Matcher[Any]:
    if not isinstance(value, Mapping):
        raise location.error(f"use an object of attributes and strings, not {describe(value)}")
    parts = []
    for name, text, at in location.members(value):
        if name == "data":
            raise at.error("data is the payload: filters test attributes only")
        if not re.fullmatch(r"[a-z0-9]+", name):
            raise at.error("the name of an attribute consists of lower-case letters and digits")
        if not isinstance(text, str):
            raise at.error(f"use a string, also for integers and booleans, not {describe(text)}")
        if not text:
            raise at.error("the string is empty, which no attribute is: add text")
        parts.append(attribute(name, test(text)))
    if not parts:
        raise location.error("an empty object: add at least one attribute")
    return And(*parts).simplified()


def _all(value: Any, location: Location, attribute: _Attribute) -> Matcher[Any]:
    return And(*_several(value, location, attribute)).simplified()


def _any(value: Any, location: Location, attribute: _Attribute) -> Matcher[Any]:
    return Or(*_several(value, location, attribute)).simplified()


def _not(value: Any, location: Location, attribute: _Attribute) -> Matcher[Any]:
    return ~_one(value, location, attribute)


_DIALECTS: dict[str, Callable[[Any, Location, _Attribute], Matcher[Any]]] = {
    "exact": partial(_attributes, test=Equals),
    "prefix": partial(_attributes, test=Prefix),
    "suffix": partial(_attributes, test=Suffix),
    "all": _all,
    "any": _any,
    "not": _not,
}
