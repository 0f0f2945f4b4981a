"""Hooks and resources: sharing, closing and failures."""

from __future__ import annotations

import pytest

from missive import Outcome, ProcessingFailed
from tests.support.resources import fails_to_close, raise_error


def test_before_hooks_and_the_handler_share_resources(main_world):
    """A handler receives the object that a before_handling hook opened."""
    a, seen = main_world.logged("a"), []
    main_world.proc.before_handling(main_world.requesting(lambda context, received: seen.append(received), a))
    main_world.handle(lambda context, received: seen.append(received), a)
    main_world.run(b"1")
    assert seen[0] is seen[1]
    assert main_world.log == ["open a", "close a", "acked"]


def test_a_raising_before_hook_closes_its_resources(main_world):
    """Resources receive the exception of a before_handling hook, although no handler ran."""
    a = main_world.logged("a")
    main_world.proc.before_handling(main_world.requesting(lambda context, received: raise_error(ValueError()), a))
    main_world.handle(lambda context: main_world.log.append("handled"))
    main_world.run(b"1")
    assert main_world.log == ["open a", "a sees ValueError", "close a", "dead_lettered"]


def test_after_hooks_see_failures_to_close(world):
    """Resources are closed before the after_handling hooks, which see the resulting outcome."""
    seen = []
    world.handle(lambda context, *_: None, world.logged("a"), world.resource(fails_to_close))
    world.proc.after_handling(
        world.requesting(
            lambda context: (seen.append((context.outcome, str(context.exception))), world.log.append("after"))
        )
    )
    world.run(b"1")
    assert seen == [(Outcome.dead_lettered, "commit")]
    assert world.log == ["open a", "a sees OSError", "close a", "after", "dead_lettered"]


def test_a_resource_of_an_after_hook_closes_after_the_hooks(world):
    """It is opened anew, does not receive the handler's exception, and is closed before settlement."""
    a = world.logged("a")
    world.handle(lambda context, *_: raise_error(ValueError("first")), a)
    world.proc.after_handling(world.requesting(lambda context, received: world.log.append("after 1"), a))
    world.proc.after_handling(world.requesting(lambda context, received: world.log.append("after 2"), a))
    world.run(b"1")
    assert world.log == [
        *["open a", "a sees ValueError", "close a"],
        *["open a", "after 1", "after 2", "close a"],
        "dead_lettered",
    ]
    assert world.reasons == ["first"]


def test_resources_of_after_hooks_receive_their_exceptions(main_world):
    """An exception of an after_handling hook fails the message, and is raised in the resources of the hooks."""
    a = main_world.logged("a")
    main_world.handle(lambda context: None)
    main_world.proc.after_handling(main_world.requesting(lambda context, received: raise_error(KeyError("hook")), a))
    main_world.run(b"1")
    assert main_world.log == ["open a", "a sees KeyError", "close a", "dead_lettered"]
    assert main_world.reasons == ["'hook'"]


def test_a_resource_of_an_after_hook_that_fails_to_close_fails_the_message(main_world):
    """The message fails, although its handler and its hooks succeeded."""
    main_world.handle(lambda context: None)
    main_world.proc.after_handling(
        main_world.requesting(lambda context, received: None, main_world.resource(fails_to_close))
    )
    assert [Outcome.dead_lettered] == main_world.run(b"1")
    assert main_world.reasons == ["commit"]


def test_a_processing_hook_opens_a_workers_resource_at_the_start(world):
    """Handlers receive the object that a before_processing hook opened."""
    a, seen = world.logged("a", "worker"), []
    world.proc.before_processing(world.hook(lambda context, received: seen.append(received), a))
    world.handle(lambda context, received: seen.append(received), a)
    world.run(b"1")
    assert seen[0] is seen[1]
    assert world.log == ["open a", "acked", "close a"]


def test_a_failing_hook_is_reported_before_a_failure_to_close(main_world):
    """If an after_processing hook raises, resources are closed, and the error names the hook."""

    def fn(context):
        yield
        raise OSError

    main_world.handle(lambda context, *_: None, main_world.logged("a", "worker"), main_world.resource(fn, "worker"))
    main_world.proc.after_processing(main_world.hook(lambda context: raise_error(ValueError())))
    with pytest.raises(ProcessingFailed, match=r"^the hook .* raised ValueError$"):
        main_world.run(b"1")
    assert main_world.log[-1] == "close a"


def test_a_worker_that_fails_to_start_closes_its_resources(main_world):
    """A worker whose before_processing hook raises closes the resources of the earlier hooks."""
    main_world.handle(lambda context: None)
    main_world.proc.before_processing(main_world.hook(lambda context, _: None, main_world.logged("a", "worker")))
    main_world.proc.before_processing(main_world.hook(lambda context: raise_error(ValueError())))
    with pytest.raises(ProcessingFailed, match=r"^the hook .* raised ValueError$"):
        main_world.run(b"1")
    assert main_world.log == ["open a", "close a"]
