"""Previews of routing: the handler that a message would get with today's code. Only matchers run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from missive.app.processor import Processor
from missive.dlq.contract import Store
from missive.errors import UsageError
from missive.outcome import Reason

if TYPE_CHECKING:
    from missive.routing.explain import Explanation


@dataclass(frozen=True, slots=True)
class RoutePreview:
    """The route that a dead letter would take if it were replayed now."""

    id: str
    was: str
    """The reason for which the record is a dead letter."""
    handler_was: str | None
    """The handler that failed, if one ran."""
    handler: str | None
    """The handler that would run now; None when the message would become a dead letter again."""
    reason: str | None
    """The reason for which the message would become a dead letter again."""

    def to_dict(self) -> dict[str, Any]:
        """Return the preview as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


def preview_routes(store: Store, ids: Sequence[str], processor: Processor[Any]) -> Iterator[RoutePreview]:
    """Yield the route of each record through a processor. Run no handler and no hook; skip purged records."""
    for record_id in ids:
        record = store.get(record_id)
        if record is None:
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
        except Exception:  # noqa: BLE001 - a user's class may raise anything, and its text may quote the message
            message = None
        if message is not None:
            found = processor.explain(message)
            handler, reason = found.handler, found.reason
        yield RoutePreview(record.id, str(record.reason), record.handler, handler, reason)


def explain_body(
    processor: Processor[Any],
    body: bytes,
    *,
    headers: Sequence[tuple[str, str]] = (),
    topic: str | None = None,
    key: str | None = None,
) -> Explanation:
    """Explain which handler would get a message with this body.

    Raise `UsageError` when the processor's message class refuses the arguments.
    """
    try:
        message = processor.message_cls(body, headers=headers, topic=topic, key=key)
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything, and its text may quote the message
        complaint = f"{processor.message_cls.__name__} refuses this message: {type(error).__name__}"
    else:
        return processor.explain(message)
    # Raised outside the except block, so that the error has no context that quotes the message.
    raise UsageError(complaint)
