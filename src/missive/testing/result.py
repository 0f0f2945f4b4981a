"""The result that a test client returns for an attempt."""

from __future__ import annotations

from dataclasses import dataclass

from missive.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one attempt."""

    outcome: Outcome
    handler: str | None
    """Name of the handler; None when no single handler was found."""
    reason: str | None
    """The handler's label or the reason of a dead-lettered or discarded message. `duplicate` for a message that was
    acked because its effect had already happened. None for other messages."""
    attempt: int
    delay: float | None
    """Time until a retried or nacked message is due, in seconds; None for other messages."""
    exception: BaseException | None
    """The exception of the handler, its hooks or its resources."""

    def __repr__(self) -> str:
        # The text of the exception is left out, because it may quote the message.
        parts = [str(self.outcome), f"handler={self.handler}", f"attempt={self.attempt}"]
        if self.reason is not None:
            parts.append(f"reason={self.reason}")
        if self.delay is not None:
            parts.append(f"delay={self.delay:g}")
        if self.exception is not None:
            parts.append(f"exception={type(self.exception).__name__}")
        return f"<Result: {', '.join(parts)}>"
