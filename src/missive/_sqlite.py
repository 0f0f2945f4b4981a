"""SQLite files: their mode, their log, and network file systems, on which SQLite's locks do not work."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import time
from pathlib import Path

_NETWORK_TYPES = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)
_MAX_PAUSE = 0.01
"""Maximum pause between two attempts to get a lock, in seconds."""

_ERASE_MS = 200
"""Time to wait for readers of the write-ahead log, in milliseconds."""


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


def create_private(path: Path) -> None:
    """Create a file with mode 0600 unless it exists. SQLite gives its log files the same mode."""
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def readable_by_others(path: Path) -> str | None:
    """Return why other users can read a file, in one line with the remedy, or None."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    if not mode & 0o077:
        return None
    return f"{path} has mode {mode:04o}, so other users can read its messages: chmod 600 {path}*"


def erase_log(connection: sqlite3.Connection) -> None:
    """Move the write-ahead log to the file and empty it, unless another connection reads it at this moment."""
    (seconds,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout={_ERASE_MS}")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute(f"PRAGMA busy_timeout={seconds}")


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
