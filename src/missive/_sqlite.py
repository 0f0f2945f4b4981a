"""SQLite's files: the disk that one is on, for locks and a shared log do not work over a network, and its journal."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

_ELSEWHERE = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)
_PAUSE = 0.01
"""Seconds at the most between two tries for a lock."""


def enable_wal(connection: sqlite3.Connection, seconds: float) -> None:
    """Give a file a write-ahead log, and have each transaction synced.

    Raises `sqlite3.OperationalError` where it stays locked for so many seconds. SQLite says so at once, whatever its
    timeout, to several that do this in a new file at the same time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as trouble:
            if trouble.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(random.random() * _PAUSE)  # noqa: S311 - so that the same do not meet again
    connection.execute("PRAGMA synchronous=FULL")


def network_filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """Return the type of the network disk that a file is on, or None: it is on none, or the system does not say."""
    try:
        lines = [line.split() for line in mounts.read_text(errors="replace").splitlines()]
    except OSError:
        return None
    where = path.absolute().resolve()
    # Of two on the same directory the later one counts.
    found = [(len(line[1]), n, line[2]) for n, line in enumerate(lines) if where.is_relative_to(_unescaped(line[1]))]
    kind = max(found)[2] if found else ""
    return kind if kind in _ELSEWHERE else None


def _unescaped(text: str) -> str:
    for escape, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, sign)
    return text
