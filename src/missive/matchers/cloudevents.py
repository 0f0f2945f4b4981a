"""CloudEvents subscription filters as matchers.

The source is section 3.2.4 of the CloudEvents Subscriptions API, a draft of 0.1
(https://github.com/cloudevents/spec/blob/main/subscriptions/spec.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, overload

from missive.matchers.algebra import And, Matcher, Or
from missive.matchers.documents import Spot, parse, shown
from missive.matchers.selectors import Everything, Field, Header
from missive.matchers.tests import Equals, OneOf, Test
from missive.matchers.text import Prefix, Suffix
from missive.matchers.values import Scalar
from missive.messages import Message, StructuredMessage

_Attribute: TypeAlias = Callable[[str, Test], Matcher[Any]]

_TEXTS = frozenset({"id", "source", "specversion", "type", "datacontenttype", "dataschema", "subject", "time"})
"""The attributes that the CloudEvents specification defines itself, all of them strings in JSON."""


_Filters: TypeAlias = Sequence[Mapping[str, Any]] | Mapping[str, Any] | str


@overload
def from_cloudevents(filters: _Filters, *, binary: Literal[True]) -> Matcher[Message]: ...


@overload
def from_cloudevents(filters: _Filters, *, binary: bool = False) -> Matcher[StructuredMessage]: ...


def from_cloudevents(filters: _Filters, *, binary: bool = False) -> Matcher[Any]:
    """Return the matcher for the `filters` of a CloudEvents subscription, given as objects or as JSON text.

    A list is of filters that all hold; an empty one matches every event. The attributes are fields of the body, as
    structured mode has them; with `binary=True` they are the headers of the HTTP binding, `ce-type` and so on, with
    `content-type` for `datacontenttype`. Raises `RegistrationError` for filters that the specification forbids, and
    for the optional dialect `sql`, naming the place.
    """
    spot = Spot("CloudEvents filter")
    document = parse(filters, spot) if isinstance(filters, str) else filters
    attribute = _in_header if binary else _in_body
    if isinstance(document, Mapping):
        return _read(document, spot, attribute)
    if not isinstance(document, (list, tuple)):
        raise spot.wrong(f"it is a list of JSON objects, an object, or its text, and not {shown(document)}")
    return And(*_several(document, spot, attribute)).simplified() if document else Everything()


def _in_body(name: str, test: Test) -> Matcher[Any]:
    if isinstance(test, Equals) and name not in _TEXTS:
        # An extension may be an integer or a boolean in JSON; a filter compares with its canonical string.
        literal = _literal(str(test.value))
        return Field(name, test if literal is None else OneOf(test.value, literal))
    return Field(name, test)


def _in_header(name: str, test: Test) -> Matcher[Any]:
    return Header("content-type" if name == "datacontenttype" else f"ce-{name}", test)


def _literal(text: str) -> Scalar:
    """Return the integer or boolean whose canonical string this is, or None."""
    if re.fullmatch(r"0|-?[1-9][0-9]{0,9}", text) and -(2**31) <= int(text) < 2**31:
        return int(text)
    return {"true": True, "false": False}.get(text)


def _read(value: Mapping[Any, Any], spot: Spot, attribute: _Attribute) -> Matcher[Any]:
    if len(value) == 1 and "sql" in value:
        raise spot.at("sql").wrong("this dialect is optional and not built: use the others, or a function")
    name, operand, at = spot.only_member(value, "dialect", tuple(_DIALECTS))
    return _DIALECTS[name](operand, at, attribute)


def _several(value: Any, spot: Spot, attribute: _Attribute) -> list[Matcher[Any]]:
    if not isinstance(value, (list, tuple)):
        raise spot.wrong(f"it takes a list of filters, and not {shown(value)}")
    if not value:
        raise spot.wrong("an empty list: it takes at least one filter")
    return [_one(part, spot.at(index), attribute) for index, part in enumerate(value)]


def _one(value: Any, spot: Spot, attribute: _Attribute) -> Matcher[Any]:
    if not isinstance(value, Mapping):
        raise spot.wrong(f"a filter is an object, and not {shown(value)}")
    return _read(value, spot, attribute)


def _attributes(value: Any, spot: Spot, attribute: _Attribute, *, test: Callable[[str], Test]) -> Matcher[Any]:
    if not isinstance(value, Mapping):
        raise spot.wrong(f"it takes an object of attributes and strings, and not {shown(value)}")
    parts = []
    for name, text, at in spot.members(value):
        if name == "data":
            raise at.wrong("this is the payload: filters are of attributes alone")
        if not re.fullmatch(r"[a-z0-9]+", name):
            raise at.wrong("an attribute's name is made of lower-case letters and digits")
        if not isinstance(text, str):
            raise at.wrong(f"it takes a string, as it does for integers and booleans, and not {shown(text)}")
        if not text:
            raise at.wrong("the string is empty, which no attribute is")
        parts.append(attribute(name, test(text)))
    if not parts:
        raise spot.wrong("an empty object: it takes at least one attribute")
    return And(*parts).simplified()


def _all(value: Any, spot: Spot, attribute: _Attribute) -> Matcher[Any]:
    return And(*_several(value, spot, attribute)).simplified()


def _any(value: Any, spot: Spot, attribute: _Attribute) -> Matcher[Any]:
    return Or(*_several(value, spot, attribute)).simplified()


def _not(value: Any, spot: Spot, attribute: _Attribute) -> Matcher[Any]:
    return ~_one(value, spot, attribute)


_DIALECTS: dict[str, Callable[[Any, Spot, _Attribute], Matcher[Any]]] = {
    "exact": partial(_attributes, test=Equals),
    "prefix": partial(_attributes, test=Prefix),
    "suffix": partial(_attributes, test=Suffix),
    "all": _all,
    "any": _any,
    "not": _not,
}
