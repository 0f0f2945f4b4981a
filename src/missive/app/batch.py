"""A batch: what a handler of batches is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, overload

from typing_extensions import TypeVar

from missive.app.context import HandlingContext, ProcessingContext
from missive.messages import Message

M_co = TypeVar("M_co", bound=Message, covariant=True, default=Message)


class Batch(Sequence[HandlingContext[M_co]], Generic[M_co]):
    """Some messages at once: a sequence of their contexts, in the order they came.

    Each item may be settled by itself, with `item.ack()`, `item.dead_letter(…)` and so on. Those that are not are
    acked when the handler returns; when it raises, they are run again in halves, in batches of their own.
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
        """The context of the worker that runs this."""
        return self._worker

    @overload
    def __getitem__(self, index: int) -> HandlingContext[M_co]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[HandlingContext[M_co]]: ...
    def __getitem__(self, index: int | slice) -> HandlingContext[M_co] | Sequence[HandlingContext[M_co]]:
        """Return a context, or several."""
        return self._contexts[index]

    def __len__(self) -> int:
        return len(self._contexts)

    def __iter__(self) -> Iterator[HandlingContext[M_co]]:
        return iter(self._contexts)

    def __repr__(self) -> str:
        return f"<Batch: {len(self._contexts)} messages>"
