"""Rates: their text, and the errors for invalid text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import Processor, RegistrationError, UsageError
from missive.matchers import Everything
from missive.rates import Rate
from missive.testing import MemoryAdapter
from tests.support import strategies


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20/s", (20, 1)),
        ("600/min", (600, 60)),
        ("5/h", (5, 3600)),
        ("100/10s", (100, 10)),
        (" 1 / 0.5 s ", (1, 0.5)),
        ("3/250ms", (3, 0.25)),
        ("3/2m", (3, 120)),
        ("07/sec", (7, 1)),
    ],
)
def test_a_rate_is_a_number_of_messages_in_a_period(text, rate):
    """A rate is a number of messages, a slash, an optional number and a unit of time."""
    assert Rate.parse(text) == pytest.approx(rate)


@pytest.mark.parametrize(
    "text",
    [
        *("", "20", "/s", "0/s", "-1/s", "1.5/s", "1/0s", "1/0.0s", "20/d", "20/S", "20 s", "1/s/s", "1/-1s", "٣/s"),
        *("1e3/s", "1/.5s", "1/1.s", "1/s\0", "inf/s", None, 20, 20.0, b"20/s", ("20", "s")),
    ],
)
def test_an_invalid_rate_is_refused(text):
    """`Rate.parse`, an adapter and a handler refuse an invalid rate with an error that quotes it."""
    text_of_error = re.escape(f"rate_limit={text!r} is not messages per time, such as '20/s'")
    with pytest.raises(UsageError, match=text_of_error):
        Rate.parse(text)
    if text is None:  # the default of `rate_limit=`
        return
    with pytest.raises(UsageError, match=text_of_error):
        MemoryAdapter(Processor(), rate_limit=text)
    with pytest.raises(RegistrationError, match=text_of_error):
        Processor().add_handler(Everything(), lambda message, context: None, rate_limit=text)


@pytest.mark.parametrize("text", ["9" * 5000 + "/s", "1/" + "9" * 400 + "s"], ids=["number", "time"])
def test_a_number_that_is_too_large_is_refused(text):
    """`Rate.parse` refuses a count that int() refuses for its length, and a period that is infinite as a float."""
    with pytest.raises(UsageError):
        Rate.parse(text)


@given(
    st.integers(1, 10**6),
    st.none() | st.integers(1, 10**4) | st.decimals(min_value="0.001", max_value=1000, places=3),
    st.sampled_from(["ms", "s", "sec", "m", "min", "h"]),
)
@strategies.examples(50)
def test_the_text_of_a_rate_parses_to_the_same_rate(messages, count, unit):
    """The text of a rate parses to the same rate, with a precision of six digits."""
    rate = Rate.parse(f"{messages}/{'' if count is None else count}{unit}")
    assert rate.messages == messages
    if rate.seconds >= 0.001:  # shorter periods are written with an exponent
        parsed = Rate.parse(str(rate)) if "e" not in str(rate) else rate
        assert parsed == (rate.messages, pytest.approx(rate.seconds, rel=1e-5))
