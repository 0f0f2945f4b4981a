"""Failures: types, text and frames of an exception, and nothing that it held."""

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
    """Something that a frame's locals hold."""


class Unprintable(Exception):
    """An exception whose text raises."""

    def __str__(self):
        raise RuntimeError(CANARY)


class Empty(Exception):
    """An exception that Python takes for false."""

    def __len__(self):
        return 0


def caught(fn):
    """Return what a function raises."""
    try:
        fn()
    except BaseException as error:  # noqa: BLE001 - whatever the test wants
        return error
    raise AssertionError("nothing was raised")


def inner():
    """Raise at the bottom."""
    secret = CANARY
    raise KeyError(len(secret))


def outer():
    """Raise from further up."""
    password = CANARY
    inner()
    return password


def types(failure):
    """Return the types of a chain."""
    return [link.type for link in failure.chain]


def test_the_type_is_named_in_full():
    """A type is `module.QualName`, and a built-in one its name alone."""

    class Local(Exception):
        pass

    assert capture(ValueError()).type == "ValueError"
    assert capture(json.JSONDecodeError("x", "y", 0)).type == "json.decoder.JSONDecodeError"
    assert capture(Local()).type == f"{__name__}.test_the_type_is_named_in_full.<locals>.Local"


def test_the_text_is_the_exceptions_own():
    """The text is what `str` gives, of the exception itself and not of what it came from."""

    def fail():
        try:
            raise ValueError("first")
        except ValueError as error:
            raise RuntimeError("second") from error

    assert capture(caught(fail)).text == "second"
    assert capture(ValueError()).text == ""


def test_an_exception_without_a_text_of_its_own():
    """An exception whose `__str__` raises has no text, and is captured all the same."""
    failure = capture(Unprintable())
    assert (failure.type, failure.text) == (f"{__name__}.Unprintable", "")


def test_frames_are_innermost_last():
    """Frames go from the outermost to where it was raised, with file, line, function and module."""
    (link,) = capture(caught(outer)).chain
    assert [frame.function for frame in link.frames] == ["caught", "outer", "inner"]
    assert {__name__} == {frame.module for frame in link.frames}
    assert {__file__} == {frame.file for frame in link.frames}
    assert inner.__code__.co_firstlineno + 3 == link.frames[-1].line


def test_an_exception_that_was_never_raised_has_no_frames():
    """Without a traceback there are no frames, and no innermost one."""
    failure = capture(ValueError())
    assert (failure.chain[0].frames, failure.innermost_user_frame) == ((), "")


def test_frames_are_bounded():
    """Of a deep recursion the innermost frames are kept."""

    def deep(n):
        return inner() if n == 0 else deep(n - 1)

    frames = capture(caught(lambda: deep(200))).chain[0].frames
    assert (len(frames), frames[-1].function) == (30, "inner")


def test_a_cause_is_in_the_chain():
    """`raise … from` is followed."""

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
    """What was being handled when another was raised is followed."""

    def fail():
        try:
            inner()
        except KeyError:
            raise ValueError  # noqa: B904 - what is tested

    assert types(capture(caught(fail))) == ["ValueError", "KeyError"]


def test_from_none_ends_the_chain():
    """`raise … from None` says that what was before does not count."""

    def fail():
        try:
            inner()
        except KeyError:
            raise ValueError from None

    assert types(capture(caught(fail))) == ["ValueError"]


def test_a_cause_goes_before_a_context():
    """Where there are both, the declared cause is followed."""

    def fail():
        try:
            inner()
        except KeyError:
            raise ValueError from OSError()

    assert types(capture(caught(fail))) == ["ValueError", "OSError"]


def test_an_empty_exception_is_a_cause():
    """An exception with a length of zero is followed like any other."""

    def fail():
        raise ValueError from Empty()

    assert ["ValueError", f"{__name__}.Empty"] == types(capture(caught(fail)))


def test_a_circle_of_exceptions_ends():
    """Exceptions that are each other's context are captured once each."""
    one, other = ValueError(), KeyError()
    one.__context__, other.__context__ = other, one
    assert types(capture(one)) == ["ValueError", "KeyError"]


def test_the_chain_is_bounded():
    """Of a long chain the first exceptions are kept."""
    error = ValueError()
    for _ in range(20):
        following = KeyError()
        following.__cause__ = error
        error = following
    assert types(capture(error)) == ["KeyError"] * 8


def test_an_exception_group_is_captured_as_itself():
    """Of a group the group's own type and text are kept."""
    failure = capture(ExceptionGroup("several", [ValueError(CANARY)]))
    assert (types(failure), failure.text) == (["ExceptionGroup"], "several (1 sub-exception)")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_is_no_exception_is_captured_too(error):
    """Exits and interrupts are captured like errors."""
    assert [type(error).__name__] == types(capture(error))


def test_no_locals_are_kept():
    """Nothing that a frame held is in what is kept, stored or shown."""
    failure = capture(caught(outer))
    assert CANARY not in json.dumps(failure.to_json())
    assert CANARY not in repr(failure.chain)


def test_what_the_exception_held_is_let_go():
    """When the exception is gone, what its frames and its arguments held is gone too."""
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
    """A failure's repr has the type alone, for the text may quote the message."""
    assert repr(capture(ValueError(CANARY))) == "<Failure: ValueError>"


def test_to_json_is_plain_data():
    """The chain as data has types and frames, and can be written as JSON."""
    (link,) = json.loads(json.dumps(capture(caught(inner)).to_json()))
    assert link["type"] == "KeyError"
    assert {"file": __file__, "function": "inner", "module": __name__} == {
        key: value for key, value in link["frames"][-1].items() if key != "line"
    }
    assert {"type", "frames"} == set(link)


def test_the_innermost_user_frame_is_outside_libraries():
    """The frame that tells failures apart is the last one that is no library's."""
    failure = capture(caught(lambda: json.loads("{")))
    assert failure.chain[0].frames[-1].module == "json.decoder"
    assert failure.innermost_user_frame.startswith(f"{__name__}:test_the_innermost_user_frame")
    assert f"{__name__}:inner" == capture(caught(outer)).innermost_user_frame


def test_the_innermost_user_frame_is_the_roots():
    """In a chain, the frame of the exception that all came from counts."""

    def fail():
        try:
            inner()
        except KeyError as error:
            raise ValueError from error

    assert capture(caught(fail)).innermost_user_frame == f"{__name__}:inner"


def test_frozen_modules_are_libraries():
    """A missing environment variable is the handler's failure, and not `os`'s."""

    def handler():
        return os.environ["MISSIVE_TEST_NO_SUCH_VARIABLE"]

    assert capture(caught(handler)).innermost_user_frame.endswith("handler")
