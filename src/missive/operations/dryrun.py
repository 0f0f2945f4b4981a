"""Which handler would get a dead letter, with today's code: nothing runs but matchers, and nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from missive.app.processor import Processor
from missive.dlq.contract import Store
from missive.outcome import Reason


@dataclass(frozen=True, slots=True)
class Tried:
    """What routing says of a record."""

    id: str
    was: str
    """The reason it is a dead letter for."""
    handler_was: str | None
    handler: str | None
    """The handler that would run now; None where it would be a dead letter again."""
    reason: str | None
    """The reason for that."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON would have it."""
        return {name: getattr(self, name) for name in self.__slots__}


def dry_run(store: Store, ids: tuple[str, ...], processor: Processor[Any]) -> Iterator[Tried]:
    """Route records through a processor, and say what would get each; no handler and no hook runs."""
    for record_id in ids:
        record = store.get(record_id)
        if record is None:  # purged since
            continue
        handler: str | None = None
        reason: str | None = Reason.unreadable.value
        try:
            message = processor.message_cls(
                record.body,
                headers=record.headers,
                topic=record.topic,
                key=record.key,
                message_id=record.message_id,
                timestamp=record.sent_at,
                content_type=record.content_type,
            )
        except Exception:  # noqa: BLE001 - a class of the user's; what it says may quote the message
            message = None
        if message is not None:
            found = processor.explain(message)
            handler, reason = found.handler, found.reason
        yield Tried(record.id, str(record.reason), record.handler, handler, reason)
