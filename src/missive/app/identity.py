"""Identity: the name of a service, and the application to which the name belongs."""

from __future__ import annotations

import os
import sys
from typing import Any

from missive.app.caller import calling_frame, module_of
from missive.app.checks import checked_name


class Identity:
    """The name of a processor's service. Without an explicit name, the application's target tells services apart.

    `name` is the name that the application gives, or None for the name of the calling module.
    """

    __slots__ = ("_made_in", "_target", "is_explicit", "name")

    def __init__(self, name: str | None) -> None:
        frame = calling_frame()
        self._made_in = frame.f_globals, str(frame.f_code.co_qualname)
        self._target: str | None = None
        self.is_explicit = name is not None
        """Whether the name was chosen by an application or an operator."""
        self.name = module_of(frame) if name is None else checked_name(name, "a processor")

    def loaded_as(self, path: str | None, name: str) -> None:
        """Note the file and the attribute under which a command found the processor."""
        self._target = _target(path, name)

    def target(self, processor: object) -> str:
        """Return the file and the name that identify an application without an explicit name.

        The module that made the processor counts if the processor is one of its globals. Otherwise, the target of the
        command counts, or the main module with the function that made the processor.
        """
        made_in, function = self._made_in
        for module in (made_in, vars(sys.modules["__main__"])):
            name = next((name for name, value in module.items() if value is processor), None)
            if name is not None:
                return _target(module.get("__file__"), name)
        return self._target or _target(getattr(sys.modules["__main__"], "__file__", None), function)


class ServiceName:
    """The attribute of a processor that reads the name of its identity, and sets an explicit one.

    Setting raises `RegistrationError` for a name that is empty or too long.
    """

    def __get__(self, processor: Any, _owner: object = None) -> str:
        return "" if processor is None else str(processor.identity.name)

    def __set__(self, processor: Any, name: str) -> None:
        processor.identity.name = checked_name(name, "a service")
        processor.identity.is_explicit = True


def _target(path: str | None, name: str) -> str:
    return f"{os.path.realpath(path or '')}:{name}"
