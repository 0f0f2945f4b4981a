"""The package: its public names, and the modules that `import missive` loads."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import msgspec
import pytest

import missive
from missive import transport
from missive.adapters.base import Adapter

NAMES = {
    "missive": [
        "AdapterError",
        "AmbiguousError",
        "Batch",
        "Breaker",
        "DeadLetter",
        "DecodingError",
        "DependencyDown",
        "Discard",
        "DuplicateMatcher",
        "Fatal",
        "ForcedStop",
        "HandlingContext",
        "JSONMessage",
        "MatcherFailed",
        "Message",
        "MissingExtra",
        "MissiveError",
        "NotSettled",
        "Once",
        "OnceConflict",
        "Outcome",
        "OutcomeConflict",
        "OverlapWarning",
        "ProcessingContext",
        "ProcessingFailed",
        "Processor",
        "Public",
        "RawMessage",
        "Reason",
        "RecordRejected",
        "RegistrationClosed",
        "RegistrationError",
        "ResourceError",
        "ResourceKey",
        "Retry",
        "RetryLater",
        "SourceGone",
        "StoreConflict",
        "StoreError",
        "StoreRefused",
        "StructuredMessage",
        "Transient",
        "UnmatchedError",
        "UsageError",
        "__version__",
        "adapters",
        "constant",
        "exponential",
        "matchers",
        "run",
        "serve",
    ],
    "missive.adapters": [
        "Adapter",
        "FileAdapter",
        "KafkaAdapter",
        "RabbitMQAdapter",
        "RedisStreamsAdapter",
        "SQLiteAdapter",
        "StdinAdapter",
        "from_url",
    ],
    "missive.dlq": [
        "DLQ",
        "Attempt",
        "DictSink",
        "Facility",
        "Group",
        "Note",
        "Origin",
        "Query",
        "Record",
        "RecordLease",
        "Replay",
        "Sink",
        "Status",
        "Store",
        "open_dlq",
        "open_store",
    ],
    "missive.matchers": [
        "Absent",
        "AmqpPattern",
        "And",
        "AnythingBut",
        "Body",
        "Cidr",
        "Equals",
        "EventField",
        "Every",
        "Everything",
        "Field",
        "Header",
        "IsInstance",
        "Key",
        "Matcher",
        "MqttFilter",
        "NatsPattern",
        "NoneOf",
        "Not",
        "OneOf",
        "Or",
        "Predicate",
        "Prefix",
        "Present",
        "Range",
        "Regex",
        "Selector",
        "Some",
        "Substring",
        "Suffix",
        "Test",
        "Topic",
        "TopicPattern",
        "Wildcard",
        "by_field",
        "by_header",
        "by_key",
        "from_cloudevents",
        "from_eventbridge",
    ],
    "missive.once": [
        "SCHEMAS",
        "Expired",
        "Form",
        "Once",
        "create_table",
        "purge",
    ],
    "missive.privacy": [
        "redact_url",
    ],
    "missive.testing": [
        "AsyncTestClient",
        "ClientSession",
        "Faults",
        "MemoryAdapter",
        "Result",
        "SimulationFailed",
        "TestClient",
        "simulate",
    ],
    "missive.testing.conformance": [
        "TITLES",
        "Case",
        "CaseOutcome",
        "Conformance",
        "ConformanceError",
        "DeliveryLog",
        "Driver",
        "Fault",
        "FaultProxy",
        "Harness",
        "Sent",
        "WrappedAdapter",
        "WrappedSession",
        "all_cases",
        "case",
        "certify",
    ],
    "missive.transport": [
        "CONTRACT_VERSION",
        "Capabilities",
        "ContractVersion",
        "Credit",
        "Delivery",
        "Disposition",
        "EndOfInput",
        "Host",
        "Session",
        "SessionStatus",
        "Settlement",
        "SettlementResult",
        "Watermark",
    ],
}
"""The public names of each public package. docs/versioning.md promises not to remove them without notice."""

CONTRACT = {
    Adapter: "acall attach background call client connect contract_version default_store destination diagnose"
    " exclusive_lanes from_parsed_url identity order_hazard partitioned_by run serve session shareable show_as"
    " transport url",
    transport.Session: "broker capabilities client close commit enforced_lease extend fetch first_positions pause"
    " resume room settle status stop_intake submit widen",
    transport.Host: "credit lanes_deleted lanes_gained lanes_lost load_checkpoint report save_checkpoint service"
    " sleep time",
    transport.Credit: "bytes count_fitting items",
    transport.Watermark: "acked_beyond position",
    transport.SessionStatus: "connected lag oldest_age",
    transport.Delivery: "attempt body content_type headers key lane native native_id position producer_id record"
    " record_id redelivered timestamp token too_large topic unreadable",
    transport.Settlement: "attempt delay delivery disposition label outcome",
    transport.Capabilities: "attempts commit durable fences lease max_delay max_watermark order pauses rejects release"
    " renewable replies window",
    transport.Disposition: "ack delay reject release",
    transport.SettlementResult: "confirmed failed fenced gone sent unknown",
}
"""The members of each type of the adapter contract, in version 1.1."""


@pytest.mark.parametrize("module", sorted(NAMES))
def test_public_names_are_pinned(module: str):
    """A public name is added or removed on purpose only."""
    assert NAMES[module] == importlib.import_module(module).__all__


@pytest.mark.parametrize("module", sorted(NAMES))
def test_public_names_exist(module: str):
    """Every name in `__all__` exists, and no name is repeated."""
    names = NAMES[module]
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []


def test_the_package_has_no_other_public_names():
    """Every public name of the package is in `__all__` or is one of its modules."""
    modules = {module.name for module in pkgutil.iter_modules(missive.__path__)}
    public = {name for name in vars(missive) if not name.startswith("_")}
    assert set() == public - modules - set(missive.__all__)


@pytest.mark.parametrize("kind", CONTRACT, ids=lambda kind: kind.__name__)
def test_the_members_of_the_adapter_contract_are_pinned(kind: type):
    """A change of these members changes `CONTRACT_VERSION`: an addition its minor, and a removal its major number."""
    inherited = {name for base in (tuple, str, msgspec.Struct) for name in dir(base)}
    members = {name for name in (*dir(kind), *inspect.get_annotations(kind)) if not name.startswith("_")}
    assert sorted(members - inherited) == CONTRACT[kind].split()
    assert transport.CONTRACT_VERSION == (1, 1)


def test_importing_missive_loads_neither_engine_nor_clients():
    """`import missive` loads neither the engine, nor the stores, nor their dependencies."""
    heavy = "asyncio.runners sqlalchemy click rich pika sqlite3 missive.engine missive.dlq.sql missive.testing.client"
    code = (
        "import sys; before = set(sys.modules); import missive;"
        f"print(*[name for name in {heavy.split()!r} if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
