"""Registration: what could never work is refused and changes nothing, and overlaps are said, raised or let be."""

from __future__ import annotations

import contextlib
import json
import linecache
import re
import warnings
from itertools import combinations

import pytest

import missive
from missive import JSONMessage, Message, OverlapWarning, Processor, RawMessage, RegistrationError, StructuredMessage
from missive import matchers as all_matchers
from missive.matchers import (
    Absent,
    AmqpPattern,
    AnythingBut,
    Body,
    Cidr,
    Every,
    Everything,
    Field,
    Header,
    IsInstance,
    Key,
    MqttFilter,
    NatsPattern,
    Not,
    OneOf,
    Predicate,
    Prefix,
    Present,
    Range,
    Regex,
    Some,
    Substring,
    Suffix,
    Test,
    Topic,
    Wildcard,
)
from missive.routing import check as checking
from missive.routing import overlaps
from tests.support.strategies import promptly

NAMES = {**vars(all_matchers), **vars(missive)}
PLACED, LARGE, SWEDISH = Field("type", "placed"), Field("total", Range(gt=100)), Field("country", "SE")
BIG = Field("n", Range(ge=0, le=10))


def nothing(message, context):
    """Handle a message by doing nothing."""


@Predicate
def unseen(message):
    """Match what it likes."""
    return len(message.raw_data) > 3


def processor(*matchers, on_overlap="error", message_cls=JSONMessage, name="orders"):
    """Return a processor with a handler for each matcher, named a, b, c and so on."""
    proc = Processor(message_cls, name=name, on_overlap=on_overlap)
    for called, matcher in zip("abcdefgh", matchers, strict=False):
        proc.handle_for(matcher, name=called)(nothing)
    return proc


def refusal(proc, matcher, name="new"):
    """Return what is said of a handler that is refused."""
    with pytest.raises(RegistrationError) as caught:
        proc.handle_for(matcher, name=name)(nothing)
    return str(caught.value)


@contextlib.contextmanager
def warned():
    """Give the warnings of what is inside, all of them."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield said


def witness_in(text):
    """Return the message that a warning of an overlap shows."""
    return eval(text.partition(" overlap: ")[2].partition(" matches both")[0], dict(NAMES))


@pytest.mark.parametrize(
    "matcher",
    [
        PLACED & Field("type", "paid"),
        LARGE & Field("total", Range(lt=5)),
        Field("n", Range(gt=1)) & ~Field("n", Range(gt=0)),
        Field("a", Absent()) & Field("a", 1),
        Field("a", Prefix("x")) & Field("a", OneOf("yx", "zx")),
        Field("a", Prefix("x")) & Field("a", Prefix("y", ignore_case=True)),
        Field("a", Suffix("x")) & Field("a", Wildcard("*y")),
        Field("a", IsInstance(str)) & Field("a", Range(gt=0)),
        Field("a", True) & Field("a", Range(ge=0)),
        Field("a", 1) & Field(("a", "b"), 1),
        Field("a", Some(1)) & Field("a", Every(2)),
        Field("ip", Cidr("10.0.0.0/8")) & Field("ip", Cidr("11.0.0.0/8")),
        Topic(NatsPattern("a.*")) & Topic(NatsPattern("b.>")),
        Topic(MqttFilter("#")) & Topic("$SYS/a"),
        Topic(AmqpPattern("#.a")) & Topic(AmqpPattern("#.b")),
        Topic(IsInstance(int)),
        Header("x", IsInstance(dict)),
        Body(Absent()),
        PLACED & ~PLACED,
        (PLACED | SWEDISH) & ~PLACED & ~SWEDISH,
        PLACED & unseen & Not(unseen),
        ~Everything(),
    ],
    ids=repr,
)
def test_what_no_message_meets_is_refused(matcher):
    """An unsatisfiable matcher is refused, and it and its handler are named."""
    proc = processor(LARGE, on_overlap="ignore")
    assert refusal(proc, matcher) == (
        f"no message could ever match {matcher!r}, the matcher of new: its conditions exclude each other. "
        "Remove one of them"
    )
    assert len(proc.routes()) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Field("a", OneOf(1, 2)), Field("a", 2) | Field("a", 1.0)),
        (Field("a", Wildcard("x*")), Field("a", Prefix("x"))),
        (Field("a", Wildcard(r"x\*")), Field("a", "x*")),
        (Field("a", Range(ge=0)) & Field("a", Range(lt=5)), Field("a", Range(ge=0, lt=5))),
        (Field("a", Range(ge=1)) & Field("a", Range(le=1)), Field("a", Range(ge=1, le=1))),
        (Field("a", Present()), ~Field("a", Absent())),
        (Field("a", AnythingBut(1)), Field("a", Present()) & ~Field("a", 1)),
        (PLACED & Field("a", IsInstance(bool)), PLACED & Field("a", OneOf(True, False))),
        (Header("X-A", "1"), Header("x-a", "1")),
        (Topic(AmqpPattern("*.#")), Topic(AmqpPattern("#.*"))),
        (Topic(NatsPattern("a.b")), Topic("a.b")),
        (~(PLACED & SWEDISH), ~PLACED | ~SWEDISH),
        (Not(Not(PLACED)), PLACED),
        (PLACED & (SWEDISH | LARGE), (PLACED & SWEDISH) | (PLACED & LARGE)),
        (PLACED & (PLACED | SWEDISH), PLACED),
        (Everything() & PLACED, PLACED),
        (PLACED & unseen, unseen & PLACED & PLACED),
        (PLACED & (SWEDISH | unseen), (SWEDISH & PLACED) | (unseen & PLACED)),
    ],
    ids=repr,
)
def test_equal_matchers_are_refused(one, other):
    """Two matchers of the same messages are refused, in whatever words and order."""
    for first, second in ((one, other), (other, one)):
        proc = processor(first, on_overlap="ignore")
        said = refusal(proc, second)
        assert re.match(
            "a and new (match the same messages|have the same matcher), .*: neither would ever be chosen", said
        )
        assert said.startswith("a and new have") or said.endswith(". Remove one of the handlers, or change its matcher")
        assert [first] == [route.matcher for route in proc.routes()]


CONTAINED = [
    (PLACED, Everything()),
    (PLACED & LARGE, PLACED),
    (PLACED, PLACED | SWEDISH),
    (PLACED, Field("type", OneOf("placed", "paid"))),
    (PLACED, Field("type", Prefix("pla"))),
    (PLACED, Field("type", AnythingBut("paid"))),
    (PLACED, ~Field("type", "paid")),
    (PLACED, Field("type", Regex("p.*"))),
    (Field("a", Absent()), ~Field("a", 1)),
    (Field("n", Range(gt=1, lt=2)), Field("n", Range(ge=1))),
    (Field("n", Range(gt=1)), ~Field("n", Range(lt=0))),
    (Field("a", Wildcard("a*b*c")), Field("a", Wildcard("a*c"))),
    (Field("a", Prefix("Ab")), Field("a", Prefix("aB", ignore_case=True))),
    (Field("a", Some("x")), Field("a", Some(Prefix("x")))),
    (Field(("a", "b"), 1), Field("a", IsInstance(dict))),
    (Header("x", Cidr("10.1.0.0/16")), Header("X", Cidr("10.0.0.0/8"))),
    (Topic(NatsPattern("a.*.c")), Topic(NatsPattern("a.>"))),
    (Topic(MqttFilter("a/+")), Topic(MqttFilter("a/#"))),
    (Topic(AmqpPattern("a.#.b.#")), Topic(AmqpPattern("a.#"))),
    (PLACED & unseen, PLACED),
    (PLACED & unseen, unseen),
]


@pytest.mark.parametrize(("inner", "outer"), CONTAINED, ids=repr)
@pytest.mark.parametrize("outer_first", [False, True], ids=["inner first", "outer first"])
def test_one_that_is_never_alone_is_refused_with_the_way_out(inner, outer, outer_first):
    """Contained matchers are refused in both orders, and what the error suggests for the wider one is accepted."""
    names = {"a": outer, "new": inner} if outer_first else {"a": inner, "new": outer}
    wide, narrow = ("a", "new") if outer_first else ("new", "a")
    proc = processor(names["a"], on_overlap="ignore")
    said = refusal(proc, names["new"])
    assert said.startswith(
        f"{narrow} could never run: every message that matches {inner!r} also matches {outer!r} of {wide}."
    )
    assert len(proc.routes()) == 1

    suggested = re.search(rf"To leave these messages to {narrow}, register {wide} for (.+)$", said)[1]
    if not inner.opaque:  # the repr of a callable is no expression
        assert outer & ~inner == eval(suggested, dict(NAMES))
    apart = {wide: outer & ~inner, narrow: inner}
    proc = processor(on_overlap="error")
    for name in names:
        proc.handle_for(apart[name], name=name)(nothing)
    assert proc.check().overlap_count == 0


@pytest.mark.parametrize(
    "matchers",
    [
        (PLACED & LARGE, PLACED & ~LARGE, ~PLACED),
        (Field("a", 1), Field("a", True), Field("a", "1"), Field("a", None), Field("a", Absent())),
        (Field("n", Range(lt=1)), Field("n", Range(ge=1, le=2)), Field("n", Range(gt=2))),
        (Field("a", Prefix("x.")), Field("a", Prefix("y.")), Field("a", Range(gt=0))),
        (Header("ip", Cidr("10.0.0.0/9")), Header("ip", Cidr("10.128.0.0/9")), Header("ip", Cidr("::/0"))),
        (Topic(NatsPattern("a.*")), Topic(NatsPattern("a.*.*")), Topic(NatsPattern("b.>"))),
        (Topic(MqttFilter("#")), Topic(MqttFilter("$SYS/#")), Topic(Absent())),
        (Field("a", Every(1)), Field("a", Some("x"))),
        (PLACED & unseen, PLACED & Not(unseen), ~PLACED & unseen),
    ],
    ids=range(9),
)
def test_matchers_that_share_nothing_are_accepted(matchers):
    """Handlers of which no message matches two are registered without a word, in both orders."""
    for ordered in (matchers, matchers[::-1]):
        with warned() as said:
            assert len(processor(*ordered, on_overlap="error").routes()) == len(matchers)
            processor(*ordered, on_overlap="warn")
        assert said == []


OVERLAPPING = [
    (PLACED & LARGE, PLACED & SWEDISH, JSONMessage),
    (Field("n", Range(ge=1, le=3)), Field("n", Range(ge=3)), JSONMessage),
    (Field("a", Prefix("x")), Field("a", Suffix("y")), JSONMessage),
    (Field("a", OneOf(1, 2)), Field("a", OneOf(2.0, 3)), JSONMessage),
    (Field("a", Some("x")), Field("a", Some("y")), JSONMessage),
    (~Field("a", 1), ~Field("a", 2), JSONMessage),
    (Field(("a", "b"), 1), Field("a", IsInstance(dict)) & Field("c", Present()), JSONMessage),
    (Field("a", Absent()), Field("b", Absent()), JSONMessage),
    (Header("x", Some("1")) & Header("x", Some("2")), Header("y", b"\xff"), JSONMessage),
    (Topic(NatsPattern("*.b")), Topic(NatsPattern("a.>")), RawMessage),
    (Topic(MqttFilter("+/b/#")), Topic(MqttFilter("a/+")), RawMessage),
    (Topic(AmqpPattern("#.b")), Topic(AmqpPattern("a.#")), Message),
    (Body(Present()) & Key(b"k"), Key(IsInstance(bytes)) & Topic("t"), RawMessage),
]


@pytest.mark.parametrize(("one", "other", "cls"), OVERLAPPING, ids=repr)
def test_an_overlap_is_shown_with_a_message_that_matches_both(one, other, cls):
    """By default an overlap is a warning that names both handlers and shows a message: it matches both."""
    for first, second in ((one, other), (other, one)):
        proc = Processor(cls)
        with warned() as said:
            proc.handle_for(first, name="a")(nothing)
            proc.handle_for(second, name="b")(lambda message, context: None)
        (warning,) = said
        assert OverlapWarning is warning.category
        assert str(warning.message).startswith("a and b overlap: ")
        message = witness_in(str(warning.message))
        assert cls is type(message)
        assert len(proc.route(message)) == 2


def test_what_is_done_about_an_overlap():
    """`"error"` raises and refuses, `"ignore"` looks for none, and both register what does not overlap."""
    strict, lax = processor(PLACED & LARGE), processor(PLACED & LARGE, on_overlap="ignore")
    # In place of pytest's own filter, which raises every warning.
    with warned() as said, pytest.raises(OverlapWarning, match=r"a and b overlap: .* matches both") as caught:
        strict.handle_for(PLACED & SWEDISH, name="b")(nothing)
    assert said == []
    assert PLACED(message := witness_in(str(caught.value)))
    with warned() as said:
        lax.handle_for(PLACED & SWEDISH, name="b")(nothing)
    assert (said, len(lax.routes()), strict.route(message)) == ([], 2, [nothing])


@pytest.mark.parametrize("on_overlap", ["warn", "error", "ignore"])
def test_what_is_not_proved_is_let_in(on_overlap):
    """Beside a callable, whatever is asked of it, nothing is refused and nothing is said."""
    with warned() as said:
        proc = processor(PLACED, unseen, Not(unseen), PLACED & SWEDISH | LARGE & unseen, on_overlap=on_overlap)
    assert (said, len(proc.routes())) == ([], 4)


@pytest.mark.parametrize("on_overlap", ["", "WARN", None, True, "raise"])
def test_on_overlap_is_one_of_three(on_overlap):
    """Any other `on_overlap=` is refused."""
    with pytest.raises(RegistrationError, match=r'"warn", "error" or "ignore"'):
        Processor(on_overlap=on_overlap)


def test_a_warning_points_at_the_line_that_registers():
    """An overlap is said of the decorator, the call or the include of the application, and not of a line of ours."""
    proc, part, late = (Processor(JSONMessage, name=name) for name in ("proc", "part", "late"))
    proc.add_handler(Field("n", OneOf(*range(10))), nothing)
    part.add_handler(Field("n", OneOf(3, 30)), nothing)
    proc.include(late)
    with warned() as said:

        @proc.handle_for(Field("n", OneOf(0, 40)))  # line of the decorator
        def one_line(message, context): ...

        @proc.handle_for(  # line of several
            Field("n", OneOf(1, 41)),
            name="several",
        )
        def several_lines(message, context): ...

        proc.add_handler(Field("n", OneOf(2, 42)), nothing)  # line of the call
        proc.include(part)  # line of the include
        late.handle_for(Field("n", OneOf(4, 44)))(nothing)  # line in an included one
    assert {__file__} == {warning.filename for warning in said}
    assert [
        re.split("# line (?:of|in) ", linecache.getline(__file__, warning.lineno).rstrip())[-1] for warning in said
    ] == ["the decorator", "several", "the call", "the include", "an included one"]


def test_a_processor_warns_ten_times():
    """After ten warnings a processor is silent, the tenth says so, and another processor has its own ten."""
    for name in ("orders", "invoices"):
        with warned() as said:
            proc = Processor(JSONMessage, name=name)
            for n in range(14):
                proc.add_handler(Field("n", OneOf(n, n + 1)), nothing, name=str(n))
        assert [f"{n} and {n + 1} overlap" for n in range(10)] == [str(one.message).partition(":")[0] for one in said]
        assert [n for n, one in enumerate(said) if "`missive check`" in str(one.message)] == [9]
        assert name in str(said[9].message).partition("missive check")[0]
        assert (len(proc.routes()), proc.check().overlap_count) == (14, 13)


def test_a_handler_is_warned_of_once():
    """A handler that overlaps several others has one warning."""
    with warned() as said:
        proc = processor(*(Field("n", OneOf(n, 9)) & Field(f"m{n}", 1) for n in range(3)), on_overlap="ignore")
        other = Processor(JSONMessage)
        other.include(proc)
        before = len(said)
        other.handle_for(Field("n", OneOf(9, 10)))(nothing)
    assert (before, len(said)) == (1, 2)


# All or nothing


def parts(*matchers, on_overlap="ignore"):
    """Return a processor to be included, with handlers named p0, p1 and so on."""
    part = Processor(JSONMessage, name="part", on_overlap=on_overlap)
    for number, matcher in enumerate(matchers):
        part.add_handler(matcher, nothing, name=f"p{number}")
    return part


PAID, SENT = Field("type", "paid"), Field("type", "sent")
REFUSED = {
    "unsatisfiable": lambda proc: proc.handle_for(PAID & SENT)(nothing),
    "duplicate": lambda proc: proc.handle_for(PLACED & BIG)(nothing),
    "equal": lambda proc: proc.handle_for(~(~PLACED | ~BIG))(nothing),
    "contained": lambda proc: proc.handle_for(PLACED & BIG & SWEDISH)(nothing),
    "containing": lambda proc: proc.handle_for(PLACED)(nothing),
    "overlap": lambda proc: proc.handle_for(PLACED & SWEDISH)(nothing),
    "no handler": lambda proc: proc.handle_for(SENT)(lambda message: None),
    "include, the last a duplicate": lambda proc: proc.include(parts(PAID, SENT, PLACED & BIG)),
    "include, the last contained": lambda proc: proc.include(parts(PAID, SENT, PLACED & Field("n", 3))),
    "include, the last overlapping": lambda proc: proc.include(parts(PAID, SENT, PLACED & SWEDISH)),
    "include, overlapping itself": lambda proc: proc.include(parts(SENT, PAID & SWEDISH, PAID & BIG)),
    "include, one of none under when": lambda proc: proc.include(parts(SENT & BIG, PAID), when=SENT),
    "include, the same under when": lambda proc: proc.include(parts(SENT | PAID & BIG, SENT), when=SENT),
    "include of an include": lambda proc: proc.include(including(parts(PAID, SENT), parts(PLACED & BIG))),
}


def including(*others, on_overlap="ignore"):
    """Return a processor with others in it."""
    proc = Processor(JSONMessage, name="between", on_overlap=on_overlap)
    for other in others:
        proc.include(other)
    return proc


def later(proc):
    """Register what was and what was not refused before, and return what came of each."""
    said = []
    for number, matcher in enumerate([PAID, SENT, PLACED & BIG, PLACED & ~BIG, PLACED, PAID & SWEDISH]):
        try:
            proc.handle_for(matcher, name=f"later {number}")(nothing)
            said.append(None)
        except missive.MissiveError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_registration_changes_nothing(attempt):
    """A processor that refused a handler or an include is, and goes on, as one that was never asked."""
    proc, twin = (processor(PLACED & BIG, Header("h", "1") & ~PLACED & ~PAID & ~SENT) for _ in range(2))
    with pytest.raises(missive.MissiveError):
        attempt(proc)
    assert (repr(twin), twin.check()) == (repr(proc), proc.check())
    assert [route.to_dict() for route in twin.routes()] == [route.to_dict() for route in proc.routes()]
    assert later(twin) == (after := later(proc))
    assert after[:2] == [None, None]


@pytest.mark.parametrize(
    ("matcher", "error"),
    [
        (PLACED & BIG, RegistrationError),
        (PLACED & BIG & SWEDISH, RegistrationError),
        (PLACED, RegistrationError),
        (PLACED & SWEDISH, OverlapWarning),
    ],
    ids=["duplicate", "contained", "containing", "overlap"],
)
@pytest.mark.parametrize("levels", [1, 2])
def test_an_included_processor_takes_no_handler_that_the_application_refuses(matcher, error, levels):
    """What an including processor refuses, however far out, the included one does not have either."""
    part = inner = parts(PAID)
    for _ in range(levels - 1):
        part = including(part)
    proc = processor(PLACED & BIG)
    proc.include(part)
    with pytest.raises(error):
        inner.handle_for(matcher)(nothing)
    assert [PAID] == [route.matcher for route in inner.routes()] == [route.matcher for route in part.routes()]
    inner.handle_for(SENT)(nothing)
    assert [route.matcher for route in proc.routes()] == [PLACED & BIG, PAID, SENT]
    # Alone, there would have been nothing wrong with it.
    assert len(parts(PAID, matcher).routes()) == 2


# Includes


def test_included_handlers_are_compared_as_when_narrows_them():
    """What overlaps by itself may be apart under `when=`, and what is apart by itself may be impossible."""
    proc, part = processor(PAID & SWEDISH), parts(SWEDISH & BIG)
    with pytest.raises(OverlapWarning, match="a and p0 overlap"):
        proc.include(part)
    proc.include(part, when=PLACED)
    with pytest.raises(RegistrationError, match=r"no message could ever match .* the matcher of p0"):
        proc.include(part, when=Field("country", "NO"))
    with pytest.raises(RegistrationError, match="p0 could never run: every message that"):
        proc.include(part, when=PAID)
    with pytest.raises(RegistrationError, match=r"no message could ever match .* the matcher of new"):
        part.handle_for(PAID, name="new")(nothing)
    assert [route.matcher for route in proc.routes()] == [PAID & SWEDISH, PLACED & SWEDISH & BIG]


def test_an_include_follows_on_overlap_of_each_processor():
    """Each processor says for itself what it does about overlaps of the handlers that are then in it."""
    inner = parts(SWEDISH & PLACED, BIG & PLACED, on_overlap="ignore")
    with pytest.raises(OverlapWarning, match="p0 and p1 overlap"):
        processor().include(inner)
    with warned() as said:
        lax = processor(on_overlap="ignore")
        lax.include(inner)
        inner.handle_for(LARGE & PLACED)(nothing)
        assert said == []
        Processor(JSONMessage).include(inner)
    assert [OverlapWarning] == [one.category for one in said]
    strict = parts(SENT & SWEDISH, on_overlap="error")
    lax.include(strict)
    with pytest.raises(OverlapWarning):
        strict.handle_for(SENT & BIG)(nothing)
    lax.handle_for(SENT & BIG)(nothing)
    assert len(lax.routes()) == 5


# Classes of messages


class Decoded(StructuredMessage):
    """What is decoded in a way of its own."""

    def decode(self):
        return json.loads(self.raw_data)


class Enveloped(JSONMessage):
    """JSON with what matters inside it."""

    def decode(self):
        return super().decode()["payload"]


class Failing(StructuredMessage):
    """What is never decoded."""

    def decode(self):
        raise LookupError


class Made(JSONMessage):
    """What is made in a way of its own."""

    def __init__(self, raw_data, tenant, **envelope):
        super().__init__(raw_data, **envelope)


@pytest.mark.parametrize("cls", [Decoded, Failing])
def test_a_witness_is_of_the_processors_class(cls):
    """Also for a class that decodes in its own way, an overlap is shown as a message of that class."""
    with pytest.raises(OverlapWarning, match=rf"overlap: {cls.__name__}\.holding\(\{{'a': 1, 'b': b'x'\}}\) matches"):
        processor(Field("a", 1), Field("b", b"x"), message_cls=cls)


@pytest.mark.parametrize("cls", [Enveloped, Made])
def test_without_a_witness_nothing_is_said(cls):
    """Where no message can be made up for a class, handlers that could overlap are let in, and listed as unknown."""
    proc = processor(Field("a", 1), Field("b", 2), message_cls=cls)
    assert proc.check().unknown == (("a", "b"),)
    assert refusal(proc, Field("a", 1) & Field("c", 1)).startswith("new could never run")


class Odd(Test):
    """A test that is somebody's own."""

    __slots__ = ("raises",)
    expectation = "an odd number"

    def __init__(self, *, raises=False):
        self._freeze(raises, raises=raises)

    def __call__(self, value):
        if self.raises:
            raise ArithmeticError
        return isinstance(value, (int, float)) and value % 2 == 1

    def __repr__(self):
        return "Odd()"


def test_a_test_of_ones_own_is_asked_about_literals():
    """A test of a class of one's own is compared with literals, and raising proves nothing."""
    proc = processor(Field("n", Odd()), Field("n", OneOf(2, 4)))
    assert refusal(proc, Field("n", 3)).startswith("new could never run")
    with pytest.raises(OverlapWarning, match=r"'n': 5"):
        proc.handle_for(Field("n", OneOf(5, 6)))(nothing)
    assert len(processor(Field("n", Odd(raises=True)), Field("n", 3), ~Field("n", Range(gt=0))).routes()) == 3


# The check


def test_the_check_of_nothing():
    """A processor without handlers has nothing to report."""
    assert Processor().check().to_dict() == {
        "handlers": 0,
        "shapes": {},
        "largest_bucket": 0,
        "residual": [],
        "too_wide": [],
        "overlaps": [],
        "unknown": [],
        "overlap_count": 0,
        "unknown_count": 0,
        "complete": True,
    }


def test_the_check_has_all_fields():
    """A check counts handlers, keys, buckets and pairs, those of included processors too, and names them."""
    part = parts(PLACED & SWEDISH, Header("h", "1"))
    proc = processor(PLACED & LARGE, PLACED & BIG, unseen, on_overlap="ignore")
    proc.include(part, when=PLACED)
    report = proc.check()
    assert (report.handlers, report.largest_bucket, report.residual, report.too_wide) == (5, 2, ("c",), ())
    assert report.shapes == {
        "Field('type')": 1,
        "Field('country') & Field('type')": 1,
        "Field('type') & Header('h')": 1,
    }
    assert [*combinations(["a", "b", "p0", "p1"], 2)] == sorted(pair[:2] for pair in report.overlaps)
    by_name = {route.name: route.matcher for route in proc.routes()}
    for one, other, message in report.overlaps:
        shown = eval(message, dict(NAMES))
        assert by_name[one](shown)
        assert by_name[other](shown)
    assert sorted(report.unknown) == [("a", "c"), ("b", "c"), ("c", "p0"), ("c", "p1")]
    assert (report.overlap_count, report.unknown_count, report.complete) == (6, 4, True)
    data = report.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert [{"handlers": list(pair[:2]), "message": pair[2]} for pair in report.overlaps] == data["overlaps"]


def test_the_check_asks_nobody_twice_and_changes_nothing():
    """A check can be asked at any time: it warns of nothing, and registration goes on."""
    proc = processor(PLACED & LARGE, PLACED & SWEDISH, on_overlap="ignore")
    with warned() as said:
        assert proc.check() == proc.check()
    proc.handle_for(PAID)(nothing)
    assert (said, proc.check().handlers) == ([], 3)


def test_the_check_of_wide_matchers():
    """A matcher with too many alternatives is named, and `OneOf` is none, however many literals it has."""
    proc = Processor(JSONMessage, on_overlap="ignore")
    wide = [Field(f"f{n}", Prefix("x")) | Field(f"g{n}", Suffix("y")) for n in range(8)]
    with warned():
        proc.handle_for(PLACED & wide[0] & all_matchers.And(*wide[1:]), name="wide")(nothing)
    proc.handle_for(PAID & Field("n", OneOf(*range(1000))), name="listed")(nothing)
    report = proc.check()
    assert (report.too_wide, report.residual) == (("wide",), ())
    assert "  too many alternatives: wide" in str(report).splitlines()


def test_a_check_that_is_not_complete_says_so(monkeypatch):
    """Where the comparisons do not suffice, `complete` is false, and the counts say `or more`."""
    proc = processor(*(Field("n", OneOf(n, 9)) for n in range(8)), on_overlap="ignore")
    assert (proc.check().overlap_count, proc.check().complete) == (28, True)
    monkeypatch.setattr(checking, "_MAX_COMPARISONS", 5)
    report = proc.check()
    assert not report.complete
    assert 0 < report.overlap_count < 28
    assert f"{report.overlap_count} or more overlaps, 0 or more unknown pairs" in str(report)


@pytest.mark.parametrize(
    ("make", "counted"), [(lambda n: Field("n", OneOf(n, -1)), "overlap"), (lambda n: Predicates()[n], "unknown")]
)
def test_a_check_lists_a_hundred_pairs(make, counted):
    """Beyond a hundred, pairs are counted and not listed."""
    proc = Processor(JSONMessage, on_overlap="ignore")
    for n in range(16):
        proc.add_handler(make(n), nothing)
    report = proc.check()
    assert len({"overlap": report.overlaps, "unknown": report.unknown}[counted]) == 100
    assert {"overlap": report.overlap_count, "unknown": report.unknown_count}[counted] == 120


class Predicates:
    """Any number of callables, each one different."""

    def __getitem__(self, n):
        return lambda message: len(message.raw_data) == n


# Hostile sets


@pytest.fixture
def comparisons(monkeypatch):
    """Count how often two matchers are compared."""
    counts = {"contained": 0, "relation": 0}

    def counting(name):
        original = getattr(overlaps, name)

        def counted(*arguments):
            counts[name] += 1
            return original(*arguments)

        return counted

    for name in counts:
        monkeypatch.setattr(overlaps, name, counting(name))
    return counts


@pytest.mark.parametrize(
    "make",
    [
        lambda n: Field("id", n),
        lambda n: Field("id", OneOf(2 * n, 2 * n + 1)),
        lambda n: PLACED & Field("id", f"{n}"),
        lambda n: Field("id", n) & Field("total", Range(gt=3)) & ~SWEDISH,
        lambda n: Field("id", Range(ge=n, lt=n + 1)),
        lambda n: PLACED & Field("id", Prefix(f"{n:05}.")),
        lambda n: Field("id", Suffix(f".{n:05}", ignore_case=True)),
        lambda n: Field("id", Wildcard(f"{n:05}*x")),
        lambda n: Header("ip", Cidr(f"10.{n // 256}.{n % 256}.0/24")),
        lambda n: Field(f"place {n}", n) & Field("id", n),
        lambda n: Field("id", n) & Field("tags", Some("x")) | Field("id", -1 - n),
    ],
    ids=range(11),
)
def test_those_that_are_apart_by_one_place_are_not_compared(comparisons, make):
    """A thousand handlers with a literal, a range, a text or a network each of their own cost no thousand squared."""
    proc = Processor(JSONMessage, on_overlap="error")
    for n in range(1000):
        proc.add_handler(make(n), nothing, name=f"{n}")
    assert sum(comparisons.values()) < 50_000  # of a million


def nested(n):
    """Return one of many ranges that each reach into the next ones."""
    return Field("id", Range(ge=n, lt=n + 1000))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: Field("id", AnythingBut(n)),
        lambda n: ~Field("id", n),
        lambda n: Field("id", Wildcard(f"*<{n}>*b*")),
        lambda n: Field("id", Substring(f"<{n}>")),
        lambda n: Field("id", Regex(f".*a{n}b.*")),
        lambda n: Field("id", Some(f"{n}")),
        nested,
        lambda n: Topic(AmqpPattern(f"#.{n}.#")),
        lambda n: Topic(MqttFilter(f"+/{n}/#")) | Header("n", f"{n}"),
        lambda n: Field((f"f{n}", "a"), Present()) & ~Field(f"g{n}", 1),
        lambda n: ~Field("id", n) & Predicates()[n],
        lambda n: Field("id", Regex(f".*a{n}b.*")) | Field("id", Every(n)) & ~Field(f"g{n}", Odd()),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("on_overlap", ["warn", "ignore"])
def test_hostile_sets_are_registered(comparisons, make, on_overlap):
    """Handlers that nothing tells apart are registered in bounded time; each is compared with each once at most."""
    proc = Processor(JSONMessage, on_overlap=on_overlap)
    with warned() as said, promptly():
        for n in range(100):
            proc.add_handler(make(n), nothing, name=f"{n}")
    assert len(proc.routes()) == 100
    assert comparisons["contained"] <= 2 * 100 * 99 / 2
    assert comparisons["relation"] <= (100 * 99 / 2 if on_overlap == "warn" else 0)
    assert len(said) <= 10


def test_one_matcher_is_compared_with_so_many_at_most(comparisons):
    """Where nothing tells apart, one new handler is compared with a bounded number of those that are there."""
    proc = Processor(JSONMessage, on_overlap="ignore")
    for n in range(1100):
        proc.add_handler(Field("id", n) & Field("other", AnythingBut(n)), nothing)
    before = comparisons["contained"]
    proc.add_handler(Field("other", Suffix("x")), nothing)
    assert before < 5000
    assert comparisons["contained"] - before <= 2000
