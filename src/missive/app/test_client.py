"""The façade from processors to their test clients. A deployment never loads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from missive.app.options import M
    from missive.app.processor import Processor
    from missive.resources.key import Overrides
    from missive.testing.client import ClientSession as ClientSession  # noqa: PLC0414 - re-exported


def open_client(processor: Processor[M], overrides: Overrides) -> ClientSession[M]:
    """Return a test client session for a processor. `overrides` replaces resources."""
    from missive.testing.client import ClientSession  # noqa: PLC0415 - a deployment never loads the testing package

    return ClientSession(processor, overrides)
