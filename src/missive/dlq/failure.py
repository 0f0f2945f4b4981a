"""The stored form of an exception: its chain of types with stack frames, without local variables."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MOST_FRAMES = 30
_MOST_LINKS = 8
_DESCRIBED_FRAMES = 3
_OURS = str(Path(__file__).parents[1])
_LIBRARY = ("<frozen", sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), _OURS)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stack."""

    file: str
    line: int
    function: str
    module: str


@dataclass(frozen=True, slots=True)
class Link:
    """One exception of a chain."""

    type: str
    """`module.QualName` of the exception's class."""
    frames: tuple[Frame, ...]
    """The stack, with the innermost frame last. Only the innermost 30 frames are stored."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception, reduced to types, frames and its text."""

    chain: tuple[Link, ...]
    """The exception, followed by its causes."""
    text: str
    """The exception's own text. It may quote the message, and is as confidential as the message."""

    @property
    def type(self) -> str:
        """The type of the exception."""
        return self.chain[0].type

    @property
    def root_type(self) -> str:
        """The type of the root cause."""
        return self.chain[-1].type

    @property
    def user_frame(self) -> Frame | None:
        """The innermost frame outside libraries, or else the innermost frame; None without a frame."""
        frames = [frame for link in reversed(self.chain) for frame in reversed(link.frames)]
        outside = (frame for frame in frames if not frame.file.startswith(_LIBRARY))
        return next(outside, frames[0] if frames else None)

    @property
    def innermost_user_frame(self) -> str:
        """`module:function` of `user_frame`, or an empty text."""
        frame = self.user_frame
        return "" if frame is None else f"{frame.module}:{frame.function}"

    def to_json(self) -> list[dict[str, Any]]:
        """Return the chain as values that JSON can represent."""
        return [asdict(link) for link in self.chain]

    def __repr__(self) -> str:
        return f"<Failure: {self.type}>"


def capture(error: BaseException) -> Failure:
    """Return types, frames and text of an exception, without references to its locals, which hold the message.

    Attributes and methods of the exception's class may raise anything, also SystemExit. Then the result has less.
    """
    try:
        return Failure(tuple(_link(one) for one in _chain(error)), _text(error))
    except BaseException:  # noqa: BLE001 - see above
        return Failure((Link(type.__dict__["__name__"].__get__(type(error)), ()),), "")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen and len(seen) < _MOST_LINKS:
        seen.add(id(one))
        yield one
        inner = one.__context__ if one.__cause__ is None and not one.__suppress_context__ else one.__cause__
        one = inner


def _link(error: BaseException) -> Link:
    frames = [
        Frame(frame.f_code.co_filename, line, frame.f_code.co_qualname, frame.f_globals.get("__name__", "?"))
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    # Frames of the engine above the handler's frames do not help the reader.
    first = next((n for n, frame in enumerate(frames) if not frame.file.startswith(_OURS)), 0)
    frames = frames[first:]
    kind = type(error)
    return Link(f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."), tuple(frames[-_MOST_FRAMES:]))


def _text(error: BaseException) -> str:
    try:
        return str.__getitem__(str(error), slice(None))  # an instance of str itself
    except BaseException:  # noqa: BLE001 - a user's __str__ may raise anything
        return ""


def describe_exception(error: BaseException) -> str:
    """Describe an unexpected exception by type and location, never by message, which may quote content."""
    failure = capture(error)
    frames = [
        f"{frame.file}:{frame.line} in {frame.function}" for frame in failure.chain[0].frames[-_DESCRIBED_FRAMES:]
    ]
    return " < ".join([failure.type, *reversed(frames)])
