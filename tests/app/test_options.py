"""Handler options: names, signatures and unknown options."""

from __future__ import annotations

import functools
import inspect
import re

import pytest

from missive import Processor, RawMessage, RegistrationError
from missive.app.options import HandlerOptions
from missive.matchers import Everything


def nothing(message, context):
    """Do nothing."""


async def nothing_async(message, context):
    """Do nothing on the loop."""


def at(topic="t", **envelope):
    """Return a raw message with a topic."""
    return RawMessage(b"", topic=topic, **envelope)


class Callable:
    """A class whose objects and methods are handlers."""

    def __call__(self, message, context):
        """Handle."""

    def method(self, message, context):
        """Handle."""


class AsyncCallable:
    """A class whose objects are async handlers."""

    async def __call__(self, message, context):
        """Handle."""


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
def test_the_default_name_of_a_handler_is_module_and_qualname(handler, name):
    """Partials and objects have the name of their function or class."""
    proc = Processor()
    proc.add_handler(Everything(), handler)
    assert [name] == [route.name for route in proc.routes()]


def test_name_names_the_handler():
    """`name=` is the name of the route."""
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
    with pytest.raises(TypeError, match=r"'colour'\. The options are aliases, breaker, .*, timeout") as error:
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
def test_a_handler_must_take_two_positional_arguments(handler):
    """A function that cannot be called with a message and a context is an error."""
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
def test_any_callable_with_two_positional_arguments_is_a_handler(handler):
    """Optional and variable arguments are allowed, as are objects and methods."""
    proc = Processor()
    proc.add_handler(Everything(), handler)
    assert [handler] == proc.route(at())


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_generator_function_is_refused(kind):
    """A handler that contains a `yield` is refused, because a call would not run its body."""
    namespace = {}
    exec(f"{kind} handler(message, context):\n    yield", namespace)
    with pytest.raises(RegistrationError, match="contains a `yield`"):
        Processor().add_handler(Everything(), namespace["handler"])


@pytest.mark.parametrize("thing", [None, 1, "nothing"])
def test_handlers_and_matchers_must_be_callable(thing):
    """Another object is an error that names its type."""
    with pytest.raises(RegistrationError, match=type(thing).__name__):
        Processor().add_handler(Everything(), thing)
    with pytest.raises(RegistrationError, match=type(thing).__name__):
        Processor().add_handler(thing, nothing)


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
def test_async_handlers_are_recognised(handler, is_async):
    """An async def, a partial of one, and an object with an async call are async."""
    proc = Processor()
    proc.add_handler(Everything(), handler)
    assert [is_async] == [route.terms.is_async for route in proc.routes()]
