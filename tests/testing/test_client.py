"""The test client: one attempt as in production, without a transport; sync and async alike."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import threading
import warnings
from datetime import timedelta

import pytest

from missive import (
    AmbiguousError,
    DeadLetter,
    DecodingError,
    Discard,
    JSONMessage,
    MatcherFailed,
    NotSettled,
    Outcome,
    OutcomeConflict,
    ProcessingFailed,
    Processor,
    RawMessage,
    RetryLater,
    UnmatchedError,
    UsageError,
)
from missive.matchers import Everything, Field, Header, Key, Topic
from missive.testing import AsyncTestClient, TestClient

CANARY = "canary-4711"
LISTS = ("acked", "nacked", "dead_lettered", "retried", "discarded")
variable = contextvars.ContextVar("variable", default="clean")


class Bench:
    """Runs a processor under one kind of client, with handlers of one kind."""

    def __init__(self, client, handlers):
        self.client_kind = client
        self.handler_kind = handlers

    def handler(self, fn):
        """Return a `def` function as it is, or as an `async def`."""
        if self.handler_kind == "def":
            return fn

        async def handle(message, context):
            return fn(message, context)

        return handle

    def processor(self, fn, matcher=Everything(), **options):  # noqa: B008 - frozen
        """Return a processor with one handler."""
        proc = Processor(**options)
        proc.add_handler(matcher, self.handler(fn), name="handler")
        return proc

    def run(self, proc, *messages, advance=()):
        """Send messages, then advance the clock; returns the client and all results."""
        if self.client_kind == "sync":
            with proc.test_client() as client:
                results = [client.send(message) for message in messages]
                for after in advance:
                    results += client.advance(after)
            return client, results

        async def main():
            async with proc.test_client() as client:
                results = [await client.send(message) for message in messages]
                for after in advance:
                    results += await client.advance(after)
            return client, results

        return asyncio.run(main())

    def one(self, fn, message=None, **options):
        """Run one handler on one message, with a dict for dead letters; returns client, result and dict."""
        box = {}
        client, [result] = self.run(self.processor(fn, dlq=box, **options), message or RawMessage(b"", message_id="id"))
        return client, result, box


@pytest.fixture(params=["sync-def", "sync-async", "async-def", "async-async"])
def bench(request):
    """Give each combination of client and handlers."""
    return Bench(*request.param.split("-"))


@pytest.fixture(params=["sync", "async"])
def either(request):
    """Give each kind of client, with sync handlers."""
    return Bench(request.param, "def")


def told(client):
    """Return the ids in each of a client's lists."""
    return {name: [message.message_id for message in getattr(client, name)] for name in LISTS}


def listed(**lists):
    """Return what `told` would, the lists that are not named empty."""
    return {name: [] for name in LISTS} | lists


# Outcomes


def test_returning_acks(bench):
    """A handler that returns without a word has acked."""
    seen = []
    client, result, box = bench.one(lambda message, context: seen.append((message.raw_data, context.attempt)))
    assert seen == [(b"", 1)]
    assert (Outcome.acked, "handler", None, 1, None, None) == (
        result.outcome,
        result.handler,
        result.reason,
        result.attempt,
        result.delay,
        result.exception,
    )
    assert listed(acked=["id"]) == told(client)
    assert box == {}


def raise_it(error):
    """Raise; for lambdas."""
    raise error


OUTCOMES = [
    (lambda c: c.ack(), Outcome.acked, None, None, {"acked"}),
    (lambda c: c.nack(), Outcome.nacked, None, 1.0, {"nacked"}),
    (lambda c: c.retry(7), Outcome.retried, None, 7.0, {"nacked", "retried"}),
    (lambda c: c.retry(timedelta(minutes=1)), Outcome.retried, None, 60.0, {"nacked", "retried"}),
    (lambda c: c.retry(), Outcome.retried, None, 5.0, {"nacked", "retried"}),
    (lambda c: c.dead_letter("bad"), Outcome.dead_lettered, "bad", None, {"acked", "dead_lettered"}),
    (lambda c: c.discard("spam"), Outcome.discarded, "spam", None, {"acked", "discarded"}),
    (lambda c: raise_it(RetryLater(7)), Outcome.retried, None, 7.0, {"nacked", "retried"}),
    (lambda c: raise_it(RetryLater()), Outcome.retried, None, 5.0, {"nacked", "retried"}),
    (lambda c: raise_it(DeadLetter("bad")), Outcome.dead_lettered, "bad", None, {"acked", "dead_lettered"}),
    (lambda c: raise_it(Discard("spam")), Outcome.discarded, "spam", None, {"acked", "discarded"}),
    (lambda c: raise_it(ValueError("x")), Outcome.dead_lettered, "failed", None, {"acked", "dead_lettered"}),
    (lambda c: raise_it(SystemExit(3)), Outcome.dead_lettered, "failed", None, {"acked", "dead_lettered"}),
    (lambda c: raise_it(DecodingError("x")), Outcome.dead_lettered, "unreadable", None, {"acked", "dead_lettered"}),
    (lambda c: raise_it(RetryLater(-1)), Outcome.dead_lettered, "failed", None, {"acked", "dead_lettered"}),
]


@pytest.mark.parametrize(("act", "outcome", "reason", "delay", "lists"), OUTCOMES)
def test_outcomes(bench, act, outcome, reason, delay, lists):
    """What a handler records or raises is the result, and what a transport would be told."""
    client, result, box = bench.one(lambda message, context: act(context))
    assert (outcome, reason, delay, "handler", 1) == (
        result.outcome,
        result.reason,
        result.delay,
        result.handler,
        result.attempt,
    )
    assert listed(**{name: ["id"] for name in lists}) == told(client)
    assert (outcome is Outcome.dead_lettered) is ("id" in box)


def test_the_result_has_the_handlers_exception(bench):
    """`Result.exception` is the very exception that the handler raised."""
    error = ValueError(CANARY)
    _, result, _ = bench.one(lambda message, context: raise_it(error))
    assert error is result.exception
    assert CANARY not in repr(result)
    assert "exception=ValueError" in repr(result)


def test_an_exception_after_ack_is_a_failure(bench):
    """A handler that acked and then raised has failed."""
    client, result, box = bench.one(lambda message, context: (context.ack(), raise_it(ValueError("late"))))
    assert (Outcome.dead_lettered, "failed") == (result.outcome, result.reason)
    assert [reason for _, reason in box.values()] == ["late"]
    assert listed(acked=["id"], dead_lettered=["id"]) == told(client)


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (lambda context: context.nack(), Outcome.nacked),
        (lambda context: context.retry(9), Outcome.retried),
        (lambda context: context.discard("spam"), Outcome.discarded),
        (lambda context: context.dead_letter("bad"), Outcome.dead_lettered),
    ],
)
@pytest.mark.parametrize("error", [ValueError("late"), RetryLater(1), Discard("late"), DeadLetter("late")])
def test_an_exception_after_another_outcome_changes_nothing(bench, record, outcome, error):
    """An outcome other than ack stands when the handler raises after it; the exception is in the result."""
    _, result, _ = bench.one(lambda message, context: (record(context), raise_it(error)))
    assert outcome is result.outcome
    assert error is result.exception
    if outcome is Outcome.retried:
        assert result.delay == 9.0
    if outcome is Outcome.dead_lettered:
        assert result.reason == "bad"


def test_two_different_outcomes_fail_the_message(bench):
    """A handler that acks and then nacks is told which two, and its message has failed."""
    _, result, box = bench.one(lambda message, context: (context.ack(), context.nack()))
    assert Outcome.dead_lettered is result.outcome
    assert isinstance(result.exception, OutcomeConflict)
    assert [r for _, r in box.values()] == ["this message was already recorded as acked, and cannot be nacked too"]


def test_a_handler_may_survive_a_conflict(bench):
    """A conflict that the handler catches leaves the first outcome."""

    def handle(message, context):
        context.discard("first")
        with pytest.raises(OutcomeConflict):
            context.ack()

    _, result, _ = bench.one(handle)
    assert (Outcome.discarded, "first", None) == (result.outcome, result.reason, result.exception)


# Routing


def message(topic, **envelope):
    """Return a message at a topic."""
    return RawMessage(b"body", topic=topic, **envelope)


def test_only_the_one_handler_runs(either):
    """Of several handlers the one that matches runs."""
    proc, ran = Processor(), []
    proc.add_handler(Topic("a"), lambda m, c: ran.append("a"), name="A")
    proc.add_handler(Topic("b"), lambda m, c: ran.append("b"), name="B")
    _, results = either.run(proc, message("b"), message("a"))
    assert (ran, [result.handler for result in results]) == (["b", "a"], ["B", "A"])


def ambiguous(**options):
    """Return a processor with handlers for a, for k, and one that fails at z."""
    proc = Processor(JSONMessage, on_overlap="ignore", **options)
    proc.add_handler(Topic("a"), lambda m, c: None)
    proc.add_handler(Key("k"), lambda m, c: None)
    proc.add_handler(Header("f", "1") & Field("x", 1), lambda m, c: None)
    proc.add_handler(lambda m: m.topic == "z" and {}["missing"], lambda m, c: None, name="failing")
    return proc


MISROUTED = [
    (JSONMessage(b"{}"), "unmatched", "no matching handlers", UnmatchedError),
    (JSONMessage(b"{}", topic="a", key="k"), "ambiguous", "multiple matching handlers", AmbiguousError),
    (JSONMessage(b"{", headers={"f": "1"}), "unreadable", "unreadable", DecodingError),
    (JSONMessage(b"{}", topic="z"), "matcher_failed", "the matcher of failing", MatcherFailed),
]


@pytest.mark.parametrize(("sent", "reason", "text", "error"), MISROUTED)
def test_what_has_no_one_handler_is_dead_lettered(either, sent, reason, text, error):
    """Without one handler the message is dead-lettered with the reason of its routing."""
    box = {}
    client, [result] = either.run(ambiguous(dlq=box), sent)
    assert (Outcome.dead_lettered, None, reason) == (result.outcome, result.handler, result.reason)
    assert [sent] == client.dead_lettered == client.acked
    [(kept, why)] = box.values()
    assert kept is sent
    assert why.startswith(text)


@pytest.mark.parametrize(("sent", "reason", "text", "error"), MISROUTED)
def test_without_a_dead_letter_queue_it_raises(either, sent, reason, text, error):
    """Without a dead letter queue, what would be one raises an error of its own kind, without content."""
    with pytest.raises(error) as caught:
        either.run(ambiguous(), sent)
    assert sent.message_id not in str(caught.value)


def test_an_unmatched_error_explains(either):
    """UnmatchedError says what each matcher expected, and shows no content."""
    with pytest.raises(UnmatchedError, match=r"Topic\(Equals\('a'\)\): expected 'a', got <str, 11 char") as caught:
        either.run(ambiguous(), JSONMessage(b"{}", topic=CANARY))
    assert CANARY not in str(caught.value)


def test_an_ambiguous_error_names_the_handlers(either):
    """AmbiguousError names all that match."""
    proc = Processor(on_overlap="ignore")
    proc.add_handler(Topic("a"), lambda m, c: None, name="first")
    proc.add_handler(Key("k"), lambda m, c: None, name="second")
    with pytest.raises(AmbiguousError, match="first, second"):
        either.run(proc, message("a", key="k"))


# Dead letters


def test_a_dict_holds_message_and_reason(bench):
    """A dict as dead letter queue holds `{message_id: (message, reason)}`, the reason being the exception's text."""
    box = {}
    proc = bench.processor(lambda m, c: raise_it(ValueError("no such customer")), Topic("a"), dlq=box)
    failing, unmatched = message("a", message_id="1"), message("b", message_id="2")
    bench.run(proc, failing, unmatched)
    assert {"1": (failing, "no such customer"), "2": (unmatched, "no matching handlers")} == box
    assert failing is box["1"][0]
    assert type(box["1"]) is tuple


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda c: c.dead_letter("bad-address"), "bad-address"),
        (lambda c: c.dead_letter("bad-address", detail=CANARY), "bad-address"),
        (lambda c: raise_it(DeadLetter("bad-address", detail=CANARY)), "bad-address"),
        (lambda c: raise_it(KeyError("id")), "'id'"),
        (lambda c: raise_it(ValueError), "failed"),
        (lambda c: raise_it(ValueError("\ud800")), "\\ud800"),
    ],
)
def test_the_reason_in_a_dict(bench, act, reason):
    """The reason is the handler's label, or the exception's text; without any it says `failed`."""
    _, _, box = bench.one(lambda message, context: act(context))
    assert reason == box["id"][1]


def test_a_label_stands_in_a_dict_too(bench):
    """Where the handler dead-lettered and then raised, the reason is the label, as in the result."""
    _, result, box = bench.one(lambda message, context: (context.dead_letter("bad"), raise_it(ValueError("late"))))
    assert result.reason == box["id"][1] == "bad"


def test_another_message_under_a_taken_id_gets_a_number(either):
    """Different messages of one id are kept as `id`, `id#2` and `id#3`; the same one again is kept once."""
    box = {}
    proc = Processor(dlq=box)
    messages = [RawMessage(body, message_id="id") for body in (b"1", b"2", b"3", b"2")]
    either.run(proc, *messages)
    assert list(box) == ["id", "id#2", "id#3"]
    assert [kept.raw_data for kept, _ in box.values()] == [b"1", b"2", b"3"]


def test_what_is_not_dead_lettered_is_not_in_the_dict(bench):
    """Acked, nacked, retried and discarded messages leave the dict empty."""
    for act in (lambda c: c.ack(), lambda c: c.nack(), lambda c: c.retry(), lambda c: c.discard("x")):
        _, _, box = bench.one(lambda message, context, act=act: act(context))
        assert box == {}


@pytest.mark.parametrize("error", [ValueError("own"), DeadLetter("own"), SystemExit(3)])
def test_without_a_dead_letter_queue_the_handlers_exception_comes_through(bench, error):
    """Without a dead letter queue a failing handler's own exception is raised, as it is."""
    with pytest.raises(type(error)) as caught:
        bench.run(bench.processor(lambda m, c: raise_it(error)), message("a"))
    assert error is caught.value


def test_without_a_dead_letter_queue_a_recorded_dead_letter_raises(bench):
    """Without a dead letter queue `dead_letter()` raises NotSettled with the label, and without the detail."""
    with pytest.raises(NotSettled, match="bad-address") as caught:
        bench.run(bench.processor(lambda m, c: c.dead_letter("bad-address", detail=CANARY)), message("a"))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("act", [lambda c: c.discard("x"), lambda c: c.retry(), lambda c: c.nack(), lambda c: c.ack()])
def test_without_a_dead_letter_queue_all_else_works(bench, act):
    """Only what would be dead-lettered needs a dead letter queue."""
    _, [result] = bench.run(bench.processor(lambda m, c: act(c)), message("a"))
    assert result.exception is None


def test_a_configured_store_is_never_opened(either, tmp_path):
    """A store's URL is not opened: an in-memory stand-in takes the dead letters."""
    path = tmp_path / "dlq.db"
    client, [result] = either.run(Processor(dlq=f"sqlite:///{path}"), message("a", message_id="1"))
    assert Outcome.dead_lettered is result.outcome
    assert listed(acked=["1"], dead_lettered=["1"]) == told(client)
    assert list(tmp_path.iterdir()) == []


# Time


def test_a_retried_message_comes_back_when_it_is_due(bench):
    """`advance` runs a retried message as its next attempt, no earlier than its delay."""
    attempts = []

    def handle(message, context):
        attempts.append(context.attempt)
        if context.attempt < 3:
            context.retry(10)

    proc = bench.processor(handle)
    client, results = bench.run(proc, message("a", message_id="1"), advance=[9, 1, 9, 1, 100])
    assert attempts == [1, 2, 3]
    assert [(r.attempt, r.outcome) for r in results] == [(1, "retried"), (2, "retried"), (3, "acked")]
    assert listed(nacked=["1", "1"], retried=["1", "1"], acked=["1"]) == told(client)


def test_one_advance_runs_all_that_becomes_due(bench):
    """One `advance` runs every attempt that becomes due in it, in order of time, those due again included."""
    order = []

    def handle(message, context):
        order.append((message.message_id, context.attempt))
        if context.attempt < 3:
            context.retry(float(message.topic))

    bench.run(bench.processor(handle), message("4", message_id="slow"), message("3", message_id="fast"), advance=[8])
    assert order == [("slow", 1), ("fast", 1), ("fast", 2), ("slow", 2), ("fast", 3), ("slow", 3)]


def test_what_is_due_at_the_same_time_runs_in_the_order_it_was_sent(bench):
    """Messages with the same due time come back first in, first out."""
    order = []

    def handle(message, context):
        order.append(message.message_id)
        if context.attempt == 1:
            context.retry(1)

    bench.run(bench.processor(handle), *(message("a", message_id=str(n)) for n in range(5)), advance=[1])
    assert [*"01234", *"01234"] == order


def test_a_nacked_message_spends_no_attempt(bench):
    """A nacked message comes back after a second, as the same attempt."""
    attempts = []

    def handle(message, context):
        attempts.append(context.attempt)
        if len(attempts) < 3:
            context.nack()

    _, results = bench.run(bench.processor(handle), message("a"), advance=[0.9, 0.1, 1])
    assert attempts == [1, 1, 1]
    assert [result.delay for result in results] == [1.0, 1.0, None]


def test_advance_takes_a_timedelta_and_nothing_negative(either):
    """`advance` takes seconds or a timedelta, and refuses to go back."""
    proc = Processor()
    proc.add_handler(Everything(), lambda m, c: c.retry(60) if c.attempt == 1 else None)
    _, results = either.run(proc, message("a"), advance=[timedelta(minutes=1)])
    assert [result.attempt for result in results] == [1, 2]
    with pytest.raises(ValueError, match="zero or more"):
        either.run(Processor(), advance=[-1])


# What a handler may be


def test_what_a_handler_returns_is_nothing(bench):
    """A returned value is ignored."""
    for value in (False, 0, "nack", object(), [1], Outcome.nacked):
        _, result, _ = bench.one(lambda message, context, value=value: value)
        assert Outcome.acked is result.outcome


def test_a_handler_that_returns_an_awaitable_is_awaited(bench):
    """What a handler returns is awaited if it is awaitable, also of a def that calls an async def."""
    done = []

    async def later(message):
        await asyncio.sleep(0)
        done.append(message.message_id)

    proc = Processor()
    if bench.handler_kind == "def":
        proc.add_handler(Everything(), lambda message, context: later(message))
    else:

        async def handle(message, context):
            return later(message)

        async def twice(message, context):
            await (await handle(message, context))

        proc.add_handler(Everything(), twice)
    _, [result] = bench.run(proc, message("a", message_id="1"))
    assert (["1"], Outcome.acked) == (done, result.outcome)


def test_an_awaitable_that_raises_fails_the_message(either):
    """An exception out of a returned awaitable is the handler's."""

    async def later():
        raise ValueError("later")

    box = {}
    proc = Processor(dlq=box)
    proc.add_handler(Everything(), lambda message, context: later())
    _, [result] = either.run(proc, message("a", message_id="1"))
    assert (Outcome.dead_lettered, "later") == (result.outcome, box["1"][1])


def test_a_returned_future_is_awaited(either):
    """An awaitable that is no coroutine is awaited as well."""
    done = []

    class Later:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            done.append(1)

    proc = Processor()
    proc.add_handler(Everything(), lambda message, context: Later())
    either.run(proc, message("a"))
    assert done == [1]


class Handlers:
    """Callables of all kinds, that note the message they were called with."""

    def __init__(self):
        self.seen = []

    def __call__(self, message, context):
        """Handle."""
        self.seen.append(message.message_id)

    def method(self, message, context):
        """Handle."""
        self(message, context)

    async def async_method(self, message, context):
        """Handle on the loop."""
        self(message, context)

    def with_option(self, option, message, context):
        """Handle, with an argument before."""
        self.seen.append((option, message.message_id))

    async def async_with_option(self, option, message, context):
        """Handle on the loop, with an argument before."""
        self.with_option(option, message, context)


@pytest.mark.parametrize(
    ("get", "expected"),
    [
        (lambda h: h, "1"),
        (lambda h: h.method, "1"),
        (lambda h: h.async_method, "1"),
        (lambda h: functools.partial(h.with_option, "x"), ("x", "1")),
        (lambda h: functools.partial(h.async_with_option, "x"), ("x", "1")),
        (lambda h: functools.partial(functools.partial(h.async_with_option), "x"), ("x", "1")),
    ],
    ids=["object", "method", "async method", "partial", "partial of async", "partial of partial"],
)
def test_partials_methods_and_objects_are_handlers(either, get, expected):
    """Partials, bound methods and callable objects handle, sync or async."""
    handlers, proc = Handlers(), Processor()
    proc.add_handler(Everything(), get(handlers))
    _, [result] = either.run(proc, message("a", message_id="1"))
    assert ([expected], Outcome.acked) == (handlers.seen, result.outcome)


def test_a_handler_sees_its_surroundings(bench):
    """In a test client `native` is None, the adapter is one that is not connected, and the processor is its own."""
    seen = []

    def handle(message, context):
        seen.append((context.native, context.adapter.transport, context.processing_ctx.processor, context.message))

    proc, sent = bench.processor(handle), message("a")
    bench.run(proc, sent)
    assert [(None, "test", proc, sent)] == seen
    assert sent is seen[0][3]


# Hooks


def hooked(bench, log, fn=None, **options):
    """Return a processor with all four hooks, which write what they see into a log."""
    proc = bench.processor(fn or (lambda m, c: log.append("handler")), **options)
    proc.before_processing(lambda worker: log.append("start"))
    proc.after_processing(lambda worker: log.append("end"))
    proc.before_handling(lambda worker, context: log.append(("before", context.outcome, context.exception)))
    proc.after_handling(lambda worker, context: log.append(("after", context.outcome, context.exception)))
    return proc


def test_hooks_run_around_the_handler(bench):
    """Processing hooks run once, handling hooks around each message, with the outcome known after it."""
    log = []
    bench.run(hooked(bench, log), message("a"), message("a"))
    around = [("before", None, None), "handler", ("after", Outcome.acked, None)]
    assert ["start", *around, *around, "end"] == log


def test_after_hooks_run_when_the_handler_raised(bench):
    """`after_handling` sees how a failed attempt ended and what was raised, and `after_processing` runs."""
    log, error = [], ValueError()
    bench.run(hooked(bench, log, lambda m, c: raise_it(error), dlq={}), message("a"))
    assert ["start", ("before", None, None), ("after", Outcome.dead_lettered, error), "end"] == log


@pytest.mark.parametrize(("act", "outcome", "reason", "delay", "lists"), OUTCOMES)
def test_after_hooks_know_the_outcome(bench, act, outcome, reason, delay, lists):
    """Whatever the handler did, `after_handling` sees the outcome of the result."""
    log = []
    bench.run(hooked(bench, log, lambda m, c: act(c), dlq={}), message("a"))
    assert [outcome] == [entry[1] for entry in log if entry[0] == "after"]


def test_a_raising_before_hook_fails_the_message(bench):
    """Where a `before_handling` hook raises, the handler does not run, `after_handling` does, the message failed."""
    log, box = [], {}
    proc = hooked(bench, log, dlq=box)
    proc.before_handling(lambda worker, context: raise_it(ValueError("hook")))
    _, [result] = bench.run(proc, message("a", message_id="1"))
    assert (Outcome.dead_lettered, "failed", "hook") == (result.outcome, result.reason, box["1"][1])
    assert "handler" not in log
    assert Outcome.dead_lettered in [entry[1] for entry in log if entry[0] == "after"]


def test_a_raising_after_hook_fails_the_message(bench):
    """Where an `after_handling` hook raises, the message failed, and the other hooks still run."""
    log, box = [], {}
    proc = bench.processor(lambda m, c: c.ack(), dlq=box)
    proc.after_handling(lambda worker, context: raise_it(ValueError("hook")))
    proc.after_handling(lambda worker, context: log.append("second"))
    _, [result] = bench.run(proc, message("a", message_id="1"))
    assert (Outcome.dead_lettered, "failed", "hook") == (result.outcome, result.reason, box["1"][1])
    assert log == ["second"]


def test_the_handlers_exception_goes_before_a_hooks(bench):
    """Where both raised, the handler's exception is the message's."""
    proc = bench.processor(lambda m, c: raise_it(ValueError("handler")), dlq={})
    proc.after_handling(lambda worker, context: raise_it(ValueError("hook")))
    _, [result] = bench.run(proc, message("a"))
    assert str(result.exception) == "handler"


@pytest.mark.parametrize("fails", [False, True])
def test_what_an_after_hook_records_is_not_dropped(bench, fails):
    """An outcome recorded in `after_handling` is the message's, or an error; it is never ignored."""
    proc = bench.processor(lambda m, c: raise_it(ValueError("x")) if fails else None, dlq={})
    proc.after_handling(lambda worker, context: context.retry(3))
    _, [result] = bench.run(proc, message("a"))
    assert Outcome.retried is result.outcome or isinstance(result.exception, OutcomeConflict)


def test_async_hooks_serve_async_handlers(either):
    """Hooks may be async where every handler is."""
    log, proc = [], Processor()

    def hook(name):
        async def run(*contexts):
            await asyncio.sleep(0)
            log.append(name)

        return run

    async def handle(message, context):
        log.append("handler")

    for name in ("before_processing", "after_processing", "before_handling", "after_handling"):
        getattr(proc, name)(hook(name))
    proc.add_handler(Everything(), handle)
    either.run(proc, message("a"))
    assert log == ["before_processing", "before_handling", "handler", "after_handling", "after_processing"]


def test_state_goes_from_hook_to_handler_to_hook(bench):
    """A worker's state lasts, a message's ends with it, and both are shared by hooks and handler."""
    log = []
    proc = bench.processor(lambda m, c: log.append((c.state.number, c.processing_ctx.state.connection)))

    @proc.before_processing
    def connect(worker):
        worker.state.connection = "open"

    @proc.before_handling
    def number(worker, context):
        assert not hasattr(context.state, "number")
        context.state.number = len(log)

    @proc.after_handling
    def check(worker, context):
        log[-1] += (context.state.number, worker.state.connection)

    bench.run(proc, message("a"), message("a"))
    assert log == [(0, "open", 0, "open"), (1, "open", 1, "open")]


def test_sync_and_async_handlers_have_a_worker_each(either):
    """With handlers of both kinds processing hooks run once for the thread and once for the loop."""
    proc, log = Processor(), []

    async def handle(message, context):
        log.append(context.processing_ctx)

    proc.add_handler(Topic("a"), lambda m, c: log.append(c.processing_ctx))
    proc.add_handler(Topic("b"), handle)
    workers = []
    proc.before_processing(workers.append)
    either.run(proc, message("a"), message("b"), message("a"))
    assert len(workers) == 2
    assert [workers[0], workers[1], workers[0]] == log


def test_processing_hooks_run_without_a_message(either):
    """Entering and leaving a client runs the processing hooks, whatever is sent."""
    log = []
    either.run(hooked(either, log))
    assert log == ["start", "end"]


@contextlib.contextmanager
def closing_loops():
    """Take away the loop of a client that failed to open, and with it the warning that nobody closed it."""
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            asyncio.set_event_loop(None)
            gc.collect()


@pytest.mark.parametrize("handlers", ["def", "async"])
def test_a_raising_start_hook_stops_the_sync_client(handlers):
    """A raising `before_processing` hook is raised on entering the client."""
    bench = Bench("sync", handlers)
    proc = bench.processor(lambda m, c: None)
    proc.before_processing(lambda worker: raise_it(ValueError("no database")))
    with closing_loops(), pytest.raises((ProcessingFailed, ValueError)):
        bench.run(proc)


@pytest.mark.parametrize("client", ["sync", "async"])
def test_a_raising_hook_is_named_for_async_handlers_too(client):
    """ProcessingFailed names the hook, as it does for sync handlers and in production."""
    bench = Bench(client, "async")
    proc = bench.processor(lambda m, c: None)
    proc.before_processing(lambda worker: raise_it(ValueError("no database")))
    with closing_loops(), pytest.raises(ProcessingFailed, match=r"the hook .* raised ValueError"):
        bench.run(proc)


def test_end_hooks_run_when_a_start_hook_raised(either):
    """`after_processing` runs also when `before_processing` raised, as in production."""
    log = []
    proc = hooked(either, log)
    proc.before_processing(lambda worker: raise_it(ValueError("no database")))
    with pytest.raises(ProcessingFailed):
        either.run(proc)
    assert log == ["start", "end"]


def test_end_hooks_run_when_the_test_raised(either):
    """Leaving the client by an exception of the test's runs `after_processing`."""
    log = []
    with pytest.raises(UnmatchedError):
        either.run(hooked(either, log, matcher=Topic("b")), message("a"))
    assert log == ["start", "end"]


# Isolation


def leaking(seen):
    """Return a handler that notes a context variable, then sets it."""

    def handle(message, context):
        seen.append(variable.get())
        variable.set("leaked")

    return handle


@pytest.mark.parametrize(
    ("client", "handlers"),
    [
        ("sync", "def"),
        ("async", "def"),
        ("async", "async"),
        pytest.param("sync", "async"),
    ],
)
def test_context_variables_do_not_leak(client, handlers):
    """What a handler sets in a context variable is gone for the next message, and for the test."""
    seen = []
    bench = Bench(client, handlers)
    bench.run(bench.processor(leaking(seen)), message("a"), message("a"), message("a"))
    assert seen == ["clean"] * 3
    assert variable.get() == "clean"


@pytest.mark.parametrize(
    "client",
    [
        "async",
        pytest.param("sync"),
    ],
)
def test_context_variables_do_not_leak_through_a_returned_awaitable(client):
    """An awaitable that a def handler returned sees that handler's variables, and the next message sees none."""
    seen, proc = [], Processor()

    async def later():
        seen.append(variable.get())
        variable.set("leaked")

    def handle(message, context):
        seen.append(variable.get())
        variable.set(message.topic)
        return later()

    proc.add_handler(Everything(), handle)
    Bench(client, "def").run(proc, message("one"), message("two"))
    assert seen == ["clean", "one", "clean", "two"]


def test_async_sends_at_once_are_apart():
    """Concurrent sends of an async client run concurrently, each in a context of its own."""
    seen, proc = [], Processor()

    async def main():
        both = asyncio.Event()

        @proc.handle_for(Everything())
        async def handle(message, context):
            variable.set(message.message_id)
            if message.message_id == "1":
                await both.wait()
            both.set()
            seen.append((message.message_id, variable.get()))

        async with proc.test_client() as client:
            return await asyncio.gather(*(client.send(message("a", message_id=n)) for n in "12"))

    results = asyncio.run(main())
    assert [Outcome.acked] * 2 == [result.outcome for result in results]
    assert seen == [("2", "2"), ("1", "1")]


def test_async_handlers_share_the_tests_loop():
    """Under `async with`, async handlers run on the running loop, and sync ones on another thread."""
    where, proc = {}, Processor()

    async def on_loop(message, context):
        where["loop"] = asyncio.get_running_loop()

    proc.add_handler(Topic("a"), on_loop)
    proc.add_handler(Topic("b"), lambda m, c: where.update(thread=threading.get_ident()))

    async def main():
        async with proc.test_client() as client:
            await client.send(message("a"))
            await client.send(message("b"))
        return asyncio.get_running_loop()

    loop = asyncio.run(main())
    assert loop is where["loop"]
    assert threading.get_ident() != where["thread"]


def test_sync_handlers_run_in_the_tests_thread():
    """Under `with`, a sync handler runs in the thread of the test, where a debugger is."""
    where, proc = [], Processor()
    proc.add_handler(Everything(), lambda m, c: where.append(threading.get_ident()))
    with proc.test_client() as client:
        client.send(message("a"))
    assert [threading.get_ident()] == where


# The clients themselves


def test_each_way_of_entering_has_its_client():
    """`with` gives a TestClient, `async with` an AsyncTestClient."""

    async def main():
        async with Processor().test_client() as client:
            return client

    with Processor().test_client() as client:
        assert isinstance(client, TestClient)
    assert isinstance(asyncio.run(main()), AsyncTestClient)


def test_a_sync_client_in_a_loop_says_what_to_write():
    """`with` inside a running loop raises, and says `async with`."""

    async def main():
        with Processor().test_client():
            pass

    with pytest.raises(UsageError, match="async with"):
        asyncio.run(main())


@pytest.mark.parametrize("sent", [RawMessage(b"{}"), b"{}", None, {"a": 1}])
def test_only_the_processors_messages_are_sent(either, sent):
    """What is no message of the processor's class raises, and both classes are named."""
    with pytest.raises(UsageError, match=f"takes messages of class JSONMessage, not {type(sent).__name__}"):
        either.run(Processor(JSONMessage), sent)


def test_lists_are_in_the_order_of_settlement(bench):
    """The lists keep the very messages that were sent, in order."""
    acts = {"a": lambda c: c.ack(), "d": lambda c: c.discard("x"), "n": lambda c: c.nack(), "r": lambda c: c.retry()}
    proc = bench.processor(lambda m, c: acts[m.topic](c) if m.topic in acts else raise_it(ValueError()), dlq={})
    sent = [message(topic, message_id=f"{n}{topic}") for n, topic in enumerate("andrxa")]
    client, _ = bench.run(proc, *sent)
    assert told(client) == {
        "acked": ["0a", "2d", "4x", "5a"],
        "nacked": ["1n", "3r"],
        "dead_lettered": ["4x"],
        "retried": ["3r"],
        "discarded": ["2d"],
    }
    assert sent[0] is client.acked[0]


def test_a_failed_send_without_a_queue_is_in_no_list(either):
    """What raised for want of a dead letter queue was not settled."""
    proc = Processor()
    with pytest.raises(UnmatchedError):
        either.run(proc, message("a"))
    with proc.test_client() as client:
        with pytest.raises(UnmatchedError):
            client.send(message("a"))
        assert listed() == told(client)


def test_a_message_can_be_sent_again(bench):
    """Sending the same message again is another delivery, as a first attempt."""
    attempts = []
    sent = message("a", message_id="1")
    client, _ = bench.run(bench.processor(lambda m, c: attempts.append(c.attempt)), sent, sent)
    assert attempts == [1, 1]
    assert listed(acked=["1", "1"]) == told(client)


def test_the_repr_of_a_result_has_no_content(bench):
    """A result's repr has outcome, handler, attempt, label and delay."""
    _, result, _ = bench.one(lambda m, c: c.retry(2.5))
    assert repr(result) == "<Result: retried, handler=handler, attempt=1, delay=2.5>"
    _, result, _ = bench.one(lambda m, c: c.discard("spam"))
    assert repr(result) == "<Result: discarded, handler=handler, attempt=1, reason=spam>"


def test_a_processor_has_any_number_of_clients(bench):
    """Each client begins with empty lists, and hooks of its own."""
    log = []
    proc = hooked(bench, log)
    first, _ = bench.run(proc, message("a", message_id="1"))
    second, _ = bench.run(proc, message("a", message_id="2"))
    assert (told(first)["acked"], told(second)["acked"]) == (["1"], ["2"])
    assert (log.count("start"), log.count("end")) == (2, 2)
