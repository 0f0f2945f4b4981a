"""Processing hooks: they run at the start and the end of a worker, and its resources close after them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from missive.app.context import ProcessingContext, ProcessingHook
from missive.engine.workers.handlers import resolved
from missive.errors import ProcessingFailed
from missive.routing.route import callable_name


def run_hooks(hooks: Sequence[ProcessingHook], context: ProcessingContext[Any]) -> ProcessingFailed | None:
    """Run sync processing hooks. Return the failure that must stop the processor, or None."""
    for hook in hooks:
        try:
            hook(context)
        except BaseException as error:  # noqa: BLE001 - any exception stops the processor
            return _hook_failed(hook, error)
    return None


async def run_async_hooks(hooks: Sequence[ProcessingHook], context: ProcessingContext[Any]) -> None:
    """Run processing hooks on a loop. Raises `ProcessingFailed`, which does not chain the exception of the hook."""
    for hook in hooks:
        try:
            await resolved(hook(context))
        except BaseException as error:  # noqa: BLE001 - any exception stops the processor
            failed = _hook_failed(hook, error)
        else:
            continue
        raise failed


def end_worker(
    hooks: Sequence[ProcessingHook], context: ProcessingContext[Any], resolve: Callable[[Awaitable[Any]], object]
) -> ProcessingFailed | None:
    """Run the `after_processing` hooks of a sync worker, then close its resources. Return the first failure."""
    failed = run_hooks(hooks, context)
    closed = None if context.opened is None else context.opened.close(resolve)
    return failed or closed


async def end_async_worker(hooks: Sequence[ProcessingHook], context: ProcessingContext[Any]) -> None:
    """Run the `after_processing` hooks of async workers, then close their resources. Raises the first failure."""
    failed: ProcessingFailed | None = None
    try:
        await run_async_hooks(hooks, context)
    except ProcessingFailed as raised:
        failed = raised
    closed = None if context.opened is None else await context.opened.aclose()
    failed = failed or closed
    if failed is not None:
        raise failed


def _hook_failed(hook: ProcessingHook, error: BaseException) -> ProcessingFailed:
    return ProcessingFailed(f"the hook {callable_name(hook)} raised {type(error).__qualname__}")
