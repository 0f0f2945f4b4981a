"""Tests for strings: Prefix, Suffix, Substring, Wildcard and Regex."""

from __future__ import annotations

import copy
import enum
import pickle
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage
from missive.errors import MissingExtra, RegistrationError
from missive.matchers import AnythingBut, Every, Field, Prefix, Regex, Some, Substring, Suffix, Wildcard
from tests.support import strategies
from tests.support.matchers import rebuilt
from tests.support.strategies import promptly

NOT_STRINGS = [None, True, False, 0, 1, 1.5, b"", b"a", [], ["a"], {}, {"a": "a"}, ("a",), 10**30, float("nan")]
MEGABYTE = 1_000_000


class Colour(enum.StrEnum):
    red = "r*d"


@pytest.mark.parametrize(
    ("test", "matching", "other"),
    [
        (Prefix("EU-"), ["EU-", "EU-1"], ["eu-1", "1EU-", "", "EU"]),
        (Suffix(".csv"), [".csv", "a.csv"], ["a.CSV", "a.csv.gz", ""]),
        (Substring("urgent"), ["urgent", "very urgent!"], ["Urgent", "urgen", ""]),
        (Prefix("EU-", ignore_case=True), ["eu-1", "EU-1", "Eu-"], ["e", "1eu-"]),
        (Suffix(".CSV", ignore_case=True), ["a.csv", ".Csv"], ["a.csvx"]),
        (Substring("ß", ignore_case=True), ["STRASSE", "straße", "ss"], ["s", "STRASE"]),
        (Prefix("Σ", ignore_case=True), ["ς", "\u03c3", "Σ1"], ["1Σ"]),
        (Substring("号"), ["号外", "1号"], ["外"]),
        (Prefix("a\0"), ["a\0b"], ["a", "ab"]),
    ],
)
def test_text_tests(test, matching, other):
    """Text tests compare code points, or case-folded text with `ignore_case`."""
    assert [True] * len(matching) == [test(value) for value in matching]
    assert [False] * len(other) == [test(value) for value in other]


@pytest.mark.parametrize("test", [Prefix("a"), Suffix("a"), Substring("a"), Prefix("a", ignore_case=True)])
@pytest.mark.parametrize("value", NOT_STRINGS)
def test_text_tests_match_strings_only(test, value):
    """A text test is false of bytes, numbers, null, lists and objects."""
    assert test(value) is False


@pytest.mark.parametrize("kind", [Prefix, Suffix, Substring])
@pytest.mark.parametrize(
    ("text", "error"), [("", "true of every string"), (b"a", "bytes"), (None, "NoneType"), (1, "int")]
)
def test_invalid_text_is_refused(kind, text, error):
    """An empty text, which matches every string, and a text that is not a string are refused."""
    with pytest.raises(RegistrationError, match=error):
        kind(text)


@given(text=strategies.filled, value=strategies.words)
@strategies.examples(60)
def test_ignore_case_is_case_folding(text, value):
    """With `ignore_case`, a text test compares the case-folded text with the case-folded value."""
    for kind in (Prefix, Suffix, Substring):
        assert kind(text, ignore_case=True)(value) is kind(text.casefold())(value.casefold())


def test_equality_of_text_tests_that_ignore_case():
    """Text tests with `ignore_case` are equal if their case-folded texts are equal."""
    assert Prefix("EU", ignore_case=True) == Prefix("eu", ignore_case=True)
    assert Prefix("EU") != Prefix("eu")
    assert Prefix("eu") != Prefix("eu", ignore_case=True)
    assert Prefix("eu") != Suffix("eu")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("a*", ["a", "ab", "a*", "a\nb"], ["", "b", "ba", "A"]),
        ("*a", ["a", "ba", "aa"], ["", "ab"]),
        ("a*a", ["aa", "aba", "aaa"], ["a", "", "aab"]),
        ("ab*bc", ["abbc", "ab-bc"], ["abc", "ab", "bc"]),
        ("*a*", ["a", "bab", "aa"], ["", "b"]),
        ("*", ["", "a", "\n", "号外"], []),
        ("a*b*c", ["abc", "a1b2c", "abbc", "abcc", "abcbc"], ["ac", "acb", "abcd"]),
        ("*ab*ab", ["abab", "ab-ab", "aabbabab"], ["ab", "aab", "abba"]),
        ("*aab*", ["aaab", "aaaab-"], ["aaa", "ab"]),
        ("web-*.example.org", ["web-1.example.org", "web-.example.org"], ["web-1.example.com", "web.example.org"]),
        (r"\*", ["*"], ["", "a", r"\*"]),
        (r"a\**", ["a*", "a*b"], ["a", "ab"]),
        (r"*\*", ["*", "a*"], ["", "a"]),
        (r"\\*", ["\\", r"\a"], ["", "a", "*"]),
        (r"\\\*", [r"\*"], [r"\\", r"\a", "*"]),
        ("a?[b].+", ["a?[b].+"], ["ax[b].+", "ab.+", "a?b.+"]),
        ("ab", ["ab"], ["a", "abc", "AB", ""]),
        ("a\0*", ["a\0", "a\0b"], ["a", "ab"]),
        ("\ud800*", ["\ud800", "\ud800a"], ["a"]),
    ],
)
def test_wildcard(pattern, matching, other):
    """A star matches any text, including none. Escapes are literal. The pattern matches the whole value."""
    assert [True] * len(matching) == [Wildcard(pattern)(value) for value in matching]
    assert [False] * len(other) == [Wildcard(pattern)(value) for value in other]


@pytest.mark.parametrize(
    ("pattern", "chunks"),
    [
        ("a*b", ("a", "b")),
        ("*", ("", "")),
        ("ab", ("ab",)),
        ("*a*", ("", "a", "")),
        (r"a\*b*\\c", ("a*b", "\\c")),
        (r"*\**", ("", "*", "")),
        (r"\\\*", (r"\*",)),
        ("a\nb*", ("a\nb", "")),
    ],
)
def test_chunks_of_a_wildcard(pattern, chunks):
    """The chunks are the unescaped texts between the stars. The pattern is stored unchanged."""
    test = Wildcard(pattern)
    assert (pattern, False, chunks) == (test.pattern, test.ignore_case, test.chunks)


def test_wildcard_that_ignores_case():
    """With `ignore_case`, the chunks and the value are case-folded."""
    test = Wildcard("EU-*STRASSE", ignore_case=True)
    assert test.chunks == ("eu-", "strasse")
    assert [test(value) for value in ["eu-straße", "EU-9 Strasse", "us-straße"]] == [True, True, False]
    assert Wildcard("AB*", ignore_case=True) == Wildcard("ab*", ignore_case=True)
    assert Wildcard("AB*", ignore_case=True) != Wildcard("ab*")
    assert Wildcard("ab*", ignore_case=True) != Wildcard("ab*")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("", r"Wildcard\(''\) .* use Equals\(''\)"),
        ("a**b", r"contains \*\*, .* write one, or \\\* for a literal star"),
        (r"\\**", r"contains \*\*, .* write one"),
        (r"a\b", r"write \\\\ for a literal backslash"),
        (r"\?", "for a literal backslash"),
        ("\\\n", "for a literal backslash"),
        ("a*\\", "for a literal backslash"),
        (b"a", "Wildcard takes a str, not bytes"),
        (None, "not NoneType"),
        (["a"], "not list"),
        ("**" + "a" * MEGABYTE, "write one"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_invalid_wildcard_is_refused(pattern, text):
    """An empty pattern, a double star, an unknown escape and a pattern that is not a string are refused."""
    with pytest.raises(RegistrationError, match=text) as caught:
        Wildcard(pattern)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.lists(st.text("ab*\\", max_size=3), min_size=1, max_size=4), st.text("ab*\\", max_size=9), st.booleans())
@strategies.examples(300)
def test_wildcard_agrees_with_a_backtracking_search(texts, value, ignore_case):
    """A wildcard agrees with a regular expression that tries all ways to distribute the stars."""
    chunks = [texts[0], *filter(None, texts[1:-1]), *texts[1:][-1:]]
    pattern = "*".join(chunk.replace("\\", "\\\\").replace("*", "\\*") for chunk in chunks)
    if pattern:
        expected = re.fullmatch(".*".join(map(re.escape, chunks)), value, re.DOTALL) is not None
        assert expected is Wildcard(pattern, ignore_case=ignore_case)(value)


@given(st.lists(st.sampled_from("aAßSſ"), max_size=6).map("".join), st.sampled_from(["a*ss", "*S*", "ß*A", "*ſ"]))
@strategies.examples(100)
def test_wildcard_folds_value_and_pattern(value, pattern):
    """With `ignore_case`, a wildcard compares the case-folded pattern with the case-folded value."""
    assert Wildcard(pattern, ignore_case=True)(value) is Wildcard(pattern.casefold())(value.casefold())


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("*a" * 1000, "a" * 100_000, True),
        ("*a" * 1000 + "b", "a" * 100_000, False),
        ("a*" * 500_000, "a" * MEGABYTE, True),
        ("a*" * 500_000 + "b", "a" * MEGABYTE, False),
        (r"\**" * 300_000, "*" * MEGABYTE, True),
        ("*" + "a" * 500 + "b*", "a" * MEGABYTE, False),
        ("*" + "ab" * 250_000 + "b*", "ab" * 500_000, False),
        ("*" + "a" * 20 + "b*", "a" * 29_000, False),
        ("a" * MEGABYTE + "*", "a" * MEGABYTE, True),
        ("*号" * 1000, "号a" * 400_000, False),
    ],
    ids=range(10),
)
def test_wildcards_are_fast(pattern, value, expected):
    """The time of a wildcard does not explode for long patterns and values, because it does not backtrack."""
    with promptly():
        assert expected is Wildcard(pattern)(value)
        assert expected is Wildcard(pattern, ignore_case=True)(value)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (r"[A-Z]{2}-\d+", ["EU-1", "US-1000"], ["EU-", "eu-1", "EU-1 ", " EU-1", "xEU-1x"]),
        ("a|ab", ["a", "ab"], ["abc", "b", ""]),
        ("a", ["a"], ["ab", "ba", "a\n"]),
        ("^a$", ["a"], ["a\n", "ab"]),
        (".*a.*", ["a", "bab"], ["b", "\na"]),
        ("(?s).*a.*", ["a", "\na\n"], ["b"]),
        ("(?i)straße", ["STRAßE", "straße"], ["strasse"]),
        (".", ["a", "号", "\0"], ["", "\n", "ab"]),
        ("(a)(b)?", ["a", "ab"], ["b"]),
        ("(?P<name>a)", ["a"], ["b"]),
        (r"\pL+", ["aé号"], ["1", ""]),
        ("a\0b", ["a\0b"], ["ab", "a"]),
        (r"a\x00b", ["a\0b"], ["ab"]),
        ("(?m)^a$", ["a"], ["a\na"]),
        (r"\d", ["1"], ["٣"]),
    ],
)
def test_regex(pattern, matching, other):
    """A regular expression matches the whole value."""
    assert [True] * len(matching) == [Regex(pattern)(value) for value in matching]
    assert [False] * len(other) == [Regex(pattern)(value) for value in other]


@pytest.mark.parametrize("value", ["\ud800", "a\udfff", "a" * 100 + "\ud800"])
def test_regex_on_invalid_unicode(value):
    """A value with a lone surrogate never matches, and raises nothing."""
    assert Regex("(?s).*")(value) is False
    assert Regex("(?s).*")(value.encode("utf-8", "replace").decode()) is True


def test_regex_that_ignores_case():
    """With `ignore_case`, a letter equals its other cases by simple folding."""
    assert [Regex("ab", ignore_case=True)(value) for value in ["AB", "aB", "ab", "a"]] == [True, True, True, False]
    assert Regex("é", ignore_case=True)("É") is True
    assert Regex("ß", ignore_case=True)("ss") is False
    assert Regex("k", ignore_case=True)("\u212a") is True
    assert Regex("ab", ignore_case=True) != Regex("ab")
    assert Regex("ab", ignore_case=True) != Regex("AB", ignore_case=True)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("", r"Regex\(''\) .* use Equals\(''\)"),
        ("(a", r"RE2 refuses Regex\('\(a'\) with \"missing \): \(a\": use the syntax of RE2"),
        ("*a", "no argument for repetition operator"),
        ("[z-a]", "invalid character class range: z-a"),
        ("a{1001}", "invalid repetition size"),
        (r"(a)\1", r"no look-around and no back-references"),
        ("(?=a)a", "no look-around"),
        ("(?!a)b", "no look-around"),
        (r"a\Z", "invalid escape sequence"),
        ("a++", "bad repetition operator"),
        ("(\n", r"Regex\('\(\\n'\)"),
        ("\ud800", "lone surrogate"),
        ("(" * MEGABYTE, "missing"),
        ("a" * MEGABYTE, "more than 8 MiB, so write a shorter one"),
        (r"((\pL{100}){10}a){1}|(\pL{1000})" * 3, "more than 8 MiB"),
        (b"a", "Regex takes a str, not bytes"),
        (re.compile("a"), "not Pattern"),
        (None, "not NoneType"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_invalid_regex_is_refused(pattern, text):
    """A pattern that RE2 refuses, or that needs too much memory, is refused with the reason on one short line."""
    with promptly(), pytest.raises(RegistrationError, match=text) as caught:
        Regex(pattern)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_re2_writes_no_log(capfd):
    """RE2 logs nothing for an invalid pattern, nor if it runs out of memory while it matches."""
    with pytest.raises(RegistrationError):
        Regex("(a")
    with pytest.raises(RegistrationError):
        Regex("a" * MEGABYTE)
    Regex("(a|b)*a(a|b){200}c")("ab" * 1000 + "aab" * 1000)
    assert capfd.readouterr() == ("", "")


@given(
    st.recursive(
        st.sampled_from(["a", "b", ".", "[^a]", "", r"\n", "号"]),
        lambda inner: st.one_of(
            st.builds("{}{}".format, inner, inner),
            st.builds("(?:{}|{})".format, inner, inner),
            st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "*?"])),
        ),
        max_leaves=6,
    ),
    st.text("ab\n号", max_size=6),
)
@strategies.examples(300)
def test_regex_agrees_with_the_standard_library(pattern, value):
    """Patterns that are valid in both dialects have the same meaning in both."""
    if pattern:
        assert (re.fullmatch(pattern, value) is not None) is Regex(pattern)(value)


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("(a+)+$", "a" * MEGABYTE + "b", False),
        ("(a*)*b", "a" * MEGABYTE, False),
        ("((a+)+)+b", "a" * MEGABYTE, False),
        ("(a|aa)+$", "a" * MEGABYTE + "b", False),
        ("(.*)(.*)(.*)(.*)(.*)(.*)(.*)[^a]", "a" * MEGABYTE, False),
        ("(x+x+)+y", "x" * MEGABYTE, False),
        ("((a{0,30}){0,30})*b", "a" * 100_000, False),
        ("(a?){500}(a){500}", "a" * 500, True),
        (".*,.*,.*,.*,.*,.*,.*,.*,.*,P", "," * MEGABYTE, False),
        ("(a|b)*a(a|b){13}", "ab" * 250_000 + "aab" * 160_000, True),
        ("[^号]*", "\U0001f600" * 250_000, True),
    ],
    ids=range(11),
)
def test_regexes_are_fast(pattern, value, expected):
    """The time is linear in the length of the value, even for patterns that make a backtracking engine hang."""
    with promptly():
        assert expected is Regex(pattern)(value)


@pytest.mark.parametrize("test", [Wildcard("a*"), Wildcard("a*", ignore_case=True), Regex("a.*"), Regex("(?s).*")])
@pytest.mark.parametrize("value", NOT_STRINGS)
def test_patterns_match_strings_only(test, value):
    """A pattern is false of bytes, numbers, null, lists and objects."""
    assert test(value) is False


@pytest.mark.parametrize(
    "test",
    [
        Prefix("a"),
        Wildcard("a*"),
        Wildcard(r"a\*\\*"),
        Wildcard("A*", ignore_case=True),
        Wildcard(Colour.red),
        Regex("a+"),
        Regex(r"[^\n'\"]*", ignore_case=True),
        Regex("a\0b\n"),
        Regex(Colour.red),
    ],
    ids=repr,
)
def test_text_tests_are_values(test):
    """Text tests can be copied, pickled and evaluated from their repr. They are frozen."""
    for again in (
        rebuilt(test),
        copy.copy(test),
        copy.deepcopy(test),
        pickle.loads(pickle.dumps(test)),
    ):
        assert test == again
        assert hash(test) == hash(again)
        assert repr(test) == repr(again)
        assert [test(value) for value in ["a", "ab", "", "r*d"]] == [again(value) for value in ["a", "ab", "", "r*d"]]
    with pytest.raises(AttributeError, match="frozen"):
        test.pattern = "b"
    with pytest.raises(TypeError):
        vars(test)


def test_tests_of_different_classes_are_not_equal():
    """Tests with equal texts are equal only if they have the same class."""
    tests = [kind("a") for kind in (Prefix, Suffix, Substring, Wildcard, Regex)]
    assert len(set(tests)) == len(tests)
    assert Wildcard("a*") == Wildcard("a*") != Wildcard("*a")
    assert Regex("a") == Regex("a") != Regex("b")


@pytest.mark.parametrize(
    ("test", "text"),
    [
        (Wildcard("a*b"), "text like 'a*b'"),
        (Regex(r"\d"), r"text like '\\d'"),
        (AnythingBut(Wildcard("a*")), "anything but text like 'a*'"),
    ],
)
def test_expectations_of_patterns(test, text):
    """The expectation of a pattern shows the pattern."""
    assert text == test.expectation


def test_patterns_inside_other_tests():
    """Patterns can be applied to elements and negated, like all tests."""
    assert Some(Wildcard("a*"))(["b", "ab"]) is True
    assert Every(Regex("a+"))(["a", "aa", "b"]) is False
    assert AnythingBut(Regex("a+"))("\ud800") is True
    assert Field("a", Regex("x+"))(JSONMessage.of({"a": "xx"})) is True
    assert Field("a", Wildcard("*"))(JSONMessage.of({})) is False


def test_regex_without_the_extra(monkeypatch):
    """Without google-re2, creating or unpickling a `Regex` raises an error that names the extra."""
    stored = pickle.dumps(Regex("a"))
    monkeypatch.setitem(sys.modules, "re2", None)
    for make in (lambda: Regex("a"), lambda: pickle.loads(stored)):
        with pytest.raises(MissingExtra, match=r"Regex needs an extra: pip install 'missive\[regex\]>=0.9'"):
            make()


def test_optional_modules_are_loaded_on_first_use():
    """`import missive` loads neither re2 nor ipaddress, and most tests do not need them."""
    code = (
        "import sys; before = set(sys.modules); from missive.matchers import *; "
        "Wildcard('a*')('a'); NatsPattern('a')('a'); "
        "print([name for name in ('re2', 'ipaddress') if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
