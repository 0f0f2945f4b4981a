"""Find free ports on the loopback interface for brokers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

HOST: Final = "127.0.0.1"

# Stay below Linux's range for outgoing connections. Otherwise, while a broker is down, a client that retries could get
# the broker's port as its local port and, on loopback, connect to itself.
PORTS: Final = range(10_240, 32_768)


def free_port() -> int:
    """Return a port on which no process listens."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return `count` different ports on which no process listens. Raise RuntimeError if too few are free."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"fewer than {count} free ports on {HOST} between {PORTS.start} and {PORTS.stop - 1}")
