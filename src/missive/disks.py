"""Disks: which kind one is that a file is on, for SQLite's locks do not work over a network."""

from __future__ import annotations

from pathlib import Path

_NETWORK = frozenset({"9p", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"})
_MOUNTS = Path("/proc/self/mounts")


def network_disk(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the kind of network disk that a path is on; None for a local one, or where that cannot be told."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    place = path.resolve()
    found = ("", "")
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if place.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1] if found[1] in _NETWORK else None
