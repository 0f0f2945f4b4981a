"""A worker process's line to its supervisor: how it is and what it counted goes up, and the line's end comes down."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import MutableMapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from typing_extensions import Self

from missive.engine.report import Report
from missive.errors import UsageError

if TYPE_CHECKING:
    from missive.engine.engine import Engine

VARIABLE = "MISSIVE_WORKER"
"""How a supervisor tells a process that it is a worker: its number, and the descriptor of its line."""

_LOOK = 0.1
"""Seconds between two looks at the state, of which a change is told at once."""
_LOOKS = 10
"""So many looks without a change, and it is told anyway: about once a second."""
_LAST_WORDS = 5.0
"""Seconds that the last report may take, where a supervisor that was suspended does not read."""

logger = logging.getLogger("missive")


class Worker:
    """This process as a worker. Entered for as long as it runs; a `UsageError` is then the supervisor's to say."""

    def __init__(self, number: int, line: socket.socket) -> None:
        self.number = number
        self._line = line
        self._line.settimeout(_LOOK)
        self._engines: Sequence[Engine] = ()
        self._unsent = b""
        self._lock = threading.Lock()

    @classmethod
    def inherited(cls, environment: MutableMapping[str, str] = os.environ) -> Self | None:
        """Return the worker that this process was started as, if it was; what it starts itself is none."""
        said = environment.pop(VARIABLE, None)
        if said is None:
            return None
        number, _, descriptor = said.partition(":")
        try:
            line = socket.socket(fileno=int(descriptor))
        except (OSError, ValueError):
            raise UsageError(f"{VARIABLE} is not to be set: it is how missive run --workers starts its own") from None
        line.set_inheritable(False)
        return cls(int(number), line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: TracebackType | None) -> None:
        self._line.settimeout(_LAST_WORDS)
        if isinstance(error, UsageError):
            self._tell({"usage": str(error)}, last=True)
            raise SystemExit(2) from None
        if self._engines:
            self._tell(self._status(), last=True)

    def watch(self, engines: Sequence[Engine]) -> None:
        """Report on these from now on, and drain them when the supervisor is no more."""
        self._engines = engines
        threading.Thread(target=self._watch, name="missive-worker", daemon=True).start()

    def _watch(self) -> None:
        told, looks = "", 0
        while True:
            looks += 1
            if self._state != told or looks >= _LOOKS:
                told, looks = self._state, 0
                self._tell(self._status())
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
        return {"state": self._state, "report": report.to_dict()}

    def _tell(self, what: dict[str, object], *, last: bool = False) -> None:
        with self._lock:
            # While an earlier line is not through, a new one is left out: the next says more.
            if last or not self._unsent:
                self._unsent += json.dumps(what).encode() + b"\n"
            try:
                while self._unsent:
                    self._unsent = self._unsent[self._line.send(self._unsent) :]
            except OSError:  # it does not read, or is no more: that, reading tells
                return
