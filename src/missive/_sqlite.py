"""SQLite files: the journal mode, and network file systems, on which SQLite's locks do not work."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

_NETWORK_TYPES = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)
_MAX_PAUSE = 0.01
"""Maximum pause between two attempts to get a lock, in seconds."""


def enable_wal(connection: sqlite3.Connection, seconds: float) -> None:
    """Switch a database to write-ahead logging and sync every transaction.

    Raise `sqlite3.OperationalError` if the file stays locked for `seconds`. SQLite's own timeout does not apply when
    several connections change the journal mode of a new file at the same time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(random.random() * _MAX_PAUSE)  # noqa: S311 - a random pause separates the competing connections
    connection.execute("PRAGMA synchronous=FULL")


def network_filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """Return the type of the network file system that contains a path.

    Return None for a local file system, and on systems without a readable `mounts` file.
    """
    try:
        lines = [line.split() for line in mounts.read_text(errors="replace").splitlines()]
    except OSError:
        return None
    where = path.absolute().resolve()
    # The last mount on a directory hides the earlier ones.
    found = [(len(line[1]), n, line[2]) for n, line in enumerate(lines) if where.is_relative_to(_unescaped(line[1]))]
    kind = max(found)[2] if found else ""
    return kind if kind in _NETWORK_TYPES else None


def _unescaped(text: str) -> str:
    for escape, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, sign)
    return text
