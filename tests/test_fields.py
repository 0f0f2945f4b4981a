"""Typed bodies: fields of structs, dataclasses, attrs classes and pydantic models."""

from __future__ import annotations

import dataclasses
import enum
import json
import subprocess
import sys
import types
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, ClassVar

import attrs
import msgspec
import pydantic
import pytest

from missive import JSONMessage, OverlapWarning, Processor, RegistrationError, StructuredMessage
from missive.fields import MISSING, is_object, member, members
from missive.matchers import Absent, Field, IsInstance, OneOf, Prefix, Range, Some, by_field
from missive.public import checked_places, public_values

CANARY = "canary-4711"


class Customer(msgspec.Struct):
    country: str


class Struct(msgspec.Struct, rename="camel"):
    type: str
    total: float
    order_id: int
    customer: Any
    note: str | msgspec.UnsetType | None = msgspec.UNSET
    labels: Any = ()


@dataclasses.dataclass(slots=True)
class Data:
    type: str
    total: float
    order_id: int
    customer: Any
    labels: Any = ()


@attrs.define
class Attrs:
    type: str
    total: float
    order_id: int
    customer: Any
    labels: Any = ()


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", populate_by_name=True)

    type: str
    total: float
    order_id: int = pydantic.Field(alias="orderId")
    customer: Any
    labels: Any = ()


@pydantic.dataclasses.dataclass
class ModelData:
    type: str
    total: float
    order_id: int
    customer: Any
    labels: Any = ()


def mapping(**fields: Any) -> Any:
    return types.MappingProxyType(fields)


KINDS: list[Callable[..., Any]] = [Struct, Data, Attrs, Model, ModelData, mapping]
each_kind = pytest.mark.parametrize("make", KINDS)


class Typed(StructuredMessage):
    """A message whose content is given."""


def holding(make: Callable[..., Any], **fields: Any) -> Typed:
    given = {"type": "placed", "total": 10.0, "order_id": 7, "customer": Customer("SE")} | fields
    return Typed.holding(make(**given))


@each_kind
def test_fields_are_found_by_name(make):
    """A field has its Python name, also where JSON has another, and paths lead through nested objects."""
    message = holding(make)
    assert Field("type", "placed")(message)
    assert Field("order_id", 7)(message)
    assert Field("orderId", Absent())(message)
    assert Field(("customer", "country"), OneOf("SE", "NO"))(message)
    assert Field("customer", IsInstance(dict))(message)
    assert Field(("type", "x"), Absent())(message)
    assert by_field(("customer", "country"))(message) == "SE"
    assert by_field("missing")(message) is None


@pytest.mark.parametrize("make", [Struct, Data, Attrs, Model, ModelData])
def test_only_fields_are_found(make):
    """Methods, properties and attributes of the class are not fields."""
    names = ["__class__", "__init__", "__dict__", "model_dump", "model_fields", "__struct_fields__", "model_config"]
    assert [
        name for name in names if member(make(type="a", total=1, order_id=1, customer=1), name) is not MISSING
    ] == []


def test_class_variables_and_initial_variables_are_not_fields():
    """A dataclass has neither its class variables nor its `InitVar`s as fields."""

    @dataclasses.dataclass
    class Partly:
        a: int
        shared: ClassVar[int] = 1
        initial: dataclasses.InitVar[int] = 2

    assert dict(members(Partly(1)) or {}) == {"a": 1}


@pytest.mark.parametrize("value", ["text", b"x", 1, 1.5, None, True, [1], (1,), {1}, object(), Struct, len])
def test_other_values_have_no_fields(value):
    """Scalars, lists and objects of other classes have no members."""
    assert not is_object(value)
    assert members(value) is None
    assert member(value, "real") is MISSING


class Kind(enum.Enum):
    placed = "placed"


IDENTITY = uuid.UUID("12345678-1234-5678-1234-567812345678")


@each_kind
@pytest.mark.parametrize(
    ("value", "test"),
    [
        (Kind.placed, "placed"),
        (IDENTITY, str(IDENTITY)),
        (Decimal("10.50"), Range(gt=10, lt=11)),
        (Decimal(2**60 + 1), 2**60 + 1),
        ({"a"}, Some("a")),
        (("a",), IsInstance(list)),
        ([Kind.placed], Some("placed")),
        (None, None),
    ],
)
def test_values_are_read_as_json_has_them(make, value, test):
    """An enumeration is its value, a UUID text, a decimal a number, and a set a list."""
    if make is not mapping:
        assert Field("labels", test)(holding(make, labels=value))


def test_an_unset_field_is_missing():
    """UNSET of msgspec means that the body has no such field, and null is a value."""
    assert Field("note", Absent())(holding(Struct))
    assert Field("note", None)(holding(Struct, note=None))


def test_undeclared_fields_of_a_model_are_found():
    """A pydantic model with extra="allow" has the fields that its class does not declare."""
    message = holding(Model, tenant="a")
    assert Field("tenant", "a")(message)
    assert "tenant" in (members(message.content) or {})


@each_kind
@pytest.mark.parametrize("number", [1, 3, 100])
def test_the_index_finds_the_handlers_that_match(make, number):
    """Routing by one field, by several, and by more fields than are looked up singly finds the same as the matchers."""
    proc = Processor(Typed, on_overlap="ignore")
    for n in range(number):
        proc.add_handler(Field("type", f"type-{n}"), lambda m, c: None, name=f"type-{n}")
        if number > 1:
            proc.add_handler(Field("total", n), lambda m, c: None, name=f"total-{n}")
            proc.add_handler(Field(("customer", "country"), f"c-{n}"), lambda m, c: None, name=f"country-{n}")
            proc.add_handler(Field(f"field-{n}", 1) & Field("total", Range(gt=n)), lambda m, c: None, name=f"f-{n}")
    matchers = {route.name: route.matcher for route in proc.routes()}
    for n in range(number):
        for fields in ({"type": f"type-{n}"}, {"total": n}, {"customer": Customer(f"c-{n}")}, {}):
            message = holding(make, **fields)
            expected = [name for name, matcher in matchers.items() if matcher(message)]
            found = proc.explain(message)
            assert [one.handler for one in found.considered if one.verdict == "matches"] == expected
            assert len(proc.route(message)) == len(expected)


@each_kind
def test_explain_and_public_agree(make):
    """An explanation shows a public field, and the shape of the others."""
    proc = Processor(Typed, public=["type", ("customer", "country")])
    proc.add_handler(Field("type", "x") & Field(("customer", "country"), Prefix("N")), lambda m, c: None, name="a")
    proc.add_handler(Field("total", CANARY) & Field("customer", 1), lambda m, c: None, name="b")
    message = holding(make, customer=Customer("SE"), total=5.5)
    text = str(proc.explain(message))
    assert "got 'placed'" in text
    assert "got 'SE'" in text
    assert "got <float>" in text
    assert "got <object, 1 field>" in text
    assert public_values(message, proc.public) == {"type": "placed", "customer.country": "SE"}


def test_a_property_that_raises_is_not_shown():
    """A field whose property raises is no public value, and its exception goes no further."""

    class Raises:
        def __get__(self, instance: object, owner: type) -> int:
            if instance is None:
                return 1
            raise ValueError(CANARY)

    @dataclasses.dataclass
    class Bad:
        a: int = Raises()  # type: ignore[assignment]
        b: int = 2

        def __init__(self) -> None:
            pass

    assert public_values(Typed.holding(Bad()), checked_places(["a", "b"], Typed)) == {"b": 2}


def test_the_proofs_hold_for_objects():
    """A field with a field inside is an object, so `IsInstance(dict)` is implied, and its complement is refused."""
    proc = Processor(Typed)
    with pytest.raises(RegistrationError, match="exclude each other"):
        proc.add_handler(~Field("a", IsInstance(dict)) & Field(("a", "b"), 1), lambda m, c: None)


class Strict(JSONMessage):
    """A message class that decodes to a struct, and refuses a body without its fields."""

    def decode(self) -> Struct:
        return msgspec.json.decode(self.raw_data, type=Struct)


class Optional(JSONMessage):
    """A message class that decodes to a model without required fields."""

    def decode(self) -> Any:
        return pydantic.create_model("M", type=(str, ""), total=(int, 0)).model_validate_json(self.raw_data)


@pytest.mark.parametrize(
    ("cls", "example"),
    [(Strict, r"Strict\.holding\(.*'type': 'a'.*\)"), (Optional, r"Optional\(b'\{.*\}'\)")],
)
def test_overlaps_of_typed_json_are_reported(cls, example):
    """An overlap is reported with an example, also if the example lacks fields that the type requires."""
    proc = Processor(cls)
    proc.add_handler(Field("type", "a"), lambda m, c: None, name="one")
    with pytest.warns(OverlapWarning, match=f"{example} matches both"):
        proc.add_handler(Field("total", Range(gt=4)), lambda m, c: None, name="two")


@pytest.mark.parametrize(
    "make", [Customer, dataclasses.make_dataclass("D", ["country"]), pydantic.create_model("M", country=(str, ...))]
)
def test_the_key_of_an_object_is_its_text(make):
    """`by_field` of an object is equal for equal objects, with any type."""
    key = by_field("customer")
    assert key(holding(Data, customer=make(country="SE"))) == key(Typed.holding({"customer": {"country": "SE"}}))
    frozen = dataclasses.make_dataclass("F", ["country"], frozen=True)
    assert key(holding(Data, customer=frozen("SE"))) == b'{"country":"SE"}'


def test_no_library_is_imported():
    """Reading the fields of structs and dataclasses loads neither pydantic nor attrs."""
    code = """
import sys, json, dataclasses, msgspec, missive
from missive.matchers import Field
@dataclasses.dataclass
class D:
    a: int
class M(missive.JSONMessage):
    def decode(self): return D(1)
assert Field("a", 1)(M(b""))
print(json.dumps([name for name in ("pydantic", "attr", "attrs") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
