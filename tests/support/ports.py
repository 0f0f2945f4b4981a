"""Free ports on the loopback interface, for brokers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

HOST: Final = "127.0.0.1"

# Below Linux's range for outgoing connections: while the node is down, a client that keeps trying to connect must
# neither be given the node's port as its own nor, on loopback, end up connected to itself.
PORTS: Final = range(10_240, 32_768)


def free_port() -> int:
    """Return a port that nobody listens on."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return so many different ports that nobody listens on."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports on {HOST} between {PORTS.start} and {PORTS.stop - 1}")
