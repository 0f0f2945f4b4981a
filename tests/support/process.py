"""Commands that run during a test. Their output is collected as it arrives, and every wait for them is bounded."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import IO, Any, Final

import pytest

SECONDS: Final = 30.0
"""Default time limit for a line of output, or for the end of a command, in seconds."""
LAST_WORDS_SECONDS: Final = 5.0
SHOWN_LINES: Final = 100


class Lines:
    """The lines of a pipe, read by a separate thread. Each line is returned once."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.all: list[str] = []
        self.ended = False
        self._taken = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._collect, args=(pipe,), name="lines", daemon=True).start()

    def _collect(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                with self._changed:
                    self.all.append(line.decode(errors="backslashreplace"))
                    self._changed.notify_all()
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def take(self, seconds: float) -> str | None:
        """Wait for the next line and return it, or None at the end of the pipe or of the time."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or len(self.all) > self._taken, seconds)
            if len(self.all) == self._taken:
                return None
            self._taken += 1
            return self.all[self._taken - 1]

    def rest(self, seconds: float) -> str | None:
        """Wait for the end of the pipe and return the remaining text, or None when the time ends first."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.ended, seconds):
                return None
            rest, self._taken = self.all[self._taken :], len(self.all)
            return "".join(rest)


COMMON = re.compile(
    r"INFO missive(\[\d+\])?: (missive \S+$|service: |handlers: |dead letters: |concurrency: |drain: )"
    r"|INFO missive.sources(\[\d+\])?: connected to |(INFO|WARNING) missive.failures"
)
"""Lines that nearly every run prints."""


def without_common(err: str) -> str:
    """Return standard error without the lines that nearly every run prints."""
    return "".join(line for line in err.splitlines(keepends=True) if not COMMON.match(line))


class Running:
    """A running command, in a new session. A wait that takes too long fails the test. `options` go to Popen."""

    def __init__(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> None:
        self._command = shlex.join(map(str, command))
        self._process = process = subprocess.Popen(
            command,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            start_new_session=True,
            **options,
        )
        self.pid = process.pid
        self._streams = {
            name: Lines(pipe) for name, pipe in [("output", process.stdout), ("error", process.stderr)] if pipe
        }
        self._writing: list[threading.Thread] = []

    @property
    def code(self) -> int | None:
        """The exit code, or None while the command runs."""
        return self._process.poll()

    @property
    def errors(self) -> str:
        """The lines of standard error until now, also those that were returned."""
        return "".join(self._streams["error"].all)

    def write(self, data: bytes) -> None:
        """Write to standard input from a thread, because the command may not read."""
        pipe, earlier = self._process.stdin, self._writing[-1:]

        def write() -> None:
            for thread in earlier:
                thread.join()
            with contextlib.suppress(OSError, ValueError):  # the command ended before it read everything
                pipe.write(data)
                pipe.flush()

        self._writing.append(threading.Thread(target=write, name="write", daemon=True))
        self._writing[-1].start()

    def line(self, seconds: float = SECONDS) -> str:
        """Return the next line of standard output."""
        return self._line("output", seconds)

    def any_line(self, seconds: float) -> str | None:
        """Return the next line of standard output, or None when no line arrives in time."""
        return self._streams["output"].take(seconds)

    def error_line(self, seconds: float = SECONDS) -> str:
        """Return the next line of standard error that is neither about the start nor about failures of messages."""
        while True:
            line = self._line("error", seconds)
            if not COMMON.match(line):
                return line

    def _line(self, stream: str, seconds: float) -> str:
        line = self._streams[stream].take(seconds)
        if line is None:
            wanted = f"another line of standard {stream}"
            pytest.fail(
                f"{self} ended without {wanted}"
                if self._streams[stream].ended
                else f"{self}: no {wanted} in {seconds:g} s"
            )
        return line

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command only, not to the processes that it has started."""
        self._process.send_signal(number)

    def finish(self, seconds: float = SECONDS) -> tuple[str, str]:
        """Close standard input and wait for the end. Return the remaining standard output and standard error."""
        for thread in self._writing:
            thread.join(seconds)
        if self._process.stdin is not None and not any(thread.is_alive() for thread in self._writing):
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self} did not end in {seconds:g} s")
        rest = {name: lines.rest(seconds) for name, lines in self._streams.items()}
        if None in rest.values():
            pytest.fail(f"{self}: another process still held its output open after {seconds:g} s")
        return rest.get("output") or "", rest.get("error") or ""

    def terminate(self, seconds: float = SECONDS) -> tuple[str, str]:
        """Send SIGTERM and wait as `finish` does."""
        self.send(signal.SIGTERM)
        return self.finish(seconds)

    def kill(self, seconds: float = SECONDS) -> tuple[str, str]:
        """Send SIGKILL to the command and to all processes that it has started, and wait as `finish` does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.finish(seconds)

    def last_words(self) -> str:
        """Return the whole output. End a running command with SIGABRT first, so that Python prints its stacks."""
        state = str(self)
        if self.code is None:
            self.send(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LAST_WORDS_SECONDS)
        parts = [state]
        for name, lines in self._streams.items():
            lines.rest(LAST_WORDS_SECONDS)
            parts += [f"--- standard {name}\n", *lines.all[-SHOWN_LINES:]]
        return f"{parts[0]}\n{''.join(parts[1:])}"

    def __str__(self) -> str:
        state = f"pid {self.pid}, still running" if self.code is None else f"exit code {self.code}"
        return f"{self._command} ({state})"
