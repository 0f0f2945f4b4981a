"""Acks with `multiple` never cover an unsettled delivery, and never name a settled tag."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from missive.adapters.rabbitmq.unacked import Unacked


class Channel:
    """A broker's channel. It fails on frames that would close a real channel or settle another delivery."""

    def __init__(self, count: int) -> None:
        self.outstanding = set(range(1, count + 1))
        self.requested: set[int] = set()

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        assert tag in self.outstanding
        settled = {t for t in self.outstanding if t <= tag} if multiple else {tag}
        assert settled <= self.requested
        self.outstanding -= settled

    def nack(self, tag: int) -> None:
        assert tag in self.outstanding
        self.outstanding.remove(tag)


TAGS = st.lists(st.integers(1, 120), min_size=1, max_size=20)


@settings(deadline=None, max_examples=200)
@given(calls=st.lists(st.tuples(st.booleans(), TAGS), max_size=30))
def test_settles_exactly_the_requested_tags(calls: list[tuple[bool, list[int]]]):
    """For any order, batches and repetitions, every requested tag is settled at once, and no other tag."""
    unacked, channel = Unacked(), Channel(120)
    unacked.add(range(1, 121))
    for released, tags in [*calls, (False, list(range(1, 121)))]:
        channel.requested.update(tags)
        if released:
            for tag in unacked.take(tags):
                channel.nack(tag)
        else:
            up_to, single = unacked.take_acked(tags)
            if up_to is not None:
                channel.ack(up_to, multiple=True)
            for tag in single:
                channel.ack(tag)
        assert channel.outstanding == set(range(1, 121)) - channel.requested
        assert len(unacked) == len(channel.outstanding)


def test_one_frame_acks_an_unbroken_run():
    """One frame acks all tags before the oldest unsettled tag; each tag beyond it needs its own frame."""
    unacked = Unacked()
    unacked.add(range(1, 101))
    assert unacked.take_acked(range(1, 51)) == (50, [])
    assert unacked.take_acked(range(52, 55)) == (None, [52, 53, 54])
    assert unacked.take_acked([51, 56]) == (51, [56])
    assert unacked.take_acked(range(1, 101)) == (100, [])
