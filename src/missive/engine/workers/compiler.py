"""Compiler: turns the declaration of a route into the one function that a worker calls for its messages."""

from __future__ import annotations

from missive.app.terms import HandlerRoute
from missive.engine.workers.batches import compile_async_batch_handler, compile_batch_handler
from missive.engine.workers.claim_guard import guard_claims, guard_claims_async
from missive.engine.workers.handlers import (
    Clock,
    CompiledAsyncHandler,
    CompiledHandler,
    Resolve,
    compile_async_handler,
    compile_handler,
)


def compile_route(route: HandlerRoute, resolve: Resolve, clock: Clock, *, standalone: bool = False) -> CompiledHandler:
    """Compile a sync route, of single messages or of batches. For `standalone`, see `compile_handler`."""
    compiler = compile_batch_handler if route.terms.batch is not None else compile_handler
    return guard_claims(route, compiler(route, resolve, clock, standalone=standalone), clock)


def compile_async_route(route: HandlerRoute, clock: Clock, *, standalone: bool = False) -> CompiledAsyncHandler:
    """Compile an async route, of single messages or of batches. For `standalone`, see `compile_handler`."""
    compiler = compile_async_batch_handler if route.terms.batch is not None else compile_async_handler
    return guard_claims_async(route, compiler(route, clock, standalone=standalone), clock)
