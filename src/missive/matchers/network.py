"""Tests on network addresses."""

from __future__ import annotations

from typing import Any

from missive.errors import RegistrationError
from missive.matchers.tests import Test

_BITS = {4: 32, 6: 128}
_LONGEST = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")
_MOST_SHOWN = 60
_BYTES = {str(number): number for number in range(256)}
"""The numbers of an IPv4 address as they are written: no leading zeros, which some read as octal, and no signs."""


class Cidr(Test):
    """The value is a string that holds one IP address within a network: `Field("ip", Cidr("10.0.0.0/8"))`.

    An address is written in full, with no port, no prefix length and no space around. An IPv6 address with a zone
    (`fe80::1%eth0`) is none, for a zone means something on its own host alone. A network of IPv4 has no address of
    IPv6 in it, and `::ffff:10.0.0.1` is one of IPv6. A single address is a network of one.
    """

    __slots__ = ("first", "last", "network", "prefix_length", "version")
    network: str
    """The network as text, in its normal form."""
    version: int
    """4 or 6."""
    prefix_length: int
    """How many bits all its addresses have in common."""
    first: int
    """The first address, as an integer."""
    last: int
    """The last address, as an integer: it is in the network."""

    def __init__(self, network: str) -> None:
        if not isinstance(network, str):
            raise RegistrationError(f"Cidr takes a str such as '10.0.0.0/8', and not a {type(network).__name__}")
        text, slash, length = network.partition("/")
        parsed = address(text)
        if parsed is None:
            raise RegistrationError(
                f"Cidr({_shown(network)}) is no network: write its first address, a slash and the number of bits that "
                "all have in common, such as '10.0.0.0/8' or '2001:db8::/32'"
            )
        version, first = parsed
        bits = _BITS[version]
        if not slash:
            length = str(bits)
        if not (length.isascii() and length.isdigit()) or len(length) > len(str(bits)) or int(length) > bits:
            raise RegistrationError(
                f"Cidr({_shown(network)}) has no prefix length after the slash: of IPv{version} that is 0 to {bits}"
            )
        prefix_length = int(length)
        spare = bits - prefix_length
        lowest = first >> spare << spare
        normal = f"{_written(version, lowest)}/{prefix_length}"
        if first != lowest:
            raise RegistrationError(
                f"Cidr({_shown(network)}) is an address in a network and not its first: use Cidr({normal!r}), "
                f"or Cidr({_written(version, first)!r}) for it alone"
            )
        self._freeze(
            version,
            prefix_length,
            first,
            network=normal,
            version=version,
            prefix_length=prefix_length,
            first=first,
            last=first + (1 << spare) - 1,
        )

    def __call__(self, value: Any) -> bool:
        parsed = address(value)
        return parsed is not None and parsed[0] == self.version and self.first <= parsed[1] <= self.last

    @property
    def expectation(self) -> str:
        """The network."""
        return f"an address in {self.network}"

    def __repr__(self) -> str:
        return f"Cidr({self.network!r})"


def address(value: object) -> tuple[int, int] | None:
    """Return the version (4 or 6) and the number of an IP address that is written as a string, or None."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    if ":" not in value:
        try:
            a, b, c, d = value.split(".")
            return 4, _BYTES[a] << 24 | _BYTES[b] << 16 | _BYTES[c] << 8 | _BYTES[d]
        except (ValueError, KeyError):
            return None
    # What else has a colon, such as a time or a URL, is told apart before the library raises at length.
    if value.strip("0123456789abcdefABCDEF:."):
        return None
    from ipaddress import AddressValueError, IPv6Address  # noqa: PLC0415 - for who has such addresses

    try:
        return 6, int(IPv6Address(value))
    except AddressValueError:
        return None


def _written(version: int, number: int) -> str:
    from ipaddress import IPv4Address, IPv6Address  # noqa: PLC0415 - for who has networks

    return str(IPv4Address(number) if version == 4 else IPv6Address(number))  # noqa: PLR2004 - IP's version


def _shown(network: str) -> str:
    return repr(network) if len(network) <= _MOST_SHOWN else f"{network[:_MOST_SHOWN]!r}…"
