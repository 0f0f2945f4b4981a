"""Matchers and their composition: canonical form, three-valued evaluation and value semantics."""

from __future__ import annotations

import copy
import enum
import functools
import itertools
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given

from missive import JSONMessage, Message, RawMessage
from missive.errors import DecodingError, RegistrationError
from missive.matchers import (
    And,
    Body,
    Equals,
    Everything,
    Field,
    Header,
    Key,
    Matcher,
    Not,
    OneOf,
    Or,
    Predicate,
    Prefix,
    Range,
    Topic,
)
from tests.support import strategies
from tests.support.matchers import rebuilt

quick = strategies.examples(35)

TRUE, FALSE, UNKNOWN = Everything(), ~Everything(), Field("x", 1)
UNREADABLE = JSONMessage(b"{")
VERDICTS = [(TRUE, True), (FALSE, False), (UNKNOWN, None)]


def kleene(matcher, message):
    """Evaluate a composition by the truth tables of three-valued logic, without shortcuts."""
    if isinstance(matcher, Not):
        answer = kleene(matcher.part, message)
        return None if answer is None else not answer
    if isinstance(matcher, (And, Or)):
        answers = [kleene(part, message) for part in matcher.parts]
        decisive = isinstance(matcher, Or)
        if decisive in answers:
            return decisive
        return None if None in answers else not decisive
    return matcher.evaluate(message)


@quick
@given(strategies.matchers, strategies.matchers)
def test_order_of_operands_does_not_matter(one, other):
    """`A & B == B & A` and `A | B == B | A`, with equal hashes."""
    assert (one & other) == (other & one)
    assert hash(one & other) == hash(other & one)
    assert (one | other) == (other | one)
    assert hash(one | other) == hash(other | one)


@quick
@given(strategies.matchers)
def test_duplicate_operands_are_removed(one):
    """`A & A == A` and `A | A == A`, except that a composition of one part is simplified."""
    expected_and = one.simplified() if isinstance(one, And) else one
    expected_or = one.simplified() if isinstance(one, Or) else one
    assert expected_and == (one & one)
    assert expected_or == (one | one)


@quick
@given(strategies.matchers, strategies.matchers, strategies.matchers)
def test_composition_is_associative(one, two, three):
    """`(A & B) & C == A & (B & C)`, and likewise for `|`."""
    assert ((one & two) & three) == (one & (two & three))
    assert ((one | two) | three) == (one | (two | three))


@quick
@given(strategies.matchers)
def test_two_complements_cancel(one):
    """`~~A == A`, and `~A != A`."""
    assert one == ~~one
    assert one != ~one


@strategies.examples(90)
@given(strategies.matchers)
def test_repr_is_an_expression_for_the_matcher(matcher):
    """`eval(repr(m)) == m`, with the same hash and type."""
    again = rebuilt(matcher)
    assert matcher == again
    assert hash(matcher) == hash(again)
    assert type(matcher) is type(again)


@quick
@given(strategies.matchers, strategies.messages())
def test_equal_matchers_have_equal_verdicts(matcher, message):
    """A matcher evaluated from its repr matches the same messages."""
    assert matcher.evaluate(message) == rebuilt(matcher).evaluate(message)


@strategies.examples(70)
@given(strategies.matchers, strategies.messages())
def test_compositions_follow_three_valued_logic(matcher, message):
    """The verdict of a composition agrees with the truth tables of three-valued logic."""
    assert kleene(matcher, message) is matcher.evaluate(message)


@quick
@given(strategies.matchers, strategies.matchers, strategies.messages())
def test_de_morgan(one, other, message):
    """`~(A & B)` has the verdict of `~A | ~B`, and `~(A | B)` the verdict of `~A & ~B`."""
    assert (~(one & other)).evaluate(message) is (~one | ~other).evaluate(message)
    assert (~(one | other)).evaluate(message) is (~one & ~other).evaluate(message)


@quick
@given(strategies.matchers, strategies.messages())
def test_call_returns_the_verdict_or_raises(matcher, message):
    """`evaluate` returns True, False or None. A call returns the same, and raises `DecodingError` for None."""
    verdict = matcher.evaluate(message)
    assert type(verdict) in (bool, type(None))
    if verdict is None:
        with pytest.raises(DecodingError):
            matcher(message)
    else:
        assert verdict is matcher(message)


@pytest.mark.parametrize(("one", "other"), list(itertools.product(VERDICTS, VERDICTS)))
def test_truth_tables(one, other):
    """False & unknown is false, true | unknown is true, and other compositions with unknown are unknown."""
    (a, left), (b, right) = one, other
    both = False if False in (left, right) else None if None in (left, right) else True
    either = True if True in (left, right) else None if None in (left, right) else False
    assert both is And(a, b).evaluate(UNREADABLE)
    assert either is Or(a, b).evaluate(UNREADABLE)


def test_complement_of_unknown_is_unknown():
    """The complement of an unknown verdict is unknown."""
    assert (~UNKNOWN).evaluate(UNREADABLE) is None


LITERALS = [True, False, 1, 1.0, 0, 0.0, -0.0, "1", b"1", None, "", 2**70, float(2**70), 2**70 + 1]


@pytest.mark.parametrize(("one", "other"), list(itertools.product(LITERALS, LITERALS)))
def test_matchers_with_equal_literals_are_equal(one, other):
    """`1` and `1.0` make equal matchers, `True` and `1` do not. Equal matchers have equal hashes."""
    mean_the_same = one == other and isinstance(one, bool) == isinstance(other, bool)
    a, b = Field("f", one), Field("f", other)
    assert mean_the_same is (a == b)
    assert len({a, b}) == (1 if mean_the_same else 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Field("a", 1), Header("a", 1)),
        (Topic("a"), Key("a")),
        (Topic("a"), Body("a")),
        (Field("a.b", 1), Field(("a", "b"), 1)),
        (Topic(Prefix("a")), Topic(Prefix("a", ignore_case=True))),
        (Field("a", Range(gt=1)), Field("a", Range(ge=1))),
        (Field("a", 1) & Field("b", 1), Field("a", 1) | Field("b", 1)),
        (Field("a", 1), "Field('a', Equals(1))"),
        (Equals("a"), "a"),
    ],
)
def test_different_matchers_are_not_equal(one, other):
    """Matchers that differ in class, place, test or option are not equal."""
    assert one != other


def test_header_names_are_compared_without_ascii_case():
    """Header matchers whose names differ in ASCII case only are equal."""
    assert Header("X-Id", "1") == Header("x-iD", "1")
    assert hash(Header("X-Id", "1")) == hash(Header("x-iD", "1"))
    assert Header("X-Id", "1") != Header("X-Id", "2")


def test_field_path_of_one_segment_equals_the_string():
    """`Field("a", …)` equals `Field(("a",), …)`."""
    assert Field("a", 1) == Field(("a",), 1)


def test_matchers_have_no_truth_value():
    """`a and b` and `if a` raise `TypeError`, which names the operators to use."""
    with pytest.raises(TypeError, match=r"write & \| ~ in place of and, or, not"):
        Topic("a") and Topic("b")
    with pytest.raises(TypeError):
        assert not Topic("a")


@pytest.mark.parametrize("name", ["test", "path", "new"])
def test_matchers_are_frozen(name):
    """Setting, deleting or adding an attribute raises `AttributeError`."""
    matcher = Field("a", 1)
    with pytest.raises(AttributeError, match="frozen"):
        setattr(matcher, name, 2)
    with pytest.raises(AttributeError, match="frozen"):
        delattr(matcher, name)
    assert Field("a", 1) == matcher


def test_matchers_have_slots():
    """Matchers and tests have no `__dict__`."""
    for thing in [Field("a", 1), Header("a", 1), Topic("a") & Key("b"), ~Topic("a"), Everything(), Equals(1)]:
        assert not hasattr(thing, "__dict__")


def test_callable_on_either_side_becomes_a_predicate():
    """`matcher & fn` and `fn & matcher` compose, and likewise for `|`."""
    fn = lambda message: message.raw_data == b"yes"
    expected = And(Topic("a"), Predicate(fn))
    assert expected == (Topic("a") & fn)
    assert expected == (fn & Topic("a"))
    assert Or(Topic("a"), Predicate(fn)) == (Topic("a") | fn) == (fn | Topic("a"))
    assert (Topic("a") & fn)(RawMessage(b"yes", topic="a")) is True
    assert (Topic("a") & fn)(RawMessage(b"no", topic="a")) is False
    assert (Topic("a") | fn)(RawMessage(b"yes")) is True


@pytest.mark.parametrize("thing", [1, "a", None, True])
def test_composition_with_a_literal_is_refused(thing):
    """A literal as an operand of `&` or `|` raises at once."""
    with pytest.raises((RegistrationError, TypeError)):
        Topic("a") & thing
    with pytest.raises((RegistrationError, TypeError)):
        thing | Topic("a")
    with pytest.raises(RegistrationError):
        Predicate(thing)


def test_predicates_are_equal_by_identity():
    """Two predicates are equal if they have the same callable object, regardless of its `__eq__`."""

    class Agreeable:
        def __eq__(self, other):
            return True

        __hash__ = None

        def __call__(self, message):
            return True

    one, other = Agreeable(), Agreeable()
    assert Predicate(one) == Predicate(one)
    assert Predicate(one) != Predicate(other)
    assert len({Predicate(one), Predicate(one), Predicate(other)}) == 2


def test_predicate_verdict_is_a_bool():
    """The result of a callable is converted to a bool."""
    assert Predicate(lambda message: "something").evaluate(RawMessage(b"")) is True
    assert Predicate(lambda message: None).evaluate(RawMessage(b"")) is False


def test_predicate_on_an_undecodable_body_is_unknown():
    """`DecodingError` in a callable means unknown. Other exceptions propagate."""
    assert Predicate(lambda message: message.content["a"] == 1).evaluate(UNREADABLE) is None
    with pytest.raises(KeyError):
        Predicate(lambda message: message.content["a"]).evaluate(JSONMessage.of({}))


def test_callables_are_evaluated_last():
    """In a conjunction, a callable is called only for messages that the other parts match."""
    calls = []
    matcher = (lambda message: calls.append(message.raw_data) or True) & Topic("z")
    assert matcher.evaluate(RawMessage(b"1", topic="a")) is False
    assert matcher.evaluate(RawMessage(b"2", topic="z")) is True
    assert calls == [b"2"]


def test_callables_with_equal_reprs_compose_in_any_order():
    """Conjunctions of different callables with equal reprs are equal in any order."""
    one, other = [lambda message, n=n: n for n in (1, 2)]
    assert repr(Predicate(one)) == repr(Predicate(other))
    assert (Topic("a") & one & other) == (other & Topic("a") & one)


@pytest.mark.parametrize("kind", [And, Or])
def test_empty_composition_is_refused(kind):
    """`And()` and `Or()` raise `RegistrationError`."""
    with pytest.raises(RegistrationError, match="at least one"):
        kind()


def test_compositions_are_flat():
    """Nested conjunctions become one conjunction without duplicates."""
    a, b, c = Topic("a"), Topic("b"), Topic("c")
    assert {a, b, c} == set(((a & b) & (b & c)).parts)
    assert len(((a & b) & (b & c)).parts) == 3
    assert set(((a | b) & c).parts) == {a | b, c}


def test_walk_yields_every_part():
    """`walk` yields the matcher, then all its parts."""
    a, b, c = Topic("a"), Topic("b"), Topic("c")
    whole = a & ~(b | c)
    assert next(iter(whole.walk())) is whole
    assert set(whole.walk()) == {whole, a, ~(b | c), b | c, b, c}


def test_user_defined_matcher():
    """A subclass that implements `evaluate` composes, compares and hashes like a matcher of the library."""

    class Longer(Matcher[Message]):
        __slots__ = ("size",)

        def __init__(self, size):
            self._freeze(size, size=size)

        def evaluate(self, message):
            return len(message.raw_data) > self.size

        def __repr__(self):
            return f"Longer({self.size})"

    assert Longer(1) == Longer(1) != Longer(2)
    assert (Longer(1) & ~Longer(2))(RawMessage(b"ab")) is True
    assert (Longer(1) & ~Longer(2))(RawMessage(b"abc")) is False


def test_repr_of_a_double_not():
    """`eval(repr(m)) == m` also for `Not(Not(…))`, which `~~` would simplify."""
    doubled = Not(Not(Topic("a")))
    assert doubled == rebuilt(doubled)


class Colour(enum.StrEnum):
    red = "red"


class Size(enum.IntEnum):
    small = 1


@pytest.mark.parametrize(
    "matcher",
    [
        Field("a", Colour.red),
        Field("a", OneOf(Colour.red, "b")),
        Field("a", Prefix(Colour.red)),
        Field(Colour.red, 1),
        Field("a", Size.small),
        Field("a", Range(gt=Size.small)),
        Header(Colour.red, "1"),
    ],
    ids=["Equals", "OneOf", "Prefix", "path", "int", "Range", "Header"],
)
def test_repr_with_enumeration_members_is_an_expression(matcher):
    """`eval(repr(m)) == m` also if a literal is a member of a str or int enumeration."""
    assert matcher == rebuilt(matcher)


@pytest.mark.parametrize("matcher", [Field("a", Colour.red), Field("a", OneOf(Colour.red, "b"))])
def test_enumeration_members_match_their_values(matcher):
    """A member of a str enumeration matches and equals its string value."""
    assert matcher(JSONMessage.of({"a": "red"})) is True
    assert Field("a", Colour.red) == Field("a", "red")


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "deepcopy", "pickle"]
)
def test_matchers_can_be_copied(clone):
    """Matchers can be copied, deep-copied and pickled."""
    matcher = Field(("a", "b"), OneOf(1, "x")) & ~Header("h", Prefix("p"))
    assert matcher == clone(matcher)


def test_pickled_matcher_is_equal_in_another_process():
    """An unpickled matcher has the hash of its new process, because hashes of text differ between processes."""
    matcher = Field(("a", "b"), OneOf(1, "x")) & ~Header("h", Prefix("p"))
    code = (
        "import pickle, sys; from missive.matchers import *; "
        f"there, here = pickle.loads(sys.stdin.buffer.read()), {matcher!r}; "
        "print(there == here, hash(there) == hash(here), {here: 1}.get(there), repr(there) == repr(here))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    run = functools.partial(subprocess.run, capture_output=True, check=True, env=environment)
    assert run([sys.executable, "-c", code], input=pickle.dumps(matcher)).stdout == b"True True 1 True\n"
