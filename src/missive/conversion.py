"""Conversion of bodies to types, by msgspec or pydantic, with errors that name a field and show no value."""

from __future__ import annotations

import contextlib
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, get_args

import msgspec

from missive.errors import UsageError
from missive.fields import is_pydantic

_MAX_TYPES = 1024
"""Number of types whose converters are remembered."""
_MAX_SHOWN = 3
"""Number of fields in one error."""


class Unfit:
    """The result of a conversion of a body that does not fit its type."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


class Converter(ABC):
    """A converter to one type."""

    def __init__(self, type_: Any) -> None:
        self.type_ = type_
        self.name = type_.__name__ if isinstance(type_, type) else str(type_).replace("typing.", "")

    def from_json(self, body: bytes) -> Any:
        """Return a JSON document as the type, or `Unfit`."""
        return self._attempt(self._decode, body, lambda: msgspec.json.decode(body))

    def from_content(self, content: Any) -> Any:
        """Return decoded content as the type, or `Unfit`."""
        return content if type(content) is self.type_ else self._attempt(self._convert, content, lambda: content)

    def _attempt(self, make: Callable[[Any], Any], source: Any, content: Callable[[], Any]) -> Any:
        try:
            return make(source)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a validator of the type may raise anything
            try:
                where = self._explain(error, content)
            except Exception:  # noqa: BLE001 - the exception of a validator may have no text
                where = "$ does not fit"
        # The exception is not chained, because it may contain the body.
        return Unfit(f"the body does not fit {self.name}: {where}")

    @abstractmethod
    def _decode(self, body: bytes) -> Any:
        """Return a JSON document as the type."""

    @abstractmethod
    def _convert(self, content: Any) -> Any:
        """Return decoded content as the type."""

    @abstractmethod
    def _explain(self, error: BaseException, content: Callable[[], Any]) -> str:
        """Return the fields that do not fit, without values."""


@lru_cache(_MAX_TYPES)
def converter(type_: Any) -> Converter:
    """Return the converter to a type. Raise `UsageError` for a type that neither msgspec nor pydantic can make."""
    return (_Pydantic if _belongs_to_pydantic(type_) else _Msgspec)(type_)


def _belongs_to_pydantic(type_: Any) -> bool:
    """Return whether a type is one of pydantic's, or contains one, such as `list[Model]`."""
    if "pydantic" not in sys.modules:
        return False
    pending, seen = [type_], set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        owner = one if isinstance(one, type) else type(one)
        if is_pydantic(one) or owner.__module__.partition(".")[0] in {"pydantic", "pydantic_core"}:
            return True
        pending += [*get_args(one), *getattr(one, "__metadata__", ()), getattr(one, "__value__", None)]
    return False


class _Msgspec(Converter):
    """Conversion by msgspec: structs, dataclasses, attrs classes, typed dicts, collections and scalars."""

    _PLACE = re.compile(r" - at (?:`key` in )?`\$([^`]*)`\Z")
    _STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
    _MISSING = re.compile(r"Object missing required field `(\w+)`")

    def __init__(self, type_: Any) -> None:
        super().__init__(type_)
        try:
            self._decoder = msgspec.json.Decoder(type_, dec_hook=self._refuse)
        except Exception as error:  # noqa: BLE001 - such as a NameError of a forward reference
            # The error is about the type, which is code.
            raise UsageError(f"as_type cannot make {self.name}: {type(error).__name__}: {error}") from None
        self._names: frozenset[str] | None = None

    def _refuse(self, wanted: type, value: object) -> Any:
        """Return a value that has the wanted type already. Raise `UsageError` for a type that msgspec cannot make."""
        if isinstance(wanted, type) and isinstance(value, wanted):
            return value
        raise UsageError(f"as_type cannot make {self.name}: msgspec does not know {wanted!r} in it")

    def _decode(self, body: bytes) -> Any:
        return self._decoder.decode(body)

    def _convert(self, content: Any) -> Any:
        return msgspec.convert(content, self.type_, str_keys=True, dec_hook=self._refuse)

    def _explain(self, error: BaseException, content: Callable[[], Any]) -> str:  # noqa: ARG002 - the text suffices
        if not isinstance(error, msgspec.ValidationError):
            return "the body is not JSON" if type(error) is msgspec.DecodeError else _raised("$", error)
        text, cause = str(error), error.__cause__
        if cause is not None:  # the exception of a validator, whose text may contain a value
            text = text.removeprefix(str(cause))
        place = self._PLACE.search(text)
        unknown = text.startswith("Object contains unknown field")
        # The name of an unknown field ends the text, and may look like a path.
        path = "$" if place is None else self._path(place[1], indexed=not unknown)
        if cause is not None:
            return _raised(path, cause)
        if unknown:
            return f"{path} has an unknown field"
        missing = self._MISSING.match(text)
        if missing is not None and missing[1] in self._known():
            return f"{path}.{missing[1]} is missing"
        # Only these texts of msgspec are free of values. They name types and the limits of the type.
        expected = text.startswith("Expected `")
        return f"{path}: {text[: None if place is None else place.start()]}" if expected else f"{path} does not fit"

    def _path(self, written: str, *, indexed: bool) -> str:
        """Return a path with the names that the type declares. A name of the message is not shown."""
        path = "$"
        for name, index in self._STEP.findall(written):
            path += f".{name}" if name in self._known() else f"[{index}]" if index and indexed else "[...]"
        return path

    def _known(self) -> frozenset[str]:
        if self._names is None:
            self._names = frozenset(_declared(msgspec.inspect.type_info(self.type_)))
        return self._names


def _declared(info: Any) -> Iterable[str]:
    """Yield the names of the fields of a type and of the types in it, as JSON has them."""
    pending, seen = [info], set()
    while pending:
        one = pending.pop()
        if isinstance(one, (tuple, list)):
            pending += one
        elif isinstance(one, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(one) not in seen:
            seen.add(id(one))
            if isinstance(one, msgspec.inspect.Field):
                yield one.encode_name
            pending += [getattr(one, name) for name in one.__struct_fields__]


class _Pydantic(Converter):
    """Conversion by pydantic: models, pydantic dataclasses, and types that contain them."""

    def __init__(self, type_: Any) -> None:
        super().__init__(type_)
        # Optional libraries, which the type has loaded already.
        pydantic, core_schema = import_module("pydantic"), import_module("pydantic_core.core_schema")
        try:
            self._adapter: Any = pydantic.TypeAdapter(type_)
        except Exception as error:  # noqa: BLE001 - such as a NameError of a forward reference
            # The error is about the type, which is code.
            text = str(error).partition("\n")[0]
            raise UsageError(f"as_type cannot make {self.name}: {type(error).__name__}: {text}") from None
        model = isinstance(type_, type) and issubclass(type_, pydantic.BaseModel)
        self._validate_json: Callable[[bytes], Any] = (
            type_.model_validate_json if model else self._adapter.validate_json
        )
        self._error = pydantic.ValidationError
        self._kinds = frozenset(get_args(core_schema.ErrorType))
        self._names: frozenset[str] | None = None

    def _decode(self, body: bytes) -> Any:
        return self._validate_json(body)

    def _convert(self, content: Any) -> Any:
        return self._adapter.validate_python(content)

    def _explain(self, error: BaseException, content: Callable[[], Any]) -> str:
        if not isinstance(error, self._error):
            return _raised("$", error)
        found = error.errors(include_url=False, include_context=False, include_input=False)
        try:
            whole = content()
        except Exception:  # noqa: BLE001 - no JSON
            whole = None
        lines = [self._line(one, whole) for one in found[:_MAX_SHOWN]]
        return ", ".join(lines) + (f" and {len(found) - _MAX_SHOWN} more" if len(found) > _MAX_SHOWN else "")

    def _line(self, one: Any, content: Any) -> str:
        kind, path = one["type"], "$"
        if kind == "json_invalid":
            return "the body is not JSON"
        for step in one["loc"]:
            # A location has keys of the message, and labels of the type. Show the names that the type declares.
            inside = isinstance(content, Mapping) and step in content
            element = isinstance(step, int) and isinstance(content, Sequence) and not isinstance(content, (str, bytes))
            if element:
                path += f"[{step}]"
                content = content[step] if step < len(content) else None
            elif isinstance(step, str) and step in self._known():
                path += f".{step}"
                content = content[step] if inside else content
            elif inside or isinstance(content, Mapping):
                path += "[...]" if inside or isinstance(step, int) else ""
                content = content[step] if inside else content
        if kind == "missing":
            return f"{path} is missing"
        return f"{path}: {kind}" if kind in self._kinds else f"{path} does not fit"

    def _known(self) -> frozenset[str]:
        """Return the names of the fields of the type and of the types in it, in JSON and in Python."""
        if self._names is None:
            schemas = []
            with contextlib.suppress(Exception):  # the names of a type without a JSON schema are not shown
                schemas = [self._adapter.json_schema(by_alias=by_alias) for by_alias in (True, False)]
            self._names = frozenset(_properties(schemas))
        return self._names


def _properties(schema: Any) -> Iterable[str]:
    """Yield the names of the properties in a JSON schema."""
    pending = [schema]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            if isinstance(properties := one.get("properties"), dict):
                yield from properties
            pending += one.values()
        elif isinstance(one, list):
            pending += one


def _raised(path: str, error: BaseException) -> str:
    """Return the failure of a validator at a path, without its text, which may contain a value."""
    return f"{path} is refused ({type(error).__name__})"
