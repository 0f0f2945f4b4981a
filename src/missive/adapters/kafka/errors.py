"""What goes wrong with Kafka, by its codes; never by the client's texts, which may hold more than we know."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError as E

from missive.errors import Fatal

if TYPE_CHECKING:
    from missive.adapters.kafka.adapter import KafkaAdapter

# Names with an underscore are the client's own errors, the others the broker's: both are confluent-kafka's public ones.
FENCED = {E.UNKNOWN_MEMBER_ID, E._ASSIGNMENT_LOST, E._FENCED}  # noqa: SLF001
"""The partition is somebody else's by now.

Not so for a generation or an epoch that is past: the group has just moved on, and what partitions this member keeps it
is about to hear.
"""
UNANSWERED = {E._TIMED_OUT, E._TRANSPORT, E.REQUEST_TIMED_OUT, E.NETWORK_EXCEPTION}  # noqa: SLF001
NOT_YET = {E.NOT_COORDINATOR, E.COORDINATOR_LOAD_IN_PROGRESS, E.COORDINATOR_NOT_AVAILABLE, E.UNSTABLE_OFFSET_COMMIT}
"""The coordinator of the group cannot tell yet."""
RESET = {E._AUTO_OFFSET_RESET, E.OFFSET_OUT_OF_RANGE, E._LOG_TRUNCATION}  # noqa: SLF001
ALL_DOWN = E._ALL_BROKERS_DOWN  # noqa: SLF001
_REFUSED = {
    E._AUTHENTICATION,  # noqa: SLF001
    E.SASL_AUTHENTICATION_FAILED,
    E.CLUSTER_AUTHORIZATION_FAILED,
    E.UNSUPPORTED_SASL_MECHANISM,
    E.ILLEGAL_SASL_STATE,
}
_GROUP_TYPE = {E.INCONSISTENT_GROUP_PROTOCOL, E.UNSUPPORTED_ASSIGNOR}
_INSTANCE = {E.FENCED_INSTANCE_ID, E.UNRELEASED_INSTANCE_ID}
_NAME = {E.INVALID_GROUP_ID, E.TOPIC_EXCEPTION}
_NO_TOPIC = {E.UNKNOWN_TOPIC_OR_PART, E._UNKNOWN_TOPIC, E._UNKNOWN_PARTITION}  # noqa: SLF001


def translated(error: Any, adapter: KafkaAdapter) -> Fatal | None:
    """Return what no other connection would do better; None for what may pass."""
    url, code = adapter.url, error.code()
    if code in _REFUSED:
        who = "the connection" if adapter.username is None else f"the credentials of user {adapter.username}"
        return Fatal(f"{url} refused {who} ({error.name()})")
    if code == E.TOPIC_AUTHORIZATION_FAILED:
        return Fatal(f"{url}: this user may not read {adapter.destination}")
    if code == E.GROUP_AUTHORIZATION_FAILED:
        return Fatal(f"{url}: this user may not be in the group {adapter.group}")
    if code in _GROUP_TYPE:
        return Fatal(
            f"{url}: the group {adapter.group} is of consumers of another type, or that share partitions in another"
            " way: use another group, or the same partition.assignment.strategy"
        )
    if code in _INSTANCE:
        return Fatal(f"{url}: another member has the instance_id {adapter.instance_id}")
    if code in _NAME:
        return Fatal(f"{url}: the broker takes no such name ({error.name()})")
    return None


def in_words(error: Any, topic: str | None) -> str:
    """Say what passes."""
    if error.code() in _NO_TOPIC:
        return f"there is no topic {topic}"
    if error.code() == E._MAX_POLL_EXCEEDED:  # noqa: SLF001
        return "this process did not poll in time, and lost its partitions"
    return str(error.name())


def setting_of(error: BaseException) -> str:
    """Say which setting the client does not take, and nothing of its value."""
    inner = error.args[0] if error.args else error
    text = inner.str() if isinstance(inner, E) else str(inner)
    named = re.search(r'property:?\s+"([A-Za-z0-9._]+)"', text)
    return f"librdkafka does not take the setting {named[1]}" if named else "librdkafka refused its settings"


def quiet_logger() -> logging.Logger:
    """Return a logger for the client's own lines, which say in many what the engine says in one."""
    logger = logging.getLogger("confluent_kafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    return logger
