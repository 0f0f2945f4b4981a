"""Targets: `module:name` or `path/to/file.py:name`, which name a processor or an adapter."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from missive.adapters.base import Adapter
from missive.adapters.registry import from_url
from missive.app.processor import Processor
from missive.errors import MissiveError, RegistrationError, UsageError

_FOREIGN = (
    "<frozen",
    *(str(Path(sysconfig.get_path(name))) for name in ("stdlib", "purelib")),
    str(Path(__file__).parents[1]),
)
"""Beginnings of the file names of code that is not the application's."""


def load_target(target: str, *, factory: bool = False) -> Processor[Any] | Adapter:
    """Import the object that a TARGET names; with `factory`, call it and return its result.

    Raise `UsageError` for a wrong target, and in place of any exception of the application.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise UsageError(f"{target!r} is not a target: write module:name, or path/to/file.py:name")
    found: Any = _import(place)
    path = getattr(found, "__file__", None)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(f"{place} has no {name}{_candidates(found)}") from None
    if factory:
        if not callable(found):
            raise UsageError(
                f"{target} is of type {type(found).__name__}:"
                " --factory takes a function that returns a processor or an adapter"
            )
        found = _guarded(f"calling {target}", found)
    if isinstance(found, (Processor, Adapter)):
        processor = found.processor if isinstance(found, Adapter) else found
        processor.identity.loaded_as(path, name)
        return found
    remedy = ": if it returns one, add --factory" if callable(found) and not factory else ""
    raise UsageError(f"{target} is of type {type(found).__name__}, neither a processor nor an adapter{remedy}")


def load_processor(target: str, *, factory: bool = False) -> Processor[Any]:
    """Import a TARGET and return its processor, or the processor of its adapter. Raise `UsageError`."""
    found = load_target(target, factory=factory)
    return found.processor if isinstance(found, Adapter) else found


def load_adapters(
    target: str, urls: Sequence[str], drain: float | None, name: str | None, *, factory: bool
) -> list[Adapter]:
    """Import a TARGET and return one adapter for each URL, or the adapter that it names. Raise `UsageError`.

    `drain` replaces the drain time of the adapters, in seconds, and `name` the name of the service.
    """
    found = load_target(target, factory=factory)
    if isinstance(found, Adapter):
        if urls:
            raise UsageError(f"{target} is an adapter, which has its own source: leave --from out")
        adapters = [found]
    else:
        if not urls:
            raise UsageError(f"{target} is a processor: name its source of messages, such as --from file:events.jsonl")
        adapters = [from_url(url, found) for url in urls]
    if drain is not None:
        if not drain >= 0:
            raise UsageError("--drain takes a number of seconds, zero or more")
        for adapter in adapters:
            adapter.drain = drain
    if name is not None:
        _set_name(adapters[0].processor, name)
    return adapters


def _import(place: str) -> ModuleType:
    if place.endswith(".py"):
        return _import_file(Path(place))
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    parts = place.split(".")
    try:
        # find_spec imports the parents; an exception there is not a missing module.
        parents = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        exists = all(_guarded(f"importing {place}", partial(importlib.util.find_spec, name)) for name in parents)
    except ValueError:
        exists = False
    if not exists:
        remedy = f"; for a file, write {place.replace('.', '/')}.py" if "/" not in place else "; a file ends in .py"
        raise UsageError(f"there is no module {place} in {Path.cwd()} or on Python's path{remedy}")
    module: ModuleType = _guarded(f"importing {place}", lambda: importlib.import_module(place))
    return module


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.stem in sys.stdlib_module_names or path.stem == "missive":
        raise UsageError(f"{path} has the name of the module {path.stem}, and would replace it: rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # As for a script, modules in the same directory can be imported.
    sys.path.insert(0, str(path.parent.absolute()))
    sys.modules[path.stem] = module
    loader = spec.loader
    _guarded(f"importing {path}", lambda: loader.exec_module(module))
    return module


class ApplicationFailed(UsageError):
    """The application raised an exception at its import."""

    def __init__(self, text: str, stack: str) -> None:
        super().__init__(text)
        self.stack = stack
        """The application's part of the stack, in lines."""


def _guarded(doing: str, call: Callable[[], Any]) -> Any:
    """Run the application's code. Raise `UsageError` with the application's part of the stack of any exception."""
    try:
        return call()
    except UsageError as error:
        if not isinstance(error, RegistrationError):
            raise
        place, stack = _stack(error)
        complaint = f"{doing} failed: {error}{place}"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an import may raise anything
        what = str(error) if isinstance(error, MissiveError) else f"{type(error).__name__}: {error}"
        place, stack = _stack(error)
        complaint = f"{doing} failed: {what}{place}"
    raise ApplicationFailed(complaint, stack)


def _stack(error: BaseException) -> tuple[str, str]:
    """Return the frames of the application in a traceback: one as a place in parentheses, or several as a stack."""
    if isinstance(error, SyntaxError):
        return "", ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_FOREIGN)]
    if len(frames) == 1:
        return f" ({frames[0].filename}, line {frames[0].lineno})", ""
    return "", "".join(traceback.format_list(frames)).rstrip()


def _candidates(module: object) -> str:
    names = [name for name, value in getattr(module, "__dict__", {}).items() if isinstance(value, (Processor, Adapter))]
    return f"; it has {', '.join(names)}" if names else ""


def _set_name(processor: Processor[Any], name: str) -> None:
    """Give a service an explicit name. Raise `UsageError` for an empty or long one."""
    try:
        processor.name = name
    except RegistrationError as error:
        complaint = f"--name: {error}"
    else:
        return
    raise UsageError(complaint)
