"""Message classes: the bytes of a message, its envelope, and the decoding of its body."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, get_args, get_type_hints, overload

import msgspec

from missive.conversion import Converter, Unfit, converter
from missive.errors import DecodingError, UsageError
from missive.fields import has_fields
from missive.ids import new_id
from missive.words import counted

if TYPE_CHECKING:
    from typing_extensions import Self


T = TypeVar("T")

HeaderValue: TypeAlias = str | bytes | tuple[str | bytes, ...]
"""The value of a header: a `str`, `bytes` if it is not UTF-8, or a tuple for a repeated header."""

HeadersInput: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]
"""The headers argument of a message: a mapping, or pairs in which a name may be repeated."""

NOT_DECODED: Any = object()
"""Placeholder for the content of a body that has not been decoded."""

_decode_json = msgspec.json.Decoder().decode


class Headers(Mapping[str, HeaderValue]):
    """The headers of one message by name, in order of arrival. Names match ASCII case-insensitively."""

    __slots__ = ("by_name", "pairs")

    def __init__(self, headers: HeadersInput = ()) -> None:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        self.pairs: tuple[tuple[str, str | bytes], ...] = tuple(
            (name, text_or_bytes(value) if isinstance(value, bytes) else value) for name, value in pairs
        )
        """Every header as it arrived, with duplicates and original spelling."""
        by_name: dict[str, HeaderValue] = {}
        repeated: dict[str, list[str | bytes]] = {}
        for name, value in self.pairs:
            folded = fold_name(name)
            if folded in repeated:
                repeated[folded].append(value)
            elif folded in by_name:
                repeated[folded] = [cast("str | bytes", by_name[folded]), value]
            else:
                by_name[folded] = value
        for folded, values in repeated.items():
            by_name[folded] = tuple(values)
        self.by_name = by_name
        """The values by folded name (see `fold_name`)."""

    def __getitem__(self, name: str) -> HeaderValue:
        try:
            return self.by_name[fold_name(name)]
        except KeyError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def __repr__(self) -> str:
        return f"<Headers: {len(self.pairs)}>"


def fold_name(name: str) -> str:
    """Return the form of a header name that is compared: ASCII letters in lower case."""
    # ASCII only, because str.lower() merges different names, such as those with a Kelvin sign and a k.
    return name.lower() if name.isascii() else "".join(c.lower() if c.isascii() else c for c in name)


def text_or_bytes(value: bytes) -> str | bytes:
    """Return UTF-8 bytes as text, and other bytes unchanged."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


class Message:
    """A message as it arrived: a body of bytes and an envelope.

    `raw_data` is the body. The transport provides `headers`, `topic` (the subject, routing key or destination), `key`
    (the partition key), `timestamp` (the time of sending, in seconds since 1970) and `content_type`; they are None or
    empty otherwise. `message_id` is the id from the producer or the transport, and is equal across redeliveries.
    Without such an id, it is generated at the first access.

    Messages are equal if their ids are equal. The repr never shows content.
    """

    __slots__ = ("_content", "_headers", "_message_id", "content_type", "key", "raw_data", "timestamp", "topic")

    def __init__(
        self,
        raw_data: bytes,
        *,
        headers: HeadersInput = (),
        topic: str | None = None,
        key: str | bytes | None = None,
        message_id: str | None = None,
        timestamp: float | None = None,
        content_type: str | None = None,
    ) -> None:
        self.raw_data = raw_data
        self._headers: Headers | HeadersInput = headers
        self.topic = topic
        self.key = key
        self._message_id = message_id
        self._content: object = NOT_DECODED
        self.timestamp = timestamp
        self.content_type = content_type

    @property
    def headers(self) -> Headers:
        """The headers, parsed at the first access."""
        headers = self._headers
        if isinstance(headers, Headers):
            return headers
        self._headers = parsed = Headers(headers)
        return parsed

    @property
    def message_id(self) -> str:
        """The id, equal across redeliveries. Generated now if neither the producer nor the transport provided one."""
        if self._message_id is None:
            self._message_id = new_id()
        return self._message_id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self is other or self.message_id == other.message_id

    def __hash__(self) -> int:
        return hash(self.message_id)

    def __repr__(self) -> str:
        import hashlib  # noqa: PLC0415 - loads OpenSSL, which only processes that print messages need

        # A producer's id may be confidential, such as an order number or an address. Only its digest is shown.
        digest = hashlib.sha256(self.message_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return f"<{type(self).__name__} id#{digest}, {counted(len(self.raw_data), 'byte')}>"


class RawMessage(Message):
    """A message whose body is not decoded."""

    __slots__ = ()


class StructuredMessage(Message):
    """A message with a decoded body, in which `Field` finds values.

    A subclass overrides `decode`. The result is available as `content`.
    """

    __slots__ = ("_converted",)
    _converted: dict[Any, Any]
    """The results of `as_type`. Set at first use, because most messages have none."""

    def decode(self) -> object:
        """Return the decoded body. Called at most once per message. Any exception becomes a `DecodingError`."""
        raise NotImplementedError(f"{type(self).__name__} must override decode()")

    @classmethod
    def holding(cls, content: object, **envelope: Any) -> Self:
        """Return a message with decoded `content` and an empty body."""
        message = cls(b"", **envelope)
        message._content = content
        return message

    @property
    def content(self) -> object:
        """The result of `decode`, computed once. Every access raises `DecodingError` if decoding fails."""
        content = self._content
        if content is NOT_DECODED:
            try:
                content = self.decode()
            except NotImplementedError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a decoder may raise any exception, which may contain the body
                content = _undecodable(self, error)
            self._content = content
        if type(content) is _Undecodable:
            raise DecodingError(content.why)
        return content

    @overload
    def as_type(self, type_: type[T]) -> T: ...
    @overload
    def as_type(self, type_: Any) -> Any: ...
    def as_type(self, type_: Any) -> Any:
        """Return the content converted to a type: a struct, dataclass, attrs class, pydantic model or a list of them.

        The result is kept, so that later calls with the same type return the same object. Raise `DecodingError` if the
        content does not fit; the error names the field and shows no value. Raise `UsageError` for a type that neither
        msgspec nor pydantic can make.
        """
        try:
            known = self._converted
        except AttributeError:
            known = self._converted = {}
        try:
            result = known.get(type_, NOT_DECODED)
        except TypeError:
            raise UsageError(f"as_type takes a type that has a hash, not a {type(type_).__name__}") from None
        if result is NOT_DECODED:
            known[type_] = result = self._convert(converter(type_))
        if type(result) is Unfit:
            raise DecodingError(result.why)
        return result

    def _convert(self, into: Converter) -> Any:
        return into.from_content(self.content)


class _Undecodable:
    """Placeholder for the content of a body that cannot be decoded."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


def _undecodable(message: Message, error: BaseException) -> _Undecodable:
    """Return the reason why a body cannot be decoded, without the exception, which may contain the body."""
    if isinstance(error, DecodingError):
        return _Undecodable(str(error))
    return _Undecodable(f"the body is not a {type(message).__name__} ({type(error).__name__} while decoding)")


class JSONMessage(StructuredMessage):
    """A message whose body is a JSON document.

    Integers are exact up to the interpreter's limit of 4300 digits (`sys.set_int_max_str_digits`). NaN and infinities
    are errors, as in RFC 8259.
    """

    __slots__ = ()

    def decode(self) -> Any:
        """Return the parsed document."""
        return _decode_json(self.raw_data)

    def _convert(self, into: Converter) -> Any:
        return into.from_json(self.raw_data)

    def get_json(self) -> Any:
        """Return the parsed document. Raise `DecodingError` if the body is not JSON."""
        return self.content

    @classmethod
    def holding(cls, content: object, **envelope: Any) -> Self:
        """Return a message whose body is `content` as JSON.

        A class whose `decode` is declared to return an object with fields holds `content` itself where `decode` refuses
        this body, because an example may lack fields that the object requires.
        """
        message = cls(msgspec.json.encode(content), **envelope)
        if cls.decode is not JSONMessage.decode and _returns_fields(cls.decode):
            try:
                message.content  # noqa: B018 - decode now
            except DecodingError:
                message._content = content
        return message

    @classmethod
    def of(
        cls,
        obj: object,
        *,
        headers: HeadersInput = (),
        topic: str | None = None,
        key: str | bytes | None = None,
        message_id: str | None = None,
        timestamp: float | None = None,
        content_type: str | None = "application/json",
    ) -> Self:
        """Return a message whose body is `obj` as JSON, for tests."""
        return cls(
            msgspec.json.encode(obj),
            headers=headers,
            topic=topic,
            key=key,
            message_id=message_id,
            timestamp=timestamp,
            content_type=content_type,
        )


def _returns_fields(decode: Any) -> bool:
    """Return whether the return annotation of a function names a class with fields."""
    try:
        returned = get_type_hints(decode).get("return")
    except Exception:  # noqa: BLE001 - a name that does not exist at run time
        return False
    return any(isinstance(one, type) and has_fields(one) for one in (returned, *get_args(returned)))
