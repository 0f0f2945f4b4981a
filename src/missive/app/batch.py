"""Batches: the argument of batch handlers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, overload

from typing_extensions import TypeVar

from missive.app.context import HandlingContext, ProcessingContext
from missive.messages import Message
from missive.words import counted

M_co = TypeVar("M_co", bound=Message, covariant=True, default=Message)


class Batch(Sequence[HandlingContext[M_co]], Generic[M_co]):
    """Several messages, as a sequence of their contexts in the order of arrival.

    The handler can settle each item individually, with `item.ack()`, `item.dead_letter(…)` and so on. The remaining
    items are acked when the handler returns. When it raises, they run again in halves, in smaller batches.
    """

    __slots__ = ("_contexts", "_worker")

    def __init__(self, contexts: Sequence[HandlingContext[M_co]], worker: ProcessingContext[Any]) -> None:
        self._contexts = contexts
        self._worker = worker

    @property
    def messages(self) -> list[M_co]:
        """The messages, without their contexts."""
        return [context.message for context in self._contexts]

    @property
    def processing_ctx(self) -> ProcessingContext[M_co]:
        """The context of the worker that runs the batch."""
        return self._worker

    @overload
    def __getitem__(self, index: int) -> HandlingContext[M_co]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[HandlingContext[M_co]]: ...
    def __getitem__(self, index: int | slice) -> HandlingContext[M_co] | Sequence[HandlingContext[M_co]]:
        """Return the context at an index, or the contexts of a slice."""
        return self._contexts[index]

    def __len__(self) -> int:
        return len(self._contexts)

    def __iter__(self) -> Iterator[HandlingContext[M_co]]:
        return iter(self._contexts)

    def __repr__(self) -> str:
        return f"<Batch: {counted(len(self._contexts), 'message')}>"
