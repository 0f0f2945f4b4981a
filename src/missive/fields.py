"""Fields of decoded bodies: the members of mappings, structs, dataclasses, attrs classes and pydantic models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar, cast
from uuid import UUID

import msgspec


class Missing:
    """The type of `MISSING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = Missing()
"""The result of a look-up that finds no value."""

_F = TypeVar("_F", bound=Callable[..., Any])
_Read: TypeAlias = Callable[[Any, str], Any]

_MAX_TYPES = 4096
"""Number of classes whose fields are remembered."""
_LEAVES = (str, bytes, bytearray, int, float, list, tuple, set, frozenset, Enum)
"""Classes whose instances are values without fields, whatever their subclasses add."""


def _remembered(function: _F) -> _F:
    """Remember the results of a function of a class."""
    return cast("_F", lru_cache(_MAX_TYPES)(function))  # mypy does not count classes as hashable


def member(value: Any, name: str) -> Any:
    """Return the member `name` of a mapping or an object with fields, or `MISSING`.

    A field is read by its name in Python, as the value that JSON has for it: see `_converter`.
    """
    if isinstance(value, dict):
        return value.get(name, MISSING)
    read = _reader(type(value))
    return MISSING if read is None else read(value, name)


def members(value: Any) -> Mapping[Any, Any] | None:
    """Return the members of a mapping or an object with fields, or None for another value."""
    if isinstance(value, dict):
        return value
    read = _reader(type(value))
    if read is None:
        return None
    if isinstance(value, Mapping):
        return value
    names = [*(_names_of(type(value)) or ()), *(_extras(value) or ())]
    return {name: found for name in names if (found := read(value, name)) is not MISSING}


def is_object(value: Any) -> bool:
    """Return whether a value is a mapping or an object with fields."""
    return isinstance(value, dict) or _reader(type(value)) is not None


def is_pydantic(cls: Any) -> bool:
    """Return whether a class is a pydantic model or a pydantic dataclass, without an import of pydantic."""
    return isinstance(cls, type) and hasattr(cls, "__pydantic_validator__")


def has_fields(cls: type) -> bool:
    """Return whether a class is a struct, dataclass, attrs class or pydantic model."""
    return _names_of(cls) is not None


@_remembered
def _names_of(cls: Any) -> frozenset[str] | None:
    """Return the names of the fields of a struct, dataclass, attrs class or pydantic model; None for other classes."""
    if issubclass(cls, _LEAVES):
        return None
    if issubclass(cls, msgspec.Struct):
        return frozenset(cls.__struct_fields__)
    if dataclasses.is_dataclass(cls):
        return frozenset(field.name for field in dataclasses.fields(cls))
    if is_pydantic(cls):
        return frozenset(cls.model_fields)
    if hasattr(cls, "__attrs_attrs__"):
        return frozenset(attribute.name for attribute in cls.__attrs_attrs__)
    return None


def _extras(value: Any) -> Mapping[str, Any] | None:
    """Return the fields of a pydantic model that its class does not declare."""
    return getattr(value, "__pydantic_extra__", None)


@_remembered
def _reader(cls: type) -> _Read | None:
    """Return the function that reads a member of a class's instances, or None if they have no members."""
    if issubclass(cls, Mapping):
        return lambda value, name: value.get(name, MISSING)
    names = _names_of(cls)
    if names is None:
        return None

    def read(value: Any, name: str) -> Any:
        if name in names:
            found = getattr(value, name, MISSING)
        else:
            extras = _extras(value) if extended else None
            found = MISSING if extras is None else extras.get(name, MISSING)
        convert = _converter(type(found))
        return found if convert is None else convert(found)

    extended = is_pydantic(cls)
    return read


@_remembered
def _converter(cls: type) -> Callable[[Any], Any] | None:
    """Return the function that converts values of a class as JSON has them, or None to keep them.

    A member of an enumeration is read as its value, a UUID as text, a `Decimal` as a number, and a tuple or set as a
    list. `msgspec.UNSET` is missing. Other values, such as dates, stay.
    """
    if issubclass(cls, Enum):
        return _value_of
    if issubclass(cls, (list, tuple, set, frozenset)):
        return _listed
    if issubclass(cls, UUID):
        return str
    if issubclass(cls, Decimal):
        return _number
    return _absent if cls is msgspec.UnsetType else None


def _value_of(member: Any) -> Any:
    return member.value


def _absent(unset: object) -> Any:  # noqa: ARG001 - the class has one instance
    return MISSING


def _number(value: Any) -> Any:
    try:
        return int(value) if value.as_tuple().exponent == 0 else float(value)
    except ValueError:  # a signalling NaN
        return value


def _listed(values: Any) -> list[Any]:
    return [one if (convert := _converter(type(one))) is None or convert is _listed else convert(one) for one in values]
