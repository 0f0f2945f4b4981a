"""Idempotency: what makes the effect of a message happen once, though the message may come more often.

`Once` declares it, for `handle_for(once=)`. `create_table`, `SCHEMAS` and `purge` are for the table of the
transactional form, which lives in the handler's own database.
"""

from missive.once.declaration import Expired, Form, Once
from missive.once.table import SCHEMAS, create_table, purge

__all__ = ["SCHEMAS", "Expired", "Form", "Once", "create_table", "purge"]
