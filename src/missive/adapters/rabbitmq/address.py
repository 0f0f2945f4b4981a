"""The address of a broker: host, credentials and certificates, and pika's parameters for them."""

from __future__ import annotations

import copy
import ssl
from dataclasses import dataclass
from typing import Any

from missive.errors import Fatal, UsageError


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """PEM files of the trusted authorities and of the client's certificate."""

    ca_file: str | None = None
    """The authorities that may sign the broker's certificate; None for the authorities of the machine."""
    cert_file: str | None = None
    """The client's certificate; None to send no certificate."""
    key_file: str | None = None
    """The key of `cert_file`; None if `cert_file` includes the key."""
    verify: bool = True
    """Whether to verify the broker's certificate and its host name."""

    def __post_init__(self) -> None:
        if self.key_file is not None and self.cert_file is None:
            raise UsageError("key_file= needs the certificate of the key: add cert_file=")
        if self.ca_file is not None and not self.verify:
            raise UsageError("ca_file= has no effect without verification: leave out ca_file= or verify=false")

    def context(self) -> ssl.SSLContext:
        """Read the files and return a TLS context. Raise `Fatal` for an unreadable or unsuitable file."""
        name, file = "ca_file", self.ca_file
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.cert_file is not None:
                name, file = "cert_file", self.cert_file
                # OpenSSL would prompt on the terminal for the password of an encrypted key.
                context.load_cert_chain(self.cert_file, self.key_file, password=str)
        except (OSError, ValueError) as cause:
            unsuitable = "not a PEM file of this kind, or the key does not match the certificate"
            reason = unsuitable if isinstance(cause, ssl.SSLError) else "not found"
            error = Fatal(f"{name}={file} cannot be read: {getattr(cause, 'strerror', None) or reason}")
        else:
            return context
        raise error


@dataclass(frozen=True, slots=True)
class Address:
    """One broker with the credentials for it. The repr leaves out the password."""

    host: str
    port: int
    vhost: str
    username: str
    password: str
    tls: TLSFiles | None = None
    heartbeat: int | None = None
    """The heartbeat to request from the broker, in seconds; None for the broker's proposal."""
    parameters: Any = None
    """Parameters of pika that the application made; they replace all other fields."""

    def __post_init__(self) -> None:
        if self.heartbeat is not None and self.heartbeat < 1:
            raise UsageError("heartbeat= must be a whole number of at least 1 second")

    @property
    def url(self) -> str:
        """The broker and virtual host, without credentials."""
        vhost = "" if self.vhost == "/" else self.vhost
        return f"{'rabbitmq' if self.tls is None else 'amqps'}://{self.host}:{self.port}/{vhost}"

    def pika_parameters(self, service: str) -> Any:
        """Return pika's parameters for a connection named after `service`.

        Raise `Fatal` for a certificate file that cannot be read.
        """
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


def address_of(parameters: Any) -> Address:
    """Return the address in parameters of pika. Raise `UsageError` for any other object."""
    from pika.connection import Parameters  # noqa: PLC0415 - an extra

    if not isinstance(parameters, Parameters):
        raise UsageError("connection_parameters= must be a pika.ConnectionParameters or a pika.URLParameters")
    username = getattr(parameters.credentials, "username", "")  # credentials by certificate have no user name
    tls = None if parameters.ssl_options is None else TLSFiles()
    return Address(parameters.host, parameters.port, parameters.virtual_host, username, "", tls, parameters=parameters)
