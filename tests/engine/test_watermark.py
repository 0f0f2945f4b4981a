"""The watermark: how far one lane is done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.engine.settlement import Watermark
from tests.support import strategies


def started(*positions):
    """Return a watermark with deliveries started."""
    watermark = Watermark()
    for position in positions:
        watermark.start(position)
    return watermark


def test_nothing_done_is_no_position():
    """Before anything is done there is nothing to commit."""
    assert Watermark().position is None
    assert started(1, 2).position is None


@pytest.mark.parametrize(
    ("completed", "positions"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([3, 2, 1], [None, None, 3]),
        ([2, 1, 3], [None, 2, 3]),
        ([1, 3, 2], [1, 1, 3]),
    ],
)
def test_the_mark_passes_what_is_done_without_a_gap(completed, positions):
    """The mark is the last position before which nothing is incomplete."""
    watermark, marks = started(1, 2, 3), []
    for position in completed:
        watermark.complete(position)
        marks.append(watermark.position)
    assert positions == marks


def test_positions_may_have_gaps():
    """Positions are those of deliveries, such as byte offsets, and need not be consecutive."""
    watermark = started(10, 500, 501)
    watermark.complete(500)
    assert watermark.position is None
    watermark.complete(10)
    assert watermark.position == 500


def test_position_zero_is_a_position():
    """A lane that begins at zero is done up to zero."""
    watermark = started(0, 1)
    watermark.complete(0)
    assert watermark.position == 0


def test_what_was_not_completed_holds_the_mark():
    """A delivery that was released holds the mark before it, whatever is done after it."""
    watermark = started(1, 2, 3, 4)
    for position in (1, 3, 4):
        watermark.complete(position)
    assert watermark.position == 1


def test_what_starts_later_does_not_move_the_mark_back():
    """A new delivery holds the mark where it is."""
    watermark = started(1)
    watermark.complete(1)
    watermark.start(2)
    assert watermark.position == 1
    watermark.complete(2)
    assert watermark.position == 2


def test_completing_twice_is_completing_once():
    """A position that is completed again, done already, changes nothing for what is to come."""
    watermark = started(1, 2)
    watermark.complete(1)
    watermark.complete(1)
    assert watermark.position == 1
    watermark.complete(2)
    assert watermark.position == 2


@st.composite
def histories(draw):
    """Return deliveries and completions, each completion after its delivery, in any order, and not always at all."""
    positions = sorted(draw(st.sets(st.integers(0, 10_000), max_size=12)))
    events, open_ = [], []
    for position in positions:
        events.append(("start", position))
        open_.append(position)
        done = draw(st.lists(st.sampled_from(open_), unique=True, max_size=2))
        events += [("complete", one) for one in done]
        open_ = [one for one in open_ if one not in done]
    return events + [("complete", one) for one in draw(st.permutations(open_)) if draw(st.booleans())]


@given(histories())
@strategies.examples(80)
def test_the_mark_is_never_beyond_what_is_done_nor_behind(events):
    """At any time everything started up to the mark is done, and the next delivery after it is not."""
    watermark, order, done, previous = Watermark(), [], set(), -1
    for event, position in events:
        if event == "start":
            order.append(position)
        else:
            done.add(position)
        getattr(watermark, event)(position)
        prefix = []
        for one in order:
            if one not in done:
                break
            prefix.append(one)
        assert (prefix[-1] if prefix else None) == watermark.position
        assert previous <= (watermark.position if watermark.position is not None else -1)
        previous = watermark.position if watermark.position is not None else -1


@given(st.permutations(range(1, 9)))
@strategies.examples(20)
def test_when_all_is_done_the_mark_is_the_last(completed):
    """In whatever order all are completed, the mark ends at the last, and nothing is kept."""
    watermark = started(*range(1, 9))
    for position in completed:
        watermark.complete(position)
    assert watermark.position == 8
    assert (len(watermark._order), len(watermark._complete)) == (0, 0)
