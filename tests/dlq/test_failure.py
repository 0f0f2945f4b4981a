"""Captured exceptions: types, text and frames, and no references to values."""

from __future__ import annotations

import functools
import gc
import json
import os
import weakref

import pytest

from missive.dlq.failure import capture

CANARY = "canary-4711"


class Held:
    """A value that the locals of a frame refer to."""


class Unprintable(Exception):
    """An exception whose `__str__` raises."""

    def __str__(self):
        raise RuntimeError(CANARY)


class Empty(Exception):
    """An exception that is false in a condition."""

    def __len__(self):
        return 0


def caught(fn):
    """Return the exception that a function raises."""
    try:
        fn()
    except BaseException as error:  # noqa: BLE001 - tests raise any exception
        return error
    raise AssertionError("nothing was raised")


def inner():
    """Raise an exception in the innermost frame."""
    secret = CANARY
    raise KeyError(len(secret))


def outer():
    """Call `inner` from another frame."""
    password = CANARY
    inner()
    return password


def types(failure):
    """Return the exception types of a chain."""
    return [link.type for link in failure.chain]


def test_a_type_has_its_full_name():
    """A type is `module.QualName`; a built-in type has its name only."""

    class Local(Exception):
        pass

    assert capture(ValueError()).type == "ValueError"
    assert capture(json.JSONDecodeError("x", "y", 0)).type == "json.decoder.JSONDecodeError"
    assert capture(Local()).type == f"{__name__}.test_a_type_has_its_full_name.<locals>.Local"


def test_the_text_is_from_the_outer_exception():
    """The text is the `str` of the exception itself, not of its cause."""

    def fail():
        try:
            raise ValueError("first")
        except ValueError as error:
            raise RuntimeError("second") from error

    assert capture(caught(fail)).text == "second"
    assert capture(ValueError()).text == ""


def test_an_exception_without_a_usable_text():
    """An exception whose `__str__` raises is captured with an empty text."""
    failure = capture(Unprintable())
    assert (failure.type, failure.text) == (f"{__name__}.Unprintable", "")


def test_the_innermost_frame_is_last():
    """Each frame has its file, line, function and module. The innermost frame is last."""
    (link,) = capture(caught(outer)).chain
    assert [frame.function for frame in link.frames] == ["caught", "outer", "inner"]
    assert {__name__} == {frame.module for frame in link.frames}
    assert {__file__} == {frame.file for frame in link.frames}
    assert inner.__code__.co_firstlineno + 3 == link.frames[-1].line


def test_an_exception_that_was_never_raised_has_no_frames():
    """Without a traceback there are no frames, and the innermost frame is empty."""
    failure = capture(ValueError())
    assert (failure.chain[0].frames, failure.innermost_user_frame) == ((), "")


def test_frames_are_bounded():
    """A deep recursion is reduced to its innermost frames."""

    def deep(n):
        return inner() if n == 0 else deep(n - 1)

    frames = capture(caught(lambda: deep(200))).chain[0].frames
    assert (len(frames), frames[-1].function) == (30, "inner")


def test_a_cause_is_in_the_chain():
    """The chain follows `raise … from`."""

    def fail():
        try:
            inner()
        except KeyError as error:
            raise ValueError from error

    failure = capture(caught(fail))
    assert types(failure) == ["ValueError", "KeyError"]
    assert (failure.type, failure.root_type) == ("ValueError", "KeyError")
    assert [failure.chain[1].frames[-1].function] == ["inner"]


def test_a_context_is_in_the_chain():
    """The chain follows the exception that was being handled."""

    def fail():
        try:
            inner()
        except KeyError:
            raise ValueError  # noqa: B904 - the test needs the implicit context

    assert types(capture(caught(fail))) == ["ValueError", "KeyError"]


def test_from_none_ends_the_chain():
    """The chain ends at `raise … from None`."""

    def fail():
        try:
            inner()
        except KeyError:
            raise ValueError from None

    assert types(capture(caught(fail))) == ["ValueError"]


def test_a_cause_has_precedence_over_a_context():
    """With both a cause and a context, the chain follows the cause."""

    def fail():
        try:
            inner()
        except KeyError:
            raise ValueError from OSError()

    assert types(capture(caught(fail))) == ["ValueError", "OSError"]


def test_an_empty_exception_is_a_cause():
    """The chain follows an exception whose length is zero."""

    def fail():
        raise ValueError from Empty()

    assert ["ValueError", f"{__name__}.Empty"] == types(capture(caught(fail)))


def test_a_circle_of_exceptions_ends():
    """Exceptions that are each other's context are captured once each."""
    one, other = ValueError(), KeyError()
    one.__context__, other.__context__ = other, one
    assert types(capture(one)) == ["ValueError", "KeyError"]


def test_the_chain_is_bounded():
    """A long chain is reduced to its first exceptions."""
    error = ValueError()
    for _ in range(20):
        following = KeyError()
        following.__cause__ = error
        error = following
    assert types(capture(error)) == ["KeyError"] * 8


def test_an_exception_group_is_captured_without_its_members():
    """A group has its own type and text."""
    failure = capture(ExceptionGroup("several", [ValueError(CANARY)]))
    assert (types(failure), failure.text) == (["ExceptionGroup"], "several (1 sub-exception)")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_base_exception_is_captured(error):
    """Exits and interrupts are captured like errors."""
    assert [type(error).__name__] == types(capture(error))


def test_no_locals_are_captured():
    """No local variable of a frame is stored or shown."""
    failure = capture(caught(outer))
    assert CANARY not in json.dumps(failure.to_json())
    assert CANARY not in repr(failure.chain)


def test_a_failure_keeps_no_references():
    """Objects in frames and arguments are freed together with the exception."""
    in_frame, in_arguments = Held(), Held()
    references = [weakref.ref(in_frame), weakref.ref(in_arguments)]

    def fail(held, argument):
        raise ValueError(argument)

    failure = capture(caught(functools.partial(fail, in_frame, in_arguments)))
    del in_frame, in_arguments
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert failure.type == "ValueError"


def test_the_repr_has_no_text():
    """The repr shows the type only, because the text may quote the message."""
    assert repr(capture(ValueError(CANARY))) == "<Failure: ValueError>"


def test_to_json_returns_plain_data():
    """The chain is types and frames, and JSON can represent it."""
    (link,) = json.loads(json.dumps(capture(caught(inner)).to_json()))
    assert link["type"] == "KeyError"
    assert {"file": __file__, "function": "inner", "module": __name__} == {
        key: value for key, value in link["frames"][-1].items() if key != "line"
    }
    assert {"type", "frames"} == set(link)


def test_the_innermost_user_frame_is_outside_libraries():
    """The innermost user frame is the last frame that is not in a library."""
    failure = capture(caught(lambda: json.loads("{")))
    assert failure.chain[0].frames[-1].module == "json.decoder"
    assert failure.innermost_user_frame.startswith(f"{__name__}:test_the_innermost_user_frame")
    assert f"{__name__}:inner" == capture(caught(outer)).innermost_user_frame


def test_the_innermost_user_frame_is_of_the_root_cause():
    """In a chain, the innermost user frame is a frame of the root cause."""

    def fail():
        try:
            inner()
        except KeyError as error:
            raise ValueError from error

    assert capture(caught(fail)).innermost_user_frame == f"{__name__}:inner"


def test_frozen_modules_are_libraries():
    """A missing environment variable is a failure of the handler, not of `os`."""

    def handler():
        return os.environ["MISSIVE_TEST_NO_SUCH_VARIABLE"]

    assert capture(caught(handler)).innermost_user_frame.endswith("handler")
