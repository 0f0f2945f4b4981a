"""The tree of exceptions."""

from __future__ import annotations

import inspect
import re

import pytest

import missive
from missive import errors
from missive.errors import DeadLetter, Discard, MissingExtra, MissiveError, RetryLater

CLASSES = {
    name: thing
    for name, thing in vars(errors).items()
    if inspect.isclass(thing) and thing.__module__ == errors.__name__
}
RUNTIME_ERRORS = {
    "RegistrationError",
    "DuplicateMatcher",
    "RegistrationClosed",
    "UnmatchedError",
    "AmbiguousError",
    "NotSettled",
}


def drawn():
    """Return the parent of each name in the drawing at the top of the module."""
    parents, above = {}, ["MissiveError"]
    for line in errors.__doc__.splitlines():
        if found := re.search(r"[├└]── (\w+)", line):
            depth = (found.start() - 4) // 4 + 1
            del above[depth:]
            parents[found[1]] = above[-1]
            above.append(found[1])
    return parents


def test_the_drawing_shows_the_tree():
    """The drawing at the top of the module has every class under its parent, and no other name."""
    real = {
        name: next(base.__name__ for base in thing.__bases__ if issubclass(base, MissiveError))
        for name, thing in CLASSES.items()
        if thing is not MissiveError
    }
    assert real == drawn()


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_exception_is_a_documented_missive_error(name):
    """Each class derives from MissiveError and has a docstring."""
    assert issubclass(CLASSES[name], MissiveError)
    assert CLASSES[name].__doc__


def test_some_exceptions_are_runtime_errors():
    """Registration errors, and the errors of a test client without a dead letter queue, are RuntimeErrors."""
    assert {name for name, thing in CLASSES.items() if issubclass(thing, RuntimeError)} == RUNTIME_ERRORS


def test_the_package_exports_every_exception():
    """Each exception is available as `missive.Name`, except the base class of declared outcomes."""
    assert {"DeclaredOutcome"} == {name for name in CLASSES if getattr(missive, name, None) is not CLASSES[name]}


def test_missing_extra_shows_the_command():
    """MissingExtra names the class that needs the extra, and commands that cannot install an older Missive."""
    error = MissingExtra("RabbitMQAdapter", "rabbitmq")
    assert str(error) == (
        "RabbitMQAdapter needs an extra: pip install 'missive[rabbitmq]>=0.9',"
        " or in a checkout of Missive: pip install '.[rabbitmq]'"
    )


def test_declared_outcomes_have_their_arguments():
    """RetryLater, DeadLetter and Discard have the arguments of the corresponding methods of the context."""
    assert (RetryLater().after, RetryLater(5).after) == (None, 5)
    dead = DeadLetter("bad-address", detail="confidential")
    assert (dead.reason, dead.detail) == ("bad-address", "confidential")
    assert DeadLetter("bad-address").detail is None
    assert Discard("test").reason == "test"


def test_the_detail_of_a_dead_letter_is_not_shown():
    """The confidential detail of a DeadLetter is not part of its text or repr."""
    error = DeadLetter("label", detail="canary-4711")
    assert "canary" not in f"{error!s} {error!r}"
    assert "label" in str(error)
