"""The watermark: how far one lane is done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.engine.completion import watermark as engine
from missive.engine.completion.watermark import decode, encode
from missive.engine.job import Job
from missive.messages import RawMessage
from missive.transport import Delivery, Watermark
from tests.support import strategies


class Tracker(engine.WatermarkTracker):
    """A watermark of which the jobs are known by their positions."""

    def __init__(self, watermark=None):
        super().__init__(watermark)
        self.jobs = {}

    def start(self, position):
        job = self.jobs[position] = Job(None, None, Delivery(b"", position=position), RawMessage(b""))
        super().start([job])

    def comes(self, position):
        """Tell whether a position has to be handled, and starts."""
        if self.skips(position):
            self.skip(position)
            return False
        self.start(position)
        return True

    def complete(self, position):
        return [job.delivery.position for job in super().complete([self.jobs[position]])]


def started(*positions, watermark=None):
    """Return a watermark with deliveries started."""
    watermark = Tracker(watermark)
    for position in positions:
        watermark.start(position)
    return watermark


def test_nothing_done_is_no_position():
    """Before anything is done there is nothing to commit."""
    assert Tracker().position is None
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
    assert watermark.complete(1) == [1]
    assert watermark.complete(1) == []
    assert (watermark.position, watermark.open) == (1, 1)
    watermark.complete(2)
    assert (watermark.position, watermark.open) == (2, 0)


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
    watermark, order, done, previous = Tracker(), [], set(), -1
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
    assert (len(watermark._order), watermark.open) == (0, 0)


# What is done beyond the mark


def test_what_is_done_beyond_the_mark_is_its_gaps():
    """Where a mark may carry gaps, it says what is done beyond it, also before anything below is."""
    watermark = started(4, 5, 6, 7, 8)
    for position in (6, 8):
        watermark.complete(position)
    mark = watermark.watermark(100)
    assert mark.position == 3
    assert decode(mark) == [(6, 6), (8, 8)]
    watermark.complete(4)
    assert (watermark.watermark(100).position, decode(watermark.watermark(100))) == (4, [(6, 6), (8, 8)])


def test_a_mark_without_room_for_gaps_is_a_position():
    """A transport that keeps a position and nothing else gets that."""
    watermark = started(4, 5, 6)
    watermark.complete(6)
    assert watermark.watermark(0) is None
    watermark.complete(4)
    assert watermark.watermark(0) == Watermark(4)


def test_gaps_are_skipped_and_passed():
    """Whoever has the lane next handles only what is not done, and its mark passes what was."""
    watermark = started(1, 2, 3, 4, 5, 6)
    for position in (2, 3, 5):
        watermark.complete(position)
    later = Tracker(watermark.watermark(100))
    came = [position for position in range(1, 7) if later.comes(position)]
    assert came == [1, 4, 6]
    positions = []
    for position in came:
        later.complete(position)
        positions.append(later.position)
    assert positions == [3, 5, 6]
    assert decode(later.watermark(100)) == []


def test_gaps_that_have_not_come_yet_are_kept():
    """What was done and has not come again is said again, with what is done now."""
    watermark = started(1, watermark=Watermark(0, encode(0, [(5, 6), (9, 9)])))
    watermark.start(4)
    watermark.complete(4)
    assert decode(watermark.watermark(100)) == [(4, 6), (9, 9)]
    watermark.complete(1)
    assert (watermark.position, decode(watermark.watermark(100))) == (4, [(5, 6), (9, 9)])


def test_gaps_that_do_not_fit_are_not_committed():
    """Nothing of what is done is left out of a mark: one that would be too large is none."""
    watermark = started(*range(0, 4000, 3))
    for position in range(3, 4000, 6):
        watermark.complete(position)
    assert watermark.watermark(20) is None
    assert watermark.watermark(4000) is not None


def test_what_is_here_may_come_to_too_much():
    """Before gaps are too large it is known that they may be."""
    watermark = started(*range(0, 4000, 3))
    most = watermark.worst_size()
    for position in range(3, 4000, 6):
        watermark.complete(position)
    assert len(watermark.watermark(10**6).acked_beyond) <= most


@pytest.mark.parametrize("gaps", [b"offset by another tool", b"m1r", b"m1r!", b"m1b====", b"m1r/w==", "m1é".encode()])
def test_what_somebody_else_wrote_is_no_gap(gaps):
    """Metadata of other tools says nothing about what is done."""
    assert not decode(Watermark(4, gaps))
    assert Tracker(Watermark(4, gaps)).position == 4


@given(st.integers(-1, 10**12), st.sets(st.integers(0, 600), max_size=80), st.sampled_from([1, 7, 10**6]))
@strategies.examples(150)
def test_gaps_are_read_as_they_were_written(position, done, factor):
    """Whatever is done, dense or far apart, is what a mark says that is read."""
    ranges = []
    for one in sorted(done):
        at = position + 1 + one * factor
        if ranges and ranges[-1][1] == at - 1:
            ranges[-1] = (ranges[-1][0], at)
        else:
            ranges.append((at, at))
    gaps = encode(position, ranges)
    assert gaps.decode("ascii").isprintable()
    assert decode(Watermark(position, gaps)) == ranges


@given(histories(), st.data())
@strategies.examples(80)
def test_what_is_done_is_done_for_whoever_comes_next(events, data):
    """At any time the mark and its gaps say exactly what is done, and the next consumer starts the rest and no more."""
    stop = data.draw(st.integers(0, len(events)))
    watermark, began, done = Tracker(), [], set()
    for event, position in events[:stop]:
        began += [position] if event == "start" else []
        done |= {position} if event == "complete" else set()
        getattr(watermark, event)(position)
    mark = watermark.watermark(10**6)
    later = Tracker(mark)
    left = [one for one in began if mark is None or (one > mark.position and later.comes(one))]
    assert left == [one for one in began if one not in done]


@given(histories(), st.data())
@strategies.examples(80)
def test_gaps_are_handed_on_from_one_to_the_next(events, data):
    """Through any number of consumers nothing that is done is handled again, and in the end all of it is passed."""
    positions = sorted(position for event, position in events if event == "start")
    mark, handled = None, []
    for _ in range(3):
        watermark = Tracker(mark)
        open_ = [one for one in positions if (mark is None or one > mark.position) and watermark.comes(one)]
        some = data.draw(st.lists(st.sampled_from(open_), unique=True)) if open_ else []
        for one in some:
            watermark.complete(one)
        handled += some
        mark = watermark.watermark(10**6)
    assert len(set(handled)) == len(handled)
    watermark = Tracker(mark)
    left = [one for one in positions if (mark is None or one > mark.position) and watermark.comes(one)]
    assert sorted([*handled, *left]) == positions
    for one in left:
        watermark.complete(one)
    assert not positions or watermark.position is not None
    assert not positions or watermark.position >= positions[-1]
