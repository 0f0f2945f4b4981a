"""The tree of exceptions and the names of the façade."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

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
PACKAGES = ["matchers", "dlq", "testing", "adapters", "privacy"]


def drawn():
    """Read the tree at the top of the module: each name with its parent."""
    parents, above = {}, ["MissiveError"]
    for line in errors.__doc__.splitlines():
        if found := re.search(r"[├└]── (\w+)", line):
            depth = (found.start() - 4) // 4 + 1
            del above[depth:]
            parents[found[1]] = above[-1]
            above.append(found[1])
    return parents


def test_the_tree_is_drawn_as_it_is():
    """The drawing at the top of the module has every class under its parent, and no other."""
    real = {
        name: next(base.__name__ for base in thing.__bases__ if issubclass(base, MissiveError))
        for name, thing in CLASSES.items()
        if thing is not MissiveError
    }
    assert real == drawn()


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_exception_is_a_missive_error_and_says_when(name):
    """Each class is a MissiveError and has a docstring."""
    assert issubclass(CLASSES[name], MissiveError)
    assert CLASSES[name].__doc__


def test_which_are_runtime_errors():
    """Registration errors and what a test client raises for want of a dead letter queue, and no others."""
    assert {name for name, thing in CLASSES.items() if issubclass(thing, RuntimeError)} == RUNTIME_ERRORS


def test_the_names_of_the_facade():
    """`missive.__all__` is the public surface: a name is added or taken away on purpose only."""
    assert missive.__all__ == [
        "AdapterError",
        "AmbiguousError",
        "Batch",
        "Breaker",
        "DeadLetter",
        "DecodingError",
        "DependencyDown",
        "Discard",
        "DuplicateMatcher",
        "Fatal",
        "ForcedStop",
        "HandlingContext",
        "JSONMessage",
        "MatcherFailed",
        "Message",
        "MissingExtra",
        "MissiveError",
        "NotSettled",
        "Once",
        "OnceConflict",
        "Outcome",
        "OutcomeConflict",
        "OverlapWarning",
        "ProcessingContext",
        "ProcessingFailed",
        "Processor",
        "RawMessage",
        "Reason",
        "RegistrationClosed",
        "RegistrationError",
        "ResourceError",
        "ResourceKey",
        "Retry",
        "RetryLater",
        "StoreConflict",
        "StoreError",
        "StoreRefused",
        "StructuredMessage",
        "Transient",
        "UnmatchedError",
        "UsageError",
        "__version__",
        "adapters",
        "constant",
        "exponential",
        "matchers",
        "run",
        "serve",
    ]


def test_the_facade_has_what_it_names():
    """Each name of `__all__` is there, and nothing public that is not named but the package's own modules."""
    missing = [name for name in missive.__all__ if not hasattr(missive, name)]
    assert missing == []
    modules = {module.name for module in pkgutil.iter_modules(missive.__path__)}
    public = {name for name in vars(missive) if not name.startswith("_")}
    assert set() == public - modules - set(missive.__all__)


def test_every_exception_a_user_meets_is_in_the_facade():
    """Each exception of the tree is `missive.Name`, but for the base of the three that declare an outcome."""
    assert {"DeclaredOutcome"} == {name for name in CLASSES if getattr(missive, name, None) is not CLASSES[name]}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_name_what_they_have(package):
    """`__all__` of each public package names things that are there, once each."""
    module = importlib.import_module(f"missive.{package}")
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_a_missing_extra_says_how_to_install_it():
    """MissingExtra names what needs it and the command that brings it."""
    error = MissingExtra("RabbitMQAdapter", "rabbitmq")
    assert str(error) == "RabbitMQAdapter needs an extra: pip install 'missive[rabbitmq]'"


def test_outcomes_declared_by_raising_keep_their_parts():
    """RetryLater, DeadLetter and Discard hold what the context's methods take."""
    assert (RetryLater().after, RetryLater(5).after) == (None, 5)
    dead = DeadLetter("bad-address", detail="confidential")
    assert (dead.reason, dead.detail) == ("bad-address", "confidential")
    assert DeadLetter("bad-address").detail is None
    assert Discard("test").reason == "test"


def test_a_detail_is_in_no_text():
    """The confidential detail of a DeadLetter is neither in its text nor in its repr."""
    error = DeadLetter("label", detail="canary-4711")
    assert "canary" not in f"{error!s} {error!r}"
    assert "label" in str(error)


def test_importing_missive_loads_neither_engine_nor_clients():
    """`import missive` leaves the engine, the stores, and what they need, for later."""
    heavy = "asyncio.runners sqlalchemy click rich pika sqlite3 missive.engine missive.dlq.sql missive.testing.client"
    code = f"import sys, missive; print(*[name for name in {heavy.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
