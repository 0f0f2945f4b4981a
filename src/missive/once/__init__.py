"""Idempotency: what makes the effect of a message happen once, though the message may come more often.

`Once` declares it, for `handle_for(once=)`. `create_table`, `SCHEMAS` and `purge` are for the table of the
transactional form, which lives in the handler's own database.
"""

from typing import TYPE_CHECKING, Any

from missive.once.declaration import Expired, Form, Once

if TYPE_CHECKING:
    from missive.once.table import SCHEMAS, create_table, purge

__all__ = ["SCHEMAS", "Expired", "Form", "Once", "create_table", "purge"]


def __getattr__(name: str) -> Any:
    # Only those load what talks to databases that ask for it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from missive.once import table  # noqa: PLC0415 - see above

    return getattr(table, name)
