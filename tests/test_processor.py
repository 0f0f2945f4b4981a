"""The processor: what it registers, what it refuses, and what it answers without side effect."""

from __future__ import annotations

import functools
import inspect
import re
import subprocess
import sys

import pytest

import missive
from missive import JSONMessage, Message, Processor, RawMessage, RegistrationClosed, RegistrationError
from missive.app.options import HandlerOptions
from missive.errors import DuplicateMatcher, MatcherFailed
from missive.matchers import Everything, Field, Header, Key, Predicate, Topic

CANARY = "canary-4711"
BOTH = rf"(?=.*{__name__}:nothing)(?=.*{__name__}:other).* have the same matcher"


def nothing(message, context):
    """Handle a message by doing nothing."""


def other(message, context):
    """Do nothing as well."""


async def nothing_async(message, context):
    """Do nothing, on the loop."""


async def async_hook(*contexts):
    """Do nothing, on the loop."""


def at(topic="t", **envelope):
    """Return a raw message at a topic."""
    return RawMessage(b"", topic=topic, **envelope)


class Callable:
    """Objects that can be called as handlers."""

    def __call__(self, message, context):
        """Handle."""

    def method(self, message, context):
        """Handle."""


def test_the_decorator_returns_the_function_unchanged():
    """`handle_for` registers the function and gives back the very same."""
    proc = Processor()
    assert nothing is proc.handle_for(Topic("t"))(nothing)
    assert [nothing] == proc.route(at())


@pytest.mark.parametrize("register", ["before_processing", "after_processing"])
def test_processing_hooks_return_the_function_unchanged(register):
    """A processing hook's decorator gives back the very same function."""
    hook = lambda context: None
    assert hook is getattr(Processor(), register)(hook)


@pytest.mark.parametrize("register", ["before_handling", "after_handling"])
def test_handling_hooks_return_the_function_unchanged(register):
    """A handling hook's decorator gives back the very same function."""
    hook = lambda worker, context: None
    assert hook is getattr(Processor(), register)(hook)


def test_without_a_class_messages_are_raw():
    """`Processor()` is for RawMessages."""
    assert RawMessage is Processor().message_cls
    assert JSONMessage is Processor(JSONMessage).message_cls


@pytest.mark.parametrize("cls", [None, str, "JSONMessage", JSONMessage(b""), 1])
def test_the_message_class_is_a_message_class(cls):
    """What is no class of messages is refused."""
    with pytest.raises(RegistrationError, match="takes a message class"):
        Processor(cls)


def test_a_processor_is_named_after_its_module():
    """The service's name is the module's by default."""
    assert __name__ == Processor().name
    assert Processor(name="orders").name == "orders"


def test_a_processor_of_a_script_is_named_after_the_file(tmp_path):
    """In a script, whose module is `__main__`, the name is the file's stem; `-m` keeps the module's."""
    script = tmp_path / "billing.py"
    script.write_text("import missive\nprint(missive.Processor().name)\n")
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run([sys.executable, str(script)]).stdout == "billing\n"
    assert run([sys.executable, "-m", "billing"]).stdout == "billing\n"


@pytest.mark.parametrize("concurrency", [0, -1, 1.0, "1", None, True])
def test_concurrency_is_a_whole_number_from_one(concurrency):
    """Any other concurrency is refused."""
    with pytest.raises(RegistrationError, match="whole number from 1"):
        Processor(concurrency=concurrency)


def test_public_is_a_list_of_paths_and_names():
    """A string is one segment, a tuple several; a bare string is a mistake, and the error shows the list."""
    assert {("a",), ("b", "c")} == Processor(public=["a", ("b", "c")]).public
    with pytest.raises(RegistrationError, match=r"public=\['type'\]"):
        Processor(public="type")


@pytest.mark.parametrize("dlq", [1, [], b"sqlite:///x", object()])
def test_a_dead_letter_queue_is_a_store_a_url_or_a_dict(dlq):
    """Anything else is refused, at construction and by `set_dlq`."""
    with pytest.raises(RegistrationError, match="a store, a URL"):
        Processor(dlq=dlq)
    with pytest.raises(RegistrationError, match="a store, a URL"):
        Processor().set_dlq(dlq)


def test_a_dead_letter_queue_can_be_set_and_taken_away():
    """`set_dlq` takes a dict, a URL, or None."""
    proc, box = Processor(dlq="sqlite:///dlq.db"), {}
    proc.set_dlq(box)
    assert box is proc.dlq
    proc.set_dlq(None)
    assert proc.dlq is None


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (nothing, f"{__name__}:nothing"),
        (functools.partial(nothing), f"{__name__}:nothing"),
        (functools.partial(functools.partial(nothing)), f"{__name__}:nothing"),
        (Callable(), f"{__name__}:Callable"),
        (Callable().method, f"{__name__}:Callable.method"),
    ],
)
def test_a_handler_is_named_module_and_qualname(handler, name):
    """The default name is `module:qualname`, of what a partial or an object stands for."""
    proc = Processor()
    proc.add_handler(Everything(), handler)
    assert [name] == [route.name for route in proc.routes()]


def test_a_handler_can_be_given_a_name():
    """`name=` is what routes call it."""
    proc = Processor()
    proc.handle_for(Everything(), name="audit")(nothing)
    assert [route.name for route in proc.routes()] == ["audit"]


REGISTRATIONS = {
    "handle_for": lambda proc, **options: proc.handle_for(Everything(), **options),
    "add_handler": lambda proc, **options: proc.add_handler(Everything(), nothing, **options),
    "handle_batch_for": lambda proc, **options: proc.handle_batch_for(Everything(), **options),
    "add_batch_handler": lambda proc, **options: proc.add_batch_handler(Everything(), print, **options),
}


@pytest.mark.parametrize("method", list(REGISTRATIONS))
def test_an_unknown_option_raises_and_names_the_nearest(method):
    """A misspelt keyword raises TypeError that names the method, the keyword and the nearest option."""
    text = rf"^{method}\(\) got an unexpected keyword argument 'tiemout'\. Did you mean timeout=\?$"
    with pytest.raises(TypeError, match=text):
        REGISTRATIONS[method](proc := Processor(), tiemout=5)
    assert proc.routes() == ()


@pytest.mark.parametrize("method", list(REGISTRATIONS))
def test_an_unknown_option_without_a_near_one_lists_the_options(method):
    """A keyword that resembles no option raises TypeError that lists the options of the method."""
    with pytest.raises(TypeError, match=r"'colour'\. The options are breaker, concurrency, .*, timeout") as error:
        REGISTRATIONS[method](Processor(), colour="red")
    assert ("size, timeout, wait." in str(error.value)) is ("batch" in method)


def test_every_option_is_documented_once():
    """The help of `handle_for` documents each option."""
    text = inspect.getdoc(Processor.handle_for)
    assert set(HandlerOptions.__annotations__) == set(re.findall(r"^- `(\w+)`: ", text, re.MULTILINE))


@pytest.mark.parametrize(
    "handler",
    [
        lambda: None,
        lambda message: None,
        lambda message, context, more: None,
        lambda message, *, context: None,
        functools.partial(nothing, None),
        Callable.method,
        len,
    ],
    ids=["none", "one", "three", "keyword", "partial", "unbound", "built-in"],
)
def test_a_handler_takes_two_positional_arguments(handler):
    """A function that cannot be called with a message and a context is refused at registration."""
    with pytest.raises(RegistrationError, match="must take a message and a context"):
        Processor().add_handler(Everything(), handler)


@pytest.mark.parametrize(
    "handler",
    [
        lambda *arguments: None,
        lambda message, context, more=1: None,
        lambda message, context, **more: None,
        lambda a, b, /: None,
        Callable(),
        Callable().method,
    ],
    ids=["star", "default", "keywords", "positional", "object", "method"],
)
def test_a_handler_may_have_any_such_signature(handler):
    """Whatever can be called with two positional arguments is a handler."""
    proc = Processor()
    proc.add_handler(Everything(), handler)
    assert [handler] == proc.route(at())


@pytest.mark.parametrize("thing", [None, 1, "nothing"])
def test_what_cannot_be_called_is_no_handler_and_no_matcher(thing):
    """A handler or matcher that is no callable is refused, and its type named."""
    with pytest.raises(RegistrationError, match=type(thing).__name__):
        Processor().add_handler(Everything(), thing)
    with pytest.raises(RegistrationError, match=type(thing).__name__):
        Processor().add_handler(thing, nothing)


@pytest.mark.parametrize(
    ("register", "hook"),
    [
        ("before_processing", lambda: None),
        ("after_processing", lambda a, b: None),
        ("before_handling", lambda a: None),
        ("after_handling", lambda a, b, c: None),
        ("after_handling", None),
    ],
)
def test_a_hook_takes_its_contexts(register, hook):
    """A hook that cannot be called with its contexts is refused, and its kind named."""
    with pytest.raises(RegistrationError, match=f"the {register} hook"):
        getattr(Processor(), register)(hook)


def test_the_same_matcher_twice_raises_and_names_both():
    """A second handler for an equal matcher is refused at once, in whatever order it is written."""
    proc = Processor()
    proc.add_handler(Topic("t") & Key("k"), nothing)
    with pytest.raises(DuplicateMatcher, match=BOTH):
        proc.add_handler(Key("k") & Topic("t"), other)
    assert [nothing] == proc.route(at(key="k"))


def test_the_same_callable_twice_raises():
    """One callable is one matcher; another with the same body is another."""
    proc, fn = Processor(), lambda message: True
    proc.add_handler(fn, nothing)
    with pytest.raises(DuplicateMatcher):
        proc.add_handler(fn, other)
    proc.add_handler(lambda message: True, other)
    assert [nothing, other] == proc.route(at())


@pytest.mark.parametrize("matcher", [Field("a", 1), Header("h", "1") & Field("a", 1), ~(Topic("t") | ~Field("a", 1))])
def test_a_field_on_raw_messages_is_refused(matcher):
    """A Field, however deep, needs messages with fields; the error says which class to use."""
    with pytest.raises(RegistrationError, match=r"Field\('a', Equals\(1\)\).*missive.Processor\(missive.JSONMessage\)"):
        Processor().add_handler(matcher, nothing)
    proc = Processor(JSONMessage)
    proc.add_handler(matcher, nothing)
    assert [matcher] == [route.matcher for route in proc.routes()]


def test_a_refused_registration_leaves_nothing():
    """After an error the processor is as before."""
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
def test_nothing_is_registered_after_processing_started(register):
    """After the freeze every registration raises and names the processor, in what is included too."""
    proc, included = Processor(name="orders"), Processor(name="part")
    proc.include(included)
    proc.freeze()
    with pytest.raises(RegistrationClosed, match="orders is processing"):
        register(proc)
    with pytest.raises(RegistrationClosed, match="part is processing"):
        register(included)
    assert proc.routes() == ()


def test_a_test_client_starts_processing():
    """Entering a test client ends registration."""
    proc = Processor()
    with proc.test_client(), pytest.raises(RegistrationClosed):
        proc.add_handler(Everything(), nothing)


def test_route_answers_in_order_of_registration():
    """`route` gives every handler that matches, first registered first, and runs none."""
    proc, ran = Processor(), []
    handlers = [lambda message, context, n=n: ran.append(n) for n in range(4)]
    for n, handler in enumerate(handlers):
        proc.add_handler(Predicate(lambda message, n=n: n != 2), handler)
    assert [handlers[0], handlers[1], handlers[3]] == proc.route(at())
    assert ran == []


def test_route_of_nothing_is_empty():
    """Without a match `route` answers an empty list."""
    proc = Processor()
    proc.add_handler(Topic("a"), nothing)
    assert proc.route(at("b")) == []
    assert Processor().route(at()) == []


def test_route_is_asked_at_any_time():
    """`route` ends no registration."""
    proc = Processor()
    assert proc.route(at()) == []
    proc.add_handler(Topic("t"), nothing)
    assert [nothing] == proc.route(at())


def test_route_names_the_matcher_that_failed():
    """A matcher that raises is named with its handler, and what it raised is not quoted."""
    proc = Processor()
    proc.handle_for(lambda message: {}[CANARY], name="audit")(nothing)
    with pytest.raises(MatcherFailed, match=r"the matcher of audit, .* raised KeyError") as caught:
        proc.route(at())
    assert CANARY not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_routes_are_listed_as_data():
    """`to_dict` of a route has its handler, its matcher and whether it is async."""
    proc = Processor()
    proc.add_handler(Topic("a"), nothing)
    proc.add_handler(Topic("b"), nothing_async)
    assert [
        {"handler": f"{__name__}:nothing", "matcher": "Topic(Equals('a'))", "kind": "sync"},
        {"handler": f"{__name__}:nothing_async", "matcher": "Topic(Equals('b'))", "kind": "async"},
    ] == [route.to_dict() for route in proc.routes()]


class AsyncCallable:
    """An object whose call is a coroutine."""

    async def __call__(self, message, context):
        """Handle."""


@pytest.mark.parametrize(
    ("handler", "is_async"),
    [
        (nothing, False),
        (nothing_async, True),
        (functools.partial(nothing_async), True),
        (functools.partial(nothing), False),
        (AsyncCallable(), True),
        (AsyncCallable().__call__, True),
        (functools.partial(AsyncCallable()), True),
        (Callable(), False),
    ],
    ids=["def", "async", "partial of async", "partial", "object", "method", "partial of object", "sync object"],
)
def test_async_handlers_are_told_from_the_callable(handler, is_async):
    """An async def, a partial of one, and an object with an async call run on the loop."""
    proc = Processor()
    proc.add_handler(Everything(), handler)
    assert [is_async] == [route.terms.is_async for route in proc.routes()]


def test_an_included_processors_handlers_join():
    """`include` takes in handlers, in order, and those registered later."""
    proc, part = Processor(), Processor()
    part.add_handler(Topic("a"), nothing)
    proc.include(part)
    part.add_handler(Topic("b"), other)
    assert [nothing] == proc.route(at("a"))
    assert [other] == proc.route(at("b"))
    assert [Topic("a"), Topic("b")] == [route.matcher for route in proc.routes()]


def test_when_narrows_an_included_processors_handlers():
    """`include(…, when=X)` makes every matcher M of the included one X & M, callables too."""
    proc, part = Processor(), Processor()
    part.add_handler(Topic("a"), nothing)
    proc.include(part, when=lambda message: message.key == "k")
    assert proc.route(at("a")) == []
    assert [nothing] == proc.route(at("a", key="k"))
    assert [nothing] == part.route(at("a"))


def test_one_processor_is_included_under_two_conditions():
    """The same handlers can be included twice where their conditions differ."""
    proc, part = Processor(), Processor()
    part.add_handler(Topic("a"), nothing)
    proc.include(part, when=Key("1"))
    proc.include(part, when=Key("2"))
    assert [nothing] == proc.route(at("a", key="2"))
    with pytest.raises(DuplicateMatcher):
        proc.include(part, when=Key("1"))
    assert len(proc.routes()) == 2


def test_includes_nest():
    """What an included processor includes is included, under both conditions."""
    proc, part, inner = Processor(), Processor(), Processor()
    inner.add_handler(Topic("a"), nothing)
    part.include(inner, when=Key("k"))
    proc.include(part, when=Header("h", "1"))
    assert [nothing] == proc.route(at("a", key="k", headers={"h": "1"}))
    assert proc.route(at("a", key="k")) == []
    assert proc.route(at("a", headers={"h": "1"})) == []


@pytest.mark.parametrize(
    ("proc", "part", "said"),
    [
        (Processor(), Processor(JSONMessage), "its own message class"),
        (Processor(), Processor(Message), "its own message class"),
        (Processor(), Processor(dlq={}), "its own dead letter queue"),
    ],
)
def test_what_cannot_be_included(proc, part, said):
    """Another message class, and a dead letter queue of its own, are refused."""
    with pytest.raises(RegistrationError, match=said):
        proc.include(part)
    assert proc.routes() == ()


def test_processors_include_each_other_in_no_circle():
    """A circle of includes is refused, also of one."""
    a, b, c = Processor(name="a"), Processor(name="b"), Processor(name="c")
    a.include(b)
    b.include(c)
    with pytest.raises(RegistrationError, match="c and a would include each other"):
        c.include(a)
    with pytest.raises(RegistrationError, match="a and a"):
        a.include(a)


def test_including_a_matcher_that_is_there_raises():
    """An include that would double a matcher is refused, names both, and is not done."""
    proc, part = Processor(), Processor()
    proc.add_handler(Topic("a"), nothing)
    part.add_handler(Topic("a"), other)
    with pytest.raises(DuplicateMatcher, match=BOTH):
        proc.include(part)
    assert [nothing] == proc.route(at("a"))
    part.add_handler(Topic("b"), nothing)
    assert proc.route(at("b")) == []


def test_a_matcher_doubled_in_an_included_processor_raises_at_once():
    """A handler that an included processor adds later is checked against the including one's."""
    proc, part = Processor(), Processor()
    proc.add_handler(Topic("a"), nothing)
    proc.include(part)
    with pytest.raises(DuplicateMatcher, match=BOTH):
        part.add_handler(Topic("a"), other)


def test_a_matcher_as_a_condition_made_it_is_doubled_at_once():
    """A handler is checked against included ones as their condition narrows them, from either side."""
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


def test_a_refused_include_leaves_nothing():
    """An include that was refused for one matcher has claimed none of the others."""
    proc, part = Processor(), Processor()
    proc.add_handler(Topic("b"), nothing)
    part.add_handler(Topic("a"), other)
    part.add_handler(Topic("b"), other)
    with pytest.raises(DuplicateMatcher):
        proc.include(part)
    proc.add_handler(Topic("a"), nothing)
    assert [Topic("b"), Topic("a")] == [route.matcher for route in proc.routes()]


def test_one_processor_reached_on_two_ways_is_there_twice():
    """A processor that two included ones include doubles its matchers, and is refused."""
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


def test_an_include_has_its_place_in_the_order_of_registration():
    """What was included before a handler was registered goes before it."""
    proc, part = Processor(on_overlap="ignore"), Processor()
    part.add_handler(Topic("t"), nothing)
    proc.include(part)
    proc.add_handler(~Key("z"), other)
    assert [nothing, other] == proc.route(at("t"))


def test_a_matcher_of_an_included_processor_doubled_raises_at_once():
    """A handler with the matcher of an included one's is refused when it is added."""
    proc, part = Processor(), Processor()
    part.add_handler(Topic("a"), nothing)
    proc.include(part)
    with pytest.raises(DuplicateMatcher):
        proc.add_handler(Topic("a"), other)


def test_a_matcher_doubled_beside_a_conditional_include_raises_at_once():
    """A second include with `when=` is no difference to what is checked of the first."""
    proc, part, conditional = Processor(), Processor(), Processor()
    proc.add_handler(Topic("a"), nothing)
    proc.include(part)
    proc.include(conditional, when=Key("k"))
    with pytest.raises(DuplicateMatcher):
        part.add_handler(Topic("a"), other)


def test_a_field_as_the_condition_of_raw_messages_is_refused():
    """`when=Field(…)` needs messages with fields, as a handler's matcher does."""
    with pytest.raises(RegistrationError):
        Processor().include(Processor(), when=Field("a", 1))


@pytest.mark.parametrize("register", ["before_processing", "after_processing", "before_handling", "after_handling"])
def test_an_async_hook_cannot_serve_a_sync_handler(register):
    """At the start, an async hook beside a def handler is an error that names both."""
    proc = Processor()
    getattr(proc, register)(async_hook)
    proc.add_handler(Topic("a"), nothing_async)
    assert len(proc.routes()) == 1
    proc.add_handler(Topic("b"), nothing)
    with pytest.raises(RegistrationError, match=r"hook .*:async_hook is async, and the handler .*:nothing "):
        proc.freeze()


def test_an_included_processors_handling_hooks_stay_its_own():
    """Handling hooks serve the handlers of the processor they were registered on."""
    proc, part = Processor(), Processor()
    mine, its = lambda worker, context: None, lambda worker, context: None
    proc.before_handling(mine)
    part.before_handling(its)
    part.after_handling(its)
    proc.include(part)
    proc.add_handler(Topic("a"), nothing)
    part.add_handler(Topic("b"), other)
    assert {Topic("a"): ((mine,), ()), Topic("b"): ((its,), (its,))} == {
        route.matcher: (route.terms.before, route.terms.after) for route in proc.routes()
    }


def test_an_included_processors_processing_hooks_join():
    """Processing hooks of included processors run with the including one's."""
    proc, part = Processor(), Processor()
    one, two = lambda context: None, lambda context: None
    proc.before_processing(one)
    part.before_processing(two)
    part.after_processing(two)
    proc.include(part)
    assert ([one, two], [two]) == (proc.registry.hooks().before_processing, proc.registry.hooks().after_processing)


def test_an_async_hook_of_an_included_processor_serves_its_async_handlers():
    """An async handling hook disturbs no def handler of another processor."""
    proc, part = Processor(), Processor()
    part.before_handling(async_hook)
    part.add_handler(Topic("a"), nothing_async)
    proc.add_handler(Topic("b"), nothing)
    proc.include(part)
    assert len(proc.freeze()) == 2


def test_explain_shows_what_is_public_and_nothing_else():
    """`explain` goes by the processor's `public`."""
    body = {"shown": "visible-1", "hidden": CANARY}
    proc = Processor(JSONMessage, public=["shown"], on_overlap="ignore")
    proc.add_handler(Field("shown", "x"), nothing)
    proc.add_handler(Field("hidden", "x"), nothing)
    text = str(proc.explain(JSONMessage.of(body)))
    assert "visible-1" in text
    assert CANARY not in text


def test_the_repr_of_a_processor():
    """A processor's repr has name, class and the number of handlers."""
    proc = Processor(JSONMessage, name="orders")
    proc.add_handler(Topic("a"), nothing)
    assert repr(proc) == "<Processor orders: JSONMessage, 1 handlers>"


def test_adapters_are_reached_through_the_package():
    """`import missive` alone reaches `missive.adapters.StdinAdapter`, and constructing one opens nothing."""
    adapter = missive.adapters.StdinAdapter(Processor())
    assert repr(adapter) == "<StdinAdapter: stdin:>"
