"""Missive: a framework for message handlers."""

from missive import _signals, adapters, matchers  # noqa: F401 - first: `missive run` handles signals before the rest
from missive.adapters.running import run, serve
from missive.app.batch import Batch
from missive.app.breaker import Breaker
from missive.app.context import HandlingContext, ProcessingContext
from missive.app.processor import Processor
from missive.app.retry import Retry, constant, exponential
from missive.errors import (
    AdapterError,
    AmbiguousError,
    DeadLetter,
    DecodingError,
    DependencyDown,
    Discard,
    DuplicateMatcher,
    Fatal,
    ForcedStop,
    MatcherFailed,
    MissingExtra,
    MissiveError,
    NotSettled,
    OnceConflict,
    OutcomeConflict,
    OverlapWarning,
    ProcessingFailed,
    RecordRejected,
    RegistrationClosed,
    RegistrationError,
    ResourceError,
    RetryLater,
    SourceGone,
    StoreConflict,
    StoreError,
    StoreRefused,
    Transient,
    UnmatchedError,
    UsageError,
)
from missive.messages import JSONMessage, Message, RawMessage, StructuredMessage
from missive.once import Once
from missive.outcome import Outcome, Reason
from missive.public import Public
from missive.resources.key import ResourceKey
from missive.version import VERSION as __version__  # noqa: N811 - Python's name for it

__all__ = [
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
]
