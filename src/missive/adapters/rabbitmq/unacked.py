"""Track the unsettled delivery tags of a channel, and choose the fewest frames that ack some of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Unacked:
    """The delivery tags of a channel that are not settled yet, in ascending order.

    The broker closes a channel that settles a tag twice, and redelivers everything on it. Tags that are not in this
    collection are settled already, and must not be sent to the broker.
    """

    def __init__(self) -> None:
        self._tags: dict[int, None] = {}
        self.last = 0
        """The last tag that was added."""

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, tags: Sequence[int]) -> None:
        """Add the tags of new deliveries. Each tag is higher than the one before."""
        self._tags.update(dict.fromkeys(tags))
        self.last = tags[-1]

    def count_after(self, tag: int) -> int:
        """Return the number of unsettled tags above a tag."""
        return next((count for count, one in enumerate(reversed(self._tags)) if one <= tag), len(self._tags))

    def take(self, tags: Iterable[int]) -> list[int]:
        """Remove the given tags. Return each tag that was unsettled once, in ascending order."""
        unsettled = self._tags
        # pop() both tests and removes, so a tag that is given twice is returned once.
        return sorted([tag for tag in tags if unsettled.pop(tag, False) is None])

    def take_acked(self, tags: Iterable[int]) -> tuple[int | None, list[int]]:
        """Remove the given tags, and return the acks for them.

        The first part is a tag that acks all tags up to it, or None. The second part holds the tags that need an ack
        each.
        """
        taken = self.take(tags)
        oldest = next(iter(self._tags), None)
        if oldest is None or not taken or taken[-1] < oldest:
            return (taken[-1] if taken else None), []
        before = sum(tag < oldest for tag in taken)
        # The frame must name a tag that was unsettled until now; it acks all tags before as well.
        return (taken[before - 1] if before else None), taken[before:]
