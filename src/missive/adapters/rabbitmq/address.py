"""How the broker is reached: where, as whom, with which certificates; and pika's parameters of that."""

from __future__ import annotations

import copy
import ssl
from dataclasses import dataclass
from typing import Any

from missive.errors import Fatal, UsageError


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """Which certificates are trusted and shown; PEM files."""

    ca_file: str | None = None
    """Who may sign the broker's certificate; None for the machine's authorities."""
    cert_file: str | None = None
    """What this client shows; None for nothing."""
    key_file: str | None = None
    """The key of that; None where `cert_file` holds it too."""
    verify: bool = True
    """Whether the broker's certificate and the host name in it are checked."""

    def __post_init__(self) -> None:
        if self.key_file is not None and self.cert_file is None:
            raise UsageError("key_file= is the key of a certificate: say cert_file= too")
        if self.ca_file is not None and not self.verify:
            raise UsageError("ca_file= is what the broker's certificate is checked against: leave out verify=false")

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises `Fatal` for one that cannot be read, or is none of its kind."""
        name, file = "ca_file", self.ca_file
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.cert_file is not None:
                name, file = "cert_file", self.cert_file
                # A key under a password would be asked for at the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password=str)
        except (OSError, ValueError) as error:
            kind = (
                "no PEM file of this kind, or its key is another's" if isinstance(error, ssl.SSLError) else "not there"
            )
            trouble = Fatal(f"{name}={file} cannot be read: {getattr(error, 'strerror', None) or kind}")
        else:
            return context
        raise trouble


@dataclass(frozen=True, slots=True)
class Address:
    """One broker, and who comes to it. It is not shown: it holds the password."""

    host: str
    port: int
    vhost: str
    username: str
    password: str
    tls: TLSFiles | None = None
    heartbeat: int | None = None
    parameters: Any = None
    """A live object of pika's, which says all that is above."""

    def __post_init__(self) -> None:
        if self.heartbeat is not None and self.heartbeat < 1:
            raise UsageError("heartbeat= is a whole number of seconds, from 1")

    @property
    def url(self) -> str:
        """The broker and virtual host, without credentials."""
        vhost = "" if self.vhost == "/" else self.vhost
        return f"{'rabbitmq' if self.tls is None else 'amqps'}://{self.host}:{self.port}/{vhost}"

    def of_pika(self, service: str) -> Any:
        """Return pika's parameters. Raises `Fatal` for certificates that cannot be read."""
        import pika  # noqa: PLC0415 - an extra

        name = {"connection_name": f"missive {service}"}
        if self.parameters is not None:
            parameters = copy.copy(self.parameters)
            parameters.client_properties = name | (parameters.client_properties or {})
            return parameters
        return pika.ConnectionParameters(
            self.host,
            self.port,
            self.vhost,
            pika.PlainCredentials(self.username, self.password),
            heartbeat=self.heartbeat,
            ssl_options=None if self.tls is None else pika.SSLOptions(self.tls.context(), self.host),
            client_properties=name,
        )

    def __repr__(self) -> str:
        return f"<Address: {self.url}>"


def given_address(parameters: Any) -> Address:
    """Return the address that a live object of pika's says."""
    from pika.connection import Parameters  # noqa: PLC0415 - an extra

    if not isinstance(parameters, Parameters):
        raise UsageError("connection_parameters= is a pika.ConnectionParameters or a pika.URLParameters")
    username = getattr(parameters.credentials, "username", "")  # there is none where a certificate says who it is
    tls = None if parameters.ssl_options is None else TLSFiles()
    return Address(parameters.host, parameters.port, parameters.virtual_host, username, "", tls, parameters=parameters)
