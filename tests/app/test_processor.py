"""The processor: its settings, and questions without side effects."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

import missive
from missive import JSONMessage, Processor, RawMessage, RegistrationError
from missive.errors import MatcherFailed
from missive.matchers import Field, Predicate, Topic

CANARY = "canary-4711"


def nothing(message, context):
    """Do nothing."""


async def nothing_async(message, context):
    """Do nothing on the loop."""


def at(topic="t", **envelope):
    """Return a raw message with a topic."""
    return RawMessage(b"", topic=topic, **envelope)


def test_handle_for_returns_the_function_unchanged():
    """`handle_for` registers the function and returns it."""
    proc = Processor()
    assert nothing is proc.handle_for(Topic("t"))(nothing)
    assert [nothing] == proc.route(at())


def test_the_default_message_class_is_raw():
    """`Processor()` handles RawMessages."""
    assert RawMessage is Processor().message_cls
    assert JSONMessage is Processor(JSONMessage).message_cls


@pytest.mark.parametrize("cls", [None, str, "JSONMessage", JSONMessage(b""), 1])
def test_the_message_class_must_be_a_message_class(cls):
    """Another class, or an object, is an error."""
    with pytest.raises(RegistrationError, match="takes a message class"):
        Processor(cls)


def test_the_default_name_is_the_module():
    """A processor without `name=` has the name of its module."""
    assert __name__ == Processor().name
    assert Processor(name="orders").name == "orders"


def test_a_script_names_its_processor_after_its_file(tmp_path):
    """In a script, the name is the stem of the file; under `-m`, the name of the module."""
    script = tmp_path / "billing.py"
    script.write_text("import missive\nprint(missive.Processor().name)\n")
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run([sys.executable, str(script)]).stdout == "billing\n"
    assert run([sys.executable, "-m", "billing"]).stdout == "billing\n"


@pytest.mark.parametrize("concurrency", [0, -1, 1.0, "1", None, True])
def test_concurrency_must_be_a_whole_number_from_one(concurrency):
    """Another concurrency is an error."""
    with pytest.raises(RegistrationError, match="whole number from 1"):
        Processor(concurrency=concurrency)


def test_public_is_a_list_of_paths_and_names():
    """A string is one segment and a tuple several. A bare string is an error that shows the list."""
    assert {("a",), ("b", "c")} == Processor(JSONMessage, public=["a", ("b", "c")]).public
    with pytest.raises(RegistrationError, match=r"public=\['type'\]"):
        Processor(public="type")


@pytest.mark.parametrize("dlq", [1, [], b"sqlite:///x", object()])
def test_the_dead_letter_queue_must_be_a_store_a_url_or_a_dict(dlq):
    """Another value is an error, in the constructor and in `set_dlq`."""
    with pytest.raises(RegistrationError, match="a store, a URL"):
        Processor(dlq=dlq)
    with pytest.raises(RegistrationError, match="a store, a URL"):
        Processor().set_dlq(dlq)


def test_set_dlq_replaces_the_dead_letter_queue():
    """`set_dlq` takes a dict, a URL, or None."""
    proc, box = Processor(dlq="sqlite:///dlq.db"), {}
    proc.set_dlq(box)
    assert box is proc.dlq
    proc.set_dlq(None)
    assert proc.dlq is None


def test_route_returns_the_handlers_in_order_of_registration():
    """`route` returns all handlers that match, and runs none."""
    proc, ran = Processor(), []
    handlers = [lambda message, context, n=n: ran.append(n) for n in range(4)]
    for n, handler in enumerate(handlers):
        proc.add_handler(Predicate(lambda message, n=n: n != 2), handler)
    assert [handlers[0], handlers[1], handlers[3]] == proc.route(at())
    assert ran == []


def test_route_of_an_unmatched_message_is_empty():
    """Without a match, `route` returns an empty list."""
    proc = Processor()
    proc.add_handler(Topic("a"), nothing)
    assert proc.route(at("b")) == []
    assert Processor().route(at()) == []


def test_route_does_not_end_registration():
    """Handlers can be registered after a call of `route`."""
    proc = Processor()
    assert proc.route(at()) == []
    proc.add_handler(Topic("t"), nothing)
    assert [nothing] == proc.route(at())


def test_route_reports_a_matcher_that_raises():
    """The error names the matcher and its handler, without the text of the exception."""
    proc = Processor()
    proc.handle_for(lambda message: {}[CANARY], name="audit")(nothing)
    with pytest.raises(MatcherFailed, match=r"the matcher of audit, .* raised KeyError") as caught:
        proc.route(at())
    assert CANARY not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_route_is_listed_as_data():
    """`to_dict` of a route has its handler, its matcher and its kind."""
    proc = Processor()
    proc.add_handler(Topic("a"), nothing)
    proc.add_handler(Topic("b"), nothing_async)
    assert [
        {"handler": f"{__name__}:nothing", "matcher": "Topic(Equals('a'))", "kind": "sync"},
        {"handler": f"{__name__}:nothing_async", "matcher": "Topic(Equals('b'))", "kind": "async"},
    ] == [route.to_dict() for route in proc.routes()]


def test_explain_shows_public_values_only():
    """`explain` respects the processor's `public`."""
    body = {"shown": "visible-1", "hidden": CANARY}
    proc = Processor(JSONMessage, public=["shown"], on_overlap="ignore")
    proc.add_handler(Field("shown", "x"), nothing)
    proc.add_handler(Field("hidden", "x"), nothing)
    text = str(proc.explain(JSONMessage.of(body)))
    assert "visible-1" in text
    assert CANARY not in text


def test_the_repr_of_a_processor():
    """The repr of a processor has its name, its message class and the number of handlers."""
    proc = Processor(JSONMessage, name="orders")
    proc.add_handler(Topic("a"), nothing)
    assert repr(proc) == "<Processor orders: JSONMessage, 1 handler>"


def test_adapters_are_attributes_of_the_package():
    """`import missive` gives access to `missive.adapters.StdinAdapter`, whose constructor opens nothing."""
    adapter = missive.adapters.StdinAdapter(Processor())
    assert repr(adapter) == "<StdinAdapter: stdin:>"
