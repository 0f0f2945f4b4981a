"""The compiler of event patterns: the matchers it returns, and the events they match."""

from __future__ import annotations

import pytest

from missive.matchers import (
    Absent,
    And,
    AnythingBut,
    Cidr,
    EventField,
    IsInstance,
    NoneOf,
    OneOf,
    Or,
    Prefix,
    Present,
    Range,
    Suffix,
    Wildcard,
    from_eventbridge,
)
from tests.support.matchers import matches

EC2 = {
    "version": "0",
    "detail-type": "EC2 Instance State-change Notification",
    "source": "aws.ec2",
    "time": "2017-10-02T16:24:49Z",
    "resources": ["arn:aws:ec2:us-east-1:123:instance/i-0a"],
    "detail": {
        "c-count": 5,
        "d-count": 3,
        "x-limit": 301.8,
        "source-ip": "10.0.0.33",
        "state": "running",
        "none": None,
        "flag": True,
    },
}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"source": ["aws.ec2"]}, True),
        ({"source": ["aws.s3", "aws.ec2"]}, True),
        ({"source": ["aws.s3"]}, False),
        ({"source": ["aws"]}, False),
        ({"resources": ["arn:aws:ec2:us-east-1:123:instance/i-0a", "other"]}, True),
        ({"source": ["aws.ec2"], "detail": {"state": ["initializing", "running"]}}, True),
        ({"source": ["aws.s3"], "detail": {"state": ["running"]}}, False),
        ({"detail.state": ["running"]}, True),
        ({"time": [{"prefix": "2017-10-02"}]}, True),
        ({"time": [{"prefix": "2018"}]}, False),
        ({"source": [{"suffix": "ec2"}]}, True),
        ({"source": [{"equals-ignore-case": "AWS.EC2"}]}, True),
        ({"source": [{"equals-ignore-case": "AWS.EC"}]}, False),
        ({"source": [{"prefix": {"equals-ignore-case": "AWS"}}]}, True),
        ({"source": [{"suffix": {"equals-ignore-case": "EC2"}}]}, True),
        ({"source": [{"wildcard": "a*.*2"}]}, True),
        ({"source": [{"wildcard": "a*.*3"}]}, False),
        ({"source": [{"exactly": "aws.ec2"}]}, True),
        ({"detail": {"state": [{"anything-but": "initializing"}]}}, True),
        ({"detail": {"state": [{"anything-but": ["stopped", "running"]}]}}, False),
        ({"detail": {"x-limit": [{"anything-but": [100, 200, 300]}]}}, True),
        ({"detail": {"x-limit": [{"anything-but": 301.8}]}}, False),
        ({"detail": {"state": [{"anything-but": {"prefix": "init"}}]}}, True),
        ({"detail": {"state": [{"anything-but": {"suffix": ["ed", "ing"]}}]}}, False),
        ({"detail": {"state": [{"anything-but": {"equals-ignore-case": ["Stopped", "RUNNING"]}}]}}, False),
        ({"detail": {"state": [{"anything-but": {"wildcard": ["st*", "r*g"]}}]}}, False),
        ({"detail": {"state": [{"anything-but": {"wildcard": ["st*", "r*"]}}, "running"]}}, True),
        ({"detail": {"c-count": [{"numeric": [">", 0, "<=", 5]}]}}, True),
        ({"detail": {"c-count": [{"numeric": [">", 0, "<", 5]}]}}, False),
        ({"detail": {"d-count": [{"numeric": ["<", 10]}]}}, True),
        ({"detail": {"x-limit": [{"numeric": ["=", 3.018e2]}]}}, True),
        ({"detail": {"x-limit": [{"numeric": [">=", 301.8]}]}}, True),
        ({"detail": {"source-ip": [{"cidr": "10.0.0.0/24"}]}}, True),
        ({"detail": {"source-ip": [{"cidr": "10.0.1.0/24"}]}}, False),
        ({"detail": {"state": [{"cidr": "10.0.0.0/24"}]}}, False),
        ({"detail": {"c-count": [{"exists": True}]}}, True),
        ({"detail": {"c-count": [{"exists": False}]}}, False),
        ({"detail": {"e-count": [{"exists": False}]}}, True),
        ({"detail": [{"exists": True}]}, False),
        ({"detail": [{"exists": False}]}, True),
        ({"detail": {"none": [{"exists": True}]}}, True),
        ({"detail": {"none": [None]}}, True),
        ({"detail": {"none": ["null"]}}, False),
        ({"detail": {"none": [{"anything-but": "x"}]}}, True),
        ({"detail": {"none": [{"anything-but": {"prefix": "x"}}]}}, True),
        ({"detail": {"none": [{"numeric": ["<", 10]}]}}, False),
        ({"detail": {"missing": [{"anything-but": "x"}]}}, False),
        ({"detail": {"missing": [None]}}, False),
        ({"detail": {"flag": [True]}}, True),
        ({"detail": {"flag": [1]}}, False),
        ({"detail": {"flag": ["true"]}}, False),
        ({"detail": {"c-count": [True, "5"]}}, False),
        ({"detail": {"c-count": [5.0]}}, True),
        ({"detail": {"state": [{"numeric": [">", 0]}]}}, False),
        ({"detail": {"state": ["x", {"prefix": "y"}, {"suffix": "ing"}]}}, True),
        ({"detail": {"state": ["x", {"exists": False}]}}, False),
        ({"detail": {"e-count": ["x", {"exists": False}]}}, True),
        ({"$or": [{"source": ["x"]}, {"detail": {"c-count": [5]}}]}, True),
        ({"$or": [{"source": ["x"]}, {"detail": {"c-count": [6]}}]}, False),
        (
            {"version": ["0"], "$or": [{"source": ["x"]}, {"time": [{"prefix": "2017"}], "detail": {"d-count": [3]}}]},
            True,
        ),
        ({"version": ["1"], "$or": [{"source": ["aws.ec2"]}, {"detail": {"d-count": [3]}}]}, False),
        ({"detail": {"$or": [{"c-count": [6]}, {"d-count": [3]}]}}, True),
        ({"$or": [{"source": ["x"]}, {"$or": [{"version": ["0"]}, {"version": ["1"], "time": ["x"]}]}]}, True),
        (
            {
                "$or": [{"source": ["aws.ec2"]}, {"version": ["1"]}],
                "detail": {"$or": [{"state": ["x"]}, {"c-count": [{"numeric": ["<", 5]}]}]},
            },
            False,
        ),
    ],
)
def test_pattern_matches_the_reference_event(pattern, expected):
    """The patterns of Event Ruler's reference have its verdict on its event."""
    assert expected is matches(pattern, EC2)


SONGS = {
    "Year": 1966,
    "Genres": [{"Pop": True}, {"Classical": False}],
    "Songs": [
        {
            "Name": "Paperback Writer",
            "Writers": [{"First": "John", "Last": "Lennon"}, {"First": "Paul", "Last": "McCartney"}],
        },
        {
            "Name": "Paint It Black",
            "Writers": [{"First": "Mick", "Last": "Jagger"}, {"First": "Keith", "Last": "Richards"}],
        },
    ],
}
STAFF = {
    "employees": [
        [{"first": "John", "last": "Doe", "ids": [1234, 1000]}, {"first": "Anna", "last": "Smith"}],
        [{"first": "Peter", "last": "Jones", "ids": []}],
    ]
}


@pytest.mark.parametrize(
    ("pattern", "event", "expected"),
    [
        ({"Songs": {"Name": ["Paperback Writer"], "Writers": {"First": ["Paul"], "Last": ["McCartney"]}}}, SONGS, True),
        ({"Songs": {"Name": ["Paperback Writer"], "Writers": {"First": ["Paul"], "Last": ["Lennon"]}}}, SONGS, False),
        ({"Songs": {"Name": ["Paperback Writer"], "Writers": {"First": ["Mick"]}}}, SONGS, False),
        ({"Songs": {"Writers": {"First": ["Mick"], "Last": ["McCartney"]}}}, SONGS, False),
        ({"Genres": {"Pop": [True]}, "Songs": {"Name": ["Paint It Black"]}, "Year": [1966]}, SONGS, True),
        ({"Genres": {"Pop": [True], "Classical": [False]}}, SONGS, False),
        ({"Songs": {"Name": ["Paint It Black"]}, "Songs.Writers.First": ["Paul"]}, SONGS, False),
        (
            {
                "Songs": {"Name": ["Paint It Black"]},
                "$or": [{"Songs": {"Writers": {"First": ["Paul"]}}}, {"Year": [1]}],
            },
            SONGS,
            False,
        ),
        (
            {
                "Songs": {"Name": ["Paint It Black"]},
                "$or": [{"Songs": {"Writers": {"First": ["Mick"]}}}, {"Year": [1]}],
            },
            SONGS,
            True,
        ),
        ({"employees": {"first": ["Anna"]}}, STAFF, True),
        ({"employees": {"first": ["John"], "ids": [1000]}}, STAFF, True),
        ({"employees": {"first": ["Anna"], "ids": [{"exists": False}]}}, STAFF, True),
        ({"employees": {"first": ["Peter"], "ids": [{"exists": False}]}}, STAFF, True),
        ({"employees": {"first": ["John"], "ids": [{"exists": False}]}}, STAFF, False),
        ({"employees": {"ids": [{"exists": False}]}}, STAFF, False),
        ({"employees": {"ids": [{"exists": False}], "age": [{"exists": False}]}}, STAFF, False),
        ({"employees": {"age": [{"exists": False}], "size": [{"exists": False}]}}, STAFF, True),
        ({"staff": {"age": [{"exists": False}], "size": [{"exists": False}]}}, STAFF, True),
        ({"employees": {"first": ["Anna"], "last": ["Jones"]}}, STAFF, False),
        ({"employees": ["Anna"]}, STAFF, False),
        ({"employees": {"first": ["Anna"], "ids": [{"exists": True}]}}, STAFF, False),
        ({"d": {"a": [1, {"exists": False}], "b": [2, {"exists": False}]}}, {"d": [{"a": 1}]}, True),
        ({"d": {"a": [1, {"exists": False}], "b": [2, {"exists": False}]}}, {}, True),
        ({"d": {"a": [1, {"exists": False}], "b": [2, {"exists": False}]}}, {"d": [{"a": 3}, {}]}, False),
        ({"d": {"a": [1, {"exists": False}], "b": [2, {"exists": False}]}}, {"d": [{"a": 3}, {"b": 2}]}, True),
        ({"d": {"s": [{"anything-but": "x"}], "n": ["a"]}}, {"d": [{"n": "a", "s": "x"}, {"n": "b", "s": "y"}]}, False),
        ({"d": {"s": [{"anything-but": "x"}], "n": ["b"]}}, {"d": [{"n": "a", "s": "x"}, {"n": "b", "s": "y"}]}, True),
        ({"d": {"a": [1], "b": [2]}}, {"d": [{"a": [3, 1], "b": [2, 4]}]}, True),
        ({"d": [1], "d.x": [2]}, {"d": [1, {"x": 2}]}, True),
        ({"d": {"e": [1]}, "d.e.x": [2]}, {"d": [{"e": [1, {"x": 2}]}]}, True),
        ({"d": {"e": [1]}, "d.e.x": [2]}, {"d": [{"e": 1}, {"e": {"x": 2}}]}, False),
    ],
)
def test_fields_match_in_the_same_element(pattern, event, expected):
    """Two fields never match in different elements of an array. Absence alone applies to all elements."""
    assert expected is matches(pattern, event)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"a": ["x"]}, EventField("a", "x")),
        ({"a": ["x", 1, None, "x"]}, EventField("a", OneOf("x", 1, None))),
        ({"a": [1, {"numeric": ["=", 2]}, {"exactly": "x"}]}, EventField("a", OneOf(1, 2, "x"))),
        ({"a": {"b": {"c": ["x"]}}}, EventField(("a", "b", "c"), "x")),
        ({"a": ["x"], "b": ["y"]}, EventField("a", "x") & EventField("b", "y")),
        ({"a": {"b": ["x"], "c": ["y"]}}, EventField("a", EventField("b", "x") & EventField("c", "y"))),
        (
            {"a": {"b": {"c": ["x"], "d": ["y"]}}},
            EventField(("a", "b"), EventField("c", "x") & EventField("d", "y")),
        ),
        (
            {"a": {"b": {"c": ["x"], "d": ["y"]}, "e": ["z"]}},
            EventField("a", EventField("b", EventField("c", "x") & EventField("d", "y")) & EventField("e", "z")),
        ),
        ({"a": ["x", {"prefix": "y"}]}, EventField("a", "x") | EventField("a", Prefix("y"))),
        ({"a": [{"suffix": {"equals-ignore-case": "Y"}}]}, EventField("a", Suffix("Y", ignore_case=True))),
        ({"a": [{"wildcard": "y*"}]}, EventField("a", Wildcard("y*"))),
        ({"a": [{"wildcard": "*"}]}, EventField("a", IsInstance(str))),
        ({"a": [{"wildcard": "y\\*"}]}, EventField("a", "y*")),
        ({"a": [{"equals-ignore-case": "*"}]}, EventField("a", Wildcard("\\*", ignore_case=True))),
        ({"a": [{"anything-but": ["x", "y"]}]}, EventField("a", AnythingBut(OneOf("x", "y")))),
        ({"a": [{"anything-but": {"prefix": "x"}}]}, EventField("a", AnythingBut(Prefix("x")))),
        ({"a": [{"anything-but": {"prefix": ["x", "y"]}}]}, EventField("a", NoneOf(Prefix("x"), Prefix("y")))),
        ({"a": [{"numeric": [">", 1, "<=", 2]}]}, EventField("a", Range(gt=1, le=2))),
        ({"a": [{"cidr": "10.0.0.0/8"}]}, EventField("a", Cidr("10.0.0.0/8"))),
        ({"a": [{"exists": True}]}, EventField("a", Present())),
        ({"a": [{"exists": False}]}, EventField("a", Absent())),
        ({"$or": [{"a": [1]}, {"b": [2]}]}, EventField("a", 1) | EventField("b", 2)),
        (
            {"c": [3], "$or": [{"a": [1]}, {"b": [2]}]},
            EventField("c", 3) & (EventField("a", 1) | EventField("b", 2)),
        ),
        (
            {"a": {"x": [3], "$or": [{"y": [1]}, {"z": [2]}]}},
            EventField("a", EventField("x", 3) & (EventField("y", 1) | EventField("z", 2))),
        ),
        (
            {"a": {"x": [3]}, "$or": [{"a": {"y": [1]}}, {"b": [2]}]},
            EventField("a", EventField("x", 3) & EventField("y", 1)) | (EventField(("a", "x"), 3) & EventField("b", 2)),
        ),
        (
            {"a": {"x": [{"exists": False}], "y": [{"exists": False}]}},
            EventField(("a", "x"), Absent()) & EventField(("a", "y"), Absent()),
        ),
        ({"a": {"x": [{"exists": False}], "y": [1]}}, EventField("a", EventField("x", Absent()) & EventField("y", 1))),
    ],
)
def test_compiled_pattern(pattern, expected):
    """Literals become one test, nested names one path, and fields with a shared name one EventField."""
    assert expected == from_eventbridge(pattern)
    assert isinstance(from_eventbridge(pattern), (EventField, And, Or))


def test_many_literals_become_one_test():
    """A list of ten thousand literals becomes one `OneOf`."""
    matcher = from_eventbridge({"detail": {"id": list(range(10_000))}})
    assert isinstance(matcher, EventField)
    assert isinstance(matcher.test, OneOf)
