"""Translation of Kafka's errors by their codes. The client's texts do not appear: they may hold confidential data."""

from __future__ import annotations

import re
from typing import Any

from confluent_kafka import KafkaError as E

from missive.adapters.kafka.settings import Settings
from missive.errors import Fatal, Transient

# Names with an underscore are errors of the client, the others of the broker. confluent-kafka documents both as public.
FENCED = {E.UNKNOWN_MEMBER_ID, E._ASSIGNMENT_LOST, E._FENCED}  # noqa: SLF001
"""Another member owns the partition now.

Errors about an outdated generation or epoch are not in this set: the group is in a rebalance, which soon tells this
member the partitions that it keeps.
"""
UNANSWERED = {E._TIMED_OUT, E._TRANSPORT, E.REQUEST_TIMED_OUT, E.NETWORK_EXCEPTION}  # noqa: SLF001
"""The reply was lost, so the broker may have served the request."""
NOT_READY = {E.NOT_COORDINATOR, E.COORDINATOR_LOAD_IN_PROGRESS, E.COORDINATOR_NOT_AVAILABLE, E.UNSTABLE_OFFSET_COMMIT}
"""The group's coordinator cannot answer yet."""
POSITION_LOST = {E._AUTO_OFFSET_RESET, E.OFFSET_OUT_OF_RANGE, E._LOG_TRUNCATION}  # noqa: SLF001
"""The log does not contain the position of the group."""
ALL_BROKERS_DOWN = E._ALL_BROKERS_DOWN  # noqa: SLF001
_CONNECTION_REFUSED = {
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


def fatal_error(error: Any, settings: Settings) -> Fatal | None:
    """Return the exception for an error that every other connection would meet too; None for temporary errors."""
    url, code = settings.url, error.code()
    if code in _CONNECTION_REFUSED:
        refused = "the connection" if settings.username is None else f"the credentials of user {settings.username}"
        return Fatal(f"{url} refused {refused} ({error.name()}). Check the user, the password, sasl= and tls=")
    if code == E.TOPIC_AUTHORIZATION_FAILED:
        return Fatal(f"{url}: the user may not read {settings.destination}. Grant Read on the topic")
    if code == E.GROUP_AUTHORIZATION_FAILED:
        return Fatal(f"{url}: the user may not join the group {settings.group}. Grant Read on the group")
    if code in _GROUP_TYPE:
        return Fatal(
            f"{url}: the members of the group {settings.group} share partitions with another strategy or group type."
            " Use another group, or the same partition.assignment.strategy"
        )
    if code in _INSTANCE:
        return Fatal(
            f"{url}: another member has the instance_id {settings.instance_id}. Use a different one in each member"
        )
    if code in _NAME:
        return Fatal(f"{url}: the broker does not accept the name of the topic or the group ({error.name()})")
    return None


def client_failed(error: Any, settings: Settings) -> Transient:
    """Return the exception for an error that ends the session without a known cause."""
    return Transient(f"{settings.url}: the client failed ({error.name()})")


def is_tls_failure(error: Any) -> bool:
    """Return whether a TLS handshake failed. Where the peer hangs up, only the client's text says so."""
    return error.code() == E._SSL or "SSL handshake failed" in error.str()  # noqa: SLF001


def tls_failed(settings: Settings) -> Transient:
    """Return the exception for a failed TLS handshake, which may be due to a broker without TLS."""
    return Transient(
        f"{settings.url}: the TLS handshake failed. Check the broker's certificate and ssl.ca.location; if the broker"
        " has no TLS, add tls=off"
    )


def describe(error: Any, topic: str | None) -> str:
    """Describe a temporary error."""
    if error.code() in _NO_TOPIC:
        return f"the topic {topic} does not exist"
    if error.code() == E._MAX_POLL_EXCEEDED:  # noqa: SLF001
        return "this process did not poll within max.poll.interval.ms and lost its partitions"
    return str(error.name())


def describe_refused_setting(error: BaseException) -> str:
    """Describe the setting that the client refuses, without its value."""
    inner = error.args[0] if error.args else error
    text = inner.str() if isinstance(inner, E) else str(inner)
    named = re.search(r'property:?\s+"([A-Za-z0-9._]+)"', text)
    return f"librdkafka does not accept the setting {named[1]}" if named else "librdkafka does not accept its settings"
