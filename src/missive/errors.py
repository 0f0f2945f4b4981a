"""The exceptions of Missive, as one tree.

::

    MissiveError
    ├── UsageError                       a request that cannot work as written; the command line exits with code 2
    │   ├── MissingExtra                 an optional library is not installed
    │   └── RegistrationError (RuntimeError) a handler, hook or include that can never work
    │       ├── DuplicateMatcher         a second handler has the same matcher
    │       └── RegistrationClosed       registration after processing started
    ├── DecodingError                    a body that its message class cannot decode
    ├── MatcherFailed                    a matcher raised another exception
    ├── UnmatchedError (RuntimeError)    no handler matches, and there is no dead letter queue
    ├── AmbiguousError (RuntimeError)    several handlers match, and there is no dead letter queue
    ├── NotSettled (RuntimeError)        a message needs a dead letter queue, and there is none
    ├── OutcomeConflict                  a handler recorded two different outcomes
    ├── OnceConflict                     a once= key belongs to the effect of another body
    ├── ResourceError                    a resource is requested incorrectly or does not yield once
    ├── StoreError                       the dead letter store fails now; a later call may succeed
    │   ├── RecordRejected               the database does not take the data of a record
    │   └── StoreRefused                 the dead letter store cannot do this at all
    │       └── StoreConflict            the record changed in the meantime
    ├── AdapterError                     a transport failed
    │   ├── Transient                    another attempt may succeed: connection lost, queue missing
    │   │   └── SourceGone               the queue was deleted with the messages that are held
    │   └── Fatal                        another attempt cannot succeed: wrong credentials, wrong type
    ├── ProcessingFailed                 the processor stopped because of an error
    │   └── ForcedStop                   the drain was cut short
    ├── OverlapWarning (UserWarning)     two handlers can match the same message
    └── DeclaredOutcome                  not errors: outcomes that a handler declares by raising them
        ├── RetryLater
        ├── DeadLetter
        ├── Discard
        └── DependencyDown

The text of an exception never contains message content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta


class MissiveError(Exception):
    """The base class of every exception that Missive raises."""


class UsageError(MissiveError):
    """Raised by constructors, `from_url` and the command line for an invalid URL, parameter, target or option."""


class MissingExtra(UsageError):
    """Raised by constructors of adapters, stores and matchers when their optional library is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra: {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    """Return the commands that install an extra. The index has an older package of the name, hence the version."""
    return f"pip install 'missive[{extra}]>=0.9', or in a checkout of Missive: pip install '.[{extra}]'"


class RegistrationError(UsageError, RuntimeError):
    """Raised by `Processor` methods and matchers for a handler, hook, matcher or include that can never work."""


class DuplicateMatcher(RegistrationError):
    """Raised by `add_handler` and `include` when a handler with the same matcher exists: neither could be chosen."""


class OverlapWarning(MissiveError, UserWarning):
    """Issued by `add_handler` and `include` when two handlers can match the same message.

    Such a message becomes a dead letter with the reason `ambiguous`. The text names both handlers and shows an example
    message, which is built from the matchers alone. `Processor(on_overlap="error")` raises the warning, and
    `"ignore"` suppresses it.
    """


class RegistrationClosed(RegistrationError):
    """Raised by `Processor` methods when a registration follows the start of processing."""


class DecodingError(MissiveError):
    """Raised by `StructuredMessage.content` when the message class cannot decode the body.

    The decoder's exception is not chained, because it may contain the body.
    """


class MatcherFailed(MissiveError):
    """Raised by `Processor.route` when a matcher raises an exception. Names the handler and the matcher."""


class UnmatchedError(MissiveError, RuntimeError):
    """Raised by a test client without a dead letter queue when no handler matches a message."""


class AmbiguousError(MissiveError, RuntimeError):
    """Raised by a test client without a dead letter queue when several handlers match a message."""


class NotSettled(MissiveError, RuntimeError):
    """Raised by `serve` and test clients when a message would become a dead letter without a dead letter queue.

    The message stays unsettled.
    """


class OutcomeConflict(MissiveError):
    """Raised by `ack`, `nack`, `retry`, `dead_letter` and `discard` after a different outcome. Names both outcomes."""


class OnceConflict(MissiveError):
    """Raised by `context.claim` when the effect of the `once=` key has happened for another body.

    The message becomes a dead letter with the reason `conflict`. Either the messages differ, or the key is too coarse.
    """

    def __init__(self) -> None:
        super().__init__("the effect of this once= key has happened for a message with another body")


class ResourceError(MissiveError):
    """Raised by `context.get` and `context.aget` for an incorrect request, or a resource that does not yield once.

    A resource that yields twice fails its message with this error.
    """


class StoreError(MissiveError):
    """Raised by dead letter stores when an operation fails now. A later call may succeed."""


class RecordRejected(StoreError):
    """Raised by `Sink.put` when the database rejects the data of a record, and would take others."""


class StoreRefused(StoreError):
    """Raised by dead letter stores when an operation cannot succeed.

    Examples are a newer schema, a file that is not a database, and reading from a write-only sink.
    """


class StoreConflict(StoreRefused):
    """Raised by methods that edit a record when the record changed after it was read, or a worker leases it."""


class AdapterError(MissiveError):
    """The base class of `Transient` and `Fatal`."""


class Transient(AdapterError):
    """Raised by sessions and `Adapter.connect` when a later attempt may succeed. The engine connects with back-off."""


class SourceGone(Transient):
    """Raised by sessions when the queue, stream or group was deleted, together with the messages that they hold.

    The engine handles the messages that were read, and connects again with back-off.
    """


class Fatal(AdapterError):
    """Raised by sessions and `Adapter.connect` when no attempt can succeed until an operator changes something.

    Processing stops with exit code 1.
    """


class ProcessingFailed(MissiveError):
    """Raised by `serve` and test clients when an error stops the processor."""


class ForcedStop(ProcessingFailed):
    """Raised by `serve` when a second signal or the drain's deadline stops the processor before its work is done."""


class DeclaredOutcome(MissiveError):
    """The base class of outcomes that a handler declares by raising them. They are not errors."""


class RetryLater(DeclaredOutcome):
    """Raised by a handler to run this message again after `after` seconds. Spends an attempt."""

    def __init__(self, after: float | timedelta | None = None) -> None:
        super().__init__("retry later")
        self.after = after


class DeadLetter(DeclaredOutcome):
    """Raised by a handler to store this message as a dead letter.

    `reason` is a short constant label, which operators see and metrics count. `detail` is confidential.
    """

    def __init__(self, reason: str, *, detail: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Discard(DeclaredOutcome):
    """Raised by a handler when this message needs no work. `reason` is a short constant label."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DependencyDown(DeclaredOutcome):
    """Raised by a handler when a service that it depends on is down.

    Opens the breaker `name` and spends no attempt. If no handler has a breaker of this name, the message fails as with
    any other exception.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is down")
        self.name = name
