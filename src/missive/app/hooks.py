"""Hooks: functions that run around the life of a worker, and around each message's handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from missive.app.context import HandlingHook, ProcessingHook
from missive.app.terms import HandlerRoute
from missive.errors import RegistrationError
from missive.routing.route import callable_name, is_async_callable


class Hooks:
    """The hooks of a processor, by kind."""

    __slots__ = ("after_handling", "after_processing", "before_handling", "before_processing")

    def __init__(self) -> None:
        self.before_processing: list[ProcessingHook] = []
        self.after_processing: list[ProcessingHook] = []
        self.before_handling: list[HandlingHook] = []
        self.after_handling: list[HandlingHook] = []


def refuse_async_hooks(hooks: Hooks, routes: Sequence[HandlerRoute]) -> None:
    """Raise `RegistrationError` for an async hook that must serve a sync handler.

    Processing hooks serve all routes. Handling hooks serve the routes whose terms contain them.
    """
    _refuse(chain(hooks.before_processing, hooks.after_processing), routes)
    for route in routes:
        _refuse(chain(route.terms.before, route.terms.after), [route])


def _refuse(hooks: Iterable[Callable[..., object]], routes: Sequence[HandlerRoute]) -> None:
    handler = next((route for route in routes if not route.terms.is_async), None)
    hook = None if handler is None else next(filter(is_async_callable, hooks), None)
    if handler is not None and hook is not None:
        raise RegistrationError(
            f"the hook {callable_name(hook)} is async, and the handler {handler.name} is not:"
            " make the hook a def, or the handler an async def"
        )
