"""Running several adapters at once, without loading the engine before it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from missive.adapters.contract import Adapter


def run(*adapters: Adapter) -> None:
    """Process the messages of several adapters in one process, as `Adapter.run` does those of one.

    Adapters of the same processor share its concurrency and its dead letter queue.
    """
    from missive.engine.run import run as run_all  # noqa: PLC0415 - importing missive does not load the engine

    run_all(*adapters)


async def serve(*adapters: Adapter) -> None:
    """Process the messages of several adapters inside a running loop, as `Adapter.serve` does those of one."""
    from missive.engine.run import serve as serve_all  # noqa: PLC0415 - as above

    await serve_all(*adapters)
