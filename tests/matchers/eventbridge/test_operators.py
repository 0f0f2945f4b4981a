"""Alternatives of a field in an event pattern: the values they match, and the errors of invalid ones."""

from __future__ import annotations

import pytest

from missive.errors import RegistrationError
from missive.matchers import Equals, from_eventbridge
from tests.support.matchers import check_refused, matches


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ({"a": [300]}, [300, 300.0, 3.0e2, [1, 300]], ["300", 301, None, True, {"a": 300}, []]),
        ({"a": [123456789012]}, [123456789012], [123456789013, "123456789012"]),
        ({"a": [""]}, ["", [""]], [None, "x", 0, []]),
        ({"a": [None]}, [None, [1, None]], ["null", "", 0, False, {}, []]),
        ({"a": [False]}, [False], [0, "false", None]),
        ({"a": ["null", "true", "1"]}, ["null", "true", "1"], [None, True, 1]),
        ({"a": [{"wildcard": "*"}]}, ["", "x", "*"], [None, 1]),
        ({"a": [{"wildcard": ""}]}, [""], ["x", None]),
        ({"a": [{"wildcard": "a\\*b"}]}, ["a*b"], ["axb", "a\\*b"]),
        ({"a": [{"wildcard": "a\\\\*"}]}, ["a\\", "a\\b"], ["a*", "a"]),
        ({"a": [{"wildcard": "*\\**"}]}, ["*", "a*b"], ["ab"]),
        ({"a": [{"wildcard": "a*a"}]}, ["aa", "aba", "a*a"], ["a", "ab"]),
        ({"a": [{"equals-ignore-case": "a*\\b"}]}, ["A*\\B"], ["axxb", "a*b"]),
        ({"a": [{"equals-ignore-case": ""}]}, [""], ["x", None]),
        ({"a": [{"equals-ignore-case": "straße"}]}, ["STRASSE", "Straße"], ["strase"]),
        ({"a": [{"anything-but": ""}]}, ["x", None, 0], ["", []]),
        ({"a": [{"anything-but": 5}]}, [6, "5", None, True], [5, 5.0, [], {}]),
        ({"a": [{"anything-but": ["x"]}]}, [["x", "y"], "y", 1, False], ["x", ["x", "x"], [], {"x": 1}]),
        ({"a": [{"anything-but": {"prefix": ["x", "y"]}}]}, [["x1", "z"], 5, None], ["x1", ["x1", "y1"]]),
        ({"a": [{"anything-but": {"equals-ignore-case": ["yes", ""]}}]}, ["no"], ["YES", ""]),
        ({"a": [{"numeric": ["=", 0]}]}, [0, -0.0, [1, 0]], [False, "0", None, 0.1]),
        ({"a": [{"numeric": [">", 0, "<", 1]}]}, [0.1, [5, 0.5]], [0, 1, [-1, 2], True]),
        ({"a": [{"cidr": "2001:db8::/32"}]}, ["2001:db8::1"], ["2001:db9::1", "10.0.0.1", None]),
        ({"a": [{"prefix": ""}]}, ["", "x", [1, "x"]], [None, 1, [], {"x": "x"}]),
        ({"a": [{"suffix": ""}]}, ["", "x"], [None, 1, True]),
        ({"a": [{"prefix": {"equals-ignore-case": ""}}]}, ["", "X"], [None, 1]),
        ({"a": [{"suffix": {"equals-ignore-case": ""}}]}, ["", "X"], [None, 1]),
        ({"a": [{"cidr": "10.1.2.3/8"}]}, ["10.0.0.0", "10.1.2.2", "10.255.255.255"], ["11.0.0.0", "9.255.255.255"]),
        ({"a": [{"cidr": "2001:db8::5/32"}]}, ["2001:db8::", "2001:db8:ffff::1"], ["2001:db9::", "32.1.13.184"]),
        ({"a": [{"cidr": "10.0.0.7/31"}]}, ["10.0.0.6", "10.0.0.7"], ["10.0.0.5", "10.0.0.8"]),
        ({"a": [{"numeric": [">=", 1e-15, "<=", 1e15]}]}, [1e-15, 1, 10**15], [0, 9e-16, 10**15 + 1]),
        ({"a": [{"numeric": ["=", 0.1]}]}, [0.1], [0.1000001]),
        ({"a": [{"anything-but": [1e-15, 10**15, 2**53]}]}, [0, "1"], [1e-15, 1e15, 2**53]),
        ({"a": [2**53 + 1]}, [2**53 + 1], [2**53, 2**53 + 2]),
        ({"a": [{"exists": True}]}, [None, 0, "", [0]], [{}, [], {"b": 1}, [{}]]),
        ({"a": [{"exists": False}]}, [{}, [], {"b": 1}], [None, 0, [None]]),
        ({"a": [{"exists": True}, {"exists": False}]}, [None, {}, []], []),
        ({"a": ["x", "x", {"prefix": "y"}, {"prefix": "y"}]}, ["x", "yy"], ["xx"]),
    ],
)
def test_alternative_matches_values(pattern, matching, others):
    """Each kind of alternative has the expected verdict on scalars, null, arrays and objects."""
    assert [value for value in matching if not matches(pattern, {"a": value})] == []
    assert [value for value in others if matches(pattern, {"a": value})] == []


@pytest.mark.parametrize(
    ("pattern", "location", "text"),
    [
        ({"a": [float("nan")]}, r" at a\[0\]", "nan is not a number"),
        ({"a": [{"numeric": ["<", float("inf")]}]}, r" at a\[0\].numeric\[1\]", "inf is not a number"),
        ({"a": [[1]]}, r" at a\[0\]", "list in a list"),
        ({"a": [b"x"]}, r" at a\[0\]", "not bytes"),
        ({"a": [{}]}, r" at a\[0\]", "empty object"),
        ({"a": [{"anything_but": "a"}]}, r" at a\[0\]", 'did you mean "anything-but"'),
        ({"a": [{"foo": "a"}]}, r" at a\[0\]", "use one of prefix, suffix"),
        ({"a": [{"prefix": "a", "foo": []}]}, r" at a\[0\]", r'more than one operator .*"prefix" and "foo"'),
        ({"a": [{"prefix": None}]}, r" at a\[0\].prefix", "not null"),
        ({"a": [{"prefix": 3}]}, r" at a\[0\].prefix", "not 3"),
        ({"a": [{"suffix": ["a"]}]}, r" at a\[0\].suffix", "not a list"),
        ({"a": [{"prefix": {"wildcard": "a"}}]}, r" at a\[0\].prefix", 'unknown operator "wildcard"'),
        ({"a": [{"prefix": {"equals-ignore-case": "a", "b": 1}}]}, r" at a\[0\].prefix", "more than one operator"),
        ({"a": [{"suffix": {"equals-ignore-case": ["a"]}}]}, r" at a\[0\].suffix.equals-ignore-case", "not a list"),
        ({"a": [{"equals-ignore-case": 5}]}, r" at a\[0\].equals-ignore-case", "not 5"),
        ({"a": [{"equals-ignore-case": ["x"]}]}, r" at a\[0\].equals-ignore-case", "not a list"),
        ({"a": [{"exactly": 33}]}, r" at a\[0\].exactly", "not 33"),
        ({"a": [{"wildcard": 5}]}, r" at a\[0\].wildcard", "not 5"),
        ({"a": [{"wildcard": "a**b"}]}, r" at a\[0\].wildcard", r"contains \*\*.*write one"),
        ({"a": [{"wildcard": "a\\\\**"}]}, r" at a\[0\].wildcard", r"\*\*"),
        ({"a": [{"wildcard": "a\\b"}]}, r" at a\[0\].wildcard", "backslash"),
        ({"a": [{"wildcard": "a*\\"}]}, r" at a\[0\].wildcard", "backslash"),
        ({"a": [{"anything-but": None}]}, r" at a\[0\].anything-but", "not null"),
        ({"a": [{"anything-but": True}]}, r" at a\[0\].anything-but", "not true"),
        ({"a": [{"anything-but": []}]}, r" at a\[0\].anything-but", "empty list"),
        ({"a": [{"anything-but": {}}]}, r" at a\[0\].anything-but", "empty object"),
        ({"a": [{"anything-but": ["x", None]}]}, r" at a\[0\].anything-but\[1\]", "not null"),
        ({"a": [{"anything-but": ["x", 1]}]}, r" at a\[0\].anything-but\[1\]", "not of both"),
        ({"a": [{"anything-but": [1, float("nan")]}]}, r" at a\[0\].anything-but\[1\]", "nan"),
        ({"a": [{"anything-but": [{"prefix": "x"}]}]}, r" at a\[0\].anything-but\[0\]", "dict|object"),
        (
            {"a": [{"anything-but": {"prefix": ""}}]},
            r" at a\[0\].anything-but.prefix",
            "empty, so no string would match",
        ),
        (
            {"a": [{"anything-but": {"prefix": ["x", ""]}}]},
            r" at a\[0\].anything-but.prefix\[1\]",
            "no string would match",
        ),
        ({"a": [{"anything-but": {"prefix": []}}]}, r" at a\[0\].anything-but.prefix", "empty list"),
        ({"a": [{"anything-but": {"suffix": 27}}]}, r" at a\[0\].anything-but.suffix", "not 27"),
        (
            {"a": [{"anything-but": {"suffix": {"equals-ignore-case": "x"}}}]},
            r" at a\[0\].anything-but.suffix",
            "not an object",
        ),
        ({"a": [{"anything-but": {"wildcard": ["x", "a**"]}}]}, r" at a\[0\].anything-but.wildcard\[1\]", r"\*\*"),
        ({"a": [{"anything-but": {"numeric": ["<", 1]}}]}, r" at a\[0\].anything-but", 'unknown operator "numeric"'),
        ({"a": [{"numeric": 5}]}, r" at a\[0\].numeric", r'use a list such as \[">", 0\] .*, not 5'),
        ({"a": [{"numeric": []}]}, r" at a\[0\].numeric", "once or twice"),
        ({"a": [{"numeric": [">"]}]}, r" at a\[0\].numeric", "once or twice"),
        ({"a": [{"numeric": [">", 1, "<", 30, False]}]}, r" at a\[0\].numeric", "once or twice"),
        ({"a": [{"numeric": ["<>", 1]}]}, r" at a\[0\].numeric\[0\]", 'not "<>"'),
        ({"a": [{"numeric": [5, 1]}]}, r" at a\[0\].numeric\[0\]", "not 5"),
        ({"a": [{"numeric": ["=", "5"]}]}, r" at a\[0\].numeric\[1\]", 'not "5"'),
        ({"a": [{"numeric": ["<", True]}]}, r" at a\[0\].numeric\[1\]", "not true"),
        ({"a": [{"numeric": [">", 0, "<", None]}]}, r" at a\[0\].numeric\[3\]", "not null"),
        ({"a": [{"numeric": [">", 0, ">=", 5]}]}, r" at a\[0\].numeric", "write the lower bound .* first"),
        ({"a": [{"numeric": ["<", 5, ">", 0]}]}, r" at a\[0\].numeric", "write the lower bound .* first"),
        ({"a": [{"numeric": ["=", 5, "<", 9]}]}, r" at a\[0\].numeric", "write the lower bound .* first"),
        ({"a": [{"numeric": [">", 30, "<", 1]}]}, r" at a\[0\].numeric", "empty"),
        ({"a": [{"numeric": [">", 1, "<", 1]}]}, r" at a\[0\].numeric", "empty"),
        ({"a": [{"cidr": "foo"}]}, r" at a\[0\].cidr", "network such as"),
        ({"a": [{"cidr": "10.0.0.1"}]}, r" at a\[0\].cidr", "network such as"),
        ({"a": [{"cidr": "10.0.0.0/33"}]}, r" at a\[0\].cidr", "10.0.0.0/33"),
        ({"a": [{"cidr": "foo/8"}]}, r" at a\[0\].cidr", "foo/8"),
        ({"a": [{"cidr": "10.1.2.3/33"}]}, r" at a\[0\].cidr", "prefix length"),
        ({"a": [{"numeric": ["=", 2**53 + 1]}]}, r" at a\[0\].numeric\[1\]", "not exactly a double-precision number"),
        ({"a": [{"numeric": [">", 0, "<", 10**400]}]}, r" at a\[0\].numeric\[3\]", "not exactly"),
        ({"a": [{"anything-but": [1, 2**53 + 1]}]}, r" at a\[0\].anything-but\[1\]", "not exactly"),
        ({"a": [{"cidr": 10}]}, r" at a\[0\].cidr", "not 10"),
        ({"a": [{"exists": "true"}]}, r" at a\[0\].exists", 'not "true"'),
        ({"a": [{"exists": 1}]}, r" at a\[0\].exists", "not 1"),
    ],
)
def test_invalid_alternative_is_refused(pattern, location, text):
    """An invalid literal or operand is refused; the error names its location."""
    check_refused(pattern, location, text)


@pytest.mark.parametrize("number", ["0.12345678901234567890", "9007199254740993.0", "1e-999", "1e-" + "9" * 30])
def test_number_with_too_many_digits_is_refused(number):
    """JSON text keeps all digits of a number, so a number that double precision would round is refused."""
    with pytest.raises(RegistrationError, match=r"at a\[0\].numeric\[1\]: this number is not exactly"):
        from_eventbridge(f'{{"a": [{{"numeric": ["=", {number}]}}]}}')


@pytest.mark.parametrize("number", ["0.1", "1e15", "1E-15", "1.50", "9007199254740992.0", "-0.0", "1e300"])
def test_number_of_double_precision_is_accepted(number):
    """A number is accepted, however it is written, if double precision keeps its decimal value."""
    assert from_eventbridge(f'{{"a": [{{"numeric": ["=", {number}]}}]}}').test == Equals(float(number))
