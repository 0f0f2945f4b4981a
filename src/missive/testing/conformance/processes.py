"""The `missive` command as a process in the directory of a case."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from missive.testing.conformance.checks import check

END_SECONDS = 30.0
"""Time limit for a process to end, in seconds."""


@contextlib.asynccontextmanager
async def running(directory: Path, *arguments: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """Run a command with its output discarded, and kill the process at the end of the block."""
    process = await _start(directory, arguments, DEVNULL, env)
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def stop(process: Process) -> None:
    """Send SIGTERM and wait. Raise `ConformanceError` when the exit code is not 0."""
    process.terminate()
    async with asyncio.timeout(END_SECONDS):
        await process.wait()
    check(process.returncode == 0, f"a worker ended with exit code {process.returncode} after SIGTERM")


async def output(directory: Path, *arguments: str) -> bytes:
    """Return the output of a command. Raise `ConformanceError` when its exit code is not 0."""
    process = await _start(directory, arguments, PIPE)
    async with asyncio.timeout(END_SECONDS):
        out, _ = await process.communicate()
    check(process.returncode == 0, f"missive {' '.join(arguments[:2])} ended with exit code {process.returncode}")
    return out


async def _start(
    directory: Path, arguments: tuple[str, ...], stdout: int, env: Mapping[str, str] | None = None
) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "missive", *arguments),
        cwd=directory,
        env={**os.environ, **(env or {})},
        stdout=stdout,
        stderr=DEVNULL,
    )
