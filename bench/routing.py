"""Measure the cost of routing a message by the number of handlers, next to a linear scan of the same matchers."""

from __future__ import annotations

import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence

import missive
from missive.matchers import AmqpPattern, Cidr, Field, Header, Matcher, Prefix, Range, Topic
from missive.routing.route import Route
from missive.routing.router import Router

MANY = 100_000
SIZES = (10, 100, 1_000, 10_000, MANY)
LINEAR = (10, 100, 1_000)
MESSAGES = 500
ROUNDS = 7
CHANCE = random.Random(7)

JSON = missive.JSONMessage


def handler(message: JSON, context: missive.HandlingContext) -> None:
    """Handle a message by doing nothing."""


def routed(router: Router, messages: Sequence[JSON]) -> float:
    """Return the median time to route one message, in µs, with decoded bodies and parsed headers."""
    find = router.find
    for message in messages:
        if not isinstance(find(message), Route):
            raise SystemExit("a message was not routed")
    passes = max(1, 20_000 // len(messages)) if getattr(router, "_index", None) is not None else 1
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(passes):
            for message in messages:
                find(message)
        rounds.append((time.perf_counter() - started) / passes / len(messages))
    return statistics.median(rounds) * 1e6


def router(matchers: Sequence[Matcher[JSON]], *, indexed: bool = True) -> Router:
    """Return a router with one route for each matcher."""
    return Router([Route(str(n), m, handler, None) for n, m in enumerate(matchers)], indexed=indexed)


def by_field(count: int) -> tuple[list[Matcher[JSON]], list[JSON]]:
    """Return matchers of different literals in one field, and messages for them."""
    matchers: list[Matcher[JSON]] = [Field("type", f"event.{n}") for n in range(count)]
    return matchers, [JSON.of({"type": f"event.{CHANCE.randrange(count)}", "id": n}) for n in range(MESSAGES)]


def by_header(count: int) -> tuple[list[Matcher[JSON]], list[JSON]]:
    """Return matchers of different literals in one header, and messages for them."""
    matchers: list[Matcher[JSON]] = [Header("x-event", f"event.{n}") for n in range(count)]
    headers = [{"x-event": f"event.{CHANCE.randrange(count)}", "x-id": str(n)} for n in range(MESSAGES)]
    return matchers, [JSON.of({"id": n}, headers=given) for n, given in enumerate(headers)]


def mixed(count: int) -> tuple[list[Matcher[JSON]], list[JSON]]:
    """Return matchers of five kinds, a fifth each: equality, prefix, range, topic pattern, network."""
    fifth = count // 5
    kinds: list[Callable[[int], Matcher[JSON]]] = [
        lambda n: Header("x-event", f"event.{n}"),
        lambda n: Field("sku", Prefix(f"{n:06}-")),
        lambda n: Field("total", Range(ge=n * 10, lt=n * 10 + 10)),
        lambda n: Topic(AmqpPattern(f"site.{n}.#")),
        lambda n: Field("ip", Cidr(f"10.{n >> 8 & 255}.{n & 255}.0/24")),
    ]
    found = [(lambda n: JSON.of({"id": n}, headers={"x-event": f"event.{n}"}))]
    made: list[Callable[[int], JSON]] = [
        *found,
        lambda n: JSON.of({"sku": f"{n:06}-red-large"}),
        lambda n: JSON.of({"total": n * 10 + 3.5}),
        lambda n: JSON.of({}, topic=f"site.{n}.door.opened"),
        lambda n: JSON.of({"ip": f"10.{n >> 8 & 255}.{n & 255}.77"}),
    ]
    matchers = [kind(n) for kind in kinds for n in range(fifth)]
    return matchers, [made[n % 5](CHANCE.randrange(fifth)) for n in range(MESSAGES)]


def wide(fields: int) -> list[JSON]:
    """Return messages with a number of fields that no matcher tests."""
    rest = {f"untested_{n}": n for n in range(fields)}
    return [JSON.of({**rest, "type": f"event.{CHANCE.randrange(1000)}"}) for _ in range(MESSAGES)]


def look_ups() -> None:
    """Print the time per message for each kind of matcher, with an index and with a linear scan."""
    print("µs per message, by number of handlers (limits: equality ≤ 3, 100,000 ≤ 2 × 10; five kinds ≤ 8 at 100,000)")
    print(f"{'':24}" + "".join(f"{size:>10,}" for size in SIZES) + "   100,000 / 10")
    for name, kind in (("one field", by_field), ("one header", by_header), ("five kinds mixed", mixed)):
        costs = []
        for size in SIZES:
            matchers, messages = kind(size)
            gc.collect()
            gc.freeze()
            costs.append(routed(router(matchers), messages))
            gc.unfreeze()
        print(f"{name:24}" + "".join(f"{cost:10.2f}" for cost in costs) + f"{costs[-1] / costs[0]:14.2f}")
    for name, kind in (("one field, linear scan", by_field), ("five kinds, linear scan", mixed)):
        costs = []
        for size in LINEAR:
            matchers, messages = kind(size)
            costs.append(routed(router(matchers, indexed=False), messages[:100]))
        print(f"{name:24}" + "".join(f"{cost:10.2f}" for cost in costs))
    print("for comparison: Missive 0.8.1 took 37 with 100 handlers and 310 with 1,000")


def untested_fields() -> None:
    """Print the effect of fields that no matcher tests."""
    index = router(by_field(1000)[0])
    few, many = routed(index, wide(5)), routed(index, wide(500))
    print(f"5 fields without a matcher: {few:.2f} µs; 500: {many:.2f} µs; ratio {many / few:.2f} (limit 1.1)")


def registration() -> None:
    """Print the time and the memory of registration and of building the index."""
    print(f"registration of {MANY:,} handlers with all checks (limits: 20 s, 1 KB each), then building the index")
    for name, kind in (("one field", by_field), ("five kinds mixed", mixed)):
        proc = missive.Processor(JSON, name="bench", on_overlap="ignore" if kind is mixed else "error")
        gc.collect()
        matchers, _ = kind(MANY)
        names = [f"bench:handler_{n}" for n in range(MANY)]
        started = time.perf_counter()
        for matcher, called in zip(matchers, names, strict=True):
            proc.add_handler(matcher, handler, name=called)
        registered = time.perf_counter() - started
        proc.router()
        print(f"{name:24}{registered:8.2f} s, then the index {time.perf_counter() - started - registered:.2f} s")
        del proc
        tracemalloc.start()
        proc = missive.Processor(JSON, name="bench", on_overlap="ignore")
        for matcher, called in zip(matchers, names, strict=True):
            proc.add_handler(matcher, handler, name=called)
        size, _ = tracemalloc.get_traced_memory()
        proc.router()
        total, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(f"{'':24}{size / MANY:8.0f} bytes per handler, {total / MANY:.0f} with the index, without matchers")


if __name__ == "__main__":
    look_ups()
    untested_fields()
    registration()
