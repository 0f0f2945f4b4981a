"""Which deliveries of a channel the broker still counts as ours, and the fewest frames that ack some of them."""

from __future__ import annotations

from collections.abc import Iterable


class Unacked:
    """The tags that were delivered on a channel and not settled yet, in their order.

    A tag that is settled twice would close the channel, and a channel that is closed delivers everything again: what
    is not here is settled already, and is not named to the broker.
    """

    def __init__(self) -> None:
        self._tags: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, tags: Iterable[int]) -> None:
        """Enter deliveries; each has a higher tag than the one before."""
        self._tags.update(dict.fromkeys(tags))

    def take(self, tags: Iterable[int]) -> list[int]:
        """Take out those of the tags that are still here, each once, in their order."""
        here = self._tags
        # The dict is asked and told in one step, so that a tag that is there twice is taken once.
        return sorted([tag for tag in tags if here.pop(tag, False) is None])

    def take_acked(self, tags: Iterable[int]) -> tuple[int | None, list[int]]:
        """Take out the tags, and return what acks them: one for all up to it, and those that need a frame each."""
        taken = self.take(tags)
        oldest = next(iter(self._tags), None)
        if oldest is None or not taken or taken[-1] < oldest:
            return (taken[-1] if taken else None), []
        before = sum(tag < oldest for tag in taken)
        # The frame must name a tag that is still unacked, and stands for all before it.
        return (taken[before - 1] if before else None), taken[before:]
