"""The dead letter store that a run or an operator's command uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from missive.dlq import DLQ, Store, open_store
from missive.errors import UsageError

if TYPE_CHECKING:
    from missive.adapters.base import Adapter

DEFAULT_FILE = "missive-dlq.db"
DEFAULT_DLQ = f"sqlite:///{DEFAULT_FILE}"
"""The store of a run from a file or from standard input that names no other."""


def choose_dlq(adapters: Sequence[Adapter], url: str | None) -> DLQ:
    """Return the place for dead letters of a run: `url`, else the processor's own, else `DEFAULT_DLQ`.

    Raise `UsageError` when nothing names a store and a source needs one: a default file in the working directory would
    be lost with its container.
    """
    own = adapters[0].processor.dlq
    if url is not None or own is not None:
        return own if url is None else url
    for adapter in adapters:
        if not adapter.default_store:
            raise UsageError(
                f"{adapter.url} needs a dead letter store: name one with --dlq sqlite:////var/lib/app/dlq.db,"
                " MISSIVE_DLQ or Processor(dlq=…); a file inside a container is lost with the container"
            )
    return DEFAULT_DLQ


def open_named_store(url: str | None, *, create: bool = False) -> Store:
    """Open the existing store of `url`, or `DEFAULT_DLQ` when there is no URL and the file exists.

    With `create`, create a store that does not exist. Only a URL names a new store.

    Raise `UsageError` when neither names a store, and `StoreError` when the store cannot be opened.
    """
    if url is None and not Path(DEFAULT_FILE).exists():
        raise UsageError("name the dead letter store: --dlq sqlite:///path/to/dlq.db, or MISSIVE_DLQ")
    return open_store(url or DEFAULT_DLQ, create=create)
