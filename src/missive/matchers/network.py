"""`Cidr`, a test for IP addresses in a network."""

from __future__ import annotations

from typing import Any

from missive.errors import RegistrationError
from missive.matchers.tests import Test
from missive.matchers.values import excerpt

_BITS = {4: 32, 6: 128}
_MAX_ADDRESS = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")
_BYTES = {str(number): number for number in range(256)}
"""The valid parts of an IPv4 address. Leading zeros, which some programs read as octal, and signs are invalid."""


class Cidr(Test):
    """The value is a string with one IP address in a network: `Field("ip", Cidr("10.0.0.0/8"))`.

    The string is the whole address, without a port, a prefix length or spaces. An IPv6 address with a zone
    (`fe80::1%eth0`) never matches, because zones are local to a host. An IPv4 network contains no IPv6 address, and
    `::ffff:10.0.0.1` is an IPv6 address. A network without a prefix length is one address.
    """

    __slots__ = ("first", "last", "network", "prefix_length", "version")
    network: str
    """The network as text, in normal form."""
    version: int
    """The IP version: 4 or 6."""
    prefix_length: int
    """Number of leading bits that all addresses share."""
    first: int
    """The first address, as an integer."""
    last: int
    """The last address, as an integer (inclusive)."""

    def __init__(self, network: str) -> None:
        version, first, prefix_length = _parsed(network)
        spare = _BITS[version] - prefix_length
        lowest = first >> spare << spare
        normal = f"{_written(version, lowest)}/{prefix_length}"
        if first != lowest:
            raise RegistrationError(
                f"Cidr({excerpt(network)}) is not the first address of its network: use Cidr({normal!r}), "
                f"or Cidr({_written(version, first)!r}) for this address alone"
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


def network_of(text: str) -> str:
    """Return the network of an address with a prefix length: `10.0.0.0/8` for `10.1.2.3/8`.

    Raise `RegistrationError` if the text is not an address, a slash and a prefix length.
    """
    version, number, prefix_length = _parsed(text)
    spare = _BITS[version] - prefix_length
    return f"{_written(version, number >> spare << spare)}/{prefix_length}"


def _parsed(network: object) -> tuple[int, int, int]:
    """Return the IP version, the number of the address, and the prefix length."""
    if not isinstance(network, str):
        raise RegistrationError(f"Cidr takes a str such as '10.0.0.0/8', not {type(network).__name__}")
    text, slash, length = network.partition("/")
    parsed = address(text)
    if parsed is None:
        raise RegistrationError(
            f"Cidr({excerpt(network)}) is not a network: write the first address, a slash and the number of bits "
            "that all addresses share, such as '10.0.0.0/8' or '2001:db8::/32'"
        )
    version, first = parsed
    bits = _BITS[version]
    if not slash:
        length = str(bits)
    if not (length.isascii() and length.isdigit()) or len(length) > len(str(bits)) or int(length) > bits:
        raise RegistrationError(
            f"Cidr({excerpt(network)}) has no valid prefix length after the slash: IPv{version} takes 0 to {bits}"
        )
    return version, first, int(length)


def address(value: object) -> tuple[int, int] | None:
    """Return the version (4 or 6) and the number of an IP address in a string, or None if it is not an address."""
    if not isinstance(value, str) or len(value) > _MAX_ADDRESS:
        return None
    if ":" not in value:
        try:
            a, b, c, d = value.split(".")
            return 4, _BYTES[a] << 24 | _BYTES[b] << 16 | _BYTES[c] << 8 | _BYTES[d]
        except (ValueError, KeyError):
            return None
    # Reject times, URLs and other text with a colon before the library raises a slow exception.
    if value.strip("0123456789abcdefABCDEF:."):
        return None
    from ipaddress import AddressValueError, IPv6Address  # noqa: PLC0415 - few applications match IPv6 addresses

    try:
        return 6, int(IPv6Address(value))
    except AddressValueError:
        return None


def _written(version: int, number: int) -> str:
    from ipaddress import IPv4Address, IPv6Address  # noqa: PLC0415 - few applications use Cidr

    return str(IPv4Address(number) if version == 4 else IPv6Address(number))  # noqa: PLR2004 - the IP version
