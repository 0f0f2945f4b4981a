"""The façade from adapters to the engine. The first run imports the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from missive.adapters.base import Adapter


def run(*adapters: Adapter) -> None:
    """Process the messages of one or several adapters until their input ends or a signal arrives.

    Adapters of the same processor share its concurrency and its dead letter store. SIGINT and SIGTERM drain: intake
    stops, running handlers finish, and their messages are settled. A second signal stops at once. Raise SystemExit(1),
    after one line on standard error, when processing fails or is cut short. Raise SystemExit(2) for a mistake in the
    configuration.
    """
    from missive.engine import runner  # noqa: PLC0415 - `import missive` does not load the engine

    runner.run(*adapters)


async def serve(*adapters: Adapter) -> None:
    """Process the messages of one or several adapters inside a running loop, until their input ends.

    Async handlers run on the caller's loop. Cancelling the call drains first. Raise `MissiveError` when processing
    fails or is cut short.
    """
    from missive.engine import runner  # noqa: PLC0415 - as above

    await runner.serve(*adapters)
