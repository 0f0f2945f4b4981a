"""Names: the names and aliases of handlers, under which stored records find their handler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from missive.errors import RegistrationError


class HandlerNames:
    """The names and aliases of the handlers that one processor knows, own and included."""

    __slots__ = ("aliases", "names")

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, ...]] = {}
        """The aliases of each handler, by its name."""
        self.aliases: dict[str, str] = {}
        """The name of a handler, by its alias."""

    def check(self, name: str, aliases: Sequence[str]) -> None:
        """Raise `RegistrationError` when a stored name would mean two handlers."""
        owner = self.aliases.get(name, name)
        if owner != name:
            raise RegistrationError(
                f"{name} is an alias of {owner}, and so names no other handler. Remove it from aliases= of {owner}, or"
                " give this handler another name="
            )
        for alias in aliases:
            owner = self.aliases.get(alias, name)
            if alias in self.names and alias != name:
                raise RegistrationError(
                    f"{name} has the alias {alias}, which is the name of another handler. Remove the alias, or rename"
                    " the other handler"
                )
            if owner != name:
                raise RegistrationError(f"{owner} and {name} have the same alias {alias}. Remove one of the two")

    def add(self, name: str, aliases: Sequence[str]) -> None:
        """Know a handler that `check` has admitted."""
        known = self.names.get(name, ())
        self.names[name] = (*known, *(alias for alias in aliases if alias not in known)) if aliases else known
        self.aliases.update(dict.fromkeys(aliases, name))


def check_names(handlers: Mapping[str, Sequence[str]], places: Iterable[HandlerNames]) -> None:
    """Raise as `HandlerNames.check` does when one of the processors refuses a handler with its aliases."""
    for place in places:
        for name, aliases in handlers.items():
            place.check(name, aliases)


def add_names(handlers: Mapping[str, Sequence[str]], places: Iterable[HandlerNames]) -> None:
    """Add handlers, each with its aliases, to the processors."""
    for place in places:
        for name, aliases in handlers.items():
            place.add(name, aliases)
