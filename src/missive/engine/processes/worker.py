"""Worker process: sends its status to the supervisor through a socket, and drains when the supervisor ends."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, MutableMapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from typing_extensions import Self

from missive.engine.report import Report
from missive.errors import UsageError

if TYPE_CHECKING:
    from missive.engine.engine import Engine
    from missive.engine.intake.placements import Placements

VARIABLE = "MISSIVE_WORKER"
"""The environment variable of a worker process: its number, and the descriptor of its socket."""
KEY_VARIABLE = "MISSIVE_WORKER_KEY"
"""The environment variable of a worker process for the supervisor's key of digests, in hexadecimal digits."""

_POLL = 0.1
"""Poll interval of the state, in seconds. A change is sent at once."""
_POLLS_PER_REPORT = 10
"""Number of polls without a change after which the status is sent anyway: about one second."""
_LAST_REPORT_SECONDS = 5.0
"""Time limit for sending the last report, in seconds. A suspended supervisor does not read."""

logger = logging.getLogger("missive")


class Worker:
    """This process as a worker of a supervisor.

    A context manager around the whole run. It sends the last report, and passes a `UsageError` on to the supervisor,
    which reports it once for all workers.
    """

    def __init__(self, number: int, line: socket.socket, digest_key: bytes = b"") -> None:
        self.number = number
        self._line = line
        self._line.settimeout(_POLL)
        self._digest_key = digest_key
        self._engines: Sequence[Engine] = ()
        self._placements: Sequence[Placements] = ()
        self._unsent = b""
        self._lock = threading.Lock()

    @classmethod
    def inherited(cls, environment: MutableMapping[str, str] = os.environ) -> Self | None:
        """Return the worker if a supervisor started this process, else None.

        The variable is removed from the environment, so that child processes of the worker are not workers. Raises
        `UsageError` for an invalid variable.
        """
        value, key = environment.pop(VARIABLE, None), environment.pop(KEY_VARIABLE, "")
        if value is None:
            return None
        number, _, descriptor = value.partition(":")
        try:
            digest_key = bytes.fromhex(key)
            line = socket.socket(fileno=int(descriptor))
        except (OSError, ValueError):
            raise UsageError(
                f"{VARIABLE} must not be set: `missive run --workers` sets it for its workers. Unset it."
            ) from None
        line.set_inheritable(False)
        return cls(int(number), line, digest_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: TracebackType | None) -> None:
        self._line.settimeout(_LAST_REPORT_SECONDS)
        if isinstance(error, UsageError):
            self._send(lambda: {"usage": str(error)}, last=True)
            raise SystemExit(2) from None
        # A worker is done only when it says so. A handler can end the process in many other ways, with any exit code.
        if error is None:
            self._send(lambda: {**(self._status() if self._engines else {}), "done": True}, last=True)
        elif self._engines:
            self._send(self._status, last=True)

    def watch(self, engines: Sequence[Engine]) -> None:
        """Send the status of these engines from now on, and drain them when the supervisor ends."""
        self._engines = engines
        self._placements = [engine.share_sources(self._digest_key) for engine in engines]
        threading.Thread(target=self._watch, name="missive-worker", daemon=True).start()

    def _watch(self) -> None:
        sent, polls = "", 0
        while True:
            polls += 1
            if self._state != sent or polls >= _POLLS_PER_REPORT:
                sent, polls = self._state, 0
                self._send(self._status)
            try:
                if not self._line.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        logger.warning("the supervisor is gone: stopping")
        for engine in self._engines:
            engine.stop_once()

    @property
    def _state(self) -> str:
        states = {engine.state for engine in self._engines}
        return next(state for state in ("stopping", "connecting", "running") if state in states)

    def _status(self) -> dict[str, object]:
        report = Report()
        for engine in self._engines:
            report.add(engine.report)
        status: dict[str, object] = {"state": self._state, "report": report.to_dict()}
        if placements := [one for each in self._placements for one in each.unsent()]:
            status["placements"] = placements
        return status

    def _send(self, status: Callable[[], dict[str, object]], *, last: bool = False) -> None:
        with self._lock:
            # Skip a line while an earlier one is not sent completely: the next line has newer counts.
            if last or not self._unsent:
                self._unsent += json.dumps(status()).encode() + b"\n"
            try:
                while self._unsent:
                    self._unsent = self._unsent[self._line.send(self._unsent) :]
            except OSError:  # the supervisor does not read, or has ended; `_watch` notices the end
                return
