"""From a URL to an adapter: schemes, parameters, the environment, and errors that keep secrets."""

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
    """An adapter of a third party: keeps the URL that it was made from."""

    transport = "probe"

    def __init__(
        self, processor, target="", *, size: int = 1, ratio: float = 0.5, flag: bool = False, drain: float = 25
    ):
        super().__init__(processor, drain=drain)
        self.target, self.size, self.ratio, self.flag = target, size, ratio, flag
        self.from_url = None

    @classmethod
    def from_parsed_url(cls, url, processor):
        """Keep the URL's parts."""
        adapter = cls(processor, url.authority, **constructor_arguments(cls, url, exclude=("target",)))
        adapter.from_url = url
        return adapter

    @property
    def destination(self):
        """What it is called."""
        return self.target

    async def connect(self, host):
        """Refuse."""
        raise NotImplementedError


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """Install a distribution that brings an adapter for `probe:`."""
    info = tmp_path / "probe_adapter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-adapter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[missive.adapters]\nprobe = probe_adapter:Probe\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = type(re)("probe_adapter")
    module.Probe = Probe
    monkeypatch.setitem(__import__("sys").modules, "probe_adapter", module)


def made(url):
    """Return the adapter of a URL."""
    return from_url(url, Processor(name="service"))


def refused(url):
    """Return the text of the error that a URL makes, and see that no secret is in any part of it."""
    with pytest.raises(UsageError) as caught:
        made(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


# What is known


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
    """Scheme and parameters become an adapter's class and keywords, each of its type."""
    adapter = made(url)
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
def test_paths(url, path):
    """SQLite has SQLAlchemy's count of slashes, and a file's path is relative without one."""
    assert path == str(made(url).path)


def test_constructing_opens_nothing(tmp_path):
    """An adapter of a file that is not there can be made, and makes none."""
    made(f"sqlite:///{tmp_path}/queue.db?queue=o&create=true")
    made(f"file:{tmp_path}/events.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("1", "true", "True", "yes", "ON")),
        *((t, False) for t in ("0", "false", "no", "Off")),
    ],
)
def test_true_and_false(text, value):
    """A switch is said in several ways, in any case."""
    assert value is made(f"sqlite:///q.db?queue=o&create={text}").create


def test_the_environment_is_named_and_not_shown(monkeypatch):
    """`${NAME}` in a URL is the environment's value."""
    monkeypatch.setenv("MISSIVE_TEST_QUEUE", "orders")
    assert made("sqlite:///q.db?queue=${MISSIVE_TEST_QUEUE}").queue == "orders"


# What is not


@pytest.mark.parametrize(
    ("url", "said"),
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
def test_an_unknown_scheme_names_the_nearest(url, said):
    """An unknown scheme is refused with the nearest that is known, or with examples."""
    text = refused(url)
    assert text.startswith("no adapter is known by the URL")
    assert said in text


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///q.db?queue=o&leese=3", "no parameter leese= (in sqlite:///q.db?queue=o&leese=3): did you mean"),
        ("sqlite:///q.db?que=o", "did you mean queue=?"),
        ("file:e.jsonl?from=beginning", "known parameters: start"),
        ("stdin:?processor=x", "StdinAdapter has no parameter processor="),
        ("sqlite:///q.db?queue=o&path=other.db", "SQLiteAdapter has no parameter path="),
        ("stdin:?DRAIN=1", "StdinAdapter has no parameter DRAIN="),
    ],
)  # fmt: skip
def test_an_unknown_parameter_names_the_nearest(url, said):
    """A parameter that the adapter does not take is refused with the nearest that it does."""
    assert said in refused(url)


@pytest.mark.parametrize(
    ("url", "said"),
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
def test_a_value_that_does_not_fit_is_refused(url, said):
    """A value of another type, a missing one and a URL that cannot be read say what is wanted."""
    assert said in refused(url)


def test_a_whole_number_is_one(probe):
    """An int parameter takes no fraction."""
    assert made("probe://h?size=3").size == 3
    assert "size= must be a whole number" in refused("probe://h?size=3.5")


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
    """Whatever is wrong with a URL, its password is in no error, nor in what the error came from."""
    assert refused(url)


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
def test_no_error_shows_the_environment(monkeypatch, url):
    """What the environment had for a URL is in no error about it."""
    monkeypatch.setenv("MISSIVE_TEST_PASSWORD", SECRET)
    assert refused(url)


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
def test_no_error_shows_a_password_that_was_typed_wrong(url):
    """A password with a character that ought to be escaped, or a URL with a slip, is refused and not shown."""
    assert refused(url)


def test_the_repr_of_a_url_has_no_secret(probe):
    """The parts that an adapter gets show no password in their repr."""
    url = made("probe://user:hunter2@host:1/path?size=2").from_url
    assert repr(url) == "<ParsedURL: probe://host:1/path?size=2>"
    assert (url.username, url.password) == ("user", SECRET)


# Third parties


def test_a_third_partys_adapter_is_found_by_its_entry_point(probe):
    """A scheme that a distribution declares in the group `missive.adapters` is known, by that very name."""
    adapter = made("probe://host:12/path/x?size=2&ratio=1.5&flag=yes&drain=3")
    assert type(adapter) is Probe
    assert (adapter.target, adapter.size, adapter.ratio, adapter.flag, adapter.drain) == ("host:12", 2, 1.5, True, 3.0)


def test_a_url_comes_in_parts(probe):
    """Host, port, path and credentials come unescaped; parameters come by name."""
    url = made("probe://us%40er:p%2Fw%23%3A@host:12/a%20b?size=2").from_url
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


def test_the_environment_is_expanded_in_any_part(probe, monkeypatch):
    """Host, password and parameters may come from the environment."""
    monkeypatch.setenv("MISSIVE_TEST_PASSWORD", SECRET)
    monkeypatch.setenv("MISSIVE_TEST_HOST", "example.org")
    url = made("probe://user:${MISSIVE_TEST_PASSWORD}@${MISSIVE_TEST_HOST}/").from_url
    assert (url.password, url.host) == (SECRET, "example.org")


def test_several_hosts_are_a_host(probe):
    """A URL may name several hosts with their ports, as Kafka's do."""
    adapter = made("probe://user:pw@one:9092,two:9093?size=1")
    assert (adapter.target, adapter.from_url.password) == ("one:9092,two:9093", "pw")
    with pytest.raises(UsageError, match="has no valid host and port"):
        _ = adapter.from_url.host


def test_the_host_keeps_its_case(probe):
    """Where the host is a name of another kind, such as an SQS queue's, its case counts."""
    assert made("probe://Orders?size=1").target == "Orders"


@pytest.mark.parametrize("password", ["pa/ss", "pa#ss", "pa?ss", "pa%41ss", "pa:ss@host/x"])
def test_a_password_from_the_environment_may_have_any_characters(probe, monkeypatch, password):
    """What `${RABBIT_PASSWORD}` holds is the password, as it is."""
    monkeypatch.setenv("MISSIVE_TEST_PASSWORD", password)
    url = made("probe://user:${MISSIVE_TEST_PASSWORD}@example.org/").from_url
    assert (url.password, url.host) == (password, "example.org")


def test_every_keyword_is_a_parameter():
    """Keyword arguments and URL parameters are one to one: FileAdapter's `progress` too."""
    assert made("file:events.jsonl?progress=true").progress is True


def test_a_parameter_is_given_once():
    """The same parameter twice is a mistake."""
    assert "queue" in refused("sqlite:///q.db?queue=one&queue=two")
