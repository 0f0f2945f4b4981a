"""`as_type`: the conversion of messages to types, and errors without values."""

from __future__ import annotations

import dataclasses
import enum
import json
import subprocess
import sys
import traceback
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from missive import DecodingError, JSONMessage, Processor, StructuredMessage, UsageError
from missive.dlq.failure import capture

CANARY = "canary4711"


class Kind(enum.Enum):
    placed = "placed"


class Item(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    unit_price: Annotated[int, msgspec.Meta(ge=1)]
    kind: Kind = Kind.placed
    kinds: Literal["a", "b"] = "a"


class Order(msgspec.Struct):
    number: int
    items: list[Item] = []
    prices: dict[str, int] = {}
    by_number: dict[int, int] = {}


@dataclasses.dataclass
class DataOrder:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"{self.number} {CANARY}")


@attrs.define
class AttrsOrder:
    number: int = attrs.field(validator=attrs.validators.gt(0))


class DictOrder(TypedDict):
    number: int


class ModelItem(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    unit_price: int = pydantic.Field(alias="unitPrice", ge=1)
    kind: Kind = Kind.placed


class ModelOrder(pydantic.BaseModel):
    number: int
    items: list[ModelItem] = []
    prices: dict[str, int] = {}
    by_number: dict[int, int] = {}
    either: int | list[int] = 0

    @pydantic.field_validator("number")
    @classmethod
    def check(cls, value: int) -> int:
        if value < 0:
            raise ValueError(f"{value} {CANARY}")
        if value == 0:
            raise KeyError(CANARY)
        return value


@pydantic.dataclasses.dataclass
class ModelDataOrder:
    number: int


class Pairs(StructuredMessage):
    """A message of another format."""

    def decode(self) -> dict[str, Any]:
        return json.loads(self.raw_data)


class Tagged(msgspec.Struct, tag="x"):
    number: int


TYPES = [Order, DataOrder, AttrsOrder, DictOrder, ModelOrder, ModelDataOrder, Tagged | None]
each_class = pytest.mark.parametrize("message_cls", [JSONMessage, Pairs])


@each_class
@pytest.mark.parametrize("type_", TYPES, ids=str)
def test_a_message_is_converted_once_to_each_type(message_cls, type_):
    """The same type gives the same object, and another type another object."""
    message = message_cls(b'{"number": 7, "type": "x"}')
    first = message.as_type(type_)
    assert (first["number"] if isinstance(first, dict) else first.number) == 7
    assert message.as_type(type_) is first
    assert message.as_type(dict[str, Any]) == {"number": 7, "type": "x"}


@each_class
def test_collections_of_types_are_converted(message_cls):
    """A list of models is pydantic's, and a list of structs msgspec's."""
    message = message_cls(b'[{"number": 7}]')
    assert message.as_type(list[Order]) == [Order(7)]
    assert message.as_type(list[ModelOrder]) == [ModelOrder(number=7)]
    assert message.as_type(list[ModelOrder | None]) == [ModelOrder(number=7)]
    assert message.as_type(Annotated[list[ModelOrder], pydantic.Field(min_length=1)]) == [ModelOrder(number=7)]


def test_json_is_decoded_from_the_bytes():
    """A JSON message keeps the digits of a decimal, and its content is not decoded for the conversion."""

    class Price(msgspec.Struct):
        total: Decimal

    class Never(JSONMessage):
        def decode(self) -> Any:
            raise AssertionError

    message = Never(b'{"total": 0.12345678901234567890123}')
    assert message.as_type(Price).total == Decimal("0.12345678901234567890123")


def test_content_of_a_type_is_its_own_conversion():
    """Content that has the type already is returned as it is."""
    order = Order(1)
    assert Pairs.holding(order).as_type(Order) is order
    assert Pairs.holding(model := ModelOrder(number=1)).as_type(ModelOrder) is model


def test_keys_of_other_formats_may_be_text():
    """Outside JSON, a key of a mapping is converted from text as in JSON."""
    assert Pairs(b'{"number": 1, "by_number": {"7": 2}}').as_type(Order).by_number == {7: 2}


def test_decode_can_use_as_type():
    """A JSON message can decode its content as a type, so that the errors name the field."""

    class OrderMessage(JSONMessage):
        def decode(self) -> Order:
            return self.as_type(Order)

    assert OrderMessage(b'{"number": 1}').content == Order(1)
    with pytest.raises(DecodingError, match=r"^the body does not fit Order: \$.number is missing$"):
        OrderMessage(b"{}").content  # noqa: B018


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (Order, {}, "$.number is missing"),
    (Order, {"number": CANARY}, "$.number: Expected `int`, got `str`"),
    (Order, {"number": 1, "items": [{"unitPrice": 1}, {"unitPrice": 0}]}, "$.items[1].unitPrice: Expected `int` >= 1"),
    (Order, {"number": 1, "items": [{}]}, "$.items[0].unitPrice is missing"),
    (Order, {"number": 1, "items": [{"unitPrice": 1, "kind": CANARY}]}, "$.items[0].kind does not fit"),
    (Order, {"number": 1, "items": [{"unitPrice": 1, "kinds": CANARY}]}, "$.items[0].kinds does not fit"),
    (Order, {"number": 1, "items": [{"unitPrice": 1, CANARY: 1}]}, "$.items[...] has an unknown field"),
    (Item, {"unitPrice": 1, f"x - at `$.{CANARY}": 1}, "$[...] has an unknown field"),
    (Item, {"unitPrice": 1, f"x - at `$[47114711].{CANARY}": 1}, "$[...][...] has an unknown field"),
    (Order, {"number": 1, "prices": {CANARY: "x"}}, "$.prices[...]: Expected `int`, got `str`"),
    (Order, {"number": 1, "by_number": {CANARY: 1}}, "$.by_number: Expected `int`, got `str`"),
    (Order, {"number": 1, "by_number": {"47114711": CANARY}}, "$.by_number[...]: Expected `int`, got `str`"),
    (DataOrder, {"number": -47114711}, "$ is refused (ValueError)"),
    (AttrsOrder, {"number": -47114711}, "$ is refused (ValueError)"),
    (list[DataOrder], [{"number": 1}, {"number": -47114711}], "$[1] is refused (ValueError)"),
    (ModelOrder, {}, "$.number is missing"),
    (ModelOrder, {"number": CANARY}, "$.number: int_parsing"),
    (ModelOrder, {"number": -47114711}, "$.number: value_error"),
    (ModelOrder, {"number": 0}, "$ is refused (KeyError)"),
    (ModelOrder, {"number": 1, "items": [{"unitPrice": 0}]}, "$.items[0].unitPrice: greater_than_equal"),
    (ModelOrder, {"number": 1, "items": [{"unitPrice": 1, CANARY: 1}]}, "$.items[0][...]: extra_forbidden"),
    (ModelOrder, {"number": 1, "items": [{"unitPrice": 1, "kind": CANARY}]}, "$.items[0].kind: enum"),
    (ModelOrder, {"number": 1, "prices": {CANARY: "x"}}, "$.prices[...]: int_parsing"),
    (ModelOrder, {"number": 1, "by_number": {"47114711": CANARY}}, "$.by_number[...]: int_parsing"),
    (ModelOrder, {"number": 1, "either": [CANARY]}, "$.either: int_type, $.either[0]: int_parsing"),
    (list[ModelOrder], [{"number": 1}, {}], "$[1].number is missing"),
    (ModelOrder, {"number": 1, "prices": dict.fromkeys("abcde", "x")}, "$.prices[...]: int_parsing and 2 more"),
]  # fmt: skip


@each_class
@pytest.mark.parametrize(("type_", "body", "where"), WRONG, ids=[f"{n}" for n in range(len(WRONG))])
def test_an_error_has_the_path_and_no_value(message_cls, type_, body, where, caplog):
    """The text, the chain, the record and the logs show names of the type and nothing of the message."""
    message = message_cls(json.dumps(body).encode())
    for _ in range(2):
        with pytest.raises(DecodingError) as raised:
            message.as_type(type_)
        error = raised.value
        assert str(error).endswith(where)
        assert error.__cause__ is error.__context__ is None
        shown = "".join(traceback.format_exception(error)) + repr(capture(error)) + caplog.text
        assert CANARY not in shown
        assert "47114711" not in str(error)


@pytest.mark.parametrize("type_", [Order, ModelOrder, DataOrder])
def test_a_body_that_is_not_json_says_so(type_):
    """A body that cannot be parsed fits no type."""
    with pytest.raises(DecodingError, match=r"the body is not JSON$"):
        JSONMessage(b'{"number": canary4711').as_type(type_)


def test_content_that_cannot_be_decoded_is_unreadable():
    """The error of `decode` is the error of the conversion."""
    with pytest.raises(DecodingError, match="JSONDecodeError while decoding"):
        Pairs(b"{").as_type(Order)


def test_content_that_does_not_fit_is_unreadable():
    """A handler whose message does not fit makes it a dead letter, `unreadable`, without the text of the libraries."""
    dead: dict[str, Any] = {}
    proc = Processor(JSONMessage, dlq=dead, retry=None)
    proc.add_handler(lambda m: True, lambda m, c: m.as_type(ModelOrder), name="order")
    with proc.test_client() as client:
        result = client.send(JSONMessage.of({"number": CANARY}, message_id="1"))
    assert result.reason == "unreadable"
    assert dead["1"][1] == "the body does not fit ModelOrder: $.number: int_parsing"


class Outer(msgspec.Struct):
    inner: ModelItem


class Other:
    """A class that no library can make."""


@pytest.mark.parametrize(
    "type_",
    ["Order", object(), Order | AttrsOrder, Outer, Other, list[Other], ModelOrder | Order],
)
def test_a_type_that_cannot_be_made_is_a_mistake_of_the_code(type_):
    """A type that the libraries do not know raises `UsageError`, whatever the message."""
    with pytest.raises(UsageError, match="as_type cannot make"):
        JSONMessage(b'{"inner": {"unitPrice": 1}}').as_type(type_ if type_ != list[Other] else dict[str, Other])


def test_a_type_without_a_hash_is_refused():
    """A type must have a hash, because the result is kept by type."""
    with pytest.raises(UsageError, match="has a hash"):
        JSONMessage(b"{}").as_type([Order])


def test_no_library_is_imported():
    """Converting to structs and dataclasses loads neither pydantic nor attrs."""
    code = """
import sys, json, dataclasses, missive
@dataclasses.dataclass
class D:
    a: int
assert missive.JSONMessage(b'{"a": 1}').as_type(D) == D(1)
print(json.dumps([name for name in ("pydantic", "attr", "attrs") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
