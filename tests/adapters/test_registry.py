"""The registry of adapters: schemes, parameters, environment variables, and errors without secrets."""

from __future__ import annotations

import re
import traceback

import pytest

from missive import Processor, UsageError
from missive.adapters import FileAdapter, SQLiteAdapter, StdinAdapter
from missive.adapters.base import Adapter
from missive.adapters.parameters import constructor_arguments
from missive.adapters.registry import from_url
from missive.urls import ParsedURL

SECRET = "hunter2"


class Probe(Adapter):
    """An adapter of another package. It records its URL."""

    transport = "probe"

    def __init__(
        self, processor, target="", *, size: int = 1, ratio: float = 0.5, flag: bool = False, drain: float = 25
    ):
        super().__init__(processor, drain=drain)
        self.target, self.size, self.ratio, self.flag = target, size, ratio, flag
        self.from_url = None

    @classmethod
    def from_parsed_url(cls, url, processor):
        """Record the parts of the URL."""
        adapter = cls(processor, url.authority, **constructor_arguments(cls, url, exclude=("target",)))
        adapter.from_url = url
        return adapter

    @property
    def destination(self):
        """Return the target."""
        return self.target

    async def connect(self, host):
        """Raise NotImplementedError."""
        raise NotImplementedError


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """Install a distribution with an adapter for `probe:`."""
    info = tmp_path / "probe_adapter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-adapter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[missive.adapters]\nprobe = probe_adapter:Probe\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = type(re)("probe_adapter")
    module.Probe = Probe
    monkeypatch.setitem(__import__("sys").modules, "probe_adapter", module)


def adapter_of(url):
    """Return the adapter for a URL."""
    return from_url(url, Processor(name="service"))


def error_of(url):
    """Return the text of the error for an invalid URL. The error and its chain must contain no secret."""
    with pytest.raises(UsageError) as caught:
        adapter_of(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


# Valid URLs


@pytest.mark.parametrize(
    ("url", "kind", "attributes"),
    [
        ("stdin:", StdinAdapter, {"drain": 25}),
        ("stdin:?drain=2.5", StdinAdapter, {"drain": 2.5}),
        ("STDIN:", StdinAdapter, {}),
        ("sqlite:///queue.db?queue=orders", SQLiteAdapter, {"queue": "orders", "lease": 30.0, "create": False}),
        (
            "sqlite:///queue.db?queue=o&lease=5&create=true&drain=0",
            SQLiteAdapter,
            {"lease": 5.0, "create": True, "drain": 0},
        ),
        ("sqlite:///queue.db?queue=new%20orders", SQLiteAdapter, {"queue": "new orders"}),
        ("file:events.jsonl", FileAdapter, {"start": "resume"}),
        ("file:events.jsonl?start=beginning", FileAdapter, {"start": "beginning"}),
    ],
)
def test_a_url_describes_an_adapter(url, kind, attributes):
    """The scheme selects the class of the adapter. Parameters become keyword arguments of the right type."""
    adapter = adapter_of(url)
    assert type(adapter) is kind
    assert attributes == {name: getattr(adapter, name) for name in attributes}
    assert {name: type(value) for name, value in attributes.items() if name != "drain"} == {
        name: type(getattr(adapter, name)) for name in attributes if name != "drain"
    }
    assert adapter.processor.name == "service"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///queue.db?queue=o", "queue.db"),
        ("sqlite:///sub/queue.db?queue=o", "sub/queue.db"),
        ("sqlite:////var/lib/queue.db?queue=o", "/var/lib/queue.db"),
        ("sqlite:///my%20queue.db?queue=o", "my queue.db"),
        ("file:events.jsonl", "events.jsonl"),
        ("file:logs/events.jsonl.gz", "logs/events.jsonl.gz"),
        ("file:/var/log/events.jsonl", "/var/log/events.jsonl"),
        ("file:///var/log/events.jsonl", "/var/log/events.jsonl"),
        ("file:my%20events.jsonl", "my events.jsonl"),
    ],
)
def test_a_url_has_a_relative_or_absolute_path(url, path):
    """An SQLite URL counts slashes as SQLAlchemy does. A file URL without a leading slash is relative."""
    assert path == str(adapter_of(url).path)


def test_constructing_opens_nothing(tmp_path):
    """An adapter for a missing file can be constructed, and creates no file."""
    adapter_of(f"sqlite:///{tmp_path}/queue.db?queue=o&create=true")
    adapter_of(f"file:{tmp_path}/events.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("1", "true", "True", "yes", "ON")),
        *((t, False) for t in ("0", "false", "no", "Off")),
    ],
)
def test_a_boolean_has_several_spellings(text, value):
    """A boolean parameter accepts several spellings, in upper and lower case."""
    assert value is adapter_of(f"sqlite:///q.db?queue=o&create={text}").create


def test_a_parameter_may_use_an_environment_variable(monkeypatch):
    """`${NAME}` in a parameter is replaced by the value of the variable."""
    monkeypatch.setenv("MISSIVE_TEST_QUEUE", "orders")
    assert adapter_of("sqlite:///q.db?queue=${MISSIVE_TEST_QUEUE}").queue == "orders"


# Invalid URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("stdn:", "did you mean stdin:?"),
        ("fil:events.jsonl", "did you mean file:?"),
        ("sqlit:///q.db?queue=o", "did you mean sqlite:?"),
        ("rabitmq://host/", "did you mean rabbitmq:?"),
        ("carrier-pigeon://host/", "examples of known URLs: stdin:, file:events.jsonl"),
        ("events.jsonl", "examples of known URLs: stdin:, file:events.jsonl"),
        ("", "examples of known URLs: stdin:, file:events.jsonl"),
    ],
)
def test_the_error_for_an_unknown_scheme_suggests_a_scheme(url, expected):
    """The error suggests the nearest scheme, or shows examples."""
    text = error_of(url)
    assert text.startswith("no adapter is known by the URL")
    assert expected in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///q.db?queue=o&leese=3", "no parameter leese= (in sqlite:///q.db?queue=o&leese=***): did you mean"),
        ("sqlite:///q.db?que=o", "did you mean queue=?"),
        ("file:e.jsonl?from=beginning", "known parameters: start"),
        ("stdin:?processor=x", "StdinAdapter has no parameter processor="),
        ("sqlite:///q.db?queue=o&path=other.db", "SQLiteAdapter has no parameter path="),
        ("stdin:?DRAIN=1", "StdinAdapter has no parameter DRAIN="),
    ],
)  # fmt: skip
def test_the_error_for_an_unknown_parameter_suggests_a_parameter(url, expected):
    """The error names the parameter and suggests the nearest one, or lists the known parameters."""
    assert expected in error_of(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("stdin:?drain=soon", "drain= must be a number of seconds (in stdin:?drain=soon)"),
        ("stdin:?drain=", "drain= must be a number of seconds"),
        ("stdin:?drain=-1", "drain= must be a number of seconds, zero or more"),
        ("stdin:?drain=nan", "drain= must be a number of seconds, zero or more"),
        ("sqlite:///q.db?queue=o&lease=0", "lease= must be a number of seconds above zero"),
        ("sqlite:///q.db?queue=o&create=perhaps", "create= must be true or false"),
        ("file:e.jsonl?start=middle", "start= must be one of: resume, beginning"),
        ("sqlite:///q.db", "sqlite:///q.db needs ?queue=…"),
        ("sqlite://host/q.db?queue=o", "sqlite:///queue.db?queue=orders"),
        ("sqlite:///?queue=o", "sqlite:///queue.db?queue=orders"),
        ("file:", "file:events.jsonl"),
        ("stdin:?drain", "cannot be read"),
        (
            "sqlite:///q.db?queue=${MISSIVE_TEST_NOT_SET}",
            "uses ${MISSIVE_TEST_NOT_SET}, but this environment variable is not set",
        ),
    ],
)
def test_an_invalid_value_is_refused(url, expected):
    """The errors for a value of the wrong type, a missing parameter and an invalid URL name the remedy."""
    assert expected in error_of(url)


def test_an_int_parameter_takes_whole_numbers_only(probe):
    """An int parameter refuses a fraction."""
    assert adapter_of("probe://h?size=3").size == 3
    assert "size= must be a whole number" in error_of("probe://h?size=3.5")


# Secrets


@pytest.mark.parametrize(
    "url",
    [
        "unknown://user:hunter2@host/",
        "rabitmq://user:hunter2@host/?password=hunter2",
        "sqlite://user:hunter2@host/q.db?queue=o",
        "sqlite://user:hunter2@/q.db?queu=o",
        "sqlite://user:hunter2@/q.db?queue=o&lease=long",
        "sqlite://user:hunter2@/q.db",
        "amqp://user:hunter2@host/vhost",
        "amqp://user:hunter2@host/vhost?queue=q&que=q",
        "amqp://user:hunter2@host/vhost?queue=q&drain=long",
        "amqp://user:hunter2@host:port/?queue=q",
        "amqp://user:hunter2@host:99999/?queue=q",
        "amqp://user:hunter2@one,two/?queue=q",
        "amqp://user:hunter2\u2100@host/?queue=q",
        "stdin://user:hunter2@[host/",
        "stdin:?password=hunter2",
        "stdin://user:hunter2@${MISSIVE_TEST_NOT_SET}/",
        "stdin://user:hunter2@host/?drain",
    ],
)
def test_no_error_shows_a_password(url):
    """No error about an invalid URL contains its password, and neither does the chain of the error."""
    assert error_of(url)


@pytest.mark.parametrize(
    "url",
    [
        "unknown://user:${MISSIVE_TEST_PASSWORD}@host/",
        "sqlite://user:${MISSIVE_TEST_PASSWORD}@/q.db?queue=o&leese=1",
        "stdin:?drain=${MISSIVE_TEST_PASSWORD}",
        "amqp://user:${MISSIVE_TEST_PASSWORD}@host:port/?queue=o",
        "${MISSIVE_TEST_PASSWORD}@host/",
        pytest.param("amqp://user@host:${MISSIVE_TEST_PASSWORD}/?queue=o"),
        pytest.param("${MISSIVE_TEST_PASSWORD}"),
    ],
)
def test_no_error_shows_an_environment_variable(monkeypatch, url):
    """No error about a URL contains the value of an environment variable."""
    monkeypatch.setenv("MISSIVE_TEST_PASSWORD", SECRET)
    assert error_of(url)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://user:hunter2/x@host/",
        "user:hunter2@host/vhost",
        "ampq:user:hunter2@host/",
        "unknown://u:hunter2?x@host/",
        pytest.param("amqp://user:hunter2/x@host/?queue=q"),
        pytest.param("amqp://user:hunter2#x@host/?queue=q"),
        pytest.param("amqp:user:hunter2@host/?queue=q"),
        pytest.param("amqp:/user:hunter2@host/?queue=q"),
    ],
)
def test_no_error_shows_a_mistyped_password(url):
    """A password with unescaped characters, or in a mistyped URL, is not shown."""
    assert error_of(url)


def test_the_repr_of_a_url_has_no_secret(probe):
    """The repr of a parsed URL shows no password."""
    url = adapter_of("probe://user:hunter2@host:1/path?size=2").from_url
    assert repr(url) == "<ParsedURL: probe://host:1/path?size=***>"
    assert (url.username, url.password) == ("user", SECRET)


# Adapters of other packages


def test_an_entry_point_adds_a_scheme(probe):
    """A distribution adds a scheme with an entry point in the group `missive.adapters`."""
    adapter = adapter_of("probe://host:12/path/x?size=2&ratio=1.5&flag=yes&drain=3")
    assert type(adapter) is Probe
    assert (adapter.target, adapter.size, adapter.ratio, adapter.flag, adapter.drain) == ("host:12", 2, 1.5, True, 3.0)


def test_a_parsed_url_has_unescaped_parts(probe):
    """Host, port, path and credentials are unescaped; parameters are available by name."""
    url = adapter_of("probe://us%40er:p%2Fw%23%3A@host:12/a%20b?size=2").from_url
    assert isinstance(url, ParsedURL)
    assert (
        url.scheme,
        url.host,
        url.port,
        url.username,
        url.password,
        url.path,
        url.parameters,
    ) == ("probe", "host", 12, "us@er", "p/w#:", "/a b", {"size": "2"})


def test_environment_variables_are_expanded_in_every_part(probe, monkeypatch):
    """The host and the password may be environment variables."""
    monkeypatch.setenv("MISSIVE_TEST_PASSWORD", SECRET)
    monkeypatch.setenv("MISSIVE_TEST_HOST", "example.org")
    url = adapter_of("probe://user:${MISSIVE_TEST_PASSWORD}@${MISSIVE_TEST_HOST}/").from_url
    assert (url.password, url.host) == (SECRET, "example.org")


def test_a_url_may_name_several_hosts(probe):
    """A URL may name several hosts with their ports, as for Kafka. Such a URL has no single host."""
    adapter = adapter_of("probe://user:pw@one:9092,two:9093?size=1")
    assert (adapter.target, adapter.from_url.password) == ("one:9092,two:9093", "pw")
    with pytest.raises(UsageError, match="has no valid host and port"):
        _ = adapter.from_url.host


def test_the_case_of_a_host_is_preserved(probe):
    """The host of a URL may be a name in which case matters, such as the name of an SQS queue."""
    assert adapter_of("probe://Orders?size=1").target == "Orders"


@pytest.mark.parametrize("password", ["pa/ss", "pa#ss", "pa?ss", "pa%41ss", "pa:ss@host/x"])
def test_a_password_from_the_environment_may_have_any_characters(probe, monkeypatch, password):
    """The value of an environment variable is literal and needs no escapes."""
    monkeypatch.setenv("MISSIVE_TEST_PASSWORD", password)
    url = adapter_of("probe://user:${MISSIVE_TEST_PASSWORD}@example.org/").from_url
    assert (url.password, url.host) == (password, "example.org")


def test_every_keyword_is_a_parameter():
    """A keyword argument of an optional type is a URL parameter too, such as `progress` of FileAdapter."""
    assert adapter_of("file:events.jsonl?progress=true").progress is True


def test_a_repeated_parameter_is_refused():
    """The error names the repeated parameter."""
    assert "queue" in error_of("sqlite:///q.db?queue=one&queue=two")


@pytest.mark.parametrize(
    "url",
    [
        "file:${SECRET}.jsonl",
        "sqlite:///${SECRET}.db?queue=${SECRET}",
        "rabbitmq://me:${SECRET}@localhost/${SECRET}?queue=${SECRET}",
        "kafka://localhost?topic=${SECRET}&group=g",
        "redis://localhost/0?stream=${SECRET}&group=${SECRET}",
    ],
)
def test_a_variable_is_shown_as_it_was_written(url: str, monkeypatch: pytest.MonkeyPatch):
    """The value of a variable is shown nowhere in a URL, and sources of different values stay different."""
    proc, identities = Processor(name="t"), set()
    for value in ("canary1", "canary2"):
        monkeypatch.setenv("SECRET", value)
        adapter = from_url(url, proc)
        settings = getattr(adapter, "settings", adapter)
        for shown in (adapter.url, repr(adapter), settings.url):
            assert ("canary" in shown, "${SECRET}" in shown) == (False, True)
        assert value in adapter.identity
        identities.add(adapter.identity)
    assert len(identities) == 2
