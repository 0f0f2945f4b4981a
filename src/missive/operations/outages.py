"""Operations that outlive a restart of the dead letter store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from missive.errors import StoreError, StoreRefused

_PAUSE = 1.0
"""Pause between two tries, in seconds."""

T = TypeVar("T")

logger = logging.getLogger("missive")


def survive(call: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """Call the store until it answers, and return the result. One line reports the outage.

    Raises `StoreRefused` when the store cannot do this at all.
    """
    failed = False
    while True:
        try:
            return call()
        except StoreRefused:
            raise
        except StoreError as error:
            if not failed:
                logger.warning("%s; waiting until it works again", error)
            failed = True
        sleep(_PAUSE)
