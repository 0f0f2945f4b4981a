"""Cidr: the addresses in a network, and the parsing of addresses and networks."""

from __future__ import annotations

import copy
import enum
import ipaddress
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage
from missive.errors import RegistrationError
from missive.matchers import AnythingBut, Cidr, Field, Some
from missive.matchers.network import address
from tests.support import strategies
from tests.support.matchers import rebuilt
from tests.support.strategies import promptly

NOT_ADDRESSES = [
    "",
    " ",
    "1",
    "1.2",
    "1.2.3",
    "1.2.3.4.5",
    "1.2.3.",
    ".1.2.3",
    "1..2.3",
    "256.0.0.1",
    "1.2.3.999",
    "010.0.0.1",
    "10.0.0.00",
    "0x0a.0.0.1",
    "+1.2.3.4",
    "-1.2.3.4",
    "1.2.3.4 ",
    " 1.2.3.4",
    "1.2.3.4\n",
    "1.2.3.4\0",
    "1.2.3.4/32",
    "1.2.3.4:80",
    "1_0.0.0.1",
    "١.2.3.4",
    "1．2．3．4",
    "16909060",
    "localhost",
    ":",
    ":::",
    "::1::",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4::5:6:7:8",
    "::12345",
    "::g",
    "[::1]",
    "[::1]:80",
    "::1/128",
    "::1 ",
    "::1\n",
    "fe80::1%eth0",
    "fe80::1%",
    "::1.2.3",
    "::256.0.0.1",
    "::1.2.3.04",
    "2001:db8::1\ud800",
    "12:30",
    "2024-01-01T12:00:00Z",
    "http://10.0.0.1",
]
NOT_STRINGS = [None, True, False, 0, 1, 167772161, 1.5, b"", b"10.0.0.1", b"\x0a\0\0\1", [], ["10.0.0.1"], {}, ("::1",)]


class Office(enum.StrEnum):
    lund = "10.1.0.0/16"


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.0.0.0", "10.0.0.1", "10.255.255.255"], ["9.255.255.255", "11.0.0.0", "::10.0.0.1"]),
        ("10.0.0.1/32", ["10.0.0.1"], ["10.0.0.0", "10.0.0.2"]),
        ("10.0.0.1", ["10.0.0.1"], ["10.0.0.0", "10.0.0.2"]),
        ("192.168.1.128/25", ["192.168.1.128", "192.168.1.255"], ["192.168.1.127", "192.168.2.0"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "1.2.3.4"], ["::", "::1.2.3.4"]),
        ("128.0.0.0/1", ["128.0.0.0", "255.255.255.255"], ["127.255.255.255"]),
        (
            "2001:db8::/32",
            ["2001:db8::", "2001:DB8:0:0:0:0:0:1", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"],
            ["2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", "32.1.13.184"],
        ),
        ("::1/128", ["::1", "0:0:0:0:0:0:0:1", "::0.0.0.1"], ["::", "::2", "0.0.0.1"]),
        ("::1", ["::1", "0000:0000::0001"], ["::2"]),
        ("::/0", ["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1.2.3.4"], ["1.2.3.4"]),
        ("::ffff:0:0/96", ["::ffff:10.0.0.1", "::ffff:a00:1"], ["10.0.0.1", "::1"]),
        ("fe80::/10", ["fe80::1", "febf::"], ["fec0::", "fe80::1%eth0"]),
    ],
)
def test_cidr(network, inside, outside):
    """A network contains the addresses of its version from the first to the last, in any spelling."""
    assert [True] * len(inside) == [Cidr(network)(value) for value in inside]
    assert [False] * len(outside) == [Cidr(network)(value) for value in outside]


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
@pytest.mark.parametrize("value", [*NOT_ADDRESSES, *NOT_STRINGS], ids=lambda value: ascii(value)[:30])
def test_values_that_are_not_addresses(network, value):
    """A value that is not a string with exactly one address is in no network, and raises nothing."""
    assert Cidr(network)(value) is False
    assert address(value) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0", (4, 0)),
        ("1.2.3.4", (4, 0x01020304)),
        ("255.255.255.255", (4, 2**32 - 1)),
        ("::", (6, 0)),
        ("::1", (6, 1)),
        ("1::", (6, 1 << 112)),
        ("::ffff:1.2.3.4", (6, 0xFFFF01020304)),
        ("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", (6, 2**128 - 1)),
    ],
)
def test_address(text, expected):
    """`address` returns the version and the number of an address."""
    assert expected == address(text)


@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.ip_addresses(v=6).map(lambda ip: ip.exploded.upper()),
        st.text("0123456789af:.%/ x", max_size=20),
        st.lists(st.integers(0, 300), min_size=3, max_size=5).map(lambda parts: ".".join(map(str, parts))),
        st.lists(st.sampled_from(["", "0", "1", "00ff", "abcd", "12345", "1.2.3.4"]), min_size=2, max_size=9).map(
            ":".join
        ),
    )
)
@strategies.examples(500)
def test_addresses_agree_with_the_standard_library(text):
    """`address` accepts the same addresses as `ipaddress`, except those with a zone."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        assert address(text) is None
    else:
        assert (None if "%" in text else (ip.version, int(ip))) == address(text)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 32))
@strategies.examples(300)
def test_networks_agree_with_the_standard_library(one, other, length):
    """The addresses and the normal form of a network agree with `ipaddress`."""
    network = ipaddress.ip_network((one, length), strict=False)
    test = Cidr(str(network))
    assert str(network) == test.network
    assert (network.version, network.prefixlen) == (test.version, test.prefix_length)
    assert (int(network[0]), int(network[-1])) == (test.first, test.last)
    assert test(str(one)) is True
    assert (other in network) is test(str(other))


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("10.1.2.3/8", r"use Cidr\('10.0.0.0/8'\), or Cidr\('10.1.2.3'\) for this address alone"),
        ("2001:db8::1/32", r"use Cidr\('2001:db8::/32'\), or Cidr\('2001:db8::1'\)"),
        ("10.0.0.0/33", "IPv4 takes 0 to 32"),
        ("::/129", "IPv6 takes 0 to 128"),
        ("10.0.0.0/", "no valid prefix length after the slash"),
        ("10.0.0.0/-1", "no valid prefix length"),
        ("10.0.0.0/ 8", "no valid prefix length"),
        ("10.0.0.0/٨", "no valid prefix length"),
        ("10.0.0.0/008", "no valid prefix length"),
        ("10.0.0.0/8/8", "no valid prefix length"),
        ("10.0.0.0/255.0.0.0", "no valid prefix length"),
        ("10.0.0.0/" + "9" * 100_000, "no valid prefix length"),
        ("10.0.0/8", "the number of bits"),
        ("10/8", "is not a network"),
        ("/8", "is not a network"),
        ("", "is not a network"),
        ("fe80::%eth0/10", "is not a network"),
        ("localhost", "is not a network"),
        ("1" * 1_000_000, "is not a network"),
        (b"10.0.0.0/8", "Cidr takes a str such as '10.0.0.0/8', not bytes"),
        (167772160, "not int"),
        (ipaddress.ip_network("10.0.0.0/8"), "not IPv4Network"),
        (None, "not NoneType"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_invalid_network_is_refused(network, text):
    """An invalid network, or an address inside one, is refused with a short error on one line."""
    with promptly(), pytest.raises(RegistrationError, match=text) as caught:
        Cidr(network)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_spellings_of_a_network_are_equal():
    """Case, zeros and the prefix length of a single address do not affect equality."""
    assert Cidr("10.0.0.1") == Cidr("10.0.0.1/32")
    assert Cidr("10.0.0.0/08") == Cidr("10.0.0.0/8")
    assert Cidr("2001:DB8:0::/32") == Cidr("2001:db8::/32")
    assert Cidr("2001:DB8:0::/32").network == "2001:db8::/32"
    assert len({Cidr("0.0.0.0/0"), Cidr("::/0"), Cidr("0.0.0.0/1"), Cidr("::/1"), Cidr("0.0.0.0/32")}) == 5


@pytest.mark.parametrize("test", [Cidr("10.0.0.0/8"), Cidr("10.0.0.1"), Cidr("2001:DB8::/32"), Cidr(Office.lund)])
def test_networks_are_values(test):
    """A network can be copied, pickled and evaluated from its repr. It is frozen."""
    for again in (
        rebuilt(test),
        copy.deepcopy(test),
        pickle.loads(pickle.dumps(test)),
    ):
        assert test == again
        assert hash(test) == hash(again)
        assert [test(value) for value in ["10.1.0.0", "::1"]] == [again(value) for value in ["10.1.0.0", "::1"]]
    assert type(test.network) is str
    with pytest.raises(AttributeError, match="frozen"):
        test.network = "::/0"


@pytest.mark.parametrize("value", ["1" * 1_000_000, ":" * 1_000_000, "1." * 500_000, "::1" + " " * 1_000_000])
def test_long_value_is_not_parsed(value):
    """A value that is longer than every address is not parsed."""
    with promptly():
        assert not any(Cidr(network)(value) for network in ["0.0.0.0/0", "::/0"] for _ in range(10_000))


def test_cidr_in_selectors():
    """`Cidr` works in selectors and in other tests, and has an expectation."""
    message = JSONMessage.of({"ip": "10.1.2.3", "hops": ["::1", "11.0.0.1"]})
    assert Field("ip", Cidr("10.0.0.0/8"))(message) is True
    assert Field("ip", AnythingBut(Cidr("10.0.0.0/8")))(message) is False
    assert Field("hops", Some(Cidr("11.0.0.0/8")))(message) is True
    assert Cidr("10.0.0.0/8").expectation == "an address in 10.0.0.0/8"
