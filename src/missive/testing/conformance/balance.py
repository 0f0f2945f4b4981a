"""The final account of a case: no message is lost, none is left over, and duplicates stay within their bound."""

from __future__ import annotations

from missive.errors import MissiveError
from missive.testing.conformance.checks import check
from missive.testing.conformance.driver import QUIET_SECONDS, Driver
from missive.transport import Delivery, Session


async def balance(driver: Driver) -> None:
    """Close the sessions, ack the rest of the messages, and compare the log with the source.

    Raise `ConformanceError` for a lost message, a message that is left over, and duplicates above the bound.
    """
    await driver.close_all(MissiveError)
    log = driver.log
    if not driver.harness.reads_once:
        await _take_the_rest(driver)
    lost = {body for body in log.published if not log.delivered[body] and not log.handled[body]}
    check(not lost, f"{len(lost)} messages are lost")
    bound = _bound(driver)
    check(
        driver.duplicates <= bound,
        f"{driver.duplicates} duplicates after {driver.faults} faults, and the bound is {bound}",
    )


async def _take_the_rest(driver: Driver) -> None:
    """Ack the messages that no handler finished, then prove that the source is empty."""
    log, harness = driver.log, driver.harness
    session = await driver.open()
    open_ = {body for body in log.published if body not in log.confirmed and not log.handled[body]}
    if open_:
        # The transport may or may not redeliver a message whose ack had no answer.
        certain = open_ - log.requested
        waits = bool(certain) or bool(await driver.in_thread(harness.remaining))
        seconds = harness.redelivery_seconds if waits else QUIET_SECONDS
        await driver.settle(session, await driver.take(session, len(open_), seconds, least=len(certain)))
    while extra := await driver.take(session, 1, await _quiet_seconds(driver, session), least=0):
        # A handled message may be redelivered when it was not committed on a cumulative transport, and after a fault.
        allowed = session.capabilities.commit == "cumulative" or driver.faults
        check(_is_repeated(driver, extra[0]) and allowed, "a message is left over at the source")
        driver.duplicates += bool(driver.faults)
        await driver.settle(session, extra)
    await driver.close(session)
    await driver.until_empty()


async def _quiet_seconds(driver: Driver, session: Session) -> float:
    """Return how long the source must deliver nothing to count as empty, in seconds."""
    if session.capabilities.commit != "cumulative":
        return QUIET_SECONDS
    left = await driver.in_thread(driver.harness.remaining)
    return driver.harness.redelivery_seconds if left else QUIET_SECONDS


def _is_repeated(driver: Driver, delivery: Delivery) -> bool:
    return bool(driver.log.handled[delivery.body]) and delivery.body not in driver.log.confirmed


def _bound(driver: Driver) -> int:
    """Return the number of duplicates that the faults of the case explain."""
    declared, each = driver.capabilities, driver.harness.duplicates
    # With confirmed acks, a fault repeats only the messages that the engine held. Otherwise it may also repeat acked
    # messages whose ack was on its way.
    if declared is not None and declared.commit == "each" and declared.replies:
        each = min(each, driver.credit)
    return driver.faults * each + driver.forgotten
