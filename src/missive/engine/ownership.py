"""Ownership: an application without an explicit name shares no store with another one."""

from __future__ import annotations

from typing import Any

from missive.app.processor import Processor
from missive.dlq.contract import Sink, Store
from missive.errors import UsageError


def register_application(processor: Processor[Any], sink: Sink | None) -> None:
    """Note in a store that an application has opened it.

    Raises `UsageError` when the application has no explicit name, and the store is on a server or another application
    has opened it: their records would mix. Raises `StoreError` when the store fails.
    """
    if not isinstance(sink, Store):
        return
    if processor.identity.is_explicit:
        sink.register(processor.name, None)
    elif sink.on_server:
        raise UsageError(_server_refusal(processor, sink))
    elif others := sink.register(processor.name, processor.identity.target(processor)):
        raise UsageError(_shared_refusal(processor, sink, others))


def find_refusal(processor: Processor[Any], sink: Sink) -> str | None:
    """Return the text with which `register_application` would refuse an application, or None. Changes nothing.

    Raises `StoreError` when the store fails.
    """
    if not isinstance(sink, Store) or processor.identity.is_explicit:
        return None
    if sink.on_server:
        return _server_refusal(processor, sink)
    ours = processor.name, processor.identity.target(processor)
    others = {name: target for name, target in sink.applications().items() if (name, target) != ours}
    return _shared_refusal(processor, sink, others) if others else None


def _server_refusal(processor: Processor[Any], store: Store) -> str:
    return (
        f"{_url_of(store)} is on a server, which other applications can use, and {processor.name} is only the default"
        f" name of this application. {_remedy(processor.name)}"
    )


def _shared_refusal(processor: Processor[Any], store: Store, others: dict[str, str | None]) -> str:
    name, target = min(others.items())
    return (
        f"another application has opened {_url_of(store)}: {name}{f' ({target})' if target else ''}, and"
        f" {processor.name} is only the default name of this application ({processor.identity.target(processor)})."
        f" Use another store for it. Or: {_remedy(processor.name)}"
    )


def _remedy(name: str) -> str:
    return (
        "Give this application a name of its own with Processor(name=…), --name or MISSIVE_NAME. To keep the records of"
        f" {name}, use that name, or run missive dlq adopt {name} NEW"
    )


def _url_of(store: Store) -> str:
    return str(getattr(store, "url", type(store).__name__))
