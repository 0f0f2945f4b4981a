"""Acks with `multiple` never cover what is not settled, and never name a tag that is not outstanding."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missive.adapters import rabbitmq


class Channel:
    """What a broker holds: refuses what would close a real channel, or settle another delivery."""

    def __init__(self, count: int) -> None:
        self.outstanding = set(range(1, count + 1))
        self.told: set[int] = set()

    def basic_ack(self, tag: int, *, multiple: bool = False) -> None:
        assert tag in self.outstanding
        gone = {t for t in self.outstanding if t <= tag} if multiple else {tag}
        assert gone <= self.told
        self.outstanding -= gone


ORDERS = st.integers(1, 120).flatmap(lambda n: st.permutations(range(1, n + 1)))


@pytest.mark.parametrize("most", [5, 10_000])
@settings(deadline=None, max_examples=100)
@given(
    order=st.integers(1, 120).flatmap(lambda n: st.permutations(range(1, n + 1))), sizes=st.lists(st.integers(1, 20))
)
def test_every_order_of_acks_settles_exactly_what_was_told(most: int, order: list[int], sizes: list[int]):
    """Whatever the order and the batches, all is acked in the end, and nothing before its turn."""
    session = object.__new__(rabbitmq.RabbitMQSession)
    session._unacked, session._settled = deque(range(1, len(order) + 1)), set()
    session.client = channel = Channel(len(order))
    left = list(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rabbitmq, "_MOST_SETTLED", most)
        for size in [*sizes, len(order)]:
            batch, left = set(left[:size]), left[size:]
            channel.told |= batch
            session._ack(set(batch))
    assert (channel.outstanding, session._unacked, session._settled) == (set(), deque(), set())
