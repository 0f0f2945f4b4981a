"""Registration: the effect of on_overlap, warnings, and registrations that are refused as a whole."""

from __future__ import annotations

import linecache
import re
import warnings

import pytest

import missive
from missive import JSONMessage, OverlapWarning, Processor, RegistrationError
from missive.matchers import (
    And,
    Field,
    Header,
    Key,
    OneOf,
    Prefix,
    Suffix,
    Topic,
)
from missive.routing import overlaps
from tests.support.routing import (
    BIG,
    LARGE,
    PAID,
    PLACED,
    SENT,
    SWEDISH,
    nothing,
    numbered,
    part_of,
    processor,
    recorded_warnings,
    witness_in,
)


def test_on_overlap_error_raises_and_ignore_accepts():
    """`on_overlap="error"` raises and refuses the handler; `"ignore"` accepts it without a warning."""
    strict, lax = processor(PLACED & LARGE), processor(PLACED & LARGE, on_overlap="ignore")
    # Record warnings here, because pytest's own filter raises every warning.
    with (
        recorded_warnings() as recorded,
        pytest.raises(OverlapWarning, match=r"a and b overlap: .* matches both") as caught,
    ):
        strict.handle_for(PLACED & SWEDISH, name="b")(nothing)
    assert recorded == []
    assert PLACED(message := witness_in(str(caught.value)))
    with recorded_warnings() as recorded:
        lax.handle_for(PLACED & SWEDISH, name="b")(nothing)
    assert (recorded, len(lax.routes()), strict.route(message)) == ([], 2, [nothing])


@pytest.mark.parametrize("on_overlap", ["", "WARN", None, True, "raise"])
def test_unknown_on_overlap_is_refused(on_overlap):
    """Any value of `on_overlap=` other than the three documented values is refused."""
    with pytest.raises(RegistrationError, match=r'"warn", "error" or "ignore"'):
        Processor(on_overlap=on_overlap)


def test_warning_points_at_the_registering_line():
    """A warning points at the decorator, the call or the include in the application, never at a line of Missive."""
    proc, part, late = (Processor(JSONMessage, name=name) for name in ("proc", "part", "late"))
    proc.add_handler(Field("n", OneOf(*range(10))), nothing)
    part.add_handler(Field("n", OneOf(3, 30)), nothing)
    proc.include(late)
    with recorded_warnings() as recorded:

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
    assert {__file__} == {warning.filename for warning in recorded}
    assert [
        re.split("# line (?:of|in) ", linecache.getline(__file__, warning.lineno).rstrip())[-1] for warning in recorded
    ] == ["the decorator", "several", "the call", "the include", "an included one"]


def test_processor_warns_ten_times():
    """Each processor issues at most ten warnings. The tenth says so and names the command for the others."""
    for name in ("orders", "invoices"):
        with recorded_warnings() as recorded:
            proc = Processor(JSONMessage, name=name)
            for n in range(14):
                proc.add_handler(Field("n", OneOf(n, n + 1)), nothing, name=str(n))
        assert [f"{n} and {n + 1} overlap" for n in range(10)] == [
            str(one.message).partition(":")[0] for one in recorded
        ]
        assert [n for n, one in enumerate(recorded) if "`missive check`" in str(one.message)] == [9]
        assert name in str(recorded[9].message).partition("missive check")[0]
        assert (len(proc.routes()), proc.check().overlap_count) == (14, 13)


def test_one_warning_per_handler():
    """A handler that overlaps several others causes one warning."""
    with recorded_warnings() as recorded:
        proc = processor(*(Field("n", OneOf(n, 9)) & Field(f"m{n}", 1) for n in range(3)), on_overlap="ignore")
        other = Processor(JSONMessage)
        other.include(proc)
        before = len(recorded)
        other.handle_for(Field("n", OneOf(9, 10)))(nothing)
    assert (before, len(recorded)) == (1, 2)


# A refused registration changes nothing


REFUSED = {
    "unsatisfiable": lambda proc: proc.handle_for(PAID & SENT)(nothing),
    "duplicate": lambda proc: proc.handle_for(PLACED & BIG)(nothing),
    "equal": lambda proc: proc.handle_for(~(~PLACED | ~BIG))(nothing),
    "contained": lambda proc: proc.handle_for(PLACED & BIG & SWEDISH)(nothing),
    "containing": lambda proc: proc.handle_for(PLACED)(nothing),
    "overlap": lambda proc: proc.handle_for(PLACED & SWEDISH)(nothing),
    "no handler": lambda proc: proc.handle_for(SENT)(lambda message: None),
    "include, the last a duplicate": lambda proc: proc.include(part_of(PAID, SENT, PLACED & BIG)),
    "include, the last contained": lambda proc: proc.include(part_of(PAID, SENT, PLACED & Field("n", 3))),
    "include, the last overlapping": lambda proc: proc.include(part_of(PAID, SENT, PLACED & SWEDISH)),
    "include, overlapping itself": lambda proc: proc.include(part_of(SENT, PAID & SWEDISH, PAID & BIG)),
    "include, one of none under when": lambda proc: proc.include(part_of(SENT & BIG, PAID), when=SENT),
    "include, the same under when": lambda proc: proc.include(part_of(SENT | PAID & BIG, SENT), when=SENT),
    "include of an include": lambda proc: proc.include(including(part_of(PAID, SENT), part_of(PLACED & BIG))),
}


def including(*others, on_overlap="ignore"):
    """Return a processor that includes others."""
    proc = Processor(JSONMessage, name="between", on_overlap=on_overlap)
    for other in others:
        proc.include(other)
    return proc


def later(proc):
    """Register matchers, refused before or not, and return the error of each, or None."""
    errors = []
    for number, matcher in enumerate([PAID, SENT, PLACED & BIG, PLACED & ~BIG, PLACED, PAID & SWEDISH]):
        try:
            proc.handle_for(matcher, name=f"later {number}")(nothing)
            errors.append(None)
        except missive.MissiveError as error:
            errors.append(str(error))
    return errors


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED.keys())
def test_refused_registration_changes_nothing(attempt):
    """After a refused handler or include, a processor behaves like a twin that never saw the attempt."""
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
def test_including_processor_refuses_for_the_included_one(matcher, error, levels):
    """An included processor refuses a handler that an including processor refuses, at any level."""
    part = inner = part_of(PAID)
    for _ in range(levels - 1):
        part = including(part)
    proc = processor(PLACED & BIG)
    proc.include(part)
    with pytest.raises(error):
        inner.handle_for(matcher)(nothing)
    assert [PAID] == [route.matcher for route in inner.routes()] == [route.matcher for route in part.routes()]
    inner.handle_for(SENT)(nothing)
    assert [route.matcher for route in proc.routes()] == [PLACED & BIG, PAID, SENT]
    # Without the application, the same handler is accepted.
    assert len(part_of(PAID, matcher).routes()) == 2


# Includes


def test_when_narrows_included_handlers_before_comparison():
    """With `when=`, overlapping handlers can become disjoint, and disjoint handlers can become impossible."""
    proc, part = processor(PAID & SWEDISH), part_of(SWEDISH & BIG)
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


def test_include_follows_on_overlap_of_each_processor():
    """Each processor applies its own `on_overlap` to all handlers that it contains after an include."""
    inner = part_of(SWEDISH & PLACED, BIG & PLACED, on_overlap="ignore")
    with pytest.raises(OverlapWarning, match="p0 and p1 overlap"):
        processor().include(inner)
    with recorded_warnings() as recorded:
        lax = processor(on_overlap="ignore")
        lax.include(inner)
        inner.handle_for(LARGE & PLACED)(nothing)
        assert recorded == []
        Processor(JSONMessage).include(inner)
    assert [OverlapWarning] == [one.category for one in recorded]
    strict = part_of(SENT & SWEDISH, on_overlap="error")
    lax.include(strict)
    with pytest.raises(OverlapWarning):
        strict.handle_for(SENT & BIG)(nothing)
    lax.handle_for(SENT & BIG)(nothing)
    assert len(lax.routes()) == 5


WIDE = And(*(Field(f"f{n}", Prefix("a")) | Field(f"g{n}", Suffix("b")) for n in range(8)))


def test_too_wide_matcher_is_warned_of_once():
    """A too wide matcher causes one warning at its registration. As an error, the warning refuses the handler."""
    part, whole = Processor(JSONMessage, name="part"), Processor(JSONMessage, name="whole")
    whole.include(part)
    with pytest.warns(UserWarning, match=r"the matcher of w has too many alternatives") as recorded:
        part.add_handler(WIDE, nothing, name="w")
    assert [one.filename for one in recorded] == [__file__]
    proc = numbered()
    for _ in range(2):
        # Warnings are errors in these tests.
        with pytest.raises(UserWarning, match="too many alternatives"):
            proc.add_handler(WIDE, nothing, name="w")
    assert proc.routes() == ()


def test_interrupted_registration_can_be_repeated(monkeypatch):
    """A registration that Ctrl-C interrupts changes nothing and can be repeated."""
    proc, other = numbered(Topic("a")), Processor(JSONMessage, name="other")
    other.add_handler(Topic("b"), nothing, name="two")
    add = overlaps.OverlapIndex.add

    def interrupted(*arguments):
        add(*arguments)
        raise KeyboardInterrupt

    for register in (lambda: proc.include(other), lambda: proc.add_handler(Topic("c"), nothing, name="three")):
        with monkeypatch.context() as patched:
            patched.setattr(overlaps.OverlapIndex, "add", interrupted)
            with pytest.raises(KeyboardInterrupt):
                register()
        register()
    assert [route.name for route in proc.routes()] == ["h0", "two", "three"]


def test_warnings_as_errors_have_no_limit():
    """A warning filter of `error` raises for every overlapping handler, also beyond ten."""
    proc = numbered(Topic("a"), on_overlap="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(15):
            with pytest.raises(missive.OverlapWarning):
                proc.add_handler(Key(str(number)), nothing)
