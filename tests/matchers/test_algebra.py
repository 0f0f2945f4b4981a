"""The algebra of matchers: canonical form, three-valued evaluation, value semantics."""

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
from missive import matchers as all_matchers
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

quick = strategies.examples(35)

TRUE, FALSE, UNKNOWN = Everything(), ~Everything(), Field("x", 1)
UNREADABLE = JSONMessage(b"{")
VERDICTS = [(TRUE, True), (FALSE, False), (UNKNOWN, None)]


def rebuilt(matcher):
    """Evaluate a matcher's repr."""
    return eval(repr(matcher), vars(all_matchers) | {"__builtins__": {"float": float} | vars(__import__("builtins"))})


def kleene(matcher, message):
    """Evaluate a composition by the tables of three-valued logic, with none of its own shortcuts."""
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
def test_order_of_writing_is_no_difference(one, other):
    """`A & B == B & A` and `A | B == B | A`, with equal hashes."""
    assert (one & other) == (other & one)
    assert hash(one & other) == hash(other & one)
    assert (one | other) == (other | one)
    assert hash(one | other) == hash(other | one)


@quick
@given(strategies.matchers)
def test_the_same_twice_is_the_same(one):
    """`A & A == A` and `A | A == A`, as far as the operators made A."""
    expected_and = one.simplified() if isinstance(one, And) else one
    expected_or = one.simplified() if isinstance(one, Or) else one
    assert expected_and == (one & one)
    assert expected_or == (one | one)


@quick
@given(strategies.matchers, strategies.matchers, strategies.matchers)
def test_nesting_is_no_difference(one, two, three):
    """`(A & B) & C == A & (B & C)`, and the same of `|`."""
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
    """`eval(repr(m)) == m`, with the same hash and repr of the same meaning."""
    again = rebuilt(matcher)
    assert matcher == again
    assert hash(matcher) == hash(again)
    assert type(matcher) is type(again)


@quick
@given(strategies.matchers, strategies.messages())
def test_a_rebuilt_matcher_answers_the_same(matcher, message):
    """What is equal matches the same messages."""
    assert matcher.evaluate(message) == rebuilt(matcher).evaluate(message)


@strategies.examples(70)
@given(strategies.matchers, strategies.messages())
def test_compositions_follow_three_valued_logic(matcher, message):
    """A composition answers what the truth tables say of its parts' answers."""
    assert kleene(matcher, message) is matcher.evaluate(message)


@quick
@given(strategies.matchers, strategies.matchers, strategies.messages())
def test_de_morgan(one, other, message):
    """`~(A & B)` answers as `~A | ~B`, and `~(A | B)` as `~A & ~B`."""
    assert (~(one & other)).evaluate(message) is (~one | ~other).evaluate(message)
    assert (~(one | other)).evaluate(message) is (~one & ~other).evaluate(message)


@quick
@given(strategies.matchers, strategies.messages())
def test_calling_answers_or_raises(matcher, message):
    """`evaluate` answers exactly True, False or None; a call answers the same, and raises where that is unknown."""
    verdict = matcher.evaluate(message)
    assert type(verdict) in (bool, type(None))
    if verdict is None:
        with pytest.raises(DecodingError):
            matcher(message)
    else:
        assert verdict is matcher(message)


@pytest.mark.parametrize(("one", "other"), list(itertools.product(VERDICTS, VERDICTS)))
def test_truth_tables(one, other):
    """False & unknown is false, true | unknown is true, and else unknown stays unknown."""
    (a, left), (b, right) = one, other
    both = False if False in (left, right) else None if None in (left, right) else True
    either = True if True in (left, right) else None if None in (left, right) else False
    assert both is And(a, b).evaluate(UNREADABLE)
    assert either is Or(a, b).evaluate(UNREADABLE)


def test_not_unknown_is_unknown():
    """The complement of what cannot be known cannot be known."""
    assert (~UNKNOWN).evaluate(UNREADABLE) is None


LITERALS = [True, False, 1, 1.0, 0, 0.0, -0.0, "1", b"1", None, "", 2**70, float(2**70), 2**70 + 1]


@pytest.mark.parametrize(("one", "other"), list(itertools.product(LITERALS, LITERALS)))
def test_matchers_are_equal_when_their_literals_mean_the_same(one, other):
    """`1` and `1.0` make equal matchers, `True` and `1` do not, and equal matchers have equal hashes."""
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
def test_different_things_are_not_equal(one, other):
    """Class, place, test and option all count."""
    assert one != other


def test_header_names_differ_by_more_than_ascii_case():
    """The ASCII case of a header's name is no difference between two matchers."""
    assert Header("X-Id", "1") == Header("x-iD", "1")
    assert hash(Header("X-Id", "1")) == hash(Header("x-iD", "1"))
    assert Header("X-Id", "1") != Header("X-Id", "2")


def test_a_field_path_of_one_segment_is_the_string():
    """`Field("a", …)` and `Field(("a",), …)` are the same."""
    assert Field("a", 1) == Field(("a",), 1)


def test_matchers_have_no_truth_value():
    """`a and b` and `if a` raise, and name the operators to use."""
    with pytest.raises(TypeError, match=r"write & \| ~ in place of and, or, not"):
        Topic("a") and Topic("b")
    with pytest.raises(TypeError):
        assert not Topic("a")


@pytest.mark.parametrize("name", ["test", "path", "new"])
def test_matchers_are_frozen(name):
    """No attribute can be set or deleted, and no new one added."""
    matcher = Field("a", 1)
    with pytest.raises(AttributeError, match="frozen"):
        setattr(matcher, name, 2)
    with pytest.raises(AttributeError, match="frozen"):
        delattr(matcher, name)
    assert Field("a", 1) == matcher


def test_matchers_have_slots():
    """No matcher or test carries a dict."""
    for thing in [Field("a", 1), Header("a", 1), Topic("a") & Key("b"), ~Topic("a"), Everything(), Equals(1)]:
        assert not hasattr(thing, "__dict__")


def test_a_callable_on_either_side_becomes_a_predicate():
    """`matcher & fn`, `fn & matcher` and the same with `|` compose."""
    fn = lambda message: message.raw_data == b"yes"
    expected = And(Topic("a"), Predicate(fn))
    assert expected == (Topic("a") & fn)
    assert expected == (fn & Topic("a"))
    assert Or(Topic("a"), Predicate(fn)) == (Topic("a") | fn) == (fn | Topic("a"))
    assert (Topic("a") & fn)(RawMessage(b"yes", topic="a")) is True
    assert (Topic("a") & fn)(RawMessage(b"no", topic="a")) is False
    assert (Topic("a") | fn)(RawMessage(b"yes")) is True


@pytest.mark.parametrize("thing", [1, "a", None, True])
def test_what_cannot_be_called_composes_with_nothing(thing):
    """A literal beside `&` raises at once."""
    with pytest.raises((RegistrationError, TypeError)):
        Topic("a") & thing
    with pytest.raises((RegistrationError, TypeError)):
        thing | Topic("a")
    with pytest.raises(RegistrationError):
        Predicate(thing)


def test_predicates_are_equal_by_identity():
    """Two predicates are equal when they have the very same callable, whatever its own equality says."""

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


def test_predicates_answer_true_or_false():
    """What a callable returns counts as true or false by Python's rules."""
    assert Predicate(lambda message: "something").evaluate(RawMessage(b"")) is True
    assert Predicate(lambda message: None).evaluate(RawMessage(b"")) is False


def test_a_predicate_on_an_undecodable_body_is_unknown():
    """A DecodingError inside a callable means unknown, and any other exception comes through."""
    assert Predicate(lambda message: message.content["a"] == 1).evaluate(UNREADABLE) is None
    with pytest.raises(KeyError):
        Predicate(lambda message: message.content["a"]).evaluate(JSONMessage.of({}))


def test_callables_run_after_what_can_be_decided_without_them():
    """In a conjunction a callable is only asked about messages that the rest matches."""
    asked = []
    matcher = (lambda message: asked.append(message.raw_data) or True) & Topic("z")
    assert matcher.evaluate(RawMessage(b"1", topic="a")) is False
    assert matcher.evaluate(RawMessage(b"2", topic="z")) is True
    assert asked == [b"2"]


def test_two_callables_of_one_name_compose_in_either_order():
    """Conjunctions of different callables with the same repr are equal in whatever order."""
    one, other = [lambda message, n=n: n for n in (1, 2)]
    assert repr(Predicate(one)) == repr(Predicate(other))
    assert (Topic("a") & one & other) == (other & Topic("a") & one)


@pytest.mark.parametrize("kind", [And, Or])
def test_a_composition_of_nothing_is_refused(kind):
    """`And()` and `Or()` raise."""
    with pytest.raises(RegistrationError, match="at least one"):
        kind()


def test_compositions_are_flat():
    """Nested conjunctions are one, without duplicates."""
    a, b, c = Topic("a"), Topic("b"), Topic("c")
    assert {a, b, c} == set(((a & b) & (b & c)).parts)
    assert len(((a & b) & (b & c)).parts) == 3
    assert set(((a | b) & c).parts) == {a | b, c}


def test_walk_yields_every_part():
    """`walk` gives the matcher, then all it is made of."""
    a, b, c = Topic("a"), Topic("b"), Topic("c")
    whole = a & ~(b | c)
    assert next(iter(whole.walk())) is whole
    assert set(whole.walk()) == {whole, a, ~(b | c), b | c, b, c}


def test_a_matcher_of_ones_own():
    """A subclass that says `evaluate` composes, compares and hashes like the library's."""

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


def test_not_called_twice_has_a_faithful_repr():
    """`eval(repr(m)) == m` also where Not is called and not written as `~`."""
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
def test_enum_members_as_literals_have_a_faithful_repr(matcher):
    """`eval(repr(m)) == m` also where a literal is a member of a str or int enumeration."""
    assert matcher == rebuilt(matcher)


@pytest.mark.parametrize("matcher", [Field("a", Colour.red), Field("a", OneOf(Colour.red, "b"))])
def test_enum_members_match_their_values(matcher):
    """A member of a str enumeration matches, and equals, the string it is."""
    assert matcher(JSONMessage.of({"a": "red"})) is True
    assert Field("a", Colour.red) == Field("a", "red")


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "deepcopy", "pickle"]
)
def test_matchers_can_be_copied(clone):
    """Values that are frozen can be copied and pickled, as a dataclass that holds one would."""
    matcher = Field(("a", "b"), OneOf(1, "x")) & ~Header("h", Prefix("p"))
    assert matcher == clone(matcher)


def test_a_pickled_matcher_is_equal_in_another_process():
    """Hashes of text differ between processes, and a matcher that was unpickled has the hash of its own."""
    matcher = Field(("a", "b"), OneOf(1, "x")) & ~Header("h", Prefix("p"))
    code = (
        "import pickle, sys; from missive.matchers import *; "
        f"there, here = pickle.loads(sys.stdin.buffer.read()), {matcher!r}; "
        "print(there == here, hash(there) == hash(here), {here: 1}.get(there), repr(there) == repr(here))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    run = functools.partial(subprocess.run, capture_output=True, check=True, env=environment)
    assert run([sys.executable, "-c", code], input=pickle.dumps(matcher)).stdout == b"True True 1 True\n"
