"""Idempotency: let the effect of a message happen once, even when the message is delivered several times.

Input: a handler's `once=` (`declaration`). Output: the claim of an effect, before the handler runs (by lease, in the
dead letter store, through the engine) or in the handler's own transaction (`table`, through `databases`).
`create_table`, `SCHEMAS` and `purge` manage the table of the transactional form, in the handler's database.
"""

from typing import TYPE_CHECKING, Any

from missive.once.declaration import Expired, Form, Once

if TYPE_CHECKING:
    from missive.once.table import SCHEMAS, create_table, purge

__all__ = ["SCHEMAS", "Expired", "Form", "Once", "create_table", "purge"]


def __getattr__(name: str) -> Any:
    # The modules that talk to databases load at their first use.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from missive.once import table  # noqa: PLC0415 - see above

    return getattr(table, name)
