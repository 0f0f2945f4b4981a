"""Overrides: values and generator functions replace resources in a test client."""

from __future__ import annotations

import asyncio

import pytest

from missive import HandlingContext, Outcome, ProcessingContext, Processor, RawMessage, ResourceError, UsageError
from missive.matchers import Everything
from tests.support.resources import KINDS, World, as_async, fails_to_close, never, raise_error


@pytest.fixture(params=["client", "async-client"])
def client(request):
    """Return a function that sends one message with each kind of client, and returns the result."""

    def send(proc, **options):
        if request.param == "client":
            with proc.test_client(**options) as client:
                return client.send(RawMessage(b""))

        async def main():
            async with proc.test_client(**options) as client:
                return await client.send(RawMessage(b""))

        return asyncio.run(main())

    return send


def requesting_processor(scope, kind, seen):
    """Return a processor whose handler requests a resource that a test cannot open, and the key of that resource."""
    world = World("client", *KINDS[kind])
    key = world.resource(lambda context: (yield raise_error(AssertionError("opened"))), scope)
    world.handle(lambda context, received: seen.append(received), key)
    return world.proc, key


each_kind = pytest.mark.parametrize(
    ("scope", "kind"), [(scope, kind) for scope in ("message", "worker") for kind in KINDS]
)


@each_kind
@pytest.mark.parametrize("fake", [1, None, print, Outcome, lambda context: 1])
def test_a_value_replaces_a_resource(client, scope, kind, fake):
    """A value that is no generator function replaces the resource, also when it is callable."""
    seen = []
    proc, key = requesting_processor(scope, kind, seen)
    assert Outcome.acked is client(proc, overrides={key: fake}).outcome
    assert seen == [fake]


@each_kind
def test_a_generator_function_replaces_a_resource(client, scope, kind):
    """A fake with a yield receives the context of the resource, opens once, and closes."""
    seen, log = [], []
    proc, key = requesting_processor(scope, kind, seen)

    def fake(context):
        log.append(type(context))
        yield "fake"
        log.append("closed")

    assert Outcome.acked is client(proc, overrides={key: as_async(fake) if kind == "async" else fake}).outcome
    assert seen == ["fake"]
    assert log == [HandlingContext if scope == "message" else ProcessingContext, "closed"]


@each_kind
def test_another_resource_replaces_a_resource(client, scope, kind):
    """A key as the fake runs its generator function, in the scope of the replaced resource."""
    seen = []
    proc, key = requesting_processor(scope, kind, seen)
    fake = Processor().resource()(lambda context: (yield "other"))
    client(proc, overrides={key: fake})
    assert seen == ["other"]


@pytest.mark.parametrize("fake", [1, lambda context: (yield 1)])
def test_a_fake_keeps_the_rules_of_get_and_aget(client, fake):
    """`get` of an async resource is an error in a test too, whatever the fake is."""
    proc = Processor(dlq={})
    key = proc.resource()(as_async(lambda context: (yield)))
    proc.add_handler(Everything(), lambda message, context: context.get(key))
    assert isinstance(client(proc, overrides={key: fake}).exception, ResourceError)


def test_an_async_fake_of_a_sync_resource_needs_aget(client):
    """`get` of a sync resource with an async fake raises an error that names the resource."""
    proc = Processor(dlq={})
    key = proc.resource()(fails_to_close)
    proc.add_handler(Everything(), lambda message, context: context.get(key))
    error = client(proc, overrides={key: as_async(lambda context: (yield))}).exception
    name = f"{fails_to_close.__module__}:fails_to_close (overridden)"
    assert str(error) == f"the resource {name} is async: await context.aget(…), in an async def"


def test_the_error_of_a_fake_names_the_replaced_resource(client):
    """A fake that does not yield once is named after the resource that it replaces."""
    proc = Processor(dlq={})
    key = proc.resource()(fails_to_close)
    proc.add_handler(Everything(), lambda message, context: context.get(key))
    error = client(proc, overrides={key: never}).exception
    assert str(error).startswith(
        f"the resource {fails_to_close.__module__}:fails_to_close (overridden) ended without a yield"
    )


@pytest.mark.parametrize("key", ["db", fails_to_close, None])
def test_the_keys_of_overrides_must_be_resources(key):
    """Another key is an error when the client is made."""
    with pytest.raises(
        UsageError, match=rf"must be resources, as Processor.resource returns them, not a {type(key).__name__}"
    ):
        Processor().test_client(overrides={key: 1})


def test_overrides_end_with_their_client(client):
    """The next client opens the resource itself."""
    proc, seen = Processor(), []
    key = proc.resource()(lambda context: (yield "real"))
    proc.add_handler(Everything(), lambda message, context: seen.append(context.get(key)))
    client(proc, overrides={key: "fake"})
    client(proc)
    assert seen == ["fake", "real"]
