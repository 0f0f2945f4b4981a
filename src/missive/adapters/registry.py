"""From a URL to an adapter: schemes, parameters as keywords, and the entry points of third parties."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from missive.errors import UsageError
from missive.privacy import expand_environment, redact_url

if TYPE_CHECKING:
    from missive.adapters.contract import Adapter
    from missive.processor import Processor

_SCHEMES = {
    "stdin": "missive.adapters.stdin:StdinAdapter",
    "file": "missive.adapters.file:FileAdapter",
    "sqlite": "missive.adapters.sqlite:SQLiteAdapter",
    "rabbitmq": "missive.adapters.rabbitmq:RabbitMQAdapter",
    "amqp": "missive.adapters.rabbitmq:RabbitMQAdapter",
    "amqps": "missive.adapters.rabbitmq:RabbitMQAdapter",
    "kafka": "missive.adapters.kafka:KafkaAdapter",
    "redis": "missive.adapters.redis_streams:RedisStreamsAdapter",
    "rediss": "missive.adapters.redis_streams:RedisStreamsAdapter",
}
_EXAMPLES = "stdin:, file:events.jsonl, sqlite:///queue.db?queue=orders, rabbitmq://host/vhost?queue=orders"
_HOST = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:,\[\]]*))(:(?P<port>\d{0,5}))?")
_LAST_PORT = 65535
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class AdapterURL:
    """A URL in its parts, as an adapter's `from_parts` gets it."""

    whole: str
    """As it was written; it may hold a password."""
    scheme: str
    authority: str
    """Host and port, or several with commas between them, without user and password."""
    username: str | None
    password: str | None
    path: str
    parameters: Mapping[str, str]

    @property
    def host(self) -> str | None:
        """The one host, or None. Raises `UsageError` when there are several, or its port is no number."""
        return self._one()[0]

    @property
    def port(self) -> int | None:
        """The one host's port, or None. Raises `UsageError` as `host` does."""
        return self._one()[1]

    def _one(self) -> tuple[str | None, int | None]:
        match = _HOST.fullmatch(self.authority)
        if match is None or (match["port"] and int(match["port"]) > _LAST_PORT):
            # What stands there may be a part of a password that was not quoted: it is not shown.
            raise UsageError(
                f"{redact_url(self.whole)} has no host and port that can be read: quote special characters in a"
                " password as %40, or take it from the environment with ${NAME}"
            )
        return match["ipv6"] or match["name"] or None, int(match["port"]) if match["port"] else None

    def __repr__(self) -> str:
        return f"<AdapterURL: {redact_url(self.whole)}>"


def from_url(url: str, processor: Processor[Any]) -> Adapter:
    """Return the adapter that a URL describes, for a processor. Opens nothing.

    The URL's parameters are the adapter's keyword arguments. `${NAME}` in it is the environment's, to the
    character; a URL that is one variable is that variable's. Raises `UsageError` for a scheme, a parameter or a
    value that is not known.
    """
    written, url = url, expand_environment(url) if url.startswith("${") else url
    scheme = url.partition(":")[0].lower()
    if ":" not in url or (target := _find(scheme)) is None:
        raise UsageError(f"no adapter is known by the URL {redact_url(written)}: {_nearest(scheme)}")
    try:
        parts = parsed(url)
    except ValueError as error:
        raise UsageError(f"the URL {redact_url(url)} cannot be read: {_without_quotes(error)}") from None
    adapter: type[Adapter] = _load(target)
    return adapter.from_parts(parts, processor)


def parsed(url: str) -> AdapterURL:
    """Return a URL in its parts, each with what the environment has for it.

    Raises `ValueError`, which may quote the URL, for one that cannot be read, and `UsageError` for a missing variable.
    """
    parts = urlsplit(url)
    credentials, at, authority = parts.netloc.rpartition("@")
    username, colon, password = credentials.partition(":")
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
        if name in parameters:
            raise ValueError(f"{name}= is there twice")
        parameters[name] = expand_environment(value, within=url)
    return AdapterURL(
        url,
        parts.scheme,
        expand_environment(authority, within=url),
        # Unquoted before a variable's value takes its place: that value is meant to the character.
        expand_environment(unquote(username), within=url) if at else None,
        expand_environment(unquote(password), within=url) if colon else None,
        expand_environment(unquote(parts.path), within=url),
        parameters,
    )


def _without_quotes(error: ValueError) -> str:
    # What urllib complains of may quote the part that holds the password.
    return str(error).partition(":")[0].partition("'")[0].strip()


def _find(scheme: str) -> str | None:
    if scheme in _SCHEMES:
        return _SCHEMES[scheme]
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow, and only third parties need it

    return next((point.value for point in entry_points(group="missive.adapters") if point.name == scheme), None)


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _nearest(scheme: str) -> str:
    near = difflib.get_close_matches(scheme, _SCHEMES, 1)
    return f"did you mean {near[0]}:?" if near else f"known are {_EXAMPLES}"


def keywords(adapter: type[Adapter], url: AdapterURL, *, known: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a URL's parameters as keyword arguments of an adapter's constructor, each of its type.

    `known` are arguments that the URL says elsewhere, and that are no parameters. Raises `UsageError` for a
    parameter that the constructor does not take (naming the nearest that it does) or a value that does not fit.
    """
    options = {
        name: parameter
        for name, parameter in inspect.signature(adapter, eval_str=True).parameters.items()
        if name not in (*known, "processor") and _plain_type(parameter.annotation) is not None
    }
    given: dict[str, Any] = {}
    for name, value in url.parameters.items():
        if name not in options:
            near = difflib.get_close_matches(name, options, 1)
            hint = f"did you mean {near[0]}=?" if near else f"known are {', '.join(options)}"
            raise UsageError(f"{adapter.__name__} has no parameter {name}= (in {redact_url(url.whole)}): {hint}")
        given[name] = _converted(name, value, options[name].annotation, url)
    missing = [name for name, option in options.items() if option.default is option.empty and name not in given]
    if missing:
        raise UsageError(f"{redact_url(url.whole)} needs ?{missing[0]}=…")
    return given


def _plain_type(annotation: Any) -> type | None:
    """Return the type that a URL's text can be made into, or None: a live object is a keyword only."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    plain = [kind for kind in kinds if kind is not NoneType]
    return plain[0] if len(plain) == 1 and plain[0] in (str, int, float, bool) else None


def _converted(name: str, value: str, annotation: Any, url: AdapterURL) -> Any:
    kind = _plain_type(annotation) or str
    if kind is bool:
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
    else:
        try:
            return kind(value)
        except ValueError:
            pass
    wanted = {int: "a whole number", float: "a number of seconds", bool: "true or false"}[kind]
    raise UsageError(f"{name}= is {wanted} (in {redact_url(url.whole)})")
