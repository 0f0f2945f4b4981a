"""Registration: the handlers, hooks and includes of a processor, and the resulting routes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from missive.app.admission import MatcherAdmission, Owner, admit
from missive.app.context import HandlingHook
from missive.app.hooks import Hooks, refuse_async_hooks
from missive.app.names import HandlerNames, add_names, check_names
from missive.app.options import Declaration
from missive.app.retry import Retry
from missive.app.terms import HandlerRoute, Terms
from missive.errors import RegistrationClosed, RegistrationError
from missive.matchers.algebra import And, Matcher, as_matcher
from missive.public import PublicPlace
from missive.routing.route import Route, is_async_callable

if TYPE_CHECKING:
    from missive.dlq.contract import DLQ
    from missive.routing.router import Router


class Settings(Owner, Protocol):
    """The attributes of a processor that its registry reads."""

    timeout: float | None
    retry: Retry | Literal[False] | None
    public: frozenset[PublicPlace]
    dlq: DLQ


class _Include(msgspec.Struct, frozen=True, eq=False):
    registry: Registry
    when: Matcher[Any] | None


class Inherited(msgspec.Struct, frozen=True):
    """The values that an included processor takes from the including one; None for values that are not set."""

    timeout: float | None = None
    retry: Retry | Literal[False] | None = None
    before: tuple[HandlingHook, ...] = ()
    """The `before_handling` hooks, the outermost first."""
    after: tuple[HandlingHook, ...] = ()

    def resolved(self) -> Inherited:
        """Return the values with the defaults of a processor that runs: 600 seconds, and no retries."""
        timeout = 600.0 if self.timeout is None else self.timeout
        return Inherited(timeout, self.retry or None, self.before, self.after)


class Registry:
    """The handlers, hooks and includes of one processor, until processing starts."""

    __slots__ = (
        "_entries",
        "_fallback",
        "_included_in",
        "_router",
        "admission",
        "frozen",
        "names",
        "own_hooks",
        "settings",
        "unused",
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.admission = MatcherAdmission(settings)
        """The matchers of this registry and of the included ones."""
        self.names = HandlerNames()
        """The names and aliases of handlers, of this registry and of the included ones."""
        self.own_hooks = Hooks()
        self._entries: list[Declaration | _Include] = []
        self._fallback: Declaration | None = None
        self._included_in: list[_Include] = []
        """The registries that include this one, with the condition of each include."""
        self._router: Router[Terms] | None = None
        self.unused: dict[object, str] = {}
        """The place of each decorator that no function has used yet."""
        self.frozen: tuple[HandlerRoute, ...] | None = None
        """The routes, once processing has started."""

    def __len__(self) -> int:
        return len(self.admission.known)

    # Registering

    def refuse_when_frozen(self, what: str) -> None:
        """Raise `RegistrationClosed` once processing has started. `what` names the thing to register."""
        if self.frozen is not None:
            raise RegistrationClosed(
                f"{self.settings.name} is processing, and {what} cannot be registered any more. Register it before"
                " the processor or its test client starts"
            )

    def add(self, declaration: Declaration) -> None:
        """Register a handler or a discard. Raise as `MatcherAdmission.admit` does, without a change."""
        handlers = {declaration.name: declaration.aliases} if declaration.discards is None else {}
        self._admit([(declaration.matcher, declaration.name)], handlers)
        self._entries.append(declaration)

    def expect_function(self, decorator: str, matcher: Callable[[Any], bool]) -> Callable[[], object]:
        """Note that a decorator was called with a matcher, and return a callable that notes its use.

        `freeze` refuses a decorator that was never used: its function would handle nothing.
        """
        as_matcher(matcher)
        caller = sys._getframe(2)  # noqa: SLF001 - the frame that called the decorator
        call = object()
        self.unused[call] = f"{decorator} in {caller.f_code.co_filename}, line {caller.f_lineno},"
        return functools.partial(self.unused.pop, call, None)

    def add_fallback(self, declaration: Declaration) -> None:
        """Register the handler of unmatched messages. Raise `RegistrationError` for a second one, or when included."""
        if self._fallback is not None:
            raise RegistrationError(
                f"{self._fallback.name} handles unmatched messages already, and so {declaration.name} cannot. Remove"
                " one of them"
            )
        if self._included_in:
            raise _fallback_of_included(declaration, self._included_in[0].registry)
        self._admit((), {declaration.name: ()})
        self._fallback = declaration

    def add_hook(self, kind: str, hook: Any) -> None:
        """Register a hook. `kind` is the name of its list."""
        getattr(self.own_hooks, kind).append(hook)

    def include(self, other: Registry, when: Matcher[Any] | None) -> None:
        """Include a registry, narrowed by a condition.

        Raise `RegistrationError` for a circle and for a handler of unmatched messages, and the exceptions of
        `MatcherAdmission.admit`.
        """
        if other._fallback is not None:
            raise _fallback_of_included(other._fallback, self)
        if any(part is self for part in other.tree()):
            raise RegistrationError(
                f"{self.settings.name} and {other.settings.name} would include each other. Remove one of the includes"
            )
        named = [(_narrowed(matcher, when), name) for matcher, name in other.admission.known.items()]
        other._included_in.append(_Include(self, when))
        try:
            for part in other.tree():
                part.check_inherited(strict=part is other)
            self._admit(named, other.names.names)
        except BaseException:
            other._included_in.pop()
            raise
        self._entries.append(_Include(other, when))

    @property
    def including(self) -> str | None:
        """The name of a processor that includes this one, or None."""
        return self._included_in[0].registry.settings.name if self._included_in else None

    def _admit(self, named: Sequence[tuple[Matcher[Any], str]], handlers: Mapping[str, Sequence[str]]) -> None:
        """Admit matchers with their handlers' names, and handlers with their aliases, here and where this is included.

        Raise as `MatcherAdmission.admit` and `HandlerNames.check` do, without a change.
        """
        concerned = [part.names for part in self.including_tree()]
        check_names(handlers, concerned)
        admit(named, self.admission, self.places)
        add_names(handlers, concerned)
        self.forget_router()

    def including_tree(self) -> Iterator[Registry]:
        """Yield this registry and all that include it."""
        yield self
        for include in self._included_in:
            yield from include.registry.including_tree()

    def places(self, matcher: Matcher[Any]) -> Iterator[tuple[MatcherAdmission, Matcher[Any]]]:
        """Yield the admission of each registry that contains a matcher of this one, and the matcher as narrowed."""
        yield self.admission, matcher
        for include in self._included_in:
            yield from include.registry.places(_narrowed(matcher, include.when))

    def check_inherited(self, *, strict: bool) -> None:
        """Raise `RegistrationError` when two processors that include this one differ in an inherited option.

        Unless `strict`, a processor that has no value yet may still get the same one by an include.
        """
        offers = [(one.registry.settings.name, offer) for one in self._included_in for offer in one.registry.offers()]
        for option in ("timeout", "retry"):
            if getattr(self.settings, option) is not None:
                continue
            given = [(name, offer) for name, offer in offers if strict or getattr(offer, option) is not None]
            values = [(name, getattr(offer.resolved(), option)) for name, offer in given]
            first, value = next(iter(values), ("", None))
            for name, other in values:
                if other != value:
                    own = self.settings.name
                    raise RegistrationError(
                        f"{own} has no {option}=, and would take {value!r} from {first}, but {other!r} from {name}."
                        f" Set {option}= on {own}, or the same {option}= on both"
                    )

    def offers(self) -> list[Inherited]:
        """Return the values that included processors take from this one, for each way in which it is included."""
        outer = [offer for include in self._included_in for offer in include.registry.offers()] or [Inherited()]
        return list({(own.timeout, own.retry): own for own in map(self._own, outer)}.values())

    def _own(self, outer: Inherited) -> Inherited:
        """Return the values of this processor, completed by the values of the including one."""
        settings = self.settings
        return Inherited(
            outer.timeout if settings.timeout is None else settings.timeout,
            outer.retry if settings.retry is None else settings.retry,
            (*outer.before, *self.own_hooks.before_handling),
            (*outer.after, *self.own_hooks.after_handling),
        )

    def forget_router(self) -> None:
        """Discard the router of this registry, and of the registries that include it."""
        self._router = None
        for include in self._included_in:
            include.registry.forget_router()

    # Compiling

    def routes(self) -> tuple[HandlerRoute, ...]:
        """Return all routes in the order of registration. Raise `RegistrationError` for an async hook of a def."""
        if self.frozen is not None:
            return self.frozen
        routes = tuple(self.compiled())
        if self._fallback is not None:
            fallback = self._route(self._fallback, self._own(Inherited()).resolved())
            routes += (msgspec.structs.replace(fallback, is_fallback=True),)
        refuse_async_hooks(self.hooks(), [route for route in routes if route.discards is None])
        return routes

    def router(self) -> Router[Terms]:
        """Return the router of the current routes."""
        if self._router is None:
            from missive.routing.router import Router  # noqa: PLC0415 - `import missive` does not load routing

            self._router = Router(self.routes())
        return self._router

    def hooks(self) -> Hooks:
        """Return the hooks of this registry, with the processing hooks of the included ones."""
        joined = Hooks()
        joined.before_handling += self.own_hooks.before_handling
        joined.after_handling += self.own_hooks.after_handling
        for part in dict.fromkeys(self.tree()):  # a processor may be included twice
            joined.before_processing += part.own_hooks.before_processing
            joined.after_processing += part.own_hooks.after_processing
        return joined

    def freeze(self) -> tuple[HandlerRoute, ...]:
        """End registration, here and in the included registries, and return the routes.

        Raise `RegistrationError` for an included processor with a dead letter queue, for a decorator without a
        function, and as `routes` does.
        """
        for part in self.tree():
            for place in part.unused.values():
                raise RegistrationError(
                    f"{place} decorates no function. Put it above a def, with its matcher in parentheses:"
                    f" @proc.{place.split()[0]}(matcher)"
                )
            if part is not self and part.settings.dlq is not None:
                raise RegistrationError(own_dlq(part.settings.name, self.settings.name))
        routes = self.routes()
        for part in self.tree():
            part.frozen = routes if part is self else part.routes()
        return routes

    def tree(self) -> Iterator[Registry]:
        """Yield this registry and all that it includes."""
        yield self
        for entry in self._entries:
            if isinstance(entry, _Include):
                yield from entry.registry.tree()

    def compiled(self, outer: Inherited | None = None) -> Iterator[HandlerRoute]:
        """Yield the routes of this registry and of all that it includes. `outer` has the values that it inherits."""
        own = self._own(outer or Inherited())
        terms = own.resolved()
        for entry in self._entries:
            if isinstance(entry, Declaration):
                yield self._route(entry, terms)
                continue
            for route in entry.registry.compiled(own):
                yield msgspec.structs.replace(route, matcher=_narrowed(route.matcher, entry.when))

    def _route(self, one: Declaration, own: Inherited) -> HandlerRoute:
        """Return the route of a declaration. `own` has the defaults of its processor."""
        if one.discards is not None:
            return Route(one.name, one.matcher, one.handler, one.terms, "discard", one.discards)
        terms = msgspec.structs.replace(
            one.terms,
            is_async=is_async_callable(one.handler),
            timeout=own.timeout if one.timeout is None else one.timeout,
            retry=(own.retry if one.retry is None else one.retry) or None,
            before=own.before,
            after=own.after,
            aliases=one.aliases,
            public=self.settings.public,
        )
        kind = "async" if terms.is_async else "sync"
        return Route(one.name, one.matcher, one.handler, terms, kind if terms.batch is None else f"{kind} batch")


def _narrowed(matcher: Matcher[Any], when: Matcher[Any] | None) -> Matcher[Any]:
    return matcher if when is None else And(when, matcher).simplified()


def own_dlq(included: str, outer: str) -> str:
    """Return the text of the error for an included processor with a dead letter queue."""
    return f"{included} has its own dead letter queue. Set dlq= on {outer} only, which includes it"


def _fallback_of_included(declaration: Declaration, outer: Registry) -> RegistrationError:
    return RegistrationError(
        f"{declaration.name} handles unmatched messages, and its processor is included in {outer.settings.name}. Only"
        " the processor that runs can have handle_unmatched: move it there"
    )
