"""The query language: terms and errors."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.dlq import Query, Status
from missive.dlq.query import is_term, parse
from missive.dlq.sql import SQLStore
from missive.errors import UsageError
from missive.outcome import Reason
from tests.support.stores import on_each, record

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("", Query()),
        ("reason:failed handler:shop:placed", Query(reason="failed", handler="shop:placed")),
        ("status:dead,queued", Query(statuses=(Status.dead, Status.queued))),
        ("status:any", Query(statuses=tuple(Status))),
        ('label:"not today" service:shop', Query(label="not today", service="shop")),
        ("age>1h", Query(last_before=NOW - 3600)),
        ("age<2d", Query(last_after=NOW - 172_800)),
        ("age>1.5min", Query(last_before=NOW - 90)),
        ("first>1970-01-02", Query(first_after=86_400.0)),
        ("last<1970-01-01T01:00:00+01:00", Query(last_before=0.0)),
        ("attempts>3", Query(min_attempts=4)),
        ("attempts<3", Query(max_attempts=2)),
        ("attempts:3", Query(min_attempts=3, max_attempts=3)),
        ('timeout "two words" error:ValueError', Query(text=("timeout", "two words"), error="ValueError")),
        ("id:A,B", Query(ids=("A", "B"))),
        (r'label:"a \"b\" \\"', Query(label='a "b" \\')),
        ("-reason:failed late", Query(text=("late",), without=(Query(reason="failed"),))),
        ('-late -"two words"', Query(without=(Query(text=("late",)), Query(text=("two words",))))),
        ("-status:any -attempts>3", Query(without=(Query(statuses=tuple(Status)), Query(min_attempts=4)))),
    ],
)
def test_a_term_sets_its_condition(text: str, query: Query):
    """Each kind of term sets its condition."""
    assert parse(text, NOW) == query


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("raeson:failed", "raeson:failed: there is no field raeson: did you mean reason?"),
        ("zzz:1", "there are handler, service"),
        ("reason:faild", "reason:faild: there is no reason faild: did you mean failed?"),
        ("reason:x", "it is one of unreadable"),
        ("status:deda", "did you mean dead?"),
        ("status:dead,any", "there is no status any"),
        ("reason>failed", "reason takes :"),
        ("age:1h", "age takes < or >"),
        ("age>1", "an age is a number and a unit"),
        ("first>yesterday", "a time is 2026-11-25"),
        ("last<@inf", "a time is"),
        ("attempts>many", "the number of attempts is an integer"),
        ("reason:failed reason:timeout", "reason:timeout: an earlier term already sets reason"),
        ("age>1h last<1970-01-01", "an earlier term already sets last"),
        ("handler:", "handler:: the value is missing"),
        ("not:failed", "prefix it with a minus"),
        ("-reason:faild", "did you mean failed?"),
        ("-", "without a space"),
        ('label:"open', "a quote is not closed"),
        ('""', "matches no record"),
    ],
)
def test_an_error_is_one_line_with_a_hint(text: str, complaint: str):
    """The error names the term and the likely correction."""
    with pytest.raises(UsageError) as caught:
        parse(f"service:shop {text}", NOW)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def text_of(query: Query) -> str:
    """Return a text that `parse` turns into a query."""
    texts = ("handler", "service", "group", "label", "error", "topic", "source", "replay", "reason")
    terms = [f"{name}:{quoted(value)}" for name in texts if (value := getattr(query, name)) is not None]
    terms += [f"id:{quoted(','.join(query.ids))}"] if query.ids else []
    terms += [f"status:{','.join(query.statuses)}"] if query.statuses else []
    least, most = query.min_attempts, query.max_attempts
    if least is not None and least == most:
        terms.append(f"attempts:{least}")
    else:
        terms += [f"attempts>{least - 1}"] if least is not None else []
        terms += [f"attempts<{most + 1}"] if most is not None else []
    for name, operator in (("after", ">"), ("before", "<")):
        for which in ("first", "last"):
            at = getattr(query, f"{which}_{name}")
            terms += [] if at is None else [f"{which}{operator}{moment(at)}"]
    terms += [quoted(word, colon="") for word in query.text]
    return " ".join([*terms, *(f"-{text_of(one)}" for one in query.without)])


def moment(at: float) -> str:
    """Return a time as ISO 8601 where that is exact, and else as a number."""
    try:
        iso = datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        return f"@{at!r}"
    return iso.isoformat() if iso.timestamp() == at else f"@{at!r}"


def quoted(value: str, colon: str = ":") -> str:
    """Return a value in quotes, unless it is a word. A word to search has no colon."""
    if re.fullmatch(rf"[\w./@+*#|=][\w./@+*#|={colon}-]*", value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


words = st.text(min_size=1, max_size=8)
texts = st.none() | words
times = st.none() | st.floats(-1e12, 1e12, allow_nan=False)
counts = st.none() | st.integers(1, 99_999_999)
queries = st.builds(
    Query,
    ids=st.lists(st.text("ABC012", min_size=1), max_size=3).map(tuple),
    statuses=st.lists(st.sampled_from(Status), max_size=3).map(tuple),
    reason=st.none() | st.sampled_from([str(reason) for reason in Reason]),
    text=st.lists(words.filter(str.strip), max_size=3).map(tuple),
    min_attempts=counts,
    max_attempts=counts,
    **dict.fromkeys(["group", "service", "handler", "replay", "label", "error", "topic", "source"], texts),
    **dict.fromkeys(["first_after", "first_before", "last_after", "last_before"], times),
)


@given(queries, st.lists(words.filter(str.strip).map(lambda word: Query(text=(word,))), max_size=2).map(tuple))
def test_each_value_can_be_written(query: Query, without: tuple[Query, ...]):
    """For all values, parsing the text of a query returns the same query."""
    query = replace(query, without=without)
    assert parse(text_of(query), NOW) == query


@given(st.text('ab:<>"-\\ \n@,0', max_size=12))
def test_any_text_is_a_query_or_a_usage_error(text: str):
    """No text raises another exception than `UsageError`."""
    try:
        query = parse(text, NOW)
    except UsageError:
        return
    assert parse(text_of(query), NOW) == query


def test_an_id_or_a_group_is_not_a_term():
    """`is_term` distinguishes terms from ids and groups."""
    assert [
        is_term(word) for word in ("01M859YT9NB6QHDGBPSEQR1M9B", "542c76d05df61bdf", "age>1h", "-a:b", "a:b c")
    ] == [
        False,
        False,
        True,
        True,
        True,
    ]


@on_each
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("label:late", "a"),
        ("error:ValueError", "b"),
        ("topic:orders", "a"),
        ("source:memory:m", "ab"),
        ("source:m", "ab"),
        ("source:memory", ""),
        ("source:Memory:M", ""),
        ("ÄRGER", "b"),
        ("attempts>1", "b"),
        ("attempts<2", "a"),
        ("first<1970-01-01T00:00:15", "a"),
        ("first>1970-01-01T00:00:15", "b"),
        ("last<1970-01-01T00:00:35", "a"),
        ("last>1970-01-01T00:00:35", "b"),
        ("LATE", "a"),
        ("valueerr", "b"),
        ("shop:placed", None),
        ('"shop:placed"', "b"),
        ("münchen", "a"),
        ("100%", "b"),
        ("1_0", ""),
        ("body", ""),
        ("late valueerror", ""),
        ("-label:late", "b"),
        ("-error:ValueError", "a"),
        ("-late -valueerr", ""),
        ("-topic:orders attempts>1 -attempts>2", "b"),
    ],
)
def test_each_store_applies_each_condition(store: SQLStore, text: str, found: str | None):
    """Each condition holds in the database. A word is found in the safe fields, in any case."""
    if found is None:
        with pytest.raises(UsageError):
            parse(text, NOW)
        return
    first = {"id": "a", "label": "late", "topic": "orders", "public": {"city": "München"}, "last_at": 30.0}
    second = {
        "id": "b",
        "error_type": "ValueError",
        "handler": "shop:placed",
        "label": "ÄRGER",
        "public": {"part": "100%"},
    }
    store.put([record(**first), record(**second, attempts=2, first_at=20.0, last_at=40.0)])
    assert sorted(one.id for one in store.query(parse(text, NOW))) == list(found)
