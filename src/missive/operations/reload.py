"""Runs that start again when the code changes, for development."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from missive import _signals
from missive.errors import MissingExtra

_SETTINGS = (".toml", ".env")
"""Endings of files of settings."""
_POLL_MILLISECONDS = 200


def run_with_reload(argv: Sequence[str], directories: Iterable[Path], say: Callable[[str], None]) -> int:
    """Run a command, and run it again after each change of a file of code or settings, until a stop signal.

    A change drains the running command before the next one starts. Return the exit code of the last command.

    Raise `MissingExtra` without the package watchfiles.
    """
    try:
        from watchfiles import PythonFilter, watch  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise MissingExtra("--reload", "reload") from None
    stop, running = threading.Event(), _Command(argv)
    with _signals.receiving(lambda: _stop(stop, running)):
        running.start()
        changes = watch(
            *directories,
            watch_filter=PythonFilter(extra_extensions=_SETTINGS),
            stop_event=stop,
            rust_timeout=_POLL_MILLISECONDS,
            yield_on_timeout=True,
            raise_interrupt=False,
        )
        for changed in changes:
            if changed and not stop.is_set():
                names = sorted({Path(path).name for _, path in changed})
                say(f"{', '.join(names[:3])} changed: starting again")
                running.end()
                running.start()
            elif (code := running.ended()) is not None:
                say(f"the run has ended (exit code {code}): waiting for a change, or Ctrl-C")
        return running.end()


def _stop(stop: threading.Event, running: _Command) -> None:
    """Pass a stop signal on: the first one drains the command, the second one forces its stop."""
    stop.set()
    running.interrupt()


class _Command:
    """The process of the current run, in its own group so that Ctrl-C reaches it once."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None
        self._reported = self._interrupted = False

    def start(self) -> None:
        self._reported = self._interrupted = False
        # A variable or a file may have asked for the reload. The variable here wins over both.
        environment = os.environ | {"MISSIVE_RELOAD": "0"}
        self._process = subprocess.Popen(self._argv, process_group=0, env=environment)  # noqa: S603 - this command

    def interrupt(self) -> None:
        self._interrupted = True
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def ended(self) -> int | None:
        """Return the exit code of a command that ended by itself, once."""
        if self._process is None or self._reported or self._process.poll() is None:
            return None
        self._reported = True
        return self._process.returncode

    def end(self) -> int:
        """Drain the command, and return its exit code."""
        if self._process is None:
            return 0
        if not self._interrupted:  # a second signal would force the stop
            self.interrupt()
        return self._process.wait()
