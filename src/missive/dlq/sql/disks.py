"""Which file systems lie on another machine: a write-ahead log needs memory that all of its users share."""

from __future__ import annotations

from pathlib import Path

_ELSEWHERE = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)


def network_disk(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
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
