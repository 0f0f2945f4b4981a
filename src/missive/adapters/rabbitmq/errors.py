"""Translate pika's errors into Missive's.

The codes and the constant words of the broker's reasons select the error. An error quotes the reason up to a name that
is not in the settings: such a name may be content of a message that the application published.

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
_MAX_REASON = 300
"""Limit of a quoted reason, in characters."""
_NAME = re.compile(r"""'([^'"]*)'|["']""")
"""A name in quotes, or the start of another quotation."""
_REPLY = re.compile(r"\((\d{3})\) (['\"])(.*)\2", re.DOTALL)
"""A reply code and its reason, in the text of pika's guess why a login failed."""
_CONSUMER_TIMEOUT = re.compile(r"delivery acknowledgement .* timed out.*?(\d+) ms", re.DOTALL)
"""The reason for closing a channel on which a message was unacked for too long: rabbit_channel.erl."""
_PRECONDITION_FAILED = 406
_GUESSES = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)
"""The errors by which pika guesses the reason of a connection that was lost while it opened."""
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
    if (certificate := _certificate_error(causes, settings)) is not None:
        return certificate
    if any(isinstance(cause, exceptions.AMQPHeartbeatTimeout) for cause in causes):
        return Transient(f"{url}: the connection is half open: no data arrived within twice the heartbeat")
    if (refusal := _refusal(causes)) is not None:
        return _refused(*refusal, settings, queue or settings.destination)
    kinds = tuple(type(cause) for cause in causes if not _is_lost_handshake(cause))
    if not kinds:
        return Transient(f"{url}: the connection failed while logging in")
    if exceptions.ProbableAuthenticationError in kinds or exceptions.AuthenticationError in kinds:
        return Fatal(f"{url} refused the credentials of user {address.username}")
    if exceptions.ProbableAccessDeniedError in kinds:
        return _no_access(settings)
    return Transient(f"{url}: the connection failed: {kinds[-1].__name__}")


def _refused(code: int, reason: str, settings: Settings, queue: str) -> Fatal | Transient:
    """Return the error for a reply code and the reason that the broker gave."""
    url, user = settings.url, settings.address.username
    if code == _ACCESS_REFUSED and "in exclusive use" in reason:
        return Transient(f"{url}: another consumer uses the queue {queue} exclusively; waiting until it stops")
    if code == _ACCESS_REFUSED and "Login was refused" in reason:
        return Fatal(f"{url} refused the credentials of user {user}")
    if code == _ACCESS_REFUSED and "refused for user" in reason:
        return Fatal(f"{url}: user {user} has no permission for the queue {queue} ({_shown(reason, settings)})")
    if code == _NOT_FOUND and "no queue" in reason:
        return Transient(f"{url}: there is no queue {queue}")
    if code == _RESOURCE_LOCKED:
        return Transient(f"{url}: the queue {queue} is exclusive to another connection")
    if code == _NOT_ALLOWED and "limit" not in reason and ("not found" in reason or "refused for user" in reason):
        return _no_access(settings)
    if consumer_timeout(code, reason) is not None:
        return Transient(
            f"{url}: the broker closed the channel, because a message was unacked for longer than its consumer timeout"
            f" ({_shown(reason, settings)})"
        )
    fatal = code == _ACCESS_REFUSED
    message = f"{url}: the broker refused or closed the connection (code {code}: {_shown(reason, settings)})"
    return Fatal(message) if fatal else Transient(message)


def _no_access(settings: Settings) -> Fatal:
    address = settings.address
    return Fatal(
        f"{settings.url}: there is no virtual host {address.vhost}, or user {address.username} has no permission to use"
        " it"
    )


def consumer_timeout(code: int, reason: str) -> float | None:
    """Return the consumer timeout that made the broker close a channel, in seconds; None for another reason."""
    found = _CONSUMER_TIMEOUT.search(reason) if code == _PRECONDITION_FAILED else None
    return None if found is None else int(found[1]) / 1000


def enforced_timeout(error: BaseException) -> float | None:
    """Return the consumer timeout, in seconds, if the broker closed a channel because of it."""
    refusal = _refusal(_causes(error))
    return None if refusal is None else consumer_timeout(*refusal)


def _refusal(causes: list[BaseException]) -> tuple[int, str] | None:
    """Return the reply code of the broker and its reason, if the broker gave them."""
    for cause in causes:
        if isinstance(code := getattr(cause, "reply_code", None), int):
            return code, str(getattr(cause, "reply_text", ""))
        # While a connection opens, pika replaces the reply of the broker by an error that quotes the reply.
        quoted = _REPLY.search(str(cause.args[0])) if isinstance(cause, _GUESSES) and cause.args else None
        if quoted is not None:
            return int(quoted[1]), quoted[3]
    return None


def _shown(reason: str, settings: Settings) -> str:
    """Return a reason in one line, up to the first name that is not in the settings."""
    own = {*settings.queues, settings.address.vhost, settings.address.username, settings.dead_letter_exchange} - {None}
    foreign = next((name for name in _NAME.finditer(reason) if name[1] not in own), None)
    line = " ".join((reason if foreign is None else reason[: foreign.start()]).split())
    return line if foreign is None and len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]} …"


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
    return isinstance(error, _GUESSES) and exceptions.StreamLostError.__name__ in str(error.args[:1])
