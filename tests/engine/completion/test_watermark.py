"""The watermark of a lane: the position up to which its deliveries are completed."""

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
    """A tracker that finds its jobs by position."""

    def __init__(self, watermark=None):
        super().__init__(watermark)
        self.jobs = {}

    def start(self, position):
        job = self.jobs[position] = Job(None, None, Delivery(b"", position=position), RawMessage(b""))
        super().start([job])

    def arrive(self, position):
        """Start a position, or skip it. Return whether it starts."""
        if self.skips(position):
            self.skip(position)
            return False
        self.start(position)
        return True

    def complete(self, position):
        return [job.delivery.position for job in super().complete([self.jobs[position]])]


def started(*positions, watermark=None):
    """Return a tracker with started deliveries."""
    tracker = Tracker(watermark)
    for position in positions:
        tracker.start(position)
    return tracker


def test_a_lane_without_completed_deliveries_has_no_position():
    """A lane without completed deliveries has no position to commit."""
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
def test_the_watermark_is_the_last_position_with_everything_before_it_done(completed, positions):
    """The watermark is the last position up to which every delivery is completed."""
    tracker, actual = started(1, 2, 3), []
    for position in completed:
        tracker.complete(position)
        actual.append(tracker.position)
    assert positions == actual


def test_positions_need_not_be_consecutive():
    """Positions such as byte offsets need not be consecutive."""
    tracker = started(10, 500, 501)
    tracker.complete(500)
    assert tracker.position is None
    tracker.complete(10)
    assert tracker.position == 500


def test_the_watermark_can_be_position_zero():
    """The watermark of a lane that begins at position 0 can be 0."""
    tracker = started(0, 1)
    tracker.complete(0)
    assert tracker.position == 0


def test_an_incomplete_delivery_holds_the_watermark():
    """An incomplete delivery holds the watermark before it, although later deliveries are completed."""
    tracker = started(1, 2, 3, 4)
    for position in (1, 3, 4):
        tracker.complete(position)
    assert tracker.position == 1


def test_a_new_delivery_does_not_move_the_watermark_back():
    """The watermark stays at its position when a new delivery starts."""
    tracker = started(1)
    tracker.complete(1)
    tracker.start(2)
    assert tracker.position == 1
    tracker.complete(2)
    assert tracker.position == 2


def test_a_second_completion_has_no_effect():
    """A second completion of the same position changes nothing."""
    tracker = started(1, 2)
    assert tracker.complete(1) == [1]
    assert tracker.complete(1) == []
    assert (tracker.position, tracker.open) == (1, 1)
    tracker.complete(2)
    assert (tracker.position, tracker.open) == (2, 0)


@st.composite
def histories(draw):
    """Return starts in the order of the lane, and later completions of some of them in any order."""
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
def test_the_watermark_is_always_exact(events):
    """At any time, all deliveries up to the watermark are completed, and the next one is not."""
    tracker, order, done, previous = Tracker(), [], set(), -1
    for event, position in events:
        if event == "start":
            order.append(position)
        else:
            done.add(position)
        getattr(tracker, event)(position)
        prefix = []
        for one in order:
            if one not in done:
                break
            prefix.append(one)
        assert (prefix[-1] if prefix else None) == tracker.position
        assert previous <= (tracker.position if tracker.position is not None else -1)
        previous = tracker.position if tracker.position is not None else -1


@given(st.permutations(range(1, 9)))
@strategies.examples(20)
def test_a_completed_lane_ends_at_its_last_position(completed):
    """For every order of completion, the watermark ends at the last position and the tracker is empty."""
    tracker = started(*range(1, 9))
    for position in completed:
        tracker.complete(position)
    assert tracker.position == 8
    assert (len(tracker._order), tracker.open) == (0, 0)


# Positions that are completed beyond the watermark


def test_acked_beyond_lists_completed_positions_after_the_watermark():
    """`acked_beyond` lists the completed positions after the watermark, even while the first delivery is incomplete."""
    tracker = started(4, 5, 6, 7, 8)
    for position in (6, 8):
        tracker.complete(position)
    watermark = tracker.watermark(100)
    assert watermark.position == 3
    assert decode(watermark) == [(6, 6), (8, 8)]
    tracker.complete(4)
    assert (tracker.watermark(100).position, decode(tracker.watermark(100))) == (4, [(6, 6), (8, 8)])


def test_without_space_for_acked_beyond_the_watermark_is_a_position():
    """A transport that stores positions only gets a watermark without `acked_beyond`."""
    tracker = started(4, 5, 6)
    tracker.complete(6)
    assert tracker.watermark(0) is None
    tracker.complete(4)
    assert tracker.watermark(0) == Watermark(4)


def test_the_next_consumer_skips_acked_beyond():
    """The next consumer of a lane handles incomplete positions only, and its watermark passes the completed ones."""
    tracker = started(1, 2, 3, 4, 5, 6)
    for position in (2, 3, 5):
        tracker.complete(position)
    later = Tracker(tracker.watermark(100))
    arrived = [position for position in range(1, 7) if later.arrive(position)]
    assert arrived == [1, 4, 6]
    positions = []
    for position in arrived:
        later.complete(position)
        positions.append(later.position)
    assert positions == [3, 5, 6]
    assert decode(later.watermark(100)) == []


def test_acked_beyond_keeps_positions_that_have_not_arrived_yet():
    """Completed positions that have not arrived again stay in `acked_beyond`, together with new ones."""
    tracker = started(1, watermark=Watermark(0, encode(0, [(5, 6), (9, 9)])))
    tracker.start(4)
    tracker.complete(4)
    assert decode(tracker.watermark(100)) == [(4, 6), (9, 9)]
    tracker.complete(1)
    assert (tracker.position, decode(tracker.watermark(100))) == (4, [(5, 6), (9, 9)])


def test_a_watermark_that_exceeds_the_limit_is_not_committed():
    """A watermark is never shortened: it is None when `acked_beyond` exceeds the limit."""
    tracker = started(*range(0, 4000, 3))
    for position in range(3, 4000, 6):
        tracker.complete(position)
    assert tracker.watermark(20) is None
    assert tracker.watermark(4000) is not None


def test_worst_size_bounds_the_size_of_acked_beyond():
    """`worst_size` is an upper bound of the size of `acked_beyond`."""
    tracker = started(*range(0, 4000, 3))
    most = tracker.worst_size()
    for position in range(3, 4000, 6):
        tracker.complete(position)
    assert len(tracker.watermark(10**6).acked_beyond) <= most


@pytest.mark.parametrize(
    "acked_beyond", [b"offset by another tool", b"m1r", b"m1r!", b"m1b====", b"m1r/w==", "m1é".encode()]
)
def test_metadata_of_other_tools_is_ignored(acked_beyond):
    """Metadata that Missive did not write contains no completed positions."""
    assert not decode(Watermark(4, acked_beyond))
    assert Tracker(Watermark(4, acked_beyond)).position == 4


@given(st.integers(-1, 10**12), st.sets(st.integers(0, 600), max_size=80), st.sampled_from([1, 7, 10**6]))
@strategies.examples(150)
def test_decode_reverses_encode(position, done, factor):
    """`decode` returns the ranges that `encode` got, for dense and sparse ranges."""
    ranges = []
    for one in sorted(done):
        at = position + 1 + one * factor
        if ranges and ranges[-1][1] == at - 1:
            ranges[-1] = (ranges[-1][0], at)
        else:
            ranges.append((at, at))
    encoded = encode(position, ranges)
    assert encoded.decode("ascii").isprintable()
    assert decode(Watermark(position, encoded)) == ranges


@given(histories(), st.data())
@strategies.examples(80)
def test_the_next_consumer_starts_exactly_the_incomplete_deliveries(events, data):
    """At any time, a consumer that starts at the committed watermark starts exactly the incomplete deliveries."""
    stop = data.draw(st.integers(0, len(events)))
    tracker, began, done = Tracker(), [], set()
    for event, position in events[:stop]:
        began += [position] if event == "start" else []
        done |= {position} if event == "complete" else set()
        getattr(tracker, event)(position)
    watermark = tracker.watermark(10**6)
    later = Tracker(watermark)
    left = [one for one in began if watermark is None or (one > watermark.position and later.arrive(one))]
    assert left == [one for one in began if one not in done]


@given(histories(), st.data())
@strategies.examples(80)
def test_a_series_of_consumers_handles_each_position_once(events, data):
    """A series of consumers handles each position once, and the last watermark passes all positions."""
    positions = sorted(position for event, position in events if event == "start")
    watermark, handled = None, []
    for _ in range(3):
        tracker = Tracker(watermark)
        open_ = [one for one in positions if (watermark is None or one > watermark.position) and tracker.arrive(one)]
        some = data.draw(st.lists(st.sampled_from(open_), unique=True)) if open_ else []
        for one in some:
            tracker.complete(one)
        handled += some
        watermark = tracker.watermark(10**6)
    assert len(set(handled)) == len(handled)
    tracker = Tracker(watermark)
    left = [one for one in positions if (watermark is None or one > watermark.position) and tracker.arrive(one)]
    assert sorted([*handled, *left]) == positions
    for one in left:
        tracker.complete(one)
    assert not positions or tracker.position is not None
    assert not positions or tracker.position >= positions[-1]
