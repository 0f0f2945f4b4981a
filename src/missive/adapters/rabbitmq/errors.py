"""Translate pika's errors into Missive's, by code and type and never by text, which may hold message content.

Reply codes of the broker: https://www.rabbitmq.com/amqp-0-9-1-reference#constants
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator

from pika import exceptions

from missive.adapters.rabbitmq.settings import Settings
from missive.errors import Fatal, Transient

_ACCESS_REFUSED, _NOT_FOUND, _RESOURCE_LOCKED, _NOT_ALLOWED = 403, 404, 405, 530
_NAME_MISMATCH = (62, 64)
"""OpenSSL's codes for a certificate of another host name or address."""
_TLS_ALERT = re.compile(r"\[SSL: (\w*ALERT_\w*(?:CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE)\w*)\]")
"""OpenSSL's constants for a refusal by the broker; pika quotes the error of OpenSSL in a text."""


@contextlib.contextmanager
def translated(settings: Settings) -> Iterator[None]:
    """Raise `Fatal` or `Transient` in place of an error of pika."""
    try:
        yield
        return
    except exceptions.AMQPError as error:
        translation = translate(error, settings)
    raise translation


def translate(error: BaseException, settings: Settings, queue: str | None = None) -> Exception:
    """Return the `Fatal` or `Transient` for an error of a request, which concerned `queue` unless that is None."""
    url, address = settings.url, settings.address
    if isinstance(error, (Fatal, Transient)):
        return error
    causes = _causes(error)
    if (refusal := _certificate_error(causes, settings)) is not None:
        return refusal
    if any(isinstance(cause, exceptions.AMQPHeartbeatTimeout) for cause in causes):
        return Transient(f"{url}: the connection is half open: no data arrived within twice the heartbeat")
    codes = {code for cause in causes if isinstance(code := getattr(cause, "reply_code", None), int)}
    kinds = tuple(type(cause) for cause in causes if not _is_lost_handshake(cause))
    if not kinds:
        return Transient(f"{url}: the connection failed while logging in")
    if exceptions.ProbableAuthenticationError in kinds or exceptions.AuthenticationError in kinds:
        return Fatal(f"{url} refused the credentials of user {address.username}")
    if exceptions.ProbableAccessDeniedError in kinds or _NOT_ALLOWED in codes:
        return Fatal(
            f"{url}: there is no virtual host {address.vhost}, or user {address.username} has no permission to use it"
        )
    name = queue or settings.destination
    if _ACCESS_REFUSED in codes:
        return Fatal(
            f"{url}: user {address.username} has no permission to read the queue {name}, or the credentials are wrong"
        )
    if _NOT_FOUND in codes:
        return Transient(f"{url}: there is no queue {name}")
    if _RESOURCE_LOCKED in codes:
        return Transient(f"{url}: the queue {name} is exclusive to another connection")
    code = f" (code {min(codes)})" if codes else ""
    return Transient(f"{url}: the connection failed{code}: {kinds[-1].__name__}")


def _certificate_error(causes: list[BaseException], settings: Settings) -> Fatal | None:
    """Return the error for a certificate that one side refused. OpenSSL's words for it are constants."""
    url = settings.url
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _NAME_MISMATCH:
                return Fatal(f"{url}: the broker's certificate is not for the host {settings.address.host}")
            return Fatal(
                f"{url}: the broker's certificate is not trusted ({cause.verify_message}):"
                " set ca_file= to the authority that signed it"
            )
        if (alert := _TLS_ALERT.search(str(cause))) is not None:
            return Fatal(
                f"{url}: the broker requires a client certificate, or refused the client's ({alert[1].lower()}):"
                " set cert_file= and key_file="
            )
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and all errors that pika wrapped in it."""
    found = [error]
    for inner in (getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args):
        if isinstance(inner, BaseException) and inner is not error:
            found += _causes(inner)
    return found


def _is_lost_handshake(error: BaseException) -> bool:
    """Return whether pika mistook a connection that was lost during the handshake for a refusal.

    For a refusal, RabbitMQ sends a reason (https://www.rabbitmq.com/docs/auth-notification), which pika's error quotes.
    """
    probable = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)
    return isinstance(error, probable) and exceptions.StreamLostError.__name__ in str(error.args[:1])
