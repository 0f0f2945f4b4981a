"""Every exception Missive raises, as one tree.

::

    MissiveError
    ├── UsageError                       what the caller asked for cannot be; the command line exits 2
    │   └── MissingExtra                 a transport's client library is not installed
    ├── RegistrationError (RuntimeError) a handler, hook or include that can never work
    │   ├── DuplicateMatcher             the same matcher is registered already
    │   └── RegistrationClosed           processing has started
    ├── DecodingError                    a body that is not what its message class says
    ├── MatcherFailed                    a matcher raised something else
    ├── UnmatchedError (RuntimeError)    no handler, and no dead letter queue to file the message in
    ├── AmbiguousError (RuntimeError)    several handlers, and no dead letter queue
    ├── NotSettled (RuntimeError)        a would-be dead letter, and no dead letter queue
    ├── OutcomeConflict               a handler recorded two different outcomes
    ├── OnceConflict                     the key of an effect that happened, with another body
    ├── ResourceError                    a resource that cannot be had so, or is no generator of one value
    ├── StoreError                       the dead letter store cannot be read or written now
    │   └── StoreRefused                 it never will: a newer schema, another kind of file, a sink
    │       └── StoreConflict            somebody else changed the record meanwhile
    ├── AdapterError
    │   ├── Transient                    worth another try: connection lost, queue not there yet
    │   └── Fatal                        not worth one: wrong credentials, wrong type
    ├── ProcessingFailed                 the processor stopped on an error
    │   └── ForcedStop                   the drain was cut short
    ├── OverlapWarning (UserWarning)     two handlers that some message would match both of; an error if asked for
    └── DeclaredOutcome                       not errors: outcomes a handler declares by raising
        ├── RetryLater
        ├── DeadLetter
        ├── Discard
        └── DependencyDown

No exception of this module carries message content in its text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta


class MissiveError(Exception):
    """The root of everything Missive raises."""


class UsageError(MissiveError):
    """What was asked for cannot be done as asked: an unknown URL, parameter, target or option."""


class MissingExtra(UsageError):
    """A library that an adapter, or a matcher, needs is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra: pip install 'missive[{extra}]'")


class RegistrationError(MissiveError, RuntimeError):
    """A handler, hook, matcher or include that could never work, found when it is registered."""


class DuplicateMatcher(RegistrationError):
    """A second handler for a matcher that is registered already: neither would ever be chosen."""


class OverlapWarning(MissiveError, UserWarning):
    """Some message matches two handlers, and would be dead-lettered as ambiguous; names both, and shows it.

    It is warned of when the second is registered, raised for `Processor(on_overlap="error")`, and never said for
    `"ignore"`. The message in its text is made up from what the matchers say.
    """


class RegistrationClosed(RegistrationError):
    """Something was registered after the processor had started processing."""


class DecodingError(MissiveError):
    """A message body is not what its class says, raised by `StructuredMessage.content`.

    The decoder's own exception is not chained: it would hold the body.
    """


class MatcherFailed(MissiveError):
    """A matcher raised, in place of answering. Names the handler and the matcher."""


class UnmatchedError(MissiveError, RuntimeError):
    """No handler matches, raised by a test client that has no dead letter queue."""


class AmbiguousError(MissiveError, RuntimeError):
    """Several handlers match, raised by a test client that has no dead letter queue."""


class NotSettled(MissiveError, RuntimeError):
    """A message would be dead-lettered and there is no dead letter queue: it was left unsettled."""


class OutcomeConflict(MissiveError):
    """A handler recorded an outcome after another one; the text names both."""


class OnceConflict(MissiveError):
    """An effect has happened for the same key and another body; raised by `context.claim`: a dead letter `conflict`.

    The two messages are not the same, or their key does not tell them apart.
    """

    def __init__(self) -> None:
        super().__init__("the effect of this message's key has happened for another body")


class ResourceError(MissiveError):
    """A resource cannot be had in this way, or does not yield once; raised by `context.get` and `aget`.

    Also what a message fails with whose resource went on to a second yield.
    """


class StoreError(MissiveError):
    """The dead letter store failed now and may work later."""


class StoreRefused(StoreError):
    """The dead letter store will not do this: a newer schema, a file of another kind, a sink asked to list."""


class StoreConflict(StoreRefused):
    """A record is not as it was when it was looked at: somebody else has changed it, or works on it."""


class AdapterError(MissiveError):
    """A transport failed; always one of the two below."""


class Transient(AdapterError):
    """The transport may work later; the engine connects again with back-off."""


class Fatal(AdapterError):
    """The transport will not work until somebody changes something; the processor stops with exit code 1."""


class ProcessingFailed(MissiveError):
    """The processor stopped because of an error and not because it was done, raised by `serve()`."""


class ForcedStop(ProcessingFailed):
    """A second signal, or the drain's deadline, stopped the processor before its work was finished."""


class DeclaredOutcome(MissiveError):
    """An outcome that a handler declares by raising it; not an error."""


class RetryLater(DeclaredOutcome):
    """Raised by a handler: run this message again after `after` seconds; spends an attempt."""

    def __init__(self, after: float | timedelta | None = None) -> None:
        super().__init__("retry later")
        self.after = after


class DeadLetter(DeclaredOutcome):
    """Raised by a handler: file this message as a dead letter.

    `reason` is a short constant label, shown to operators and counted; `detail` is confidential.
    """

    def __init__(self, reason: str, *, detail: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Discard(DeclaredOutcome):
    """Raised by a handler: this message needs nothing done; `reason` is a short constant label."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DependencyDown(DeclaredOutcome):
    """Raised by a handler: what it depends on is down. Opens the breaker of that name, and spends no attempt.

    Where no handler has a breaker of that name it is a failure like any other.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is down")
        self.name = name
