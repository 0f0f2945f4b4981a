"""The caller: find the application code that creates a processor or registers a handler."""

from __future__ import annotations

import os
import sys
import warnings
from types import FrameType


def calling_frame() -> FrameType:
    """Return the frame of the application that creates a processor."""
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to find the caller
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("missive.app."):
        frame = frame.f_back
    return frame


def module_of(frame: FrameType) -> str:
    """Return the name of a frame's module; the file's stem for a script."""
    module = str(frame.f_globals.get("__name__", "missive"))
    if module != "__main__":
        return module
    if (spec := frame.f_globals.get("__spec__")) is not None:  # python -m package.module
        return str(spec.name)
    file = frame.f_globals.get("__file__")
    return os.path.splitext(os.path.basename(file))[0] if file else "__main__"  # noqa: PTH119, PTH122 - no pathlib


def warn_caller(text: str, kind: type[Warning]) -> None:
    """Issue a warning for the line of the application that registers."""
    level, frame = 1, sys._getframe(0)  # noqa: SLF001 - as above
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "missive":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, kind, stacklevel=level)
