"""Registration: duplicate matchers, includes, and the end of registration."""

from __future__ import annotations

import pytest

from missive import JSONMessage, Message, Processor, RawMessage, RegistrationClosed, RegistrationError, Retry
from missive.errors import DuplicateMatcher
from missive.matchers import Everything, Field, Header, Key, Topic

BOTH = rf"(?=.*{__name__}:nothing)(?=.*{__name__}:other).* have the same matcher"


def nothing(message, context):
    """Do nothing."""


def other(message, context):
    """Do nothing, in another handler."""


def at(topic="t", **envelope):
    """Return a raw message with a topic."""
    return RawMessage(b"", topic=topic, **envelope)


def test_a_second_handler_with_the_same_matcher_is_an_error():
    """Equal matchers raise an error that names both handlers, in whatever order their parts are written."""
    proc = Processor()
    proc.add_handler(Topic("t") & Key("k"), nothing)
    with pytest.raises(DuplicateMatcher, match=BOTH):
        proc.add_handler(Key("k") & Topic("t"), other)
    assert [nothing] == proc.route(at(key="k"))


def test_a_second_handler_with_the_same_callable_is_an_error():
    """One callable is one matcher, and another callable with the same body is another matcher."""
    proc, fn = Processor(), lambda message: True
    proc.add_handler(fn, nothing)
    with pytest.raises(DuplicateMatcher):
        proc.add_handler(fn, other)
    proc.add_handler(lambda message: True, other)
    assert [nothing, other] == proc.route(at())


@pytest.mark.parametrize("matcher", [Field("a", 1), Header("h", "1") & Field("a", 1), ~(Topic("t") | ~Field("a", 1))])
def test_a_field_needs_structured_messages(matcher):
    """A Field for raw messages, however deep, raises an error that names the class to use."""
    with pytest.raises(RegistrationError, match=r"Field\('a', Equals\(1\)\).*missive.Processor\(missive.JSONMessage\)"):
        Processor().add_handler(matcher, nothing)
    proc = Processor(JSONMessage)
    proc.add_handler(matcher, nothing)
    assert [matcher] == [route.matcher for route in proc.routes()]


def test_a_failed_registration_changes_nothing():
    """After an error, the processor is unchanged."""
    proc = Processor()
    for matcher, handler in [(Field("a", 1), nothing), (Topic("t"), lambda: None), (None, nothing)]:
        with pytest.raises(RegistrationError):
            proc.add_handler(matcher, handler)
    assert proc.routes() == ()
    proc.add_handler(Topic("t"), nothing)
    assert [nothing] == proc.route(at())


@pytest.mark.parametrize(
    "register",
    [
        lambda proc: proc.add_handler(Topic("late"), nothing),
        lambda proc: proc.handle_for(Topic("late"))(nothing),
        lambda proc: proc.include(Processor()),
        lambda proc: proc.before_processing(lambda context: None),
        lambda proc: proc.after_processing(lambda context: None),
        lambda proc: proc.before_handling(nothing),
        lambda proc: proc.after_handling(nothing),
    ],
    ids=["add_handler", "handle_for", "include", "before_processing", "after_processing", "before", "after"],
)
def test_registration_ends_when_processing_starts(register):
    """After the freeze, each registration raises an error that names the processor, in included processors too."""
    proc, included = Processor(name="orders"), Processor(name="part")
    proc.include(included)
    proc.freeze()
    with pytest.raises(RegistrationClosed, match="orders is processing"):
        register(proc)
    with pytest.raises(RegistrationClosed, match="part is processing"):
        register(included)
    assert proc.routes() == ()


def test_a_test_client_ends_registration():
    """Entering a test client ends registration."""
    proc = Processor()
    with proc.test_client(), pytest.raises(RegistrationClosed):
        proc.add_handler(Everything(), nothing)


def test_an_include_adds_handlers():
    """`include` adds the handlers of a processor in order, also its later ones."""
    proc, part = Processor(), Processor()
    part.add_handler(Topic("a"), nothing)
    proc.include(part)
    part.add_handler(Topic("b"), other)
    assert [nothing] == proc.route(at("a"))
    assert [other] == proc.route(at("b"))
    assert [Topic("a"), Topic("b")] == [route.matcher for route in proc.routes()]


def test_when_narrows_the_included_handlers():
    """`include(…, when=X)` makes X & M of each included matcher M, also with a callable."""
    proc, part = Processor(), Processor()
    part.add_handler(Topic("a"), nothing)
    proc.include(part, when=lambda message: message.key == "k")
    assert proc.route(at("a")) == []
    assert [nothing] == proc.route(at("a", key="k"))
    assert [nothing] == part.route(at("a"))


def test_a_processor_can_be_included_under_two_conditions():
    """The same handlers can be included twice if their conditions differ."""
    proc, part = Processor(), Processor()
    part.add_handler(Topic("a"), nothing)
    proc.include(part, when=Key("1"))
    proc.include(part, when=Key("2"))
    assert [nothing] == proc.route(at("a", key="2"))
    with pytest.raises(DuplicateMatcher):
        proc.include(part, when=Key("1"))
    assert len(proc.routes()) == 2


def test_includes_nest():
    """A nested include applies both conditions."""
    proc, part, inner = Processor(), Processor(), Processor()
    inner.add_handler(Topic("a"), nothing)
    part.include(inner, when=Key("k"))
    proc.include(part, when=Header("h", "1"))
    assert [nothing] == proc.route(at("a", key="k", headers={"h": "1"}))
    assert proc.route(at("a", key="k")) == []
    assert proc.route(at("a", headers={"h": "1"})) == []


@pytest.mark.parametrize(
    ("proc", "part", "text"),
    [
        (Processor(), Processor(JSONMessage), "its own message class"),
        (Processor(), Processor(Message), "its own message class"),
        (Processor(), Processor(dlq={}), "its own dead letter queue"),
    ],
)
def test_an_include_needs_the_same_class_and_no_dead_letter_queue(proc, part, text):
    """Another message class, and an included dead letter queue, are errors."""
    with pytest.raises(RegistrationError, match=text):
        proc.include(part)
    assert proc.routes() == ()


@pytest.mark.parametrize("nested", [False, True], ids=["direct", "nested"])
@pytest.mark.parametrize(
    ("option", "outer", "own", "handler", "effective"),
    [
        ("timeout", None, None, None, 600),
        ("timeout", 30, None, None, 30),
        ("timeout", 30, 20, None, 20),
        ("timeout", 30, 20, 10, 10),
        ("retry", None, None, None, None),
        ("retry", Retry(attempts=2), None, None, Retry(attempts=2)),
        ("retry", Retry(attempts=2), Retry(attempts=3), None, Retry(attempts=3)),
        ("retry", Retry(attempts=2), False, None, None),
        ("retry", Retry(attempts=2), None, False, None),
    ],
)
def test_an_included_processor_inherits_what_it_leaves_unset(nested, option, outer, own, handler, effective):
    """Timeout and retry come from the handler, its processor, the including one, or the defaults, in this order."""
    proc, middle, part = Processor(**{option: outer}), Processor(), Processor(**{option: own})
    if nested:
        middle.include(part)
    proc.include(middle if nested else part)
    part.add_handler(Key("k"), nothing, **{option: handler})
    (route,) = proc.routes()
    assert getattr(route.terms, option) == effective


def test_public_is_never_inherited():
    """A message of an included handler shows the public fields of its own processor only."""
    proc, part = Processor(JSONMessage, public=["a"], dlq={}), Processor(JSONMessage, public=["b"])
    proc.include(part)
    part.add_handler(Field("type", "x"), nothing)
    proc.add_handler(Field("type", "y"), nothing)
    assert {route.matcher: route.terms.public for route in proc.routes()} == {
        Field("type", "x"): frozenset({("b",)}),
        Field("type", "y"): frozenset({("a",)}),
    }


@pytest.mark.parametrize(
    ("option", "one", "two"),
    [("timeout", 10, 20), ("retry", False, Retry(attempts=2)), ("retry", Retry(), Retry(attempts=2))],
)
@pytest.mark.parametrize("through_parts", [False, True], ids=["direct", "later"])
def test_two_includes_must_agree_on_inherited_options(option, one, two, through_parts):
    """The second include is an error when a processor would take another value, and changes nothing."""
    first, second = Processor(name="first", **{option: one}), Processor(name="second", **{option: two})
    part = Processor(name="part")
    part.add_handler(Key("k"), nothing)
    left, right = (Processor(), Processor()) if through_parts else (first, second)
    left.include(part)
    if through_parts:
        right.include(part, when=Topic("t"))
        first.include(left)  # `right` may still get the same value
    with pytest.raises(RegistrationError, match=rf"part has no {option}=, and would take .* from .*, but .* from .*"):
        second.include(right if through_parts else part)
    assert second.routes() == ()
    part.add_handler(Key("j"), nothing)  # and `second` does not hear of it
    assert second.routes() == ()


@pytest.mark.parametrize(("option", "value"), [("timeout", 20), ("retry", Retry(attempts=2))])
def test_a_value_differs_from_the_default(option, value):
    """A processor without a value offers the default, so a second include by one with a value is an error."""
    part = Processor(name="part")
    Processor(name="first").include(part)
    with pytest.raises(RegistrationError, match=rf"part has no {option}=, and would take .* from first, but"):
        Processor(name="second", **{option: value}).include(part)


def test_two_parts_of_one_application_may_share_a_part():
    """Processors that get their options by a later include do not differ."""
    proc, left, right, part = Processor(timeout=10), Processor(), Processor(), Processor()
    left.include(part, when=Topic("l"))
    right.include(part, when=Topic("r"))
    proc.include(left)
    proc.include(right)
    part.add_handler(Key("k"), nothing)
    assert [route.terms.timeout for route in proc.routes()] == [10, 10]


def test_includes_that_agree_on_inherited_options_are_allowed():
    """Equal values, own values, and the default in words are no conflict."""
    part = Processor(timeout=5, retry=False)
    part.add_handler(Key("k"), nothing)
    plain = Processor()
    for outer in (Processor(timeout=600), Processor(), Processor(retry=False)):
        outer.include(plain)
        outer.include(part)
    Processor(timeout=10, retry=Retry()).include(part)


def test_an_included_processor_takes_no_dead_letter_queue_later():
    """A dead letter queue that an included processor gets after the include is an error, at once or at the start."""
    proc, part = Processor(name="proc"), Processor(name="part")
    proc.include(part)
    with pytest.raises(RegistrationError, match=r"part has its own dead letter queue. Set dlq= on proc only"):
        part.set_dlq({})
    part.dlq = {}
    with pytest.raises(RegistrationError, match=r"part has its own dead letter queue. Set dlq= on proc only"):
        proc.freeze()


def test_a_circle_of_includes_is_an_error():
    """A processor cannot include itself, directly or through others."""
    a, b, c = Processor(name="a"), Processor(name="b"), Processor(name="c")
    a.include(b)
    b.include(c)
    with pytest.raises(RegistrationError, match="c and a would include each other"):
        c.include(a)
    with pytest.raises(RegistrationError, match="a and a"):
        a.include(a)


def test_an_include_with_a_known_matcher_is_an_error():
    """The error names both handlers, and the include does not happen."""
    proc, part = Processor(), Processor()
    proc.add_handler(Topic("a"), nothing)
    part.add_handler(Topic("a"), other)
    with pytest.raises(DuplicateMatcher, match=BOTH):
        proc.include(part)
    assert [nothing] == proc.route(at("a"))
    part.add_handler(Topic("b"), nothing)
    assert proc.route(at("b")) == []


def test_a_later_matcher_is_compared_with_the_including_processor():
    """A handler that an included processor adds later is compared with the handlers of the including one."""
    proc, part = Processor(), Processor()
    proc.add_handler(Topic("a"), nothing)
    proc.include(part)
    with pytest.raises(DuplicateMatcher, match=BOTH):
        part.add_handler(Topic("a"), other)


def test_matchers_are_compared_as_their_condition_narrows_them():
    """Handlers are compared with included handlers under their condition, from both sides."""
    proc, part = Processor(), Processor()
    part.add_handler(Topic("a"), nothing)
    proc.include(part, when=Key("k"))
    proc.add_handler(Key("j") & Topic("a"), other)
    with pytest.raises(DuplicateMatcher):
        proc.add_handler(Key("k") & Topic("a"), other)
    proc.add_handler(Key("k") & Topic("b"), other)
    with pytest.raises(DuplicateMatcher):
        part.add_handler(Topic("b"), nothing)
    assert [Topic("a")] == [route.matcher for route in part.routes()]
    assert len(proc.routes()) == 3


def test_a_failed_include_changes_nothing():
    """After a failed include, the other matchers of the processor are free."""
    proc, part = Processor(), Processor()
    proc.add_handler(Topic("b"), nothing)
    part.add_handler(Topic("a"), other)
    part.add_handler(Topic("b"), other)
    with pytest.raises(DuplicateMatcher):
        proc.include(part)
    proc.add_handler(Topic("a"), nothing)
    assert [Topic("b"), Topic("a")] == [route.matcher for route in proc.routes()]


def test_a_processor_included_through_two_others_is_an_error():
    """A processor that two included processors include has its matchers twice."""
    proc, left, right, shared = Processor(), Processor(), Processor(), Processor()
    shared.add_handler(Topic("a"), nothing)
    left.include(shared)
    right.include(shared)
    proc.include(left, when=Key("j"))
    with pytest.raises(DuplicateMatcher):
        proc.include(right, when=Key("j"))
    proc.include(right, when=Key("k"))
    assert len(proc.routes()) == 2
    with pytest.raises(DuplicateMatcher):
        proc.add_handler(Key("k") & Topic("a"), other)


def test_an_include_keeps_the_order_of_registration():
    """Handlers that are included earlier come first."""
    proc, part = Processor(on_overlap="ignore"), Processor()
    part.add_handler(Topic("t"), nothing)
    proc.include(part)
    proc.add_handler(~Key("z"), other)
    assert [nothing, other] == proc.route(at("t"))


def test_a_handler_with_an_included_matcher_is_an_error():
    """A handler with the matcher of an included handler is an error."""
    proc, part = Processor(), Processor()
    part.add_handler(Topic("a"), nothing)
    proc.include(part)
    with pytest.raises(DuplicateMatcher):
        proc.add_handler(Topic("a"), other)


def test_a_second_include_does_not_affect_the_comparison():
    """A later include with `when=` does not change the comparison with an earlier one."""
    proc, part, conditional = Processor(), Processor(), Processor()
    proc.add_handler(Topic("a"), nothing)
    proc.include(part)
    proc.include(conditional, when=Key("k"))
    with pytest.raises(DuplicateMatcher):
        part.add_handler(Topic("a"), other)


def test_a_field_as_a_condition_needs_structured_messages():
    """`when=Field(…)` for raw messages is an error, as with a handler."""
    with pytest.raises(RegistrationError):
        Processor().include(Processor(), when=Field("a", 1))


def test_aliases_are_earlier_names_of_a_handler():
    """A handler and a batch handler take aliases, which their processor and the including ones know."""
    proc, part = Processor(), Processor()
    part.add_handler(Key("j"), nothing, name="early", aliases=["earlier"])
    proc.include(part)
    part.handle_for(Key("k"), name="late", aliases=["later", "latest"])(nothing)
    proc.handle_batch_for(Key("b"), name="batch", aliases=("bulk",))(lambda batch: None)
    aliases = {"earlier": "early", "later": "late", "latest": "late"}
    assert (part.registry.names.aliases, proc.registry.names.aliases) == (aliases, {**aliases, "bulk": "batch"})


@pytest.mark.parametrize(
    ("one", "two", "text"),
    [
        ({"name": "a", "aliases": ["b"]}, {"name": "b"}, "b is an alias of a"),
        ({"name": "b"}, {"name": "a", "aliases": ["b"]}, "a has the alias b, which is the name of another handler"),
        ({"name": "a", "aliases": ["x"]}, {"name": "b", "aliases": ["x"]}, "a and b have the same alias x"),
        ({"aliases": [f"{__name__}:other"]}, {}, rf"{__name__}:other is an alias of {__name__}:nothing"),
    ],
)
@pytest.mark.parametrize("how", ["same", "included", "include"])
def test_a_name_or_an_alias_of_two_handlers_is_an_error(one, two, text, how):
    """Names and aliases may not conflict, whichever comes first and wherever the handlers are; nothing changes."""
    proc, part = Processor(), Processor()
    if how == "included":
        proc.include(part)
    (proc if how == "same" else part).add_handler(Key("j"), nothing, **one)
    if how == "include":
        proc.add_handler(Key("k"), other, **two)
    with pytest.raises(RegistrationError, match=text if how != "include" else "alias"):
        proc.include(part) if how == "include" else proc.add_handler(Key("k"), other, **two)
    if how != "include":
        proc.add_handler(Key("k"), other, name="c", aliases=["d"])
    assert len(proc.routes()) == (1 if how == "include" else 2)


def test_the_same_handler_may_repeat_its_name_and_aliases():
    """A function with two matchers, or in a processor that is included twice, is one handler."""
    proc, part = Processor(), Processor()
    for key in ("j", "k"):
        part.add_handler(Key(key), nothing, name="a", aliases=["b"])
    proc.include(part, when=Topic("s"))
    proc.include(part, when=Topic("t"))
    assert len(proc.routes()) == 4


@pytest.mark.parametrize("aliases", ["one", [""], [1], 5, ["x" * 256]])
def test_aliases_are_a_list_of_names(aliases):
    """A text, or a value that is no name, is an error."""
    with pytest.raises(RegistrationError, match="alias"):
        Processor().add_handler(Key("k"), nothing, aliases=aliases)


@pytest.mark.parametrize("name", ["", 1, "x" * 256])
@pytest.mark.parametrize("of", ["processor", "handler"])
def test_a_name_is_a_short_text(of, name):
    """A name that a table cannot hold is an error, for services and for handlers."""
    with pytest.raises(RegistrationError, match="must be a text of 1 to 255 characters"):
        Processor(name=name) if of == "processor" else Processor().add_handler(Key("k"), nothing, name=name)
