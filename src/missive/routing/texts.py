"""Texts: search for a text that passes some tests and fails others, in the product of their machines."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from missive.matchers.tests import Test
from missive.routing.automata import DEAD, Machine
from missive.routing.machines import machine_of

_MAX_STEPS = 20_000
"""Steps of machines in one search."""
_UNUSED = "xyz0-_~" + "".join(map(chr, range(0xE100, 0xE200)))
"""Characters for the places where any text may stand; the first one that no machine distinguishes is used."""


class Effort:
    """The number of steps of all searches so far, by which callers bound their work."""

    steps = 0


def texts(wanted: Sequence[Test], unwanted: Sequence[Test]) -> Iterator[str | None]:
    """Yield texts that pass the wanted and fail the unwanted tests, as far as the tests have machines.

    Yield None when there is proved to be no other text, and nothing more when the search ends without a proof.
    """
    passing = [machine for test in wanted if (machine := machine_of(test)) is not None]
    failing = [machine for test in unwanted if (machine := machine_of(test)) is not None]
    # A wanted test without a machine only removes texts, so a proof needs no machine for it.
    exact = all(machine.exact for machine in (*passing, *failing)) and len(failing) == len(unwanted)
    for text in _search(passing, failing):
        if text is None and not exact:
            return
        yield text
        exact = False


def _search(passing: Sequence[Machine], failing: Sequence[Machine]) -> Iterator[str | None]:
    """Yield texts, the most promising first. Yield None at the end of a complete search."""
    machines = [*passing, *failing]
    alphabet = _alphabet(machines)
    start = tuple(machine.start for machine in machines)
    order = count()
    waiting = [(_estimate(passing, start), 0, next(order), start, "")]
    seen = {start}
    steps = 0
    while waiting:
        _, length, _, states, text = heapq.heappop(waiting)
        if _fits(passing, failing, states):
            yield text
        for char in alphabet:
            following = _after(machines, len(passing), states, char)
            steps += len(machines)
            if following is None or following in seen:
                continue
            seen.add(following)
            estimate = _estimate(passing, following)
            heapq.heappush(waiting, (estimate + length // 4, length + 1, next(order), following, text + char))
        if steps > _MAX_STEPS:
            Effort.steps += steps
            return
    Effort.steps += steps
    yield None


def _after(machines: Sequence[Machine], passing: int, states: tuple[Any, ...], char: str) -> tuple[Any, ...] | None:
    following = []
    for number, (machine, state) in enumerate(zip(machines, states, strict=True)):
        reached = DEAD if state is DEAD else machine.step(state, char)
        if reached is DEAD and number < passing:
            return None
        following.append(reached)
    return tuple(following)


def _fits(passing: Sequence[Machine], failing: Sequence[Machine], states: tuple[Any, ...]) -> bool:
    positive, negative = states[: len(passing)], states[len(passing) :]
    return all(machine.accepts(state) for machine, state in zip(passing, positive, strict=True)) and not any(
        state is not DEAD and machine.accepts(state) for machine, state in zip(failing, negative, strict=True)
    )


def _estimate(passing: Sequence[Machine], states: tuple[Any, ...]) -> int:
    return sum(machine.distance(state) for machine, state in zip(passing, states, strict=False))


def _alphabet(machines: Sequence[Machine]) -> list[str]:
    """Return one character of each class that the machines distinguish."""
    known = dict.fromkeys(sorted(char for machine in machines for char in machine.characters()))
    classes: dict[tuple[Hashable, ...], str] = {}
    unused = next(one for one in _UNUSED if one not in known)
    for char in _plain_first((unused, *known)):
        classes.setdefault(tuple(machine.sees(char) for machine in machines), char)
    return list(classes.values())


def _plain_first(chars: Iterable[str]) -> list[str]:
    return sorted(
        dict.fromkeys(chars), key=lambda char: (not (char.isascii() and char.isprintable()), not char.islower())
    )
