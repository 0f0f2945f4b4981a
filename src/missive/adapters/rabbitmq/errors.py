"""What goes wrong with RabbitMQ, by its codes and pika's types; never by their texts, which may hold more than we know.

Replies of the broker: https://www.rabbitmq.com/amqp-0-9-1-reference#constants
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pika import exceptions

from missive.errors import Fatal, Transient

if TYPE_CHECKING:
    from missive.adapters.rabbitmq.adapter import RabbitMQAdapter

_ACCESS_REFUSED, _NOT_FOUND, _RESOURCE_LOCKED, _NOT_ALLOWED = 403, 404, 405, 530
_OTHER_NAME = (62, 64)
"""OpenSSL's codes of a certificate for another host name, or address."""
_REFUSED = re.compile(r"\[SSL: (\w*ALERT_\w*(?:CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE)\w*)\]")
"""OpenSSL's constants of a broker's refusal; pika puts the error that has them into a text of its own."""


@contextlib.contextmanager
def translated(adapter: RabbitMQAdapter) -> Iterator[None]:
    """Raise `Fatal` or `Transient` for what the client raises."""
    try:
        yield
        return
    except exceptions.AMQPError as error:
        raised = trouble(error, adapter)
    raise raised


def trouble(error: BaseException, adapter: RabbitMQAdapter, queue: str | None = None) -> Exception:
    """Return the `Fatal` or `Transient` of what pika says, while it was asked about a queue."""
    url = adapter.url
    if isinstance(error, (Fatal, Transient)):
        return error
    found = causes(error)
    if (refusal := _of_certificates(found, adapter)) is not None:
        return refusal
    if any(isinstance(cause, exceptions.AMQPHeartbeatTimeout) for cause in found):
        return Transient(f"{url}: the connection is half open: nothing came in twice its heartbeat")
    codes = {code for cause in found if isinstance(code := getattr(cause, "reply_code", None), int)}
    kinds = tuple(type(cause) for cause in found if not _is_guess(cause))
    if not kinds:
        return Transient(f"{url}: the connection failed while logging in")
    if exceptions.ProbableAuthenticationError in kinds or exceptions.AuthenticationError in kinds:
        return Fatal(f"{url} refused the credentials of user {adapter.address.username}")
    if exceptions.ProbableAccessDeniedError in kinds or _NOT_ALLOWED in codes:
        return Fatal(f"{url}: there is no virtual host {adapter.address.vhost}, or the user may not use it")
    which = queue or adapter.destination
    if _ACCESS_REFUSED in codes:
        return Fatal(
            f"{url}: user {adapter.address.username} may not read the queue {which}, or the credentials are wrong"
        )
    if _NOT_FOUND in codes:
        return Transient(f"{url}: there is no queue {which}")
    if _RESOURCE_LOCKED in codes:
        return Transient(f"{url}: another connection has the queue {which} for itself")
    code = f" (code {min(codes)})" if codes else ""
    return Transient(f"{url}: the connection failed{code}: {kinds[-1].__name__}")


def _of_certificates(found: list[BaseException], adapter: RabbitMQAdapter) -> Fatal | None:
    """Return what is wrong with the certificates; what OpenSSL says of one is a constant of its own."""
    url = adapter.url
    for cause in found:
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _OTHER_NAME:
                return Fatal(f"{url}: the broker's certificate is not for the host {adapter.address.host}")
            says = f"{url}: the broker's certificate is not trusted ({cause.verify_message})"
            return Fatal(f"{says}: ca_file= names who signed it")
        if (refused := _REFUSED.search(str(cause))) is not None:
            says = f"{url}: the broker asks for a certificate, or refused the one it was shown"
            return Fatal(f"{says} ({refused[1].lower()}): cert_file= and key_file= name it")
    return None


def causes(error: BaseException) -> list[BaseException]:
    """Return an exception and those that pika put inside it."""
    found = [error]
    for inside in (getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args):
        if isinstance(inside, BaseException) and inside is not error:
            found += causes(inside)
    return found


def _is_guess(error: BaseException) -> bool:
    """Tell whether pika took a connection that was lost during the handshake for a refusal.

    RabbitMQ says a refusal: https://www.rabbitmq.com/docs/auth-notification; it is then quoted in pika's error.
    """
    probable = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)
    return isinstance(error, probable) and exceptions.StreamLostError.__name__ in str(error.args[:1])
