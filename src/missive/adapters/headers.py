"""Header values that a transport carries as numbers, lists or tables become text that reads back to the same value."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any


class Table(list[tuple["str | bytes", Any]]):
    """A table as pairs of name and value, in their order and with repeated names."""


def to_json(value: Any) -> str:
    """Return a value as JSON, from which the same value can be read.

    Numbers keep all digits. Bytes that are not UTF-8 become lone surrogates, as in `os.fsdecode`. Repeated names of a
    table are kept.
    """
    if isinstance(value, Table):
        return f"{{{', '.join([f'{to_json(name)}: {to_json(inner)}' for name, inner in value])}}}"
    if isinstance(value, list):
        return f"[{', '.join([to_json(inner) for inner in value])}]"
    if isinstance(value, bytes):
        return json.dumps(value.decode("utf-8", "surrogateescape"))
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def escape(name: str | bytes) -> str:
    """Return a name as text that UTF-8 can encode. Other bytes and lone surrogates are escaped with a backslash."""
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace")
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()
